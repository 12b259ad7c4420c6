"""Token arrays on disk: written once, found again by what they were made of, mapped into memory and not read.

An entry is a folder named by the digest of its key, holding train.npy, val.npy and facts.json with the digests of
both. It is made under a lock in a folder beside, and renamed into place; one that does not fit its digests is made
anew. Where the cache cannot be written, a temporary folder takes its place until the process ends. Knows nothing of
text: what makes the arrays is handed in.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn import durable
from charrnn.errors import CannotCreateError, WriteError

PARTS = ("train", "val")
KEPT = 8  # entries; the ones used longest ago go first
PATIENCE = 3600.0  # seconds to wait for another process that makes the same entry
Arrays = dict[str, NDArray[np.unsignedinteger[Any]]]
Made = tuple[Arrays, dict[str, Any]]


class TokenFile:
    """An .npy file of one row of numbers that is written piece by piece, inside a `with`."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.count = 0
        self._dtype = dtype
        self._file = durable.scratch(path)
        self._write_header()

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Write the final length into the header, in which NumPy has left room for it."""
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Append `numbers`, (N,); may raise OSError."""
        self._file.write(numbers.astype(self._dtype).data)
        self.count += len(numbers)

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def default_folder() -> Path:
    """CHARRNN_CACHE, or the folder the system has for caches; raises OSError for the home of a user who has none."""
    import platformdirs

    chosen = os.environ.get("CHARRNN_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("charrnn", appauthor=False)
    except RuntimeError as error:
        raise OSError(errno.ENOENT, str(error), chosen) from error


def obtain(folder: Path | None, key: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[Made, tuple[str, ...]]:
    """The arrays and facts for `key`, made by `make(folder)` if there are none, and notes for the user.

    `make` writes train.npy and val.npy into the folder it is given and returns facts (JSON); its CharrnnErrors pass
    through. Raises WriteError if not even a temporary folder can hold the arrays.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8")).hexdigest()[:32]
    try:
        return _obtained((folder or default_folder()) / "tokens", name, make), ()
    except (OSError, CannotCreateError, WriteError) as error:
        where = folder or os.environ.get("CHARRNN_CACHE") or "the system's"
        note = f"the token cache ({str(where)!r}) cannot be used ({error}); a temporary folder takes its place"
    try:
        temporary = Path(tempfile.mkdtemp(prefix="charrnn-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return _obtained(temporary, name, make), (note,)
    except OSError as error:
        hint = "Free some space, or set CHARRNN_CACHE to another folder."
        raise WriteError(f"cannot write the tokens of the text: {error.strerror or error}.", hint) from error


def _obtained(place: Path, name: str, make: Callable[[Path], dict[str, Any]]) -> Made:
    durable.make_folder(place)
    with contextlib.suppress(OSError):
        place.chmod(0o700)  # tokens are the text: who may not read the one shall not read the other
    entry, work = place / name, place / f"{name}.making"
    with durable.locked(place / f"{name}.lock", wait_seconds=PATIENCE):
        found = _opened(entry)
        if found is None:
            try:
                _remake(entry, work, make)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            _prune(place)
            found = _opened(entry)
        if found is None:
            raise OSError(f"{str(entry)!r} does not hold what was written")
    return found


def _remake(entry: Path, work: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    for leftover in (entry, work):  # damaged, or of a killed process: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    work.mkdir()
    facts = make(work)
    digests = {part: _file_digest(work / f"{part}.npy") for part in PARTS}
    text = json.dumps({"facts": facts, "digests": digests}, sort_keys=True)
    durable.replace(work / "facts.json", f"{_digest(text)}\n{text}".encode("ascii"))
    durable.disk.rename(str(work), str(entry))


def _opened(entry: Path) -> Made | None:
    """The entry, if it is there and whole."""
    try:
        stated, _, text = (entry / "facts.json").read_text(encoding="ascii").partition("\n")
        if stated != _digest(text):
            return None
        content = json.loads(text)
        if any(_file_digest(entry / f"{part}.npy") != content["digests"][part] for part in PARTS):
            return None
        arrays = {part: np.load(entry / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS}
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(entry / "facts.json")
    return arrays, content["facts"]


def _prune(place: Path) -> None:
    """Remove the entries used longest ago; what another process has mapped stays readable for it."""
    with contextlib.suppress(OSError):
        entries = sorted(place.glob("*/facts.json"), key=lambda path: path.stat().st_mtime)
        for facts in entries[:-KEPT]:
            shutil.rmtree(facts.parent, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii", "replace")).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
