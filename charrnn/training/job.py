"""From a text and a few wishes to a running trainer: read, tokenize, plan, name, lock, train; or take a run up again.

The one place that knows the whole order of things. Yields the trainer's events behind a Started event.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charrnn import durable
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CheckpointError, UsageError
from charrnn.runs import checkpoint, registry
from charrnn.runs import model as runs
from charrnn.text.corpus import TokenData
from charrnn.text.tokenizers import EOS
from charrnn.training import account, index, planning, together
from charrnn.training import device as machine
from charrnn.training.base import Base
from charrnn.training.deadline import FLAT, Deadline
from charrnn.training.distributed import Ranks, joined
from charrnn.training.elsewhere import here
from charrnn.training.events import Event
from charrnn.training.learner import Learner
from charrnn.training.material import Material, check_validation, part, read, read_again
from charrnn.training.probe import seconds_per_step
from charrnn.training.recipe import Bound, Plan
from charrnn.training.saved import saved_config, saved_progress, unfit
from charrnn.training.start import start_of
from charrnn.training.trainer import Best, Run

RESUMED_SHARE = 0.93  # of the time of a resumed run, for steps; the rest is for evaluations and saves


def run(
    corpus: Sequence[str],
    *,
    asked: Mapping[str, Any] | None = None,
    name: str | None = None,
    root: Path = Path("checkpoints"),
    bound: Bound | None = None,
    started_at: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    base: Base | None = None,
) -> Generator[Event, None, None]:
    """Train a new run on files, folders, globs or "-"; `asked` holds the settings that were set, by field name.

    `started_at` (time.monotonic) is when the clock of --minutes began; `stop` is asked after each step; `base` is the
    model to begin with instead of chance. Raises CharrnnError; a run that was interrupted can be taken up with `resume`.
    """
    wishes, bound, started_at = dict(asked or {}), bound or Bound(), time.monotonic() if started_at is None else started_at
    with joined() as ranks:
        wishes, bound = together.wished(ranks, wishes, bound)
        asked = ranks.together(lambda: _checked(wishes, name if ranks.first else None, root, base))
        device, material, notes = ranks.together(lambda: _prepared(corpus, asked, base, ranks))
        together.check_devices(ranks, device)
        together.check_same(ranks, material)
        # Hashed before the plan, which reckons with the time that is gone.
        kept = part(TrainingConfig, asked).val_fraction
        grams, more = ranks.together(lambda: index.hashed(material, kept) if ranks.first else (None, ()))
        plan = together.planned(ranks, lambda: _planned(asked, material, device, bound, started_at, base, ranks))
        folder = _claimed(ranks, name, material.survey.name, root)
        try:
            with durable.locked(folder / runs.LOCK_FILE) if ranks.first else contextlib.nullcontext():
                ranks.together(functools.partial(index.keep, folder, material, grams))
                del grams  # four bytes for each character, for which training has a better use
                run = _new_run(folder, material, plan, device, started_at, stop, ranks)
                if base is not None:
                    _begin_with(base, run, material)
                run.asked = frozenset(asked)
                if plan.minutes is not None and plan.training.schedule in FLAT:
                    run.deadline = Deadline(began=time.monotonic(), ends=started_at + 60 * plan.minutes, most=plan.most_steps)
                yield from account.events(run, material, (*notes, *more, *plan.notes))
        finally:
            if ranks.first:
                _remove_if_unused(folder)


def _checked(asked: Mapping[str, Any], name: str | None, root: Path, base: Base | None) -> dict[str, Any]:
    """The wishes, with those of a preset, as far as they can be checked without a text."""
    planning.check_asked(asked)
    asked = base.wishes(asked) if base else planning.with_preset(asked)
    if name is not None:
        registry.check_free(name, root)
    part(TrainingConfig, asked)
    planning.check_model(asked)
    return asked


def _prepared(
    corpus: Sequence[str], asked: Mapping[str, Any], base: Base | None, ranks: Ranks
) -> tuple[torch.device, Material, tuple[str, ...]]:
    """The machine, and the text, which must be the same on all ranks."""
    training = part(TrainingConfig, asked)
    device = machine.prepare(training.device, training.threads, ranks)
    together.check_sources(ranks, corpus)
    material, notes = read(corpus, asked, training.val_fraction, base.tokenizer(asked.get("min_count", 0)) if base else None)
    check_validation(material.data, training.val_fraction)
    if base is not None:
        base.check(material)
    return device, material, notes


def _claimed(ranks: Ranks, name: str | None, stem: str, root: Path) -> Path:
    """The folder of a new run, made by the first rank; it does not stay if another is gone before it hears of it."""
    with contextlib.ExitStack() as undo:

        def create() -> str:
            folder = registry.create(name, name or stem, root)
            undo.callback(registry.clear, folder)
            return str(folder)

        folder = Path(ranks.first_does(create))
        undo.pop_all()
    return folder


def _planned(
    asked: Mapping[str, Any], material: Material, device: torch.device, bound: Bound, started_at: float, base: Base | None,
    ranks: Ranks,
) -> Plan:  # fmt: skip
    """Every setting; of a run that begins with a model, with its shape."""
    plan = planning.make(asked, material, device, bound, started_at, ranks.count)
    return base.planned(plan, asked, material) if base else plan


def resume(
    path: Path | Callable[[], Path],
    *,
    corpus: Sequence[str] = (),
    bound: Bound | None = None,
    started_at: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Go on with a run exactly where its last save stands; only a longer bound may be given.

    `path` is its folder, or what finds it, on the first rank alone: others may be on machines without it. Where the run's
    device is not there, it goes on on one that is, and says so.

    Raises CheckpointError (nothing to resume), CorpusError (the text is gone or has changed), UsageError.
    """
    started_at, bound = time.monotonic() if started_at is None else started_at, bound or Bound()
    with joined() as ranks, contextlib.ExitStack() as owning:
        folder = Path(ranks.first_does(lambda: str(_own(path() if callable(path) else path, owning))))
        content = _read_last(folder, ranks)
        model, saved, training = ranks.together(lambda: _understood(content, folder))
        training, moved = here(together.shared(ranks, training, saved["ranks"]))
        bound = together.wished(ranks, {}, bound)[1]
        device, material = ranks.together(lambda: _again(corpus, saved, model, training, ranks))
        together.check_devices(ranks, device)
        longer = functools.partial(_longer, training, saved, bound, model.config, material, device, started_at, ranks)
        training = together.settled(ranks, longer)
        run = ranks.together(
            lambda: _resumed_run(folder, content, saved, model, training, material, device, started_at, stop, ranks)
        )
        run.extended = run.extended or bool(moved)
        lost = tuple(ranks.first_does(lambda: _put_in_order(run, material, int(saved["metrics_bytes"]))))
        if lost:  # on every rank, or they would not stop early together
            run.best = Best()
        lost += together.other_ranks(ranks, saved["ranks"])
        if not bound.given:
            run.deadline = Deadline.from_json(saved["deadline"])
        yield from account.events(run, material, (f"resumed at step {run.learner.step:,} of {training.steps:,}", *moved, *lost))


def _own(path: Path, owning: contextlib.ExitStack) -> Path:
    """Lock the run that `path` names, and give its folder; raises CheckpointError if there is none to go on with."""
    folder = path if path.is_dir() else path.parent
    if not (folder / runs.LAST_FILE).is_file():
        text = path.is_file() and path.suffix != ".safetensors"
        hint = "Train it anew, or begin with its weights: `charrnn train FILE --init-from RUN`."
        if text:
            hint = "The run comes first: `charrnn train --resume RUN FILE`."
        raise CheckpointError(f"{str(path if text else folder)!r} holds no {runs.LAST_FILE} to go on from.", hint)
    _check_files(folder)
    owning.enter_context(durable.locked(folder / runs.LOCK_FILE))
    durable.sweep(folder)
    return folder


def _understood(content: checkpoint.Checkpoint, folder: Path) -> tuple[runs.Model, dict[str, Any], TrainingConfig]:
    """The model of a last save, how it says to go on, and its settings; raises CheckpointError."""
    model, saved = runs.from_checkpoint(content, folder / runs.LAST_FILE), saved_progress(content.metadata, folder)
    return model, saved, saved_config(TrainingConfig, saved["training"], folder)


def _again(
    corpus: Sequence[str], saved: Mapping[str, Any], model: runs.Model, training: TrainingConfig, ranks: Ranks
) -> tuple[torch.device, Material]:
    """The machine, and the text as it was when the run began."""
    device = machine.prepare(training.device, training.threads, ranks)
    together.check_sources(ranks, corpus)
    material = read_again(corpus, saved, model, training)
    if not _fits(material, model, training):
        raise unfit(model.path.parent, "its windows do not fit its text")
    together.check_streams(ranks, training)
    return device, material


def _resumed_run(
    folder: Path, content: checkpoint.Checkpoint, saved: Mapping[str, Any], model: runs.Model, training: TrainingConfig,
    material: Material, device: torch.device, started_at: float, stop: Callable[[], bool], ranks: Ranks,
) -> Run:  # fmt: skip
    """A run as it was when it was saved, but for its bound."""
    settings = model.provenance.get("settings")
    model.provenance["settings"] = {**(settings if isinstance(settings, dict) else {}), **asdict(training)}
    learner = Learner(model.config, training, material.data.train, device, ranks)
    try:
        learner.restore(content.tensors, saved)
    except CheckpointError as error:
        raise unfit(folder, error.message.rstrip(".")) from error
    about = {"name": model.name, "start": list(model.start), "provenance": model.provenance, "labels": list(model.labels)}
    held, facts = learner.task.hold(material.data, training), {**account.resume_facts(material), "init_from": saved["init_from"]}
    run = Run(learner, model.tokenizer, held, folder, about, facts, started_at, stop)
    run.best, run.asked, run.due = Best(**saved["best"]), frozenset(saved["asked"]), saved["due"]
    run.extended = saved["extended"] or training.steps != saved["training"]["steps"]
    return run


def _check_files(folder: Path) -> None:
    """What a run writes must be files of its own: a stranger's folder may hold links to yours, or pipes without an end."""
    for name in (runs.MODEL_FILE, runs.LAST_FILE, *registry.LEAVINGS):
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CheckpointError(f"{str(path)!r} is no file, but a link or a device.", "Remove it, or put a file in its place.")


def _put_in_order(run: Run, material: Material, metrics_bytes: int) -> list[str]:
    """Make the other files of a run those of its last save; words about a best model that is damaged or gone."""
    index.renew(run.folder, material, run.learner.training.val_fraction)
    durable.cut_log(run.folder / runs.METRICS_FILE, metrics_bytes)
    if not np.isfinite(run.best.loss):
        return []
    try:
        runs.load(run.folder / runs.MODEL_FILE)
    except CheckpointError:
        return [f"the best model, of before, is damaged or gone: {runs.MODEL_FILE} is written anew at the next evaluation"]
    return []


def _read_last(folder: Path, ranks: Ranks) -> checkpoint.Checkpoint:
    """The last save of a run, which the first rank reads; the error for a damaged one says whether its best model is good."""
    path = folder / runs.LAST_FILE
    found = ranks.together(lambda: _decoded(folder) if ranks.first else None)
    if ranks.count == 1:
        assert found is not None
        return found
    return checkpoint.decode(ranks.tell(path.read_bytes() if ranks.first else b""), str(path))


def _decoded(folder: Path) -> checkpoint.Checkpoint:
    try:
        return checkpoint.read(folder / runs.LAST_FILE)
    except CheckpointError as error:
        file = folder / runs.MODEL_FILE
        with contextlib.suppress(CheckpointError):
            runs.load(file)
            error.hint = f"The best model, {str(file)!r}, is whole: `charrnn sample` writes with it. To go on, train anew."
        raise


def _new_run(
    folder: Path, material: Material, plan: Plan, device: torch.device, started_at: float, stop: Callable[[], bool], ranks: Ranks
) -> Run:
    learner = Learner(plan.model, plan.training, material.data.train, device, ranks)
    start = start_of(material.data, material.tokenizer) if isinstance(material.data, TokenData) else [EOS]
    about = {
        "name": folder.name,
        "start": start,
        "provenance": account.provenance(material, plan),
        "labels": list(material.labels),
    }
    held, facts = learner.task.hold(material.data, plan.training), account.resume_facts(material)
    return Run(learner, material.tokenizer, held, folder, about, facts, started_at, stop)


def _begin_with(base: Base, run: Run, material: Material) -> None:
    """Put the weights of a trained model into a new run; what they are worth is its first evaluation, before any step."""
    run.learner.start_from(base.weights(material))
    run.about["provenance"]["from"] = base.origin(material)
    run.resume["init_from"], run.due = base.typed, True


def _longer(
    training: TrainingConfig, saved: Mapping[str, Any], bound: Bound, model: ModelConfig, material: Material,
    device: torch.device, started_at: float, ranks: Ranks,
) -> TrainingConfig:  # fmt: skip
    """The settings with the new bound, which must lie beyond the old one; no bound keeps the old one."""
    if not bound.given:
        if int(saved["step"]) >= training.steps and not saved["due"]:
            raise UsageError(
                f"this run has made all of its {training.steps:,} steps.", f"Go on with --steps {2 * training.steps}."
            )
        if saved["stopped"]:
            found = f"this run has stopped early, at step {int(saved['step']):,}: nothing was becoming better."
            raise UsageError(found, f"Go on all the same with --steps {training.steps}.")
        return training
    steps = bound.steps or 0
    if bound.epochs is not None:
        facts = planning.facts_of(material)
        steps = round(bound.epochs * facts.train_tokens / facts.tokens_per_step(training))
    elif bound.minutes is not None:
        seconds = seconds_per_step(model, planning.one_of(ranks.count, training), material.data.train, device)
        left = max(0.0, bound.minutes * 60 - (time.monotonic() - started_at))
        steps = int(saved["step"]) + int(left / seconds * RESUMED_SHARE)
    if steps < training.steps:
        given = f"--minutes {bound.minutes:g} is enough for {steps:,}" if bound.minutes else f"{steps:,} would be shorter"
        raise UsageError(
            f"this run is bounded at {training.steps:,} steps; {given}.",
            "Leave the bound out to go on to the old one, or give a longer one (a flag, CHARRNN_MINUTES or a file set it).",
        )
    return replace(training, steps=steps)


def _fits(material: Material, model: runs.Model, training: TrainingConfig) -> bool:
    """Whether what was read again can be what the run has learnt: a last save may say anything."""
    data = material.data
    if isinstance(data, TokenData):
        return training.batch_size * training.window < len(data.train)
    wide = data.train.inputs.values.shape[1:] == ((model.config.features,) if model.config.input == "rows" else ())
    return 0 < training.batch_size <= len(data.train) and data.names == model.labels and wide


def _remove_if_unused(folder: Path) -> None:
    """A run that ended before its first save leaves nothing behind."""
    if any((folder / name).exists() for name in (runs.MODEL_FILE, runs.LAST_FILE)):
        return
    registry.clear(folder)
