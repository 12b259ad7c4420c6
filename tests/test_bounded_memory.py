"""Bounded memory: a corpus larger than memory is learnt from, and a file that unpacks to one is stopped where it is said.

Peaks are those of the resident memory (VmHWM), file-backed pages included, above what a process has that only imported
the same modules.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import environment
from forked import Ended, command, forked

import charrnn.cli.commands
import charrnn.cli.train
import charrnn.training.job  # noqa: F401 - for the children, which have no time to import torch
from charrnn.runs import copies
from charrnn.text import reading

MB = 1 << 20
TINY = (
    "--steps", "3", "--eval-every", "3", "--hidden-size", "8", "--embedding-size", "4", "--layers", "1", "--threads", "1",
)  # fmt: skip
LETTERS = np.frombuffer(b"etaoinshrdlu ,.abc\nETAOIN; \n fghj", np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _warm(_trained: Path) -> None:
    """A run in this process first: what torch imports when it is first used counts among the imports."""


def synthetic(path: Path, size: int) -> None:
    """Random letters, the first half of them one line."""
    generator = np.random.Generator(np.random.SFC64(5))
    with open(path, "wb") as file:
        for start in range(0, size, 1 << 24):
            letters = LETTERS[generator.integers(0, len(LETTERS), min(1 << 24, size - start), np.uint8)]
            file.write(np.where((letters == 10) & (start < size // 2), 32, letters).astype(np.uint8).data)


def peak() -> int:
    """The most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def measured(work: Callable[[], int]) -> Callable[[], int]:
    """Work for a child, which then tells on its stdout by how much its memory grew."""

    def watched() -> int:
        ctypes.CDLL(None).malloc_trim(0)  # what the parent had and freed must not be filled unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is in memory
        before = peak()
        code = work()
        os.write(1, b"\ngrown by %d\n" % (peak() - before))
        return code

    return watched


def grown(ended: Ended) -> int:
    return int(ended.out.rsplit(b"grown by ", 1)[1])


def trained(folder: Path, *arguments: str, **how: int) -> Ended:
    """`charrnn train` in a child; without the index of copies, as for a text that is too long for one."""

    def work() -> int:
        os.chdir(folder)
        os.environ["CHARRNN_CACHE"] = str(folder / "cache")
        copies.MOST_CHARACTERS = 1
        return command("train", *arguments, *TINY)()

    return forked(measured(work), seconds=600, **how)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes no room when the test is over."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("kind", ["byte", pytest.param("char", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_text(folder: Path, kind: str) -> None:
    found = []
    for size in (20 * MB, 52 * MB):  # at 20 all is met that does not grow with the text
        synthetic(folder / "a.txt", size)
        ended = trained(folder, "a.txt", "--tokenizer", kind)
        assert ended.code == 0, ended.err
        found.append(grown(ended))
    assert found[1] - found[0] < 20 * MB, found  # of 32 that the text has more; 0 as a rule, give or take 13 of mapped pages


def test_the_measure_sees_a_text_that_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic(folder / "a.txt", 24 * MB)
    plain, held, unified = trained(folder, "a.txt", "--name", "a"), [], reading._unified
    assert plain.code == 0, plain.err

    def holding(text: Iterable[str]) -> Iterator[str]:
        for piece in unified(text):
            held.append(piece)
            yield piece

    monkeypatch.setattr(reading, "_unified", holding)
    assert grown(trained(folder, "a.txt", "--name", "b")) - grown(plain) > 16 * MB


# --- what unpacks to more than it seems -------------------------------------------------------------------------------


def bomb(path: Path, begin: bytes, unit: bytes, size: int, end: bytes) -> None:
    """A .gz of a thousandth of `size`: `unit` again and again between `begin` and `end`."""
    block = unit * (MB // len(unit))
    with gzip.open(path, "wb", 9) as file:
        file.write(begin)
        for _ in range(size // len(block)):
            file.write(block)
        file.write(end)


BOMBS = {
    "text": ("a.txt.gz", b"", b"\0", b""),
    "json line": ("a.jsonl.gz", b'{"text": "', b"a", b'"}\n'),
    "json lists": ("a.jsonl.gz", b'{"text": "a", "b": [', b"[],", b"0]}\n"),
    "csv field": ("a.csv.gz", b'text\n"', b"a", b'"\n'),
    "csv fields": ("a.csv.gz", b"text\n", b",ab", b"\n"),
    "csv lines of one row": ("a.csv.gz", b'text\n"', b'\n","', b'"\n'),
    "tsv fields": ("a.tsv.gz", b"text\n", b"ab\t", b"\n"),
}


def check_stopped(ended: Ended, folder: Path, most: int) -> None:
    """Refused in words, with little memory taken and nothing left on the disk but the file itself."""
    assert ended.code == 65, ended.err
    assert b"unpacks to more than" in ended.err or b"a row of" in ended.err
    assert grown(ended) < most
    left = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gz" and path.stat().st_size]
    assert not left


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stopped_at_the_limit(folder: Path, name: str) -> None:
    file, begin, unit, end = BOMBS[name]
    bomb(folder / file, begin, unit, 32 * MB, end)
    assert (folder / file).stat().st_size < 32 * MB // 200
    ended = trained(folder, file, "--max-unpacked", str(8 * MB), file_size=MB)
    assert b"a.%s.gz' unpacks to more than 8,388,608 bytes." % file.split(".")[1].encode() in ended.err
    assert b"--max-unpacked" in ended.err
    check_stopped(ended, folder, 24 * MB if "csv lines" not in name else 128 * MB)


def test_the_limit_can_be_raised(folder: Path) -> None:
    bomb(folder / "a.txt.gz", b"", b"ab\n", 8 * MB, b"")
    assert trained(folder, "a.txt.gz", "--max-unpacked", str(7 * MB)).code == 65
    assert trained(folder, "a.txt.gz", "--max-unpacked", str(9 * MB)).code == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stopped_at_the_default_limit_or_at_the_longest_row(folder: Path, name: str) -> None:
    file, begin, unit, end = BOMBS[name]
    bomb(folder / file, begin, unit, 9 << 30 if name == "text" else 1 << 30, end)
    started = time.monotonic()
    ended = trained(folder, file, file_size=MB)
    print(f"{name}: {(folder / file).stat().st_size:,} bytes, {grown(ended) / MB:.0f} MB, {time.monotonic() - started:.1f} s")
    check_stopped(ended, folder, 300 * MB)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", [b"[],", b'{"":1},', b'"\xf0\x9f\x98\x80",', b"0.1,"])
def test_the_longest_row_that_is_allowed_fits_into_memory(folder: Path, unit: bytes) -> None:
    size = (reading.MAX_ROW - MB) * len(unit) // len(unit.decode())
    bomb(folder / "a.jsonl.gz", json.dumps({"text": "abc " * 500}).encode()[:-1] + b', "b": [', unit, size, b"0]}\n")
    ended = trained(folder, "a.jsonl.gz")
    print(f"{unit!r}: {grown(ended) / MB:.0f} MB")
    assert ended.code == 0, ended.err
    assert grown(ended) < 700 * MB


# --- larger than memory -----------------------------------------------------------------------------------------------

IMPORTS = "import charrnn.cli.train, charrnn.cli.progress, charrnn.training.job, filelock, sentencepiece"
TELL = "; print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
RUN = "import sys; from charrnn.cli import main; code = main.run(sys.argv[1:])"


def alone(folder: Path, code: str, *arguments: str) -> tuple[int, float]:
    """The peak of a process of its own, in bytes, and its seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code + TELL, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=environment({"CHARRNN_CACHE": str(folder / "cache")}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not arguments or "saved in" in done.stderr, done.stderr
    return int(done.stdout.split("peak")[1]) << 10, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "size"), [("char", 2_000_000_000), ("byte", 2_000_000_000), ("subword", 300_000_000)])
def test_two_gigabytes_are_learnt_from_in_700_megabytes(folder: Path, kind: str, size: int) -> None:
    assert shutil.disk_usage(folder).free > 4 * size
    synthetic(folder / "a.txt", size)
    base, _ = alone(folder, IMPORTS)  # 300 MB are enough to go without the index of copies; pieces take 40 s for 100 MB
    most, seconds = alone(folder, RUN, "train", "a.txt", "--tokenizer", kind, *TINY)
    print(f"{kind}: {(most - base) / MB:.0f} MB above {base / MB:.0f} MB of imports, {seconds:.0f} s")
    assert most - base < 700_000_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_is_the_longest_text_that_gets_an_index_of_copies(folder: Path) -> None:
    size = int(copies.MOST_CHARACTERS / 0.9)
    synthetic(folder / "a.txt", size)
    base, _ = alone(folder, IMPORTS)
    most, seconds = alone(folder, RUN, "train", "a.txt", "--tokenizer", "char", *TINY)
    assert (folder / "checkpoints" / "a" / copies.INDEX_FILE).stat().st_size > 250 * MB
    again, _ = alone(folder, RUN, "train", "--resume", "a", "--steps", "6")
    above = [round((found - base) / MB) for found in (most, again)]
    print(f"{size:,} characters: {above[0]} MB above imports, {seconds:.0f} s; resumed {above[1]} MB")
    assert max(most, again) - base < 700_000_000
