"""The process: signals, exit codes and what a failure looks like. Knows none of the commands.

Nothing but the standard library is imported before the signal handlers stand, so that Ctrl-C during a slow import
ends as quietly as Ctrl-C at any other time. A signal that whoever started us has set to be ignored (nohup) stays so.
The exit codes: 0; those of charrnn.errors; 2 for wrong usage; 128 and its number after a signal (130 after Ctrl-C, 143
after SIGTERM, 129 where the terminal went away), 141 when the reader of a pipe did, as the shell reports it for any tool.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

STARTED_AT = time.monotonic()  # as early as Python code of ours can run; `--minutes` counts from here

INTERRUPTED, BROKEN_PIPE = 130, 141
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


class Terminated(BaseException):
    """One of ENDING came; like KeyboardInterrupt it is not an Exception, so that nothing swallows it.

    `last` is the number of the last one: on its way out it may become another error, as where the terminal is gone and
    what would restore it cannot be written.
    """

    last = 0

    def __init__(self, number: int) -> None:
        super().__init__(number)
        Terminated.last = number


def main() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    for number in (signal.SIGINT, *ENDING):
        handle(number, leave)
    sys.unraisablehook = _bring_back
    _open_missing_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they name source lines, which say nothing to who only uses the program
    code = run(sys.argv[1:])
    for number in (signal.SIGINT, *ENDING):
        handle(number, signal.SIG_DFL)  # a late Ctrl-C must not print a traceback out of the shutdown
    if "torch.distributed" in sys.modules and "WORLD_SIZE" in os.environ:
        os._exit(code)  # all is written and flushed; the threads of a process group have been seen to abort a shutdown
    sys.exit(code)


def handle(number: int, handler: Any) -> Any:
    """Set the handler of a signal, unless it is ignored; returns what stood there before."""
    before = signal.getsignal(number)
    if before is not signal.SIG_IGN and handler is not None:
        signal.signal(number, handler)
    return before


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code; every expected failure is told on stderr."""
    Terminated.last = 0
    try:
        code = _guarded(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Terminated as ended:
        code = 128 + ended.last
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:
        code = _system_error(error)
    _drop_unwritten()
    return 128 + Terminated.last if Terminated.last else code


def _guarded(arguments: Sequence[str]) -> int:
    import click

    from charrnn.errors import CharrnnError

    try:
        return _invoke(list(arguments))
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        if _rank() > 0:  # all ranks were given the same command line: the first tells
            return error.exit_code
        return _tell(error.format_message(), _usage_hint(error), error.exit_code)
    except CharrnnError as error:
        return _tell(error.message, error.hint, error.exit_code)
    except MemoryError:
        return _out_of_memory()
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):  # how torch says it
            raise
        return _out_of_memory()


def _out_of_memory() -> int:
    return _tell("there is not enough memory for this.", "Try a smaller model, batch or file.", 1)


def _invoke(arguments: list[str]) -> int:
    """Parse and run; this, not click's own main(), so that all exit codes are decided in this file."""
    from charrnn.cli.commands import charrnn

    instruction = os.environ.get("_CHARRNN_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(charrnn, {}, "charrnn", "_CHARRNN_COMPLETE", instruction)
    with charrnn.make_context("charrnn", arguments) as context:
        charrnn.invoke(context)
    return 0


def _system_error(error: OSError) -> int:
    """What the system refused; without a file name it was stdout: a full disk shows only when bytes are flushed."""
    if error.filename is None:
        return _tell(f"cannot write the output: {error.strerror}", "Free some space and try again.", 74)
    return _tell(f"cannot use {os.fsdecode(error.filename)!r}: {error.strerror}", "Check the path and its permissions.", 1)


def _rank() -> int:
    """Which of several processes of one run this is; 0 where nobody says so sensibly."""
    from charrnn.errors import UsageError
    from charrnn.launch import launch

    try:
        return launch().rank
    except UsageError:
        return 0


def _usage_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"`{context.command_path} --help` explains." if context is not None else ""


def _tell(message: str, hint: str, code: int) -> int:
    """Say what failed; of several ranks, which one says so. One that failed only because another did says nothing."""
    from charrnn.cli import console

    if not message:
        return code
    if rank := _rank():
        message = f"rank {rank}: {message}"
    try:
        console.error(message, hint)
    except OSError:
        return code  # nobody is listening any more; the exit code still tells
    return code


def leave(number: int, frame: FrameType | None) -> None:
    """Raise what ends the program.

    In the midst of an import, a moment later: torch's C++ calls Python where no exception may pass, and would abort.
    """
    while frame is not None and frame.f_code is not main.__code__:  # whoever imports this program to run it is no matter
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _come_again(number)
            return
        frame = frame.f_back
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _bring_back(dropped: Any) -> None:
    """What a signal raised in the midst of a callback Python would drop: let the signal come once more."""
    number = {KeyboardInterrupt: signal.SIGINT, Terminated: Terminated.last}.get(dropped.exc_type)
    if number is None:
        sys.__unraisablehook__(dropped)
    else:
        _come_again(number)


def _come_again(number: int) -> None:
    """Let a signal come once more, when what it interrupted may be over."""
    deliver = getattr(signal, "pthread_kill", lambda thread, number: signal.raise_signal(number))  # Windows has none
    timer = threading.Timer(0.005, deliver, [threading.main_thread().ident, number])
    timer.daemon = True
    timer.start()


def _open_missing_streams() -> None:
    """Give a process started with closed standard streams (`>&-`) streams that swallow or end at once."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  (it stays open as long as the process lives)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _drop_unwritten() -> None:
    """Point a stream that cannot be flushed at the null device, or Python would complain while it shuts down."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
