"""Train again and again, each time in a fresh process, and measure what came of it: the rows of the results table.

A trial is one `charrnn train TEXT --minutes M --seed S` as a person would type it, so that the wall-clock holds all that
a person waits for; settings from the environment are kept from it, so that a table can be made again. Afterwards the
saved model is scored as `charrnn eval --split val` scores it, and the machine is asked how fast it multiplies and what a
step costs beside its arithmetic. Knows nothing of terminals or tables, and nothing of how a run chose its settings: it
reads them back from the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from charrnn.config import ReadingConfig, TrainingConfig
from charrnn.errors import CharrnnError, UsageError
from charrnn.runs import model as runs
from charrnn.runs.model import METRICS_FILE
from charrnn.text import corpus as texts
from charrnn.training.evaluate import evaluate_text
from charrnn.training.recipe import parameters
from charrnn.training.saved import saved_config
from charrnn.training.speed import Machine, first_layer_rate, overhead, training_gigaflops

PLAIN_SEED = 1
# A textbook trainer: what stands in many tutorials. Flags, so that nothing of the recipe is left but the clock.
PLAIN = {
    "hidden_size": "256", "learning_rate": "2e-3", "schedule": "constant", "warmup": "0", "clip": "1", "ema": "0",
    "weight_decay": "0", "reset": "0", "beta2": "0.999", "dropout_output": "0", "dropout_embedding": "0",
    "batch_size": "32", "window": "64", "precision": "fp32", "optimizer": "adamw", "patience": "0",
}  # fmt: skip
QUOTED_LINES = 6  # of what a failed run said
SECONDS_TO_LEAVE = 20.0  # for a child that was asked to end
RATE_SECONDS, OVERHEAD_SECONDS = 0.5, 4.0  # spent on measuring them
READING = ReadingConfig()  # TEXT is read as a run reads it whose only settings are flags


@dataclass(frozen=True)
class Trial:
    """One run to make; `plain` is the textbook trainer in place of the recipe."""

    minutes: float
    seed: int
    plain: bool = False

    @property
    def name(self) -> str:
        """The name of its run: 5min-seed1, 0.5min-plain."""
        return f"{repr(float(self.minutes)).removesuffix('.0')}min-{'plain' if self.plain else f'seed{self.seed}'}"


@dataclass(frozen=True)
class Begun:
    """A trial begins: `number` (from 1) of `total`."""

    number: int
    total: int
    trial: Trial


@dataclass(frozen=True)
class Row:
    """What one run was and reached. Seconds; 1e9 FLOPs a second; losses in nats per token; shares from 0 to 1."""

    minutes: float  # asked for
    seed: int
    plain: bool
    cell: str
    layers: int
    hidden_size: int
    parameters: int
    batch_size: int
    window: int
    precision: str
    optimizer: str
    device: str
    threads: int
    steps: int  # made
    best_step: int  # of the model that was saved
    wall_seconds: float  # from the start of the process to its end
    tokens_per_second: float  # median over the run's log, which leaves out evaluations and saves
    gigaflops: float  # see `training_gigaflops`
    matrix_gigaflops: float  # see `first_layer_rate`
    share: float  # gigaflops / matrix_gigaflops
    overhead: float  # see `overhead`
    stream: float
    cold256: float | None  # None if the validation part is shorter than a window
    bits_per_character: float

    @property
    def size(self) -> str:
        """Such as `lstm 1x256`."""
        return f"{self.cell} {self.layers}x{self.hidden_size}"


@dataclass(frozen=True)
class Medians:
    """Medians over the seeds of one time; units as in Row."""

    minutes: float
    runs: int
    sizes: tuple[str, ...]  # which the runs had, each once
    wall_seconds: float
    steps: float
    tokens_per_second: float
    gigaflops: float
    share: float
    overhead: float
    stream: float
    cold256: float | None
    bits_per_character: float


@dataclass(frozen=True)
class Text:
    """What was learnt: the base name of the file, its characters, and the SHA-256 (hex) of its bytes."""

    name: str
    characters: int
    sha256: str


def trials(minutes: Sequence[float], seeds: int, plain: bool) -> list[Trial]:
    """Seeds 1 to `seeds` for each of the times, then the plain trainer if it is wanted; a time given twice counts once."""
    found: list[Trial] = []
    for each in dict.fromkeys(float(one) for one in minutes):
        found += [Trial(each, seed) for seed in range(1, seeds + 1)]
        found += [Trial(each, PLAIN_SEED, plain=True)] * plain
    return found


def train(
    text: str, wanted: Sequence[Trial], *, keep: Path | None = None, device: str | None = None, threads: int | None = None
) -> Generator[Begun | Row, None, None]:
    """Make the trials on the file `text`, one after the other: a Begun before each and a Row after it.

    The runs live in the folder `keep`, else in a temporary one; what is unfinished when this ends is removed. Raises
    UsageError if `keep` holds a run of that name, CharrnnError with the last words of a run that failed.
    """
    text = os.path.join(os.curdir, text) if text.startswith("-") else text  # neither an option nor standard input
    with _home(keep, wanted) as folder:
        for number, trial in enumerate(wanted, 1):
            yield Begun(number, len(wanted), trial)
            seconds = _train_one(text, trial, folder, device, threads)
            yield measure(text, trial, folder / trial.name, seconds, device or "auto", threads or 0)


@contextlib.contextmanager
def _home(keep: Path | None, wanted: Sequence[Trial]) -> Iterator[Path]:
    """The folder for the runs; all names are looked at before the first run costs its minutes."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="charrnn-bench-") as folder:
            yield Path(folder)
        return
    for trial in wanted:
        if (keep / trial.name).exists():
            hint = "Remove it, or name another folder with --keep."
            raise UsageError(f"there is a run {trial.name!r} in {str(keep)!r} already.", hint)
    was_there = keep.exists()
    try:
        yield keep
    finally:
        with contextlib.suppress(OSError):  # goes only if it is empty
            if not was_there:
                keep.rmdir()


def command(text: str, trial: Trial, folder: Path, device: str | None = None, threads: int | None = None) -> list[str]:
    """The command line of a trial."""
    words = [sys.executable, "-m", "charrnn", "train", text]
    words += ["--minutes", repr(float(trial.minutes)), "--seed", str(trial.seed)]
    words += ["--name", trial.name, "--checkpoints", str(folder)]
    words += ["--device", device] if device is not None else []
    words += ["--threads", str(threads)] if threads is not None else []
    for name, value in PLAIN.items() if trial.plain else ():
        words += ["--" + name.replace("_", "-"), value]
    return words


def _train_one(text: str, trial: Trial, folder: Path, device: str | None, threads: int | None) -> float:
    """Seconds that the trial took; a run that did not come to its end leaves no folder."""
    finished = False
    try:
        began = time.perf_counter()
        code, said = _carried_out(command(text, trial, folder, device, threads))
        seconds = time.perf_counter() - began
        finished = code == 0
    finally:
        if not finished:
            shutil.rmtree(folder / trial.name, ignore_errors=True)
    if not finished:
        raise _failed(text, trial, code, said)
    return seconds


def _carried_out(words: Sequence[str]) -> tuple[int, str]:
    """Exit code of a command and what it said on stderr; whatever interrupts this ends the command first."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment(),
        encoding="utf-8", errors="replace",
    ) as child:  # fmt: skip
        try:
            _, said = child.communicate()
        finally:
            _end(child)
    return child.returncode, said


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHARRNN_") or name == "CHARRNN_CACHE"}


def _end(child: subprocess.Popen[str]) -> None:
    """Ask a child that is still there to leave, and see to it."""
    child.terminate()  # nothing happens to one that has ended
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(SECONDS_TO_LEAVE)
    finally:
        child.kill()


def _failed(text: str, trial: Trial, code: int, said: str) -> CharrnnError:
    lines = [line for line in said.splitlines() if line.strip()][-QUOTED_LINES:]
    words = "\n".join(lines) if lines else "(nothing)"
    alone = f"charrnn train {shlex.quote(text)} --minutes {trial.minutes:g} --seed {trial.seed}"
    return CharrnnError(f"the run {trial.name!r} failed with exit code {code}; it said:\n{words}", f"Try it alone: `{alone}`")


def measure(text: str, trial: Trial, folder: Path, wall_seconds: float, device: str = "auto", threads: int = 0) -> Row:
    """The row of the finished run in `folder`; `device` and `threads` are for the scoring, as `charrnn eval` has them."""
    model = runs.load(folder)
    training = _training(model)
    documents = validation_part(texts.documents([text], READING), training.val_fraction)
    report = evaluate_text(model, documents, device=device, threads=threads)
    steps, tokens_per_second = _from_log(folder / METRICS_FILE)
    own, rate = training_gigaflops(model.config, tokens_per_second), first_layer_rate(model.config, training, RATE_SECONDS)
    shape = {name: getattr(model.config, name) for name in ("cell", "layers", "hidden_size")}
    used = {name: getattr(training, name) for name in ("batch_size", "window", "precision", "optimizer", "device", "threads")}
    return Row(
        minutes=trial.minutes, seed=trial.seed, plain=trial.plain, **shape, **used, parameters=parameters(model.config),
        steps=steps, best_step=_best_step(model), wall_seconds=wall_seconds, tokens_per_second=tokens_per_second,
        gigaflops=own, matrix_gigaflops=rate, share=own / rate,
        overhead=overhead(model.config, training, _tokens(text, model, training), OVERHEAD_SECONDS),
        stream=report.loss, cold256=report.cold256, bits_per_character=report.bits_per_character,
    )  # fmt: skip


def _training(model: runs.Model) -> TrainingConfig:
    """How a run was trained, out of its provenance, which holds other settings too."""
    settings, names = model.provenance.get("settings"), {item.name for item in fields(TrainingConfig)}
    found = {name: value for name, value in settings.items() if name in names} if isinstance(settings, dict) else {}
    return saved_config(TrainingConfig, found, model.path.parent)


def _best_step(model: runs.Model) -> int:
    scores = model.provenance.get("scores")
    return int(scores.get("step", 0)) if isinstance(scores, dict) else 0


def validation_part(documents: Sequence[str], fraction: float) -> list[str]:
    """The end of the texts that training kept: cut by position in the text alone, before tokenization."""
    before = texts.split_position(sum(len(document) for document in documents), fraction)
    part = []
    for document in documents:
        part.append(document[before:])
        before = max(0, before - len(document))
    return [document for document in part if document]


def _tokens(text: str, model: runs.Model, training: TrainingConfig) -> NDArray[Any]:
    """The tokens that the run learnt from: mapped from the cache, as it had them."""
    sources = texts.find_sources([text])
    survey = texts.survey(sources, READING)
    return texts.tokenize(sources, READING, model.tokenizer, survey, training.val_fraction).train


def _from_log(metrics: Path) -> tuple[int, float]:
    """Steps made, and the median of the tokens per second, from a run's metrics.jsonl."""
    events = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    return steps[-1]["step"], statistics.median(event["tokens_per_second"] for event in steps)


def medians(rows: Sequence[Row]) -> list[Medians]:
    """Medians over the seeds of each time that has more than one; the plain trainer is not among them."""
    found = []
    for minutes in dict.fromkeys(row.minutes for row in rows):
        own = [row for row in rows if row.minutes == minutes and not row.plain]
        if len(own) > 1:
            found.append(_medians(minutes, own))
    return found


def _medians(minutes: float, rows: Sequence[Row]) -> Medians:
    names = [item.name for item in fields(Medians) if item.name not in ("minutes", "runs", "sizes", "cold256")]
    middle = {name: statistics.median(getattr(row, name) for row in rows) for name in names}
    cold = [row.cold256 for row in rows if row.cold256 is not None]
    sizes = tuple(dict.fromkeys(row.size for row in rows))
    return Medians(minutes, len(rows), sizes, cold256=statistics.median(cold) if cold else None, **middle)


def this_text(text: str) -> Text:
    """What the file `text` is; raises CorpusError if it cannot be read."""
    characters = sum(len(document) for document in texts.documents([text], READING))
    with open(text, "rb") as file:
        return Text(os.path.basename(text), characters, hashlib.file_digest(file, "sha256").hexdigest())


def record(where: Machine, text: Text, rows: Sequence[Row], wanted: int) -> dict[str, Any]:
    """Everything as one object that JSON can hold; no absolute path is in it. `wanted` runs were to be made."""
    return {
        "machine": asdict(where),
        "text": asdict(text),
        "complete": len(rows) == wanted,
        "rows": [asdict(row) for row in rows],
        "medians": [asdict(row) for row in medians(rows)],
    }
