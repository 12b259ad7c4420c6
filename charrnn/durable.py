"""Every write to disk: all of a file or none of it, and one writer at a time.

Knows nothing of what it writes. A replace is: write a temporary file beside the target, fsync it, rename it over the
target, fsync the folder; a crash at any point leaves the old file or the new one, never a mixture. Bytes, renames and
removals go through `disk`, one method a system call, so that a test can let the call number N fail, for every N.

Who a process is, is its number on this machine: two machines that share a folder do not know each other's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from charrnn.errors import CannotCreateError, CharrnnError, LockedError, WriteError

TEMPORARY_SUFFIX, HOLDER_SUFFIX = ".charrnn-tmp", ".holder"
INTRODUCED = 1.0  # seconds that a holder of a lock gets to write down who it is
LOG_TAIL = 1 << 20  # bytes; no line of a log is longer


class Disk:
    """The calls that change what a crash would leave behind; raises OSError as they do."""

    def create(self, path: str, mode: int, *, append: bool = False) -> int:
        """Open for writing: a new file, or with `append` the end of one that may exist; returns the descriptor."""
        how = os.O_APPEND if append else os.O_EXCL
        return os.open(path, os.O_WRONLY | os.O_CREAT | how | getattr(os, "O_BINARY", 0), mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data`; returns how many bytes."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Wait until the file is on the disk; macOS's fsync alone does not empty the drive's own cache."""
        if sys.platform == "darwin":
            import fcntl

            with contextlib.suppress(OSError):  # some volumes have only fsync
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Put `source` in the place of `target`, which may exist."""
        os.replace(source, target)

    def sync_folder(self, folder: str) -> None:
        """Make renames in `folder` durable, where the system can: Windows opens no folder, some network disks sync none."""
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.truncate(path, size)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)


disk = Disk()


class _Raw(io.RawIOBase):
    """A file open for writing whose every write is one of `disk`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def write(self, data: Any, /) -> int:
        return disk.write(self._descriptor, memoryview(data))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def replace(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Put `data` at `path`, atomically and durably; follows a symbolic link to the file it names.

    Raises CannotCreateError (folder missing or forbidden) or WriteError (disk full, input/output error); in both cases
    the old file is untouched and no temporary file stays behind.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Like `replace`, for content that is written piece by piece into the file this yields."""
    target = Path(os.path.realpath(path))
    if _is_device(path, target):  # written to, not replaced
        with _reported(path), open(target, "wb") as device:
            yield device
        return
    _sweep_dead(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        with _reported(path):
            file = _create_like(temporary, target)
            with file:
                yield file
                file.flush()
                disk.sync(file.fileno())
            disk.rename(str(temporary), str(target))
            disk.sync_folder(str(target.parent))
    finally:
        with contextlib.suppress(OSError):
            disk.remove(str(temporary))


def scratch(path: Path) -> BinaryIO:
    """A new file, open for writing, that is of no worth until a rename says that it is whole. Raises OSError."""
    return _writer(disk.create(str(path), 0o666))


def append_line(path: Path, line: str) -> None:
    """Append one line to a log, all of it or nothing, unless the process dies over it.

    Not synced: a log may lose its tail in a power cut (see `sync`), and `cut_log` takes off a torn line.
    """
    data = memoryview(line.encode("utf-8") + b"\n")
    with _reported(path):
        before = path.stat().st_size if path.exists() else 0
        descriptor = disk.create(str(path), 0o666, append=True)
        try:
            while data:
                data = data[disk.write(descriptor, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                disk.truncate(str(path), before)
            raise
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Make what was appended to a log durable; a log that is missing is none."""
    with _reported(path):
        if path.exists():
            descriptor = os.open(path, os.O_RDWR)
            try:
                disk.sync(descriptor)
            finally:
                os.close(descriptor)


def cut_log(path: Path, size: int) -> None:
    """Cut a log back to `size` bytes; one that is missing is left so, one that is shorter loses at most a torn line."""
    with _reported(path):
        if not path.exists():
            return
        if path.stat().st_size > size:
            disk.truncate(str(path), size)
        whole = _whole_lines(path)
        if path.stat().st_size > whole:
            disk.truncate(str(path), whole)


def _whole_lines(path: Path) -> int:
    """How many bytes of a log are lines with an end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - LOG_TAIL))
        end = file.read().rfind(b"\n") + 1
    return start + end if end or not start else size


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably; one that exists is fine."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            disk.sync_folder(str(folder.parent))
    except OSError as error:
        raise CannotCreateError(
            f"cannot create the folder {str(path)!r}: {error.strerror}", "Check the path, or choose another place."
        ) from error


def claim_folder(path: Path) -> bool:
    """Create a folder, durably, that must not exist; whether it did not. Raises OSError for other reasons."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    try:
        disk.sync_folder(str(path.parent))
    except BaseException:  # a signal too: nobody would know of the folder
        path.rmdir()
        raise
    return True


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed writer left in `folder`; call it only while holding the folder's lock."""
    for stray in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            disk.remove(str(stray))


@contextlib.contextmanager
def locked(path: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; the system frees it when the process dies, however it dies.

    Raises LockedError, which names the holder, if another process still holds it after `wait_seconds`.
    """
    from filelock import FileLock, Timeout  # 25 ms, and only writers need it

    lock = FileLock(str(path), timeout=wait_seconds, is_singleton=False)
    holder = path.with_name(path.name + HOLDER_SUFFIX)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(
            f"{str(path.parent)!r} is in use by {_holder_of(holder)}",
            "Another charrnn is at work there, in another window perhaps: wait for it to finish, or stop it, and try again.",
        ) from error
    except OSError as error:
        raise _as_charrnn_error(path, error) from error
    try:
        with contextlib.suppress(OSError):
            _introduce(holder)
        yield
    finally:
        with contextlib.suppress(OSError):
            disk.remove(str(holder))
        lock.release()


def _introduce(path: Path) -> None:
    """Write down who holds the lock, into a file of our own: what stands there may be a link to another."""
    with contextlib.suppress(FileNotFoundError):
        disk.remove(str(path))
    with _writer(disk.create(str(path), 0o666)) as file:
        file.write(f"process {os.getpid()}".encode("ascii"))


def _holder_of(path: Path) -> str:
    """Who holds the lock: the file may still name the last one, who is dead, so a living one is awaited a moment."""
    limit = time.monotonic() + INTRODUCED
    while True:
        with contextlib.suppress(OSError, ValueError):
            number = re.fullmatch(r"process (\d{1,9})", path.read_text(encoding="utf-8")[:100])
            if number and _alive(int(number[1])):
                return number[0]
        if time.monotonic() > limit:
            return "another process"
        time.sleep(0.01)


def _alive(process: int) -> bool:
    """Whether there is a process of this number on this machine; where nobody can tell (Windows), yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _is_device(path: Path, target: Path) -> bool:
    """Whether `target` is something that is neither a file nor a folder: a terminal, a pipe, /dev/full."""
    with _reported(path):
        return target.exists() and not target.is_file() and not target.is_dir()


def _sweep_dead(target: Path) -> None:
    """Remove what killed processes have left of `target`; the names of temporary files say whose they are."""
    ours = re.compile(re.escape(f".{target.name}.") + r"(\d{1,9})" + re.escape(TEMPORARY_SUFFIX))
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            found = ours.fullmatch(name)
            if found and not _alive(int(found[1])):
                disk.remove(str(target.with_name(name)))


def _create_like(temporary: Path, target: Path) -> BinaryIO:
    """Open the temporary file with the permissions of what it replaces, or those the umask gives a new file."""
    with contextlib.suppress(OSError):  # left by a killed process that had our number
        os.unlink(temporary)
    mode = None
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(target.stat().st_mode)
    descriptor = disk.create(str(temporary), 0o666 if mode is None else 0o600)
    if mode is not None and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)
    return _writer(descriptor)


def _writer(descriptor: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedWriter(_Raw(descriptor)))


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _as_charrnn_error(path, error) from error


def _as_charrnn_error(path: Path, error: OSError) -> CharrnnError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG):
        return CannotCreateError(f"cannot write {str(path)!r}: {reason}", "Check the folder and its permissions.")
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
    hint = f"{'Free some space' if full else 'Check the disk'} and try again; what stood there before is whole."
    return WriteError(f"writing {str(path)!r} failed: {reason}", hint)
