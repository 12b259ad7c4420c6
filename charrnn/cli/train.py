"""`charrnn train`: learn a text. Knows how to ask for a run and how to show it, nothing of how one learns."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
import rich_click
from click.core import ParameterSource

from charrnn.cli import conclusion, console, main, options, origin
from charrnn.cli.progress import Lines, Listener, Undisturbed
from charrnn.config import FOR_TASKS, ModelConfig, PresetConfig, ReadingConfig, TokenizerConfig, TrainingConfig
from charrnn.errors import UsageError
from charrnn.launch import launch
from charrnn.training.events import Event, Finished, Started

if TYPE_CHECKING:
    from charrnn.training.base import Base

BOUNDS = ("minutes", "epochs", "steps")
TASK = ("task", "input", "bidirectional", "pooling", "lowercase", "label_as", "context", "attention")
FOUND = ("vocab_size", "classes", "features", "input_mean", "input_deviation")  # in the text, not asked for
MACHINE = ("device", "precision", "threads", "seed")
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)  # the first wins


@rich_click.command()
@options.apply(
    [
        rich_click.argument("corpus", nargs=-1, metavar="CORPUS...", shell_complete=options.complete_file),
        *options.settings(options.BoundConfig, "How long (one of them)"),
        *options.settings(TrainingConfig, "How long (one of them)", only=("steps",)),
        rich_click.option("--name", metavar="NAME", panel="Output", help="The name of the run (default: that of the text)."),
        rich_click.option(
            "--resume", is_flag=False, flag_value="", default=None, metavar="[RUN]", panel="Output",
            help="Go on with a run that was interrupted, exactly; without RUN, the one saved last.",
        ),
        options.checkpoints_option("Output"),
        options.config_option("Output"),
        origin.option("Model"),
        *options.settings(PresetConfig, "Model"),
        *options.settings(ModelConfig, "Task", only=TASK),
        *options.settings(ModelConfig, "Model", without=(*TASK, *FOUND)),
        *options.settings(TokenizerConfig, "Text"),
        *options.settings(ReadingConfig, "Text"),
        *options.settings(TrainingConfig, "Machine", only=MACHINE),
        *options.settings(TrainingConfig, "Training", without=("steps", *MACHINE)),
    ]
)  # fmt: skip
@click.pass_context
def train(
    context: click.Context, /, corpus: tuple[str, ...], name: str | None, resume: str | None, checkpoints: Path,
    init_from: str | None, **values: Any,
) -> None:  # fmt: skip
    """Learn a text: train a model on CORPUS and save it as a run.

    CORPUS is one or more files (.txt, .gz, .jsonl, .csv, .tsv), folders, globs, or - for stdin. No option is
    needed: size and schedule suit themselves to the text, the machine and the time. Ctrl-C saves and leaves;
    --resume goes on from there.

        charrnn train my.txt
        charrnn train books/ --minutes 30 --name books
        charrnn train --resume books --minutes 60
        charrnn train more.txt --init-from my        go on from what was learnt, on another text
        charrnn train my.txt --layers 2 --hidden-size 512 --dropout-layers 0.2 --epochs 20
        charrnn train --task classify reviews.tsv    rows of label, tab, text
        charrnn train --task conditional verses.tsv  the same, to write by label
        charrnn train --task seq2seq pairs.tsv       rows of source, tab, target

    Every setting can also come from the environment (CHARRNN_HIDDEN_SIZE=256) or from a file (--config).
    """
    _check_arguments(context, corpus, name, resume)
    bound = _one_bound(context, values)
    asked = options.asked(values, PresetConfig, ReadingConfig, TokenizerConfig, ModelConfig, TrainingConfig)
    asked.pop("steps", None)
    base = origin.load(init_from, checkpoints)
    asked = origin.agreed(base, context, asked)
    if resume is None:
        _check_task(context, base.model.config.task if base else values["task"] or "language")
    here = launch()
    quiet = here.rank > 0  # of several ranks, the first tells
    hushed = contextlib.nullcontext() if quiet else console.unechoed()
    with Stop(patient=here.count > 1) as stop, hushed, Undisturbed(_listener(quiet), stop.ask) as listener:
        if sys.stderr.isatty() and not quiet:
            console.note("preparing ...")
        events = _events(corpus, name, resume, checkpoints, asked, bound, stop, base)
        started, finished = _follow(events, listener, stop)
    if not quiet:
        conclusion.tell(started, finished, checkpoints)
    if finished.reason == "interrupted":
        context.exit(128 + (stop.number or signal.SIGINT))  # of several ranks, another may have been asked


class Stop:
    """Whether the person wants to stop. The first Ctrl-C (or SIGTERM ...) asks the run to save; the second leaves at once.

    Until `armed`, when nothing has been learnt that could be saved, already the first leaves at once. A terminal that goes
    away hastens nothing: where a system shuts down, that comes together with SIGTERM. `patient` is for one of several
    ranks: their launcher passes on each signal that the terminal has sent them already, and kills who takes too long.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.armed = self.wanted = False
        self._patient = patient
        self.number = 0  # of the first signal
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, *main.ENDING):
            self._before[number] = main.handle(number, self._signalled)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            main.handle(number, handler)

    def __call__(self) -> bool:
        return self.wanted

    def ask(self) -> None:
        """Ask the run to save and to end."""
        self.wanted = True

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        again = self.number != 0
        self.number, self.wanted = self.number or number, True  # should a library swallow what is raised below
        if self.armed and (not again or self._patient or number == getattr(signal, "SIGHUP", 0)):
            return
        main.leave(number, frame)


def _check_arguments(context: click.Context, corpus: tuple[str, ...], name: str | None, resume: str | None) -> None:
    if not corpus and resume is None:
        raise UsageError("there is no text to train on.", "Name one: `charrnn train my.txt`, or go on with --resume.")
    if resume is None:
        return
    if name is not None:
        raise UsageError("--name and --resume exclude each other: a resumed run keeps its name.", "Leave out --name.")
    for parameter in context.command.params:
        typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if typed and parameter.name not in (*BOUNDS, "resume", "corpus", "checkpoints", "config"):
            raise UsageError(
                f"{parameter.opts[0]} cannot be changed in a run that is resumed.", "Leave it out, or train a new run."
            )


def _check_task(context: click.Context, task: str) -> None:
    """Refuse an option that was typed for another task than the one that is to be learnt; a file may serve several."""
    for parameter in context.command.params:
        tasks = FOR_TASKS.get(parameter.name or "", (task,))
        if task not in tasks and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
            fits = " or ".join(f"--task {one}" for one in tasks)
            raise UsageError(f"{parameter.opts[0]} is for {fits}; this is --task {task}.", "Leave it out, or change the task.")


def _one_bound(context: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The one bound that was set: a flag beats the environment, which beats the file; two of one kind are too many."""
    for source in SOURCES:
        given = [name for name in BOUNDS if values[name] and context.get_parameter_source(name) is source]
        if len(given) > 1:
            both = " and ".join(f"--{name}" for name in given)
            raise UsageError(f"{both} exclude each other: give one bound.", f"Keep --{given[0]}, for example.")
        if given:
            return {given[0]: values[given[0]]}
        if values["steps"] == 0 and context.get_parameter_source("steps") is source:
            raise UsageError("--steps is 0; expected a positive number.", "Give --steps 1000, or leave it out.")
    return {}


def _listener(quiet: bool) -> Listener:
    """The panel where it can be drawn, else plain lines; one that tells nobody, if `quiet`."""
    if quiet:
        return Lines(lambda line: None)
    if not console.fancy(sys.stderr) or console.in_background() or "utf" not in (sys.stderr.encoding or "").lower():
        return Lines()
    from charrnn.cli.panel import Panel

    return Panel(console.rich_console(sys.stderr))


def _events(
    corpus: tuple[str, ...], name: str | None, resume: str | None, root: Path, asked: Mapping[str, Any],
    bound: Mapping[str, Any], stop: Stop, base: Base | None,
) -> Generator[Event, None, None]:  # fmt: skip
    from charrnn.runs import registry

    find = functools.partial(registry.resolve, resume or None, root, resumable=True)
    run = find() if resume is not None and launch().count == 1 else find  # before torch is loaded
    from charrnn.training import job
    from charrnn.training.recipe import Bound

    limit = Bound(**bound)
    if resume is None:
        return job.run(corpus, asked=asked, name=name, root=root, bound=limit, started_at=main.STARTED_AT, stop=stop, base=base)
    return job.resume(run, corpus=corpus, bound=limit, started_at=main.STARTED_AT, stop=stop)


def _follow(events: Generator[Event, None, None], listener: Listener, stop: Stop) -> tuple[Started, Finished]:
    """Show every event; return the first and the last."""
    started = finished = None
    with closing(events):  # whatever happens, the run is unlocked now and not when the garbage is collected
        for event in events:
            listener.feed(event)
            if isinstance(event, Started):
                started, stop.armed = event, True
            elif isinstance(event, Finished):
                finished = event
    assert started is not None
    assert finished is not None
    return started, finished
