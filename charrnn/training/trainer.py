"""The training loop: steps, evaluations, saves, and when to stop; a generator of events.

Knows neither where the text came from nor who listens. What is written: metrics.jsonl as it goes; model.safetensors
whenever the averaged weights score best; last.safetensors after it, at every evaluation, at least once a minute, and
when asked to stop. The clock decides at most how many steps there are (deadline.py): given their number, a run repeats
exactly. Of several ranks all do the same at the same step; the first writes, draws, and looks at the clock for all.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from charrnn import durable
from charrnn.errors import CharrnnError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.runs.model import METRICS_FILE
from charrnn.text.tokenizers import Tokenizer
from charrnn.training import device as machine
from charrnn.training import evaluate
from charrnn.training.deadline import Deadline
from charrnn.training.evaluate import Held, Report
from charrnn.training.events import Adjusted, Evaluated, Event, Finished, Sampled, Saved, Step
from charrnn.training.learner import Learner

SECONDS_BETWEEN_SAVES = 60.0


@dataclass
class Best:
    """The lowest loss so far, and how many evaluations have passed since."""

    loss: float = math.inf
    bits_per_character: float = math.inf
    step: int = 0
    since: int = 0


@dataclass
class Run:
    """One training run: its moving parts and where they go."""

    learner: Learner
    tokenizer: Tokenizer
    held: Held
    folder: Path
    about: dict[str, Any]  # name, start and provenance of every file written
    resume: dict[str, Any]  # what only a resumed run needs: where the corpus is, how it was read
    started_at: float
    stop: Callable[[], bool] = lambda: False
    deadline: Deadline | None = None
    asked: frozenset[str] = frozenset()  # names of the settings that were set, which the repeating command names
    extended: bool = False  # whether the bound was changed on the way, so that no single command repeats the run
    due: bool = False  # whether the step that was made last has still to be evaluated
    stopped: bool = False  # whether the evaluation of it ended the run early
    best: Best = field(default_factory=Best)
    _saved_at: float = 0.0
    _stopping: bool = False  # whether somebody asked to, on any rank
    _saving: bool = False  # whether it is time to
    _means_at: tuple[float, int] = (0.0, 0)
    _evaluation_seconds: float = 0.0  # of the last one

    def events(self) -> Iterator[Event]:
        """Train to the end, the early stop or `stop()`, each of which leaves last.safetensors behind."""
        learner, every = self.learner, log_every(self.learner.training.eval_every)
        self._saved_at = time.monotonic()
        self._means_at = (time.monotonic(), learner.step)
        reason = "done"
        while self.due or learner.step < learner.training.steps:
            if not self.due:
                yield from self._advance(every)
            if self.due:
                yield from self._evaluate()
                if self.stopped:
                    reason = "early stop"
                    break
            elif self._saving:
                yield self._save_last()
            if (self.due or learner.step < learner.training.steps) and self._stopping:
                reason = "interrupted"
                yield self._save_last()
                break
        yield self._finished(reason)

    def _advance(self, every: int) -> Iterator[Event]:
        """One step, and word of it where `every` so many are told of."""
        learner, micro_batch = self.learner, self.learner.training.micro_batch
        learner.advance()
        self._keep_time()
        self._agree()
        if learner.training.micro_batch != micro_batch:
            self.about["provenance"]["settings"]["micro_batch"] = learner.training.micro_batch
            yield Adjusted(learner.step, f"memory is short: {learner.training.micro_batch:,} streams at a time, same gradient")
        last = learner.step == learner.training.steps
        self.due = last or learner.step % learner.training.eval_every == 0
        if last or learner.step % every == 0:
            yield self._log(self._step())

    def _keep_time(self) -> None:
        """Settle how many steps there is time for, where time is the bound."""
        learner = self.learner
        if self.deadline is not None and learner.ranks.first:
            learner.training = self.deadline.settle(learner.training, learner.step, self._evaluation_seconds)

    def _agree(self) -> None:
        """What all ranks do next: stop if one was asked to; by the clock of the first, save, and make so many steps."""
        learner, now = self.learner, time.monotonic()
        by_clock = [float(now - self._saved_at > SECONDS_BETWEEN_SAVES), float(learner.training.steps)]
        stops, saves, steps = learner.ranks.agree([float(self.stop()), *(by_clock if learner.ranks.first else (0.0, 0.0))])
        self._stopping, self._saving = stops > 0, saves > 0
        if self.deadline is not None:
            learner.training = replace(learner.training, steps=int(steps))
            self.about["provenance"]["settings"]["steps"] = learner.training.steps

    def _out_of_patience(self) -> bool:
        """Whether nothing has become better for too long, and there would be more steps."""
        training = self.learner.training
        return 0 < training.patience <= self.best.since and self.learner.step < training.steps

    def seconds(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self.started_at

    def _step(self) -> Step:
        learner, means = self.learner, self.learner.take_means()
        now, (then, from_step) = time.monotonic(), self._means_at
        self._means_at = (now, learner.step)
        steps = learner.step - from_step
        seconds_per_step = (now - then) / max(1, steps)
        tokens = learner.feed.tokens_per_window
        return Step(
            learner.step, learner.training.steps, learner.epoch, means.loss, means.accuracy, learner.learning_rate(),
            means.gradient_norm, tokens / max(1e-9, seconds_per_step), self.seconds(),
            self._seconds_left(seconds_per_step), machine.memory_bytes(learner.device), means.skipped,
        )  # fmt: skip

    def _seconds_left(self, seconds_per_step: float) -> float:
        """Of the whole run, as well as can be told: steps and evaluations, or the clock where it decides."""
        training, step, deadline = self.learner.training, self.learner.step, self.deadline
        evaluations = math.ceil((training.steps - step) / training.eval_every)
        estimate = seconds_per_step * (training.steps - step) + self._evaluation_seconds * evaluations
        if deadline is None or deadline.settled:
            return estimate
        left = max(0.0, deadline.ends - time.monotonic())
        return min(left, estimate) if training.steps >= deadline.most else left

    def _evaluate(self) -> Iterator[Event]:
        """Score the averaged weights and save; nothing if it is to stop before the score is known: then it stays due."""
        began, learner = time.monotonic(), self.learner
        learner.check_finite()
        report = evaluate.scored(self.held, learner.average, self.tokenizer, learner.precision, self.stop, learner.ranks)
        if report is None:
            self._stopping = True
            return
        self.due = False
        better = report.loss < self.best.loss
        if better:
            self.best = Best(report.loss, report.bits_per_character, self.learner.step)
        else:
            self.best.since += 1
        self.stopped = self._out_of_patience()
        yield self._log(
            Evaluated(
                self.learner.step, report.loss, report.bits_per_character, report.bits_per_byte, report.perplexity,
                report.accuracy, better, self.held.on, self.seconds(), _numbers(report.measures),
            )
        )  # fmt: skip
        if better:
            yield self._save_model(report)
        yield self._save_last()
        if learner.ranks.first:
            text = self.held.sample(learner.average, self.tokenizer, self.about["start"], learner.training.seed)
            yield Sampled(learner.step, text)
        self._agree()
        self._means_at = (time.monotonic(), self.learner.step)  # an evaluation is not a slow step
        self._evaluation_seconds = time.monotonic() - began

    def _save_model(self, report: Report) -> Saved:
        scores = {"step": self.learner.step, "on": self.held.on, "loss": report.loss, "accuracy": report.accuracy}
        if report.characters:
            scores |= {"bits_per_character": report.bits_per_character, "bits_per_byte": report.bits_per_byte}
        scores |= report.measures
        self.about["provenance"]["scores"] = scores
        path = self.folder / runs.MODEL_FILE
        about = {**self.about, "saved": round(time.time())}
        if self.learner.ranks.first:
            runs.save(path, self.learner.model_config, self.tokenizer, self.learner.averaged(), about)
        return Saved(self.learner.step, path)

    def _save_last(self) -> Saved:
        """Everything needed to go on exactly, in one file."""
        path, metrics, tensors = self.folder / runs.LAST_FILE, self.folder / METRICS_FILE, self.learner.tensors()
        self._saved_at = time.monotonic()
        if not self.learner.ranks.first:
            return Saved(self.learner.step, path)
        durable.sync(metrics)  # its length is about to be saved
        metadata = runs.describe(self.learner.model_config, self.tokenizer, {**self.about, "saved": round(time.time())})
        best = {key: value for key, value in asdict(self.best).items() if math.isfinite(value)}
        metadata["resume"] = {
            **self.resume, **self.learner.progress(), "best": best, "training": asdict(self.learner.training),
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
            "deadline": self.deadline.as_json() if self.deadline else None, "asked": sorted(self.asked),
            "extended": self.extended, "due": self.due, "stopped": self.stopped, "ranks": self.learner.ranks.count,
        }  # fmt: skip
        checkpoint.write(path, metadata, {**tensors, **self.tokenizer.tensors()})
        self._saved_at = time.monotonic()
        return Saved(self.learner.step, path)

    def _finished(self, reason: str) -> Finished:
        best = self.best
        with contextlib.suppress(CharrnnError):  # all is saved; a word in the metadata is not worth an error
            self._restate()
        return Finished(
            self.learner.step, reason, best.step, best.loss, best.bits_per_character, self.seconds(), self.folder
        )  # fmt: skip

    def _restate(self) -> None:
        """Let the saved model name the steps of the run as they became, where the clock has settled them after its save."""
        path = self.folder / runs.MODEL_FILE
        if not path.is_file() or not self.learner.ranks.first:
            return
        model = runs.load(path)
        settings = model.provenance.get("settings")
        if not isinstance(settings, dict) or settings.get("steps") == self.learner.training.steps:
            return
        settings["steps"] = self.learner.training.steps
        about = {**self.about, "provenance": model.provenance, "saved": round(time.time())}
        runs.save(path, model.config, model.tokenizer, model.weights, about)

    def _log(self, event: Step | Evaluated) -> Step | Evaluated:
        """Append the event to metrics.jsonl; numbers JSON has no word for become null."""
        if not self.learner.ranks.first:
            return event
        values = {key: _jsonable(value) for key, value in asdict(event).items()}
        line = json.dumps({"event": type(event).__name__.lower(), **values})
        durable.append_line(self.folder / METRICS_FILE, line)
        return event


def _numbers(measures: Mapping[str, Any]) -> dict[str, float]:
    """Those of a report's measures that are shares or bits: tables and counts are for the end."""
    return {name: value for name, value in measures.items() if isinstance(value, float)}


def _jsonable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def log_every(eval_every: int) -> int:
    """Steps between Step events, by the steps between evaluations alone, so that a log repeats exactly."""
    return max(1, min(20, eval_every // 5), min(100, eval_every // 1000))
