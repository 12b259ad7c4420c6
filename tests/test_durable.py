"""Writes are whole or not at all, and a lock has one holder."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn import durable
from charrnn.errors import CannotCreateError, LockedError, WriteError


def test_replace_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    durable.replace(tmp_path / "a", b"one")
    durable.replace(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    durable.replace(tmp_path / "a", b"old")

    def fail() -> None:
        with durable.replacing(tmp_path / "a") as file:
            file.write(b"new")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_followed_and_the_mode_is_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    durable.replace(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotCreateError, match="nowhere"):
        durable.replace(tmp_path / "nowhere" / "a", b"")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from charrnn import durable
from charrnn.errors import WriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    durable.replace(Path(sys.argv[1]), bytes(5000))
except WriteError as error:
    sys.exit(error.exit_code)
"""


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=False)
    assert done.returncode == WriteError.exit_code
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_lock_has_one_holder_who_is_named(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first:
        first.enter_context(durable.locked(tmp_path / "lock"))
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            first.enter_context(durable.locked(tmp_path / "lock"))
    with durable.locked(tmp_path / "lock"):
        pass


def test_sweep_and_truncate(tmp_path: Path) -> None:
    (tmp_path / f".model.safetensors.123{durable.TEMPORARY_SUFFIX}").write_bytes(b"half")
    durable.sweep(tmp_path)
    assert os.listdir(tmp_path) == []
    durable.append_line(tmp_path / "log", "one")
    durable.append_line(tmp_path / "log", "two")
    durable.cut_log(tmp_path / "log", 4)
    assert (tmp_path / "log").read_bytes() == b"one\n"


def test_a_device_is_written_to_and_not_replaced() -> None:
    with pytest.raises(WriteError):
        durable.replace(Path("/dev/full"), b"x" * 10_000)
    durable.replace(Path(os.devnull), b"x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
