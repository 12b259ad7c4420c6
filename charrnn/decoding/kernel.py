"""The compiled form of one stream's step and draw: found in the cache, or compiled there from kernel.c.

Where there is no C compiler, no room, or CHARRNN_KERNEL=off, nothing is said and NumPy does the same work, slower. The
library is made for this very processor, so it is kept by a digest of the source and of what the processor can do, in a
folder that only its owner can write; one that others could have written is not loaded. Compiling takes 0.3 s, in another
process, so that nobody waits for it: the first sample of an installation is drawn by NumPy.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from charrnn.text.cache import default_folder

SOURCE = Path(__file__).with_name("kernel.c")
SWITCH = "CHARRNN_KERNEL"
_FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_TUNED = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler takes
_SECONDS = 60  # most that a compiler may need


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
        self.run: Any = loaded.charrnn_run
        self.run.argtypes = (*[address] * 4, number, address, whole, *[address] * 5)
        self.run.restype = whole
        self.uniforms: Any = loaded.charrnn_uniforms
        self.uniforms.argtypes = (*[ctypes.c_uint64] * 5, whole, address)
        self.uniforms.restype = None


def find() -> Library | None:
    """The library, if it has been made; otherwise it is being made, for the next time, and None."""
    if _switched_off():
        return None
    path = library_path()
    found = _loaded(path)
    if found is None and not path.with_suffix(".failed").exists():
        _compile_beside()
    return found


def make() -> Library | None:
    """The library, made now if need be; None if it cannot be."""
    return None if _switched_off() else _loaded(library_path()) or _loaded(compile_library())


def library_path() -> Path:
    """Where the library for this source, processor and version of charrnn's cache belongs."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update("\0".join((sys.platform, platform.machine(), _processor(), " ".join(_FLAGS))).encode())
    return default_folder() / "kernels" / f"{digest.hexdigest()[:24]}.so"


def compile_library() -> Path:
    """Compile kernel.c into its place, all of it or nothing; where that fails, a file says so, for it not to be tried again."""
    path = library_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(suffix=".so", dir=path.parent)
        os.close(handle)
        if any(_compiled(Path(made), tuned) for tuned in _TUNED):
            os.replace(made, path)
        else:
            os.unlink(made)
            path.with_suffix(".failed").touch()
    except OSError:
        pass
    return path


def _compiled(made: Path, tuned: tuple[str, ...]) -> bool:
    import subprocess

    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    command = [*compiler.split(), *_FLAGS, *tuned, "-o", str(made), str(SOURCE), "-lm"]
    try:
        return subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _compile_beside() -> None:
    """Compile in a process of its own that outlives this one."""
    import subprocess

    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.suppress(OSError):
        subprocess.Popen([sys.executable, "-m", __name__], start_new_session=True, **quiet)  # type: ignore[call-overload]


def _loaded(path: Path) -> Library | None:
    try:
        return Library(path) if _trusted(path) else None
    except (OSError, AttributeError):
        return None


def _trusted(path: Path) -> bool:
    """Whether only this user (or root) can have written the file: it is code, and will be run."""
    if not hasattr(os, "getuid"):
        return path.is_file()
    for place in (path, path.parent):
        about = os.lstat(place)
        if about.st_uid not in (0, os.getuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(about.st_mode):
            return False
    return True


def _switched_off() -> bool:
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no")


def _processor() -> str:
    """What the processor can do: code made for one may be beyond another that shares the home folder."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read(100_000).split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))


if __name__ == "__main__":
    compile_library()
