"""Character encodings: is this name one, and which one would fit bytes that do not decode?

The guess is for a hint in an error message; nothing is ever decoded by it. Many encodings decode almost any bytes, so
that decoding proves little: each has to yield what texts in it are made of (kana, Hangul, common Han characters).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

import numpy as np

from charrnn.errors import UsageError

LOOKED_AT = 20_000  # characters judged
NOT_OF_FILES = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"})
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def check_encoding(name: str) -> str:
    """Python's own name of the text encoding called `name`; raises UsageError if there is none."""
    hint = "Common ones: utf-8, utf-16, gb18030, big5, shift_jis, euc-kr, cp1252."
    try:
        found = codecs.lookup(name).name
        b"ab".decode(name, "replace")  # refuses codecs that make no text, such as base64
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError, UnicodeError) as error:
        raise UsageError(f"--encoding {name!r} is no text encoding.", hint) from error
    if found.replace("-", "_") in NOT_OF_FILES:
        raise UsageError(f"--encoding {name!r} is no encoding of text files.", hint)
    return found


def guess(data: bytes, whole: bool, asked: str) -> str:
    """The likeliest encoding of `data`, the beginning of a file (`whole`: all of it), other than `asked`; "" if unclear."""
    if _decoded(data, "utf-8", whole) is not None:
        return "" if codecs.lookup(asked).name == "utf-8" else "utf-8"
    if _damaged_utf8(data):
        return ""
    for name, fits in _CANDIDATES:
        text = _decoded(data, name, whole)
        if text is not None and codecs.lookup(name) != codecs.lookup(asked) and fits(text[:LOOKED_AT], data):
            return name
    return ""


def _decoded(data: bytes, name: str, whole: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(name)("strict").decode(data, whole)
    except UnicodeError:
        return None


def _damaged_utf8(data: bytes) -> bool:
    """Much proper UTF-8 beyond ASCII and few bad bytes: another encoding would only make it worse."""
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return len(_NOT_ASCII.findall(text)) - bad > 4 * bad


def _share(pattern: str) -> Callable[[str], float]:
    """A function: which share of the characters beyond ASCII match `pattern`."""
    compiled = re.compile(pattern)

    def share(text: str) -> float:
        return len(compiled.findall(text)) / max(len(_NOT_ASCII.findall(text)), 1)

    return share


def _lead_share(text: str, codec: str, ranges: tuple[tuple[int, int], ...]) -> float:
    """Which share of the characters beyond ASCII have a first byte in `ranges` when encoded."""
    letters = _NOT_ASCII.findall(text)
    leads = [letter.encode(codec, "replace")[0] for letter in letters]
    return sum(any(low <= lead <= high for low, high in ranges) for lead in leads) / max(len(leads), 1)


def _zeros(data: bytes, at: int) -> bool:
    """Zero bytes at every other place (`at`: 0 even, 1 odd) as UTF-16 has them for spaces, newlines and Latin letters."""
    values = np.frombuffer(data, np.uint8)
    here, there = np.count_nonzero(values[at::2] == 0), np.count_nonzero(values[1 - at :: 2] == 0)
    return bool(here > 10 * there and here * 100 >= len(data) // 2)


def _common_simplified(text: str) -> float:
    return _lead_share(text, "gb2312", ((0xA1, 0xA3), (0xB0, 0xD7)))  # punctuation; the 3,755 commonest characters


def _common_traditional(text: str) -> float:
    return _lead_share(text, "big5", ((0xA1, 0xC6),))  # punctuation; the 5,401 commonest characters


def _eastern(text: str) -> bool:
    """Chinese, Japanese or Korean, as chance would not have it: random Han characters are common ones in 1 of 4 cases."""
    return max(_common_simplified(text), _common_traditional(text)) > 0.6 or _kana(text) > 0.2 or _hangul(text) > 0.85


def _russian(text: str, data: bytes) -> bool:
    return _cyrillic(text) > 0.6 and len(_NOT_ASCII.findall(text)) > 0.3 * len(text)


def _western(text: str, data: bytes) -> bool:
    """Mostly ASCII, no control characters."""
    return len(_NOT_ASCII.findall(text)) < 0.3 * len(text) and not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", text)


_hangul, _kana, _cyrillic = _share("[\uac00-\ud7a3]"), _share("[\u3041-\u30fe]"), _share("[\u0430-\u044f\u0451]")
# The order matters: whoever is recognised by more stands first.
_CANDIDATES: tuple[tuple[str, Callable[[str, bytes], bool]], ...] = (
    ("utf-16-le", lambda text, data: _zeros(data, 1) or _eastern(text)),
    ("utf-16-be", lambda text, data: _zeros(data, 0) or _eastern(text)),
    ("euc-kr", lambda text, data: _hangul(text) > 0.85 and text.count(" ") > 0.05 * len(text)),
    ("shift_jis", lambda text, data: _kana(text) > 0.2),
    ("euc-jp", lambda text, data: _kana(text) > 0.2),
    ("gb18030", lambda text, data: _common_simplified(text) > 0.6),
    ("big5", lambda text, data: _common_traditional(text) > 0.6),
    ("cp1251", _russian),
    ("koi8-r", _russian),
    ("cp1252", _western),
    ("latin-1", _western),
)
