"""Writes are whole or not at all, and a lock has one holder."""

from __future__ import annotations

import ast
import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Faulty

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


ROOT = Path(durable.__file__).parent
WRITERS = {
    "open",
    "os.open",
    "os.replace",
    "os.rename",
    "os.truncate",
    "os.link",
    "os.symlink",
    "np.save",
    "tempfile",
    "shutil.move",
}
ALLOWED = {
    "decoding/kernel.py": "compiled code, which a compiler writes, in a folder that only its owner may touch",
    "cli/prompt.py": "the history of lines, which prompt_toolkit appends to",
    "cli/main.py": "the null device, for streams that are not there",
    "text/sources.py": "a pipe's copy, in a file without a name",
    "text/cache.py": "a folder that is gone at the end, where the cache cannot be used",
    "training/bench.py": "a folder that is gone at the end",
}


def writes(tree: ast.AST) -> Iterator[str]:
    """What in a program writes to the disk: calls of WRITERS (open only for writing), and Path's own ways."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        modes = [one.value for one in (*node.args[1:2], *(word.value for word in node.keywords)) if isinstance(one, ast.Constant)]
        if name in ("open", "os.fdopen") and not any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes):
            continue
        if name in WRITERS or name.split(".")[0] in WRITERS or name.endswith((".write_text", ".write_bytes", ".touch")):
            yield name


def test_every_write_goes_through_here() -> None:
    found = {
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if any(writes(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found - {"durable.py"} == set(ALLOWED)


@pytest.mark.parametrize(
    "line", ["open(p, 'wb')", "open(p, mode='a')", "p.write_text('x')", "os.replace(a, b)", "tempfile.mkstemp()", "os.open(p, 1)"]
)
def test_the_rule_would_see_it(line: str) -> None:
    assert list(writes(ast.parse(line)))
    assert not list(writes(ast.parse("open(p, 'rb'); open(p); p.read_bytes()")))


def test_a_new_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Faulty()
    monkeypatch.setattr(durable, "disk", disk)
    durable.make_folder(tmp_path / "a" / "b")
    assert durable.claim_folder(tmp_path / "a" / "b" / "c")
    assert not durable.claim_folder(tmp_path / "a" / "b" / "c")
    synced = [path for what, path in disk.calls if what == "sync folder"]
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_a_folder_that_cannot_be_synced_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "disk", Faulty(1, "EIO"))
    with pytest.raises(OSError, match="Input/output error"):
        durable.claim_folder(tmp_path / "a")
    assert os.listdir(tmp_path) == []
