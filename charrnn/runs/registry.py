"""Runs by name: find them, list them, name new ones.

A run is a folder below the checkpoints folder. Knows file names and the metadata every checkpoint carries; knows
nothing of models. Listing never fails for one bad run: it says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn import durable
from charrnn.errors import CannotCreateError, CharrnnError, CheckpointError, LockedError, UsageError, WriteError
from charrnn.runs import checkpoint
from charrnn.runs.copies import INDEX_FILE
from charrnn.runs.model import LAST_FILE, LOCK_FILE, METRICS_FILE, MODEL_FILE

MAX_NAME = 100
LEAVINGS = (LOCK_FILE, LOCK_FILE + durable.HOLDER_SUFFIX, METRICS_FILE, INDEX_FILE)  # what a run has before its first save
BUNDLED_FILE = "BUNDLED.md"  # says how a committed run was made


@dataclass(frozen=True)
class RunInfo:
    """One run of a listing; `problem` says why it cannot be used (then `metadata` is empty).

    `saved` is when anything of it was last saved, in seconds since 1970.
    """

    name: str
    path: Path
    file: Path | None
    size: int
    metadata: dict[str, Any]
    problem: str = ""
    saved: float = 0.0

    @property
    def bundled(self) -> bool:
        """Whether it came with the clone; such a run ranks behind all that were trained here."""
        return (self.path / BUNDLED_FILE).exists()


def listing(root: Path) -> list[RunInfo]:
    """Every run below `root`, the one saved last first, then those that came with the clone; an absent folder has none."""
    if not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    infos = [_info(folder) for folder in folders if _files(folder)]
    return sorted(infos, key=lambda info: (info.bundled, info.saved if info.bundled else -info.saved, info.name))


def resolve(run: str | None, root: Path, *, resumable: bool = False) -> Path:
    """The folder or file that RUN means: a name below `root`, a folder or a file; without one, the run saved last.

    With `resumable`, the run saved last among those that can be gone on with.

    Raises CheckpointError if there is none, with the names that there are.
    """
    if run is None:
        return _latest(root, resumable)
    by_name = root / run
    if is_name(run) and by_name.is_dir() and _files(by_name):
        return by_name
    path = Path(run)
    if "\0" not in run and len(run) < 4096 and _exists(path):
        return path
    names = [info.name for info in listing(root)]
    there = "There is" if len(names) == 1 else "There are"
    hint = f"{there} {', '.join(names[:10])}." if names else "Train one with `charrnn train FILE`."
    raise CheckpointError(f"there is no run, folder or file {run[:200]!r}.", hint)


def next_free_name(stem: str, root: Path) -> str:
    """A name for a new run: the stem, made safe for a folder; then `-2`, `-3`, ... until one is free."""
    safe = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[: MAX_NAME - 10] or "run"
    name, number = safe, 1
    while _taken_by_a_run(root / name):
        number += 1
        name = f"{safe}-{number}"
    return name


def create(name: str | None, stem: str, root: Path) -> Path:
    """Make the folder of a new run: of that name, or of the next free one after `stem`; never one that exists.

    Raises UsageError if the name is taken, CannotCreateError if the folder cannot be made.
    """
    durable.make_folder(root)
    while True:
        folder = root / (name or next_free_name(stem, root))
        try:
            claimed = durable.claim_folder(folder)
        except OSError as error:
            raise CannotCreateError(
                f"cannot create {str(folder)!r}: {error.strerror}", "Check the folder, or --checkpoints."
            ) from error
        if claimed:
            return folder
        if name is not None:
            raise _taken(name)  # else another process took it between the look and the making


def check_free(name: str, root: Path) -> None:
    """Raise UsageError if `name` cannot name a run or names one already: better said before the text is read."""
    if _taken_by_a_run(root / check_name(name)):
        raise _taken(name)


def clear(folder: Path) -> None:
    """Remove the folder of a run that saved nothing; what is not ours stays, and then the folder too."""
    with contextlib.suppress(OSError):
        durable.sweep(folder)
        for name in LEAVINGS:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _taken_by_a_run(folder: Path) -> bool:
    """Whether something is in the way; what a run left that was killed before its first save goes, and is not."""
    with contextlib.suppress(OSError, LockedError, WriteError, CannotCreateError):
        if (folder / LOCK_FILE).is_file() and not folder.is_symlink() and _is_abandoned(folder):
            with durable.locked(folder / LOCK_FILE):
                if _is_abandoned(folder):
                    clear(folder)
    return os.path.lexists(folder)  # False also for a name longer than the system allows: making it says so


def _is_abandoned(folder: Path) -> bool:
    """Whether there is nothing but what a run has before its first save. May raise OSError."""
    return all(path.name in LEAVINGS or path.name.endswith(durable.TEMPORARY_SUFFIX) for path in folder.iterdir())


def _taken(name: str) -> UsageError:
    return UsageError(f"there is a run {name!r} already.", f"Go on with it (--resume {name}), or choose another name.")


def check_name(name: str) -> str:
    """Return `name` if it can name a run; raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{name[:120]!r} cannot name a run.",
            f"Use at most {MAX_NAME} letters, digits, '_', '-' and '.', a letter or digit first: --name my-run.",
        )
    return name


def is_name(name: str) -> bool:
    """Whether `name` can name a run: one safe path component."""
    return len(name) <= MAX_NAME and re.fullmatch(r"\w[\w.-]*", name) is not None


def _latest(root: Path, resumable: bool) -> Path:
    usable: Sequence[RunInfo] = [info for info in listing(root) if not info.problem]
    if resumable:
        usable = [info for info in usable if (info.path / LAST_FILE).is_file()]
    if not usable:
        raise CheckpointError(
            f"there is no run in {str(root)!r} yet.", "Train one with `charrnn train FILE`, or name a model file."
        )
    return usable[0].path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the system allows
        return False


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in (MODEL_FILE, LAST_FILE) if (folder / name).is_file()]


def _saved(metadata: Mapping[str, Any]) -> float:
    saved = metadata.get("saved")
    return float(saved) if isinstance(saved, int | float) else 0.0


def _saved_file(file: Path) -> float:
    try:
        return _saved(checkpoint.read_metadata(file))
    except CheckpointError:  # a damaged last save does not make the model unusable
        return 0.0


def _info(folder: Path) -> RunInfo:
    files = _files(folder)
    try:
        metadata = checkpoint.read(files[0]).metadata
        saved = max(_saved(metadata), *(_saved_file(file) for file in files[1:]), 0.0)
        return RunInfo(folder.name, folder, files[0], sum(file.stat().st_size for file in files), metadata, saved=saved)
    except (CharrnnError, OSError) as error:
        return RunInfo(folder.name, folder, None, 0, {}, str(error))
