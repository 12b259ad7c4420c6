"""The compiled form of one stream's step and draw: found in the cache, or compiled there from kernel.c.

Where there is no C compiler, no room, or CHARRNN_KERNEL=off, nothing is said and NumPy does the same work, slower. The
library is made for this very processor, so it is kept by a digest of the source and of what the processor can do, in a
folder that only its owner can write; one that others could have written, or that is damaged, is not loaded. Compiling takes
0.5 s, in another process, so that nobody waits for it: the first sample of an installation is drawn by NumPy. What does not
compile is tried again after a day, or when there is another compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from charrnn.text.cache import default_folder

SOURCE = Path(__file__).with_name("kernel.c")
SWITCH = "CHARRNN_KERNEL"
_FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_TUNED = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler takes
_SECONDS = 60  # most that a compiler may need
_DAY = 86_400  # seconds
_OLD = 30 * _DAY


class Matrix(ctypes.Structure):
    """`struct matrix` of kernel.c."""

    _fields_ = (
        ("weights", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64),
    )  # fmt: skip


class Layer(ctypes.Structure):
    """`struct layer` of kernel.c."""

    _fields_ = (("recurrent", Matrix), ("input", Matrix), ("bias", ctypes.c_void_p), ("bias_n", ctypes.c_void_p))


class Net(ctypes.Structure):
    """`struct net` of kernel.c."""

    _fields_ = (
        ("cell", ctypes.c_int64), ("layers", ctypes.c_int64), ("hidden", ctypes.c_int64), ("vocabulary", ctypes.c_int64),
        ("layer", ctypes.POINTER(Layer)), ("output", Matrix), ("output_bias", ctypes.c_void_p),
        ("state", ctypes.c_void_p), ("work", ctypes.c_void_p), ("logits", ctypes.c_void_p),
    )  # fmt: skip


class Library:
    """The functions of kernel.c, called with addresses; they hold Python's lock, because they take microseconds."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or AttributeError if `path` is no such library."""
        loaded = ctypes.PyDLL(str(path))
        self.step: Any = loaded.charrnn_step
        self.step.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self.step.restype = None
        address, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self.draw: Any = loaded.charrnn_draw
        self.draw.argtypes = (address, address, whole, number, number, address, address)
        self.draw.restype = whole
        self.draw_rows: Any = loaded.charrnn_draw_rows
        self.draw_rows.argtypes = (address, address, whole, number, address, address, whole, address, address)
        self.draw_rows.restype = whole
        self.run: Any = loaded.charrnn_run
        self.run.argtypes = (*[address] * 4, number, address, whole, *[address] * 5)
        self.run.restype = whole
        self.uniforms: Any = loaded.charrnn_uniforms
        self.uniforms.argtypes = (*[ctypes.c_uint64] * 5, whole, address)
        self.uniforms.restype = None


def find() -> Library | None:
    """The library, if it has been made; otherwise it is being made, for the next time, and None."""
    place = _place()
    if place is None:
        return None
    found = _loaded(place)
    if found is None and (compiler := _compiler()):
        _compile_beside(_mark(place), os.fsencode(" ".join(compiler)))
    return found


def make() -> Library | None:
    """The library, made now if need be; None if it cannot be."""
    place = _place()
    return None if place is None else _loaded(place) or _compile_library(place)


def _place() -> Path | None:
    """Folder and first half of the name of the library; None if that folder can't be made, or is not ours alone.

    The name begins with a digest of what it is made from and for, and ends with a digest of its bytes.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return None
    try:
        made_of = _digest(SOURCE.read_bytes(), sys.platform, platform.machine(), _processor(), repr((_FLAGS, _TUNED)))
        folder = default_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        return folder / made_of if _guarded(folder) else None
    except (OSError, RuntimeError):  # RuntimeError: ~ of a user without a home
        return None


def _compile_library(place: Path) -> Library | None:
    """Compile kernel.c into its place, all of it or nothing."""
    compiler = _compiler()
    with contextlib.suppress(OSError):
        _sweep(place.parent)
        with tempfile.TemporaryDirectory(prefix="making-", dir=place.parent) as work:
            made = Path(work) / "kernel.so"
            if compiler and any(_compiled(compiler, made, tuned) for tuned in _TUNED):
                made.chmod(0o700)  # whatever the umask says: others must not write it
                library = place.with_name(f"{place.name}-{_digest(made.read_bytes())}.so")
                os.replace(made, library)
                (library if _loaded(place) is None else _mark(place)).unlink(missing_ok=True)
    return _loaded(place)


def _mark(place: Path) -> Path:
    return place.with_suffix(".tried")


def _compiler() -> list[str]:
    """The command that compiles C; empty if there is none."""
    chosen = os.environ.get("CC", "")
    if chosen and not shutil.which(chosen):  # more than the name of a program
        with contextlib.suppress(ValueError):
            command = shlex.split(chosen)
            return command if command and shutil.which(command[0]) else []
    names = (chosen,) if chosen else ("cc", "gcc", "clang")
    return [found for name in names if (found := shutil.which(name))][:1]


def _compiled(compiler: list[str], made: Path, tuned: tuple[str, ...]) -> bool:
    import subprocess

    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": _SECONDS, "check": False}
    try:
        if sys.platform == "darwin" and subprocess.run(["xcode-select", "-p"], **quiet).returncode:
            return False  # a cc without tools behind it opens a window that offers them
        return subprocess.run([*compiler, *_FLAGS, *tuned, "-o", str(made), str(SOURCE), "-lm"], **quiet).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _compile_beside(mark: Path, compiler: bytes) -> None:
    """Compile in a process of its own that may outlive this one; `mark` says that it is under way, or came to nothing."""
    import subprocess

    with contextlib.suppress(OSError):
        if mark.exists() and mark.read_bytes() == compiler and abs(time.time() - mark.stat().st_mtime) < _DAY:
            return
        mark.write_bytes(compiler)
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        command = [sys.executable, "-P", "-m", __name__]  # -P: what lies in the current folder is not ours to run
        child = subprocess.Popen(command, start_new_session=True, **quiet)
        threading.Thread(target=child.wait, daemon=True).start()  # or Python minds that it was forgotten


def _sweep(folder: Path) -> None:
    """Remove what earlier versions and killed processes have left; who still needs it makes it again."""
    for left in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _OLD:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _loaded(place: Path) -> Library | None:
    for path in place.parent.glob(place.name + "-*.so"):
        with contextlib.suppress(OSError, AttributeError):
            if _is_ours(path) and path.stem.endswith(_digest(path.read_bytes())):  # half a library would be a crash
                return Library(path)
    return None


def _is_ours(path: Path) -> bool:
    """Whether only this user (or root) can have written the file: it is code, and will be run."""
    about = os.lstat(path)
    return stat.S_ISREG(about.st_mode) and _closed(about, stat.S_IWGRP | stat.S_IWOTH)


def _guarded(folder: Path) -> bool:
    """Whether only this user (or root) can put files into `folder`, or another folder in its place.

    Further up a group is let in, which often is this user alone, and everybody where, as in /tmp, nobody can move what
    is not theirs.
    """
    above = [os.lstat(place) for place in folder.parents]
    return _closed(os.lstat(folder), stat.S_IWGRP | stat.S_IWOTH) and all(
        _closed(about, 0 if about.st_mode & stat.S_ISVTX else stat.S_IWOTH) for about in above
    )


def _closed(about: os.stat_result, others: int) -> bool:
    return not hasattr(os, "getuid") or (about.st_uid in (0, os.getuid()) and not about.st_mode & others)


def _digest(content: bytes, *more: str) -> str:
    return hashlib.sha256("\0".join(("", *more)).encode() + content).hexdigest()[:24]


def _processor() -> str:
    """What the processor can do: code made for one may be beyond another that shares the home folder."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", "")  # of Windows
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


if __name__ == "__main__" and (place := _place()) is not None:
    _compile_library(place)
