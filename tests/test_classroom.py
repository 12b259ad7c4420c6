"""docs/classroom.md keeps its word: every command on it runs, in order, in one folder.

The letter experiments run as they stand and are right every time; where the page needs more steps or rows for its figures,
the test makes do with a few.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import Done
from forked import command, forked
from test_readme import ROOT, blocks

from charrnn.cli.commands import COMMANDS, charrnn
from charrnn.training import examiner, job  # noqa: F401 - loaded before children are forked

PAGE, SCRIPTS = "docs/classroom.md", ("make_tasks.py", "measure_gradients.py")
SAME = {"CHARRNN_THREADS": "1"}
FEW = SAME | {"CHARRNN_HIDDEN_SIZE": "16", "CHARRNN_TOKENIZER": "char", "CHARRNN_EVAL_TOKENS": "2000"}
LINES = "".join(blocks(PAGE, "sh")).splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone holds that the page uses, and a shell's `charrnn` and `python`."""
    import torch._dynamo  # noqa: F401 - every optimizer does, for a second: better once, before children are forked

    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    model = Path("checkpoints") / "poems" / "model.safetensors"
    for name in (model, *(Path("docs") / script for script in SCRIPTS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, program in (("charrnn", f"{sys.executable} -m charrnn"), ("python", sys.executable)):
        shim = tmp_path / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        shim.chmod(0o755)
    return tmp_path


def whole(line: str) -> bool:
    """Whether a training is one of those that run as they stand."""
    words = line.split()
    return words[:2] == ["charrnn", "train"] and (words[2] == "--resume" or words[2].startswith("corpora/classroom/"))


def shortened(line: str) -> str:
    """A command with few steps or rows."""
    if line.startswith("python docs/make_tasks.py") and " digits " not in line:
        return f"{line} --rows 200"
    return line if whole(line) else re.sub(r"--steps \d+", "--steps 3", line)


def run(line: str, clone: Path, settings: Mapping[str, str]) -> Done:
    """Run a command line: in a child of this process, which has everything loaded, or one for a shell in a shell."""
    environment = {**settings, "CHARRNN_CACHE": str(clone / "cache")}
    if re.search(r"[|&;<>$`*?]", line):
        more = {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            line, shell=True, cwd=clone, env=os.environ | environment | more, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=60, check=False, encoding="utf-8",
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)
    program, *arguments = shlex.split(line)

    def work() -> int:
        os.chdir(clone)
        os.environ.update(environment)
        return command(*arguments)() if program == "charrnn" else script(arguments)

    ended = forked(work, seconds=60)
    return Done(ended.code, ended.out.decode("utf-8"), ended.err.decode("utf-8"))


def script(arguments: list[str]) -> int:
    sys.argv[:] = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


def last_accuracy(clone: Path, name: str) -> Any:
    """Of the last evaluation of a run."""
    rows = (clone / "checkpoints" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["accuracy"] for row in map(json.loads, rows) if row["event"] == "evaluated"][-1]


def test_every_command_of_the_page_runs_and_the_letters_are_learnt(clone: Path) -> None:
    said: dict[str, str] = {}
    for line in LINES:
        done = run(shortened(line), clone, SAME if whole(line) else FEW)
        assert done.code == 0, f"{line}: {done.err}"
        assert "Traceback" not in done.err
        assert "\x1b" not in done.out + done.err
        said[line] = done.out
    assert [last_accuracy(clone, name) for name in ("ring", "alphabet", "four")] == [1.0, 1.0, 1.0]
    assert said["charrnn sample ring --prompt a --temp 0 --length 5"] == "abcdea\n"
    assert said["charrnn sample alphabet --prompt w --temp 0 --length 6"] == "wxyzabc\n"
    assert said["charrnn classify four abcd --top 3"].startswith("e\t0.9")
    assert "99.95% of 2,000 tokens" in said["charrnn eval ring corpora/classroom/ring.txt"]
    piped = next(out for line, out in said.items() if line.startswith("printf"))
    assert [row.split("\t")[0] for row in piped.splitlines()] == ["q", "a"]
    assert len((clone / "weights.txt").read_text(encoding="utf-8").splitlines()) > 10
    assert (clone / "gradients.txt").read_text(encoding="utf-8").startswith("steps back  mean norm\n         0  ")


def test_the_page_has_the_commands_it_promises() -> None:
    assert {line.split()[1] for line in LINES if line.startswith("charrnn")} >= {
        "train", "sample", "plot", "inspect", "eval", "classify", "translate",
    }  # fmt: skip
    assert {line.split()[1] for line in LINES if line.startswith("python")} == {f"docs/{script}" for script in SCRIPTS}


def test_every_command_and_option_named_on_the_page_exists() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert set(re.findall(r"`charrnn ([a-z]+)", text)) <= set(COMMANDS)
    options: set[str] = set()
    for name in COMMANDS:
        found = charrnn.get_command(None, name)  # type: ignore[arg-type]
        assert found is not None
        options |= {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", text)) <= options
