"""A shared model tells nothing about its maker: no path, no name of a user or a machine, nothing of the environment.

All of these are planted as marks that occur nowhere else, in a forked child; then every byte of what people share is
searched for them, in several encodings. last.safetensors is not shared, and must show that the search finds something.
"""

from __future__ import annotations

import getpass
import io
import os
import platform
import pwd
import socket
import sys
import tempfile
import types
from pathlib import Path

import pytest
from forked import command, forked

import charrnn.cli.commands
import charrnn.cli.train
import charrnn.training.job  # noqa: F401 - for the children, which have no time to import torch
from charrnn.runs import checkpoint, copies
from charrnn.runs import model as models
from charrnn.text import sources, subword

POEM = "The harbour holds the evening in its hand,\nand one by one the lamps come up like bread.\n" * 8
MARK = "Zq7x"  # in the name of everything that must not travel
UID = 918_273_645
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
ALL_SHARED = (models.MODEL_FILE, copies.INDEX_FILE, "metrics.jsonl")
VARIABLES = (
    "HOME", "USER", "LOGNAME", "USERNAME", "HOSTNAME", "HOST", "PWD", "OLDPWD", "TMPDIR", "TEMP", "TMP", "MAIL", "SHELL", "EMAIL",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CHARRNN_CACHE", "SSH_CONNECTION", "SSH_TTY", "DISPLAY", "VIRTUAL_ENV",
    "GIT_AUTHOR_NAME", "API_TOKEN", "LD_LIBRARY_PATH", "PYTHONPATH",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _warm(_trained: Path) -> None:
    """A run in this process first: a second of what torch imports when it is first used, which no child repeats then."""


def plant(folder: Path) -> None:
    """Make this process that of a person who can be recognised by everything it knows of itself."""
    for name in VARIABLES:
        place = folder / f"{MARK}-{name}"
        place.mkdir(exist_ok=True)
        os.environ[name] = str(place)
    tempfile.tempdir = None
    machine = f"{MARK}-machine"
    os.getuid = os.geteuid = os.getgid = os.getegid = lambda: UID
    os.uname = lambda: os.uname_result(("Linux", machine, f"{MARK}-kernel", "1", "x86_64"))  # type: ignore[attr-defined]
    socket.gethostname = socket.getfqdn = platform.node = lambda *_: machine  # type: ignore[assignment]
    getpass.getuser = os.getlogin = lambda: f"{MARK}-user"
    pwd.getpwuid = pwd.getpwnam = lambda _: types.SimpleNamespace(pw_name=f"{MARK}-user", pw_dir=f"/{MARK}")  # type: ignore
    sys.executable = f"/{MARK}/python"


def made(folder: Path, *arguments: str, stdin: bytes = b"") -> Path:
    """The folder of a run that such a person trains, in `folder`, whose every part is a mark."""

    def work() -> int:
        plant(folder)
        os.chdir(folder)
        return command("train", *arguments, "--steps", "2", "--hidden-size", "4", "--embedding-size", "2", "--threads", "1")()

    ended = forked(work, stdin=stdin, seconds=60)
    assert ended.code == 0, ended.err
    (run,) = folder.glob("checkpoints/*")
    return run


def traces(path: Path, *marks: str) -> list[str]:
    """Which of the marks stand in a file, however they are encoded; JSON's escapes change none of them."""
    data = path.read_bytes().lower()
    return [mark for mark in marks for encoding in ENCODINGS if mark.lower().encode(encoding) in data]


def telling() -> list[str]:
    """What tells of a maker: the marks, and what this machine and this process really are called."""
    real = [socket.gethostname(), str(Path(__file__).parents[1]), str(Path.home())]
    return [MARK, str(UID), *(name for name in real if len(name) > 4)]  # "/root" would not be chance, "a" would


def fields(message: bytes) -> dict[int, list[bytes]]:
    """The fields of a protocol buffer by number; of what is no string, b"number" alone."""
    found: dict[int, list[bytes]] = {}
    rest = io.BytesIO(message)
    while rest.tell() < len(message):
        tag = number(rest)
        content = b"number"
        if tag & 7 == 0:
            number(rest)
        else:
            content = rest.read({1: 8, 5: 4}.get(tag & 7) or number(rest))
        found.setdefault(tag >> 3, []).append(content if tag & 7 == 2 else b"number")
    return found


def number(stream: io.BytesIO) -> int:
    value = shift = 0
    while (byte := stream.read(1)[0]) >= 128:
        value, shift = value | (byte & 127) << shift, shift + 7
    return value | byte << shift


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    folder = tmp_path / f"{MARK}-disk" / f"{MARK} of mine" / f"{MARK}é\n\x1b"
    folder.mkdir(parents=True)
    (folder / "poem.txt").write_text(POEM, encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@pytest.mark.parametrize("argument", ["name", "path", "stdin"])
def test_what_is_shared_holds_no_trace_of_its_maker(marked: Path, kind: str, argument: str) -> None:
    corpus = {"name": "poem.txt", "path": str(marked / "poem.txt"), "stdin": "-"}[argument]
    run = made(marked, corpus, "--tokenizer", kind, stdin=POEM.encode() if argument == "stdin" else b"")
    assert {name: traces(run / name, *telling()) for name in ALL_SHARED} == {name: [] for name in ALL_SHARED}
    provenance = checkpoint.read_metadata(run / models.MODEL_FILE)["provenance"]
    assert provenance["corpus"]["names"] == ["-" if argument == "stdin" else "poem.txt"]
    found = traces(run / models.LAST_FILE, MARK)  # which says where the text lies, and stays at home
    assert bool(found) == (argument != "stdin")


def test_a_search_finds_what_is_planted(marked: Path) -> None:
    for encoding in ENCODINGS:
        (marked / "found").write_bytes(b"\x01" + f"/home/{MARK}".encode(encoding))
        assert set(traces(marked / "found", *telling())) == {MARK}


def test_a_resumed_run_holds_no_trace_either(marked: Path) -> None:
    made(marked, "poem.txt")

    def work() -> int:
        plant(marked)
        os.chdir(marked)
        return command("train", "--resume", "poem", "--steps", "4", str(marked / "poem.txt"))()

    assert forked(work, seconds=60).code == 0
    run = marked / "checkpoints" / "poem"
    assert {name: traces(run / name, *telling()) for name in ALL_SHARED} == {name: [] for name in ALL_SHARED}


def test_of_a_folder_of_texts_only_their_own_names_travel(marked: Path) -> None:
    (marked / "verse" / f"{MARK}-inner").mkdir(parents=True)
    for name in ("verse/a.txt", f"verse/{MARK}-inner/b.txt"):
        (marked / name).write_text(POEM, encoding="utf-8")
    run = made(marked, str(marked / "verse"))
    assert {name: traces(run / name, *telling()) for name in ALL_SHARED} == {name: [] for name in ALL_SHARED}
    assert checkpoint.read_metadata(run / models.MODEL_FILE)["provenance"]["corpus"]["names"] == ["b.txt", "a.txt"]


def test_a_home_folder_gives_a_run_no_name(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(marked))
    monkeypatch.chdir(marked)
    for argument in (str(marked), ".", f"../{marked.name}/"):
        assert sources.stem(sources.find_sources([argument])) == "text"
    monkeypatch.setenv("HOME", str(marked.parent))
    assert sources.stem(sources.find_sources(["."])) == marked.name


def test_sentencepiece_says_nothing_of_where_it_was_trained(marked: Path) -> None:
    run = made(marked, "poem.txt", "--tokenizer", "subword")
    model = checkpoint.read(run / models.MODEL_FILE).tensors[subword.TENSOR].tobytes()
    assert not traces(run / models.MODEL_FILE, *telling())
    parts = fields(model)
    assert not parts.get(4), "texts for a self-test"
    trainer = fields(parts[2][0])
    assert trainer[3], "no model type: it is another message"
    assert not {1, 2, 5, 7} & set(trainer), "input files, prefix of the model's file, languages, format of the input"
    assert [value for values in trainer.values() for value in values if b"/" in value] == [b"</s>"] * 0
