"""Every write to disk: all of a file or none of it, and one writer at a time.

Knows nothing of what it writes. A replace is: write a temporary file beside the target, fsync it, rename it over the
target, fsync the folder; a crash at any point leaves the old file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from charrnn.errors import CannotCreateError, CharrnnError, LockedError, WriteError

TEMPORARY_SUFFIX = ".charrnn-tmp"


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
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with _reported(path):
            file = _create_like(temporary, target)
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def append_line(path: Path, line: str) -> None:
    """Append one line to a log, in one write; not synced (a log may lose its tail in a power cut, a save may not)."""
    with _reported(path), open(path, "ab") as file:
        file.write(line.encode("utf-8") + b"\n")


def truncate(path: Path, size: int) -> None:
    """Cut a log back to `size` bytes; a file that is missing or shorter is left as it is."""
    with _reported(path):
        if path.exists() and path.stat().st_size > size:
            os.truncate(path, size)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; one that exists is fine."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(
            f"cannot create the folder {str(path)!r}: {error.strerror}", "Check the path, or choose another place."
        ) from error


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed writer left in `folder`; call it only while holding the folder's lock."""
    for stray in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            stray.unlink()


@contextlib.contextmanager
def locked(path: Path, *, owner: str = "", wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; the system frees it when the process dies, however it dies.

    `owner` is written beside the lock so that a loser can name the holder. Raises LockedError if another process
    still holds it after `wait_seconds`.
    """
    from filelock import FileLock, Timeout  # 25 ms, and only writers need it

    lock = FileLock(str(path), timeout=wait_seconds, is_singleton=False)
    holder = path.with_name(path.name + ".holder")
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(
            f"{str(path.parent)!r} is in use by {_holder_of(holder)}", "Wait for it to finish, or stop it, and try again."
        ) from error
    except OSError as error:
        raise _as_charrnn_error(path, error) from error
    try:
        if owner:
            with contextlib.suppress(OSError):
                holder.write_text(owner, encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _is_device(path: Path, target: Path) -> bool:
    """Whether `target` is something that is neither a file nor a folder: a terminal, a pipe, /dev/full."""
    with _reported(path):
        return target.exists() and not target.is_file() and not target.is_dir()


def _holder_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")[:100] or "another process"
    except (OSError, ValueError):
        return "another process"


def _create_like(temporary: Path, target: Path) -> BinaryIO:
    """Open the temporary file with the permissions of what it replaces, or those the umask gives a new file."""
    mode = 0o666
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(target.stat().st_mode)
    opener: Callable[[str, int], int] = lambda name, flags: os.open(name, flags | os.O_EXCL, mode)  # noqa: E731
    with contextlib.suppress(OSError):  # left by a killed process that had our number
        temporary.unlink()
    return open(temporary, "wb", opener=opener)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; systems that cannot open a folder (Windows) sync it with the file."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    hint = "Free some space and try again; the file that stood there before is untouched."
    return WriteError(f"writing {str(path)!r} failed: {reason}", hint)
