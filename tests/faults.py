"""A disk on which the call number N goes wrong, as SQLite's tests have it: for every N, in every way a call can."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from charrnn.durable import Disk

DIED = 77  # the exit code of a process that the fault killed
KILLS = ("die before", "die after", "power cut", "power cut, renames kept")
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "short write": errno.ENOSPC}
FAULTS = (*KILLS, *ERRORS)


class Faulty(Disk):
    """Does what a disk does until the call number `at`, from 1, which has the `fault`; records the calls."""

    def __init__(self, at: int = 0, fault: str = "") -> None:
        self.at, self.fault = at, fault
        self.calls: list[tuple[str, str]] = []  # what, and to which path
        self._paths: dict[int, str] = {}
        self._unsynced: set[str] = set()  # files whose bytes a power cut may take
        self._unsettled: dict[str, bytes | None] = {}  # renames that a power cut may undo: target, and what stood there

    @property
    def struck(self) -> bool:
        """Whether the fault has happened."""
        return 0 < self.at <= len(self.calls)

    def create(self, path: str, mode: int, *, append: bool = False) -> int:
        with self._call("create", path):
            descriptor = super().create(path, mode, append=append)
            self._paths[descriptor] = path
            if not append:
                self._unsynced.add(path)
            return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        short = self.fault == "short write" and len(self.calls) + 1 == self.at and len(data) > 1
        if short:
            self.calls.append(("write", self._paths[descriptor]))
            self.at += 1  # half of it arrives, and the next call finds the disk full
            return super().write(descriptor, data[: len(data) // 2])
        with self._call("write", self._paths[descriptor]):
            return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        with self._call("sync", path):
            super().sync(descriptor)
            self._unsynced.discard(path)

    def rename(self, source: str, target: str) -> None:
        before = Path(target).read_bytes() if os.path.exists(target) else None
        with self._call("rename", target):
            super().rename(source, target)
            self._unsettled[target] = before
            if source in self._unsynced:
                self._unsynced.remove(source)
                self._unsynced.add(target)

    def sync_folder(self, folder: str) -> None:
        with self._call("sync folder", folder):
            super().sync_folder(folder)
            self._unsettled = {path: old for path, old in self._unsettled.items() if os.path.dirname(path) != folder}

    def truncate(self, path: str, size: int) -> None:
        with self._call("truncate", path):
            super().truncate(path, size)

    def remove(self, path: str) -> None:
        with self._call("remove", path):
            super().remove(path)

    @contextlib.contextmanager
    def _call(self, name: str, path: str):  # type: ignore[no-untyped-def]
        self.calls.append((name, path))
        mine = len(self.calls) == self.at
        if mine and self.fault in ERRORS:
            number = ERRORS[self.fault]
            raise OSError(number, os.strerror(number), path)
        if mine and self.fault == "die before":
            os._exit(DIED)
        yield
        if mine:
            self._cut()

    def _cut(self) -> None:
        """The process dies; with the power goes what was not synced, and perhaps the renames."""
        if self.fault.startswith("power cut"):
            for path in self._unsynced:
                if os.path.exists(path):
                    os.truncate(path, os.path.getsize(path) // 2)
            if self.fault == "power cut":
                for path, before in self._unsettled.items():
                    os.unlink(path) if before is None else Path(path).write_bytes(before)
        os._exit(DIED)
