"""What a last save says of itself, believed only after a look: it may be damaged, hostile or of another version.

Knows the metadata that the trainer writes; knows nothing of tensors (the learner checks those) or of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from charrnn.config import from_mapping
from charrnn.errors import CheckpointError, UsageError
from charrnn.runs import model as runs
from charrnn.training.trainer import Best

T = TypeVar("T")
LONGEST = 1e9  # seconds
MOST = 1 << 62  # what torch's and JSON's whole numbers hold
LATER = {
    "asked": [],
    "extended": False,
    "deadline": None,
    "skips": 0,
    "due": False,
    "stopped": False,
    "ranks": 1,
}  # not of all versions


def saved_progress(metadata: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The "resume" part of the metadata of `folder`'s last save, every entry as it must be; raises CheckpointError."""
    saved = metadata.get("resume")
    if isinstance(saved, dict):
        saved = {**LATER, **saved}
    kinds = {
        "sources": list, "digest": str, "reading": dict, "units": dict, "training": dict, "step": int, "cursor": dict,
        "skipped": int, "skips": int, "due": bool, "scaler": dict, "best": dict, "metrics_bytes": int, "asked": list,
        "extended": bool, "stopped": bool, "ranks": int,
    }  # fmt: skip
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in kinds.items()):
        raise unfit(folder, "it does not say how to go on")
    cursor = saved["cursor"]
    numbers = [saved["step"], saved["skipped"], saved["skips"], saved["metrics_bytes"], cursor.get("epoch"), cursor.get("window")]
    if not all(isinstance(number, int) and 0 <= number < MOST for number in numbers):
        raise unfit(folder, "its progress makes no sense")
    if not all(isinstance(source, str) and "\0" not in source for source in saved["sources"]):
        raise unfit(folder, "it does not say where its text is")
    bounds = [saved["training"].get("steps"), saved["training"].get("eval_every")]
    if not all(isinstance(number, int) and number > 0 for number in bounds):
        raise unfit(folder, "it is not bounded")
    if not _can_be_a_deadline(saved["deadline"], bounds[0]) or not all(isinstance(name, str) for name in saved["asked"]):
        raise unfit(folder, "its clock makes no sense")
    best = saved["best"]
    if set(best) - {item.name for item in fields(Best)} or not all(isinstance(value, int | float) for value in best.values()):
        raise unfit(folder, "its best score makes no sense")
    return saved


def _can_be_a_deadline(value: Any, steps: int) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("settled"), bool):
        return False
    seconds, most = [value.get(key) for key in ("used", "left")], value.get("most")
    whole = all(isinstance(number, int | float) and abs(number) < LONGEST for number in seconds)  # nan is not
    return whole and isinstance(most, int) and most >= steps


def saved_config(kind: type[T], values: Mapping[str, Any], folder: Path) -> T:
    """A config of `kind` out of a last save; raises CheckpointError."""
    try:
        return from_mapping(kind, values, "it")
    except (UsageError, TypeError) as error:
        raise unfit(folder, str(error)[:300].rstrip(".")) from error


def unfit(folder: Path, why: str) -> CheckpointError:
    """The error for a last save of `folder` that cannot be gone on with."""
    return CheckpointError(f"{str(folder / runs.LAST_FILE)!r} cannot be gone on with: {why}.", "Train a new run.")
