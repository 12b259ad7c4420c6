"""A checkpoint from a stranger: it runs no code, opens no other file, asks for no memory, and says by name what is wrong."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
from commands import environment
from hostile import complaints, ran

import charrnn
from charrnn.errors import CheckpointError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs

FILE = "checkpoints/evil/model.safetensors"
COMMANDS = (
    ("inspect", "evil"), ("inspect", "evil", "--json"), ("inspect", "evil", "--weights"),
    ("sample", "evil", "--length", "20", "--seed", "1"), ("runs",), ("runs", "--json"), ("score", "evil", "the harbour"),
)  # fmt: skip
ALLOWED = {
    ("os.listdir", "checkpoints"),  # `runs` looks who is there
    ("open", "/proc/self/maps"),  # threadpoolctl looks for NumPy's BLAS among the libraries of this process
}
QUIET = ("sys._getframe", "object.__getattr__", "builtins.id", "code.__new__", "time.sleep")
PACKAGE = Path(charrnn.__file__).parent
ALIVE = "/the/watch/begins"  # no such file: that it is asked for marks the places in what strace writes
OVER = "/the/watch/ends"
MB = 1 << 20


def place(folder: Path, data: bytes) -> None:
    """`data` as the only run of `folder`."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def prewarm(folder: Path) -> None:
    """Import all that the commands import, so that an import later is the doing of a file."""
    with contextlib.chdir(folder):
        for kind in ("char", "byte", "subword"):
            place(folder, hostile.model_bytes(kind))
            assert [ran(*command)[0] for command in COMMANDS] == [0] * len(COMMANDS)
        place(folder, b"bad")
        assert [ran(*command)[0] for command in COMMANDS] == [65, 65, 65, 65, 0, 0, 65]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a file makes that is believed; everything that commands import has been imported."""
    prewarm(tmp_path_factory.mktemp("good"))
    return tmp_path_factory.mktemp("canary") / "canary"


class Watch:
    """Every audit event but the reading of the one file and the listing of its folder."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.on = False
        sys.addaudithook(self)  # for ever: only ever in a child

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event in QUIET:
            return
        first = str(arguments[0]) if arguments else ""
        reading = event == "open" and first == FILE and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
        if not reading and (event, first) not in ALLOWED:
            self.events.append((event, first[:200]))

    def outcome(self, *command: str) -> tuple[int, str, str]:
        self.on = True
        outcome = ran(*command)
        self.on = False
        return outcome


def look(name: str, data: bytes) -> str:
    """What is wrong when the commands are used on a file: nothing, if it is refused by name or, where odd, used."""
    place(Path(), data)
    watch = Watch()
    wrong = [
        f"{command}: {outcome!r:.600}" for command in COMMANDS if not proper(command[0], outcome := watch.outcome(*command), name)
    ]
    return "; ".join([*wrong, *map(str, watch.events)])


def proper(command: str, outcome: tuple[int, str, str], name: str) -> bool:
    code, out, err = outcome
    if "Traceback" in err or "\x1b" in err or len(err) > 2000:
        return False
    if command == "runs" or name.startswith(hostile.ODD):
        return code == 0 and out != ""
    return code == 65 and out == "" and FILE in err


def check(canary: Path, folder: Path, together: int) -> None:
    files = hostile.files(hostile.model_bytes(), canary)
    assert len(files) >= 200
    assert complaints(list(files.items()), look, folder, together) == []
    assert not canary.exists()


def test_hostile_files_run_nothing_open_nothing_else_and_are_refused_by_name(canary: Path, tmp_path: Path) -> None:
    check(canary, tmp_path, together=20)


@pytest.mark.slow
def test_each_hostile_file_is_refused_in_a_child_of_its_own(canary: Path, tmp_path: Path) -> None:
    check(canary, tmp_path, together=1)


@pytest.mark.parametrize(
    ("seen", "act"),
    [
        ("open", lambda: open("/etc/hostname").close()),
        ("open", lambda: open(FILE, "ab").close()),
        ("open", lambda: os.close(os.open(FILE, os.O_RDWR))),
        ("import", lambda: __import__("no_module_of_this_name")),
        ("compile", lambda: compile("1", "", "eval")),
        ("exec", lambda: exec("1")),
        ("os.system", lambda: os.system("true")),
        ("subprocess.Popen", lambda: subprocess.run(["true"], check=False)),
        ("os.posix_spawn", lambda: os.posix_spawn("/bin/true", ["true"], {})),
        ("os.fork", lambda: os.fork() or os._exit(0)),
        ("socket.__new__", lambda: socket.socket().close()),
        ("ctypes.dlopen", lambda: ctypes.CDLL(None)),
        ("pickle.find_class", lambda: pickle.loads(b"cos\nsystem\n.")),
        ("os.remove", lambda: os.remove("/nowhere")),
    ],
)
@pytest.mark.usefixtures("canary")
def test_the_watch_sees_what_a_file_could_do(seen: str, act: Callable[[], object], tmp_path: Path) -> None:
    """The positive control: a loader that did this would be found out."""

    def do(name: str, data: bytes) -> str:
        place(Path(), data)
        watch = Watch()
        watch.on = True
        with contextlib.suppress(ImportError, OSError):
            act()
        watch.on = False
        return " ".join(event for event, _ in watch.events)

    (found,) = complaints([("control", b"")], do, tmp_path, 1)
    assert seen in found.split()


def test_a_crash_is_a_finding_with_a_name(tmp_path: Path) -> None:
    """The other control: what ends a child is told with the case that did."""

    def do(name: str, data: bytes) -> str:
        if name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return "strange" if name == "c" else "" if name == "a" else "x" * (1 << 40)

    found = complaints([(name, b"") for name in "abcd"], do, tmp_path, 2)
    assert found[0].startswith("'b': ended with -9")
    assert found[1] == "'c': strange"
    assert found[2].startswith("'d': ended with 99, Traceback")
    assert "MemoryError" in found[2]


def test_a_giant_is_refused_before_anything_is_allocated() -> None:
    giants = {name: data for name, data in hostile.files(hostile.model_bytes(), Path("x")).items() if _giant(name)}
    assert len(giants) >= 8
    for name, data in giants.items():
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            runs.from_checkpoint(checkpoint.decode(data, name), Path(name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MB, f"{name} takes {peak:,} bytes"


def _giant(name: str) -> bool:
    sizes = r"giant|2\*\*60|10{6}|1e.300|65536|layers' is 64|beyond its"
    return not name.startswith(hostile.ODD) and re.search(sizes, name) is not None


BUSY_HEADERS = {
    "empty lists": "[],", "empty objects": "{},", "objects": '{"":0},', "numbers": "300,", "fractions": "1e1,", "texts": '"ab",',
    "one text": "x", "deep lists": "[", "escapes": "\\u0041",
}  # fmt: skip


@pytest.mark.parametrize("kind", BUSY_HEADERS)
def test_a_header_takes_memory_in_proportion_to_the_file(kind: str) -> None:
    """16 MB is the largest; as Python objects `{},` would take 28 times its text, and 11 s: so values are bounded."""
    data = busy(kind, 16_000_000)
    tracemalloc.start()
    with contextlib.suppress(CheckpointError):
        checkpoint.decode(data, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(data), f"{peak / len(data):.1f} times the file"


def busy(kind: str, size: int) -> bytes:
    """A file of so many bytes that is a document of many small things."""
    piece = BUSY_HEADERS[kind]
    content = piece * ((size - 200) // len(json.dumps(piece)[1:-1]))
    value = f'"{content}"' if kind in ("one text", "escapes") else content if kind == "deep lists" else f"[{content}0]"
    return hostile.from_text(
        f'{{"checksum":"{hostile.ZEROS}","format":1,"x":{value}}}', '"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}', b""
    )


def test_some_gigabytes_of_something_else_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    for start in (b"GGUF\x03\0\0\0", b"\2\0\0\0\0\0\0\0{}"):
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(8 << 30)  # sparse
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            checkpoint.read(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MB


DRIVER = """
import os, sys
from pathlib import Path
import hostile, test_hostile
folder, control = Path(sys.argv[1]), sys.argv[2:]
os.chdir(folder)
test_hostile.prewarm(folder)
files = hostile.files(hostile.model_bytes(), folder / "canary")
for name, data in files.items():
    test_hostile.place(folder, data)
    os.path.exists(test_hostile.ALIVE)
    for command in test_hostile.COMMANDS:
        test_hostile.ran(*command)
    os.path.exists(test_hostile.OVER)
os.path.exists(test_hostile.ALIVE)
for code in control:
    exec(code)
os.path.exists(test_hostile.OVER)
"""
CALLS = (
    "openat,open,openat2,creat,stat,newfstatat,statx,access,execve,execveat,fork,vfork,clone,clone3,connect,socket,bind,"
    "unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,ptrace"
)
CONTROLS = ("", "open('/etc/hostname').close()", "os.system('true')", "import socket; socket.socket().close()")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace here")
@pytest.mark.parametrize("control", CONTROLS)
def test_the_system_sees_no_other_file_opened_nor_any_process_begun(control: str, tmp_path: Path) -> None:
    """What C code does is no audit event. The controls, after the last file, are seen."""
    trace = tmp_path / "trace"
    arguments = ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(trace), sys.executable, "-c", DRIVER, str(tmp_path)]
    env = environment({"PYTHONPATH": f"{PACKAGE.parent}:{Path(__file__).parent}", "OPENBLAS_NUM_THREADS": "1"})
    done = subprocess.run([*arguments, *([control] if control else [])], capture_output=True, check=False, env=env)
    if b"ptrace" in done.stderr and b"not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    files, calls = system_calls(trace.read_text(encoding="utf-8", errors="replace"))
    assert files >= 200
    assert bool(calls) == bool(control), calls
    assert not (tmp_path / "canary").exists()


def system_calls(trace: str) -> tuple[int, list[str]]:
    """How often the watch began, and the calls during it that neither read the file nor only look at its like."""
    begun, watching, found = 0, False, []
    for line in trace.splitlines():
        if ALIVE in line or OVER in line:
            watching, begun = ALIVE in line, begun + (ALIVE in line)
        elif watching and re.search(r"^\d+ +\w+\(", line):
            call = line.split(maxsplit=1)[1]
            looking = call.startswith(("stat(", "newfstatat(", "statx(", "access("))
            reading = "O_RDONLY" in call and any(f'"{path}"' in call for path in (FILE, "checkpoints", "/proc/self/maps"))
            found += [] if looking or reading else [call]
    return begun, found


BANNED_IMPORTS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "runpy"}
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system", "os.popen", "torch.load",
    "torch.save", "torch.jit.load", "torch.hub.load", "np.lib.format.read_array", "numpy.load",
}  # fmt: skip
MAY_START_PROCESSES = {"decoding/kernel.py", "training/bench.py"}
PROCESSES = re.compile(r"(subprocess|multiprocessing|pty|os\.(exec|spawn|posix_spawn|fork))")


def offences(source: str, file: str) -> Iterator[str]:
    """What stands in a source file that could turn data into code, or start another program."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (f"{file}: import {name}" for name in names if name.split(".")[0] in BANNED_IMPORTS or name in BANNED_CALLS)
        called = [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
        yield from (f"{file}: {name}()" for name in called if name in BANNED_CALLS)
        if called == ["np.load"] and "allow_pickle=False" not in ast.unparse(node):
            yield f"{file}: np.load() of pickles"
        if file not in MAY_START_PROCESSES:
            yield from (f"{file}: {name}" for name in (*names, *called) if PROCESSES.match(name))


def test_no_line_of_ours_can_turn_data_into_code() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert set(sources) > MAY_START_PROCESSES
    assert [found for file, source in sources.items() for found in offences(source, file)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import marshal as m", "import joblib.numpy_pickle", "import yaml",
        "eval('1')", "exec(text)", "compile(text, '', 'exec')", "torch.load(path, weights_only=True)", "torch.save(x, path)",
        "from torch import load", "np.load(path)", "np.load(path, allow_pickle=True)", "os.system('ls')", "import subprocess",
        "subprocess.run([])",
        "from subprocess import run", "os.execv('x', [])", "import multiprocessing.pool", "def f():\n    import dill",
    ],
)  # fmt: skip
def test_the_ban_sees_such_a_line(line: str) -> None:
    assert list(offences(line, "cli/x.py"))
    assert not list(offences("np.load(path, allow_pickle=False); re.compile('x'); model.eval(); json.load(f)", "cli/x.py"))
