"""The documents keep their word: every command and program in them is run, with few steps, and every option exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Done
from forked import command, forked

from charrnn.cli.commands import COMMANDS
from charrnn.decoding.commands import COMMANDS as SESSION_COMMANDS
from charrnn.training import job  # noqa: F401 - loaded before children are forked

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/README.zh.md", "docs/session.md", "corpora/README.md")
FEW = {"CHARRNN_STEPS": "3", "CHARRNN_HIDDEN_SIZE": "16", "CHARRNN_THREADS": "1", "CHARRNN_LENGTH": "20"}


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def shell_commands(document: str) -> list[str]:
    """Every charrnn command of a document, those behind `&&` too."""
    lines = "".join(blocks(document, "sh")).splitlines()
    return [part for line in lines for part in line.split(" && ") if part.startswith("charrnn ")]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone holds that the commands use, and a text called my.txt."""
    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    for name in ("poems", "dialogues"):
        bundled = Path("checkpoints") / name
        shutil.copytree(ROOT / bundled, tmp_path / bundled, ignore=shutil.ignore_patterns("last*", "lock"))
    (tmp_path / "my.txt").write_text("A small text of my own, with a few lines in it.\n" * 40, encoding="utf-8")
    shutil.copy(tmp_path / "my.txt", tmp_path / "我的文章.txt")
    return tmp_path


def run(line: str, clone: Path) -> Done:
    """Run a command line of charrnn: in a child of this process, which has everything loaded; one for a shell in a shell."""
    if re.search(r"[|&;<>$`*?]", line):
        done = program(line, clone)
        return Done(done.returncode, done.stdout, done.stderr)

    def work() -> int:
        os.chdir(clone)
        os.environ.update(FEW, CHARRNN_CACHE=str(clone / "cache"))
        return command(*shlex.split(line)[1:])()

    ended = forked(work, stdin=b"Shall I\n", seconds=100)
    return Done(ended.code, ended.out.decode("utf-8"), ended.err.decode("utf-8"))


def program(command: list[str] | str, clone: Path) -> subprocess.CompletedProcess[str]:
    """Run a program, or a line for a shell that knows `charrnn`."""
    shim = clone / "bin" / "charrnn"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m charrnn "$@"\n')
    shim.chmod(0o755)
    path = f"{shim.parent}:{os.environ['PATH']}"
    environment = {**os.environ, **FEW, "PATH": path, "PYTHONPATH": str(ROOT), "CHARRNN_CACHE": str(clone / "cache")}
    return subprocess.run(
        command, shell=isinstance(command, str), cwd=clone, env=environment, input="Shall I\n", text=True, capture_output=True,
        timeout=100, check=False, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_runs(clone: Path, document: str) -> None:
    for line in shell_commands(document):
        done = run(line, clone)
        assert done.code == 0, f"{line}: {done.err}"
        assert "Traceback" not in done.err
        if line.split()[1] in ("sample", "repl"):
            assert len(done.out) > 15, line
            assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("document", ["README.md", "docs/README.zh.md"])
def test_every_program_of_a_document_runs(clone: Path, document: str) -> None:
    programs = blocks(document, "python")
    assert programs
    for text in programs:
        few = text.replace("minutes=2", "steps=3, hidden_size=16, threads=1")
        done = program([sys.executable, "-c", few], clone)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > 100


def test_the_documents_have_the_commands_they_promise() -> None:
    assert len(shell_commands("README.md")) >= 6
    assert shell_commands("docs/README.zh.md")[0] == shell_commands("README.md")[0]
    installs = [line.split(" && ")[0] for line in "".join(blocks("README.md", "sh")).splitlines() if "pip install" in line]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert installs == ["python -m pip install -c constraints.txt .", 'python -m pip install -c constraints.txt -e ".[test]"']
    assert installs[1].removeprefix("python -m pip install ") in ci


def test_the_page_about_sessions_names_every_command_of_one() -> None:
    text = (ROOT / "docs" / "session.md").read_text(encoding="utf-8")
    missing = [command.name for command in SESSION_COMMANDS if not re.search(rf"`/{command.name}\b", text)]
    assert missing == []
    known = {f"/{command.name}" for command in SESSION_COMMANDS}
    assert set(re.findall(r"(?<=`)/[a-z]+", text)) <= known


@pytest.mark.parametrize("document", ["README.md", "docs/README.zh.md", "docs/session.md"])
def test_every_command_and_option_named_in_a_document_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"charrnn ([a-z]+)", re.sub(r"```python.*?```", "", text, flags=re.DOTALL)))
    known = set(COMMANDS)
    assert known <= named or document == "docs/session.md", "a command is missing from the document"
    from charrnn.cli.commands import charrnn

    options: set[str] = {"--help", "--version", "--nproc-per-node"}  # the last is torchrun's
    for name in COMMANDS:
        command = charrnn.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options |= {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", text)) <= options
