"""Command lines, run in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import charrnn
from charrnn.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


def runner(capture: pytest.CaptureFixture[bytes]) -> Run:
    """What runs a command line in this process."""

    def invoke(*arguments: str) -> Done:
        capture.readouterr()
        code = main.run(arguments)
        captured = capture.readouterr()
        done = Done(code, captured.out.decode("utf-8"), captured.err.decode("utf-8"))
        assert "Traceback" not in done.err
        return done

    return invoke


def process(*arguments: str, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
    """Run a command line in a process of its own."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=environment(env), check=False)
    return Done(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    root = str(Path(charrnn.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, **(changes or {})}
