"""The settings of a session: what they are, how they are typed and how they are shown.

Bounds and help stand in the fields; the words of a refusal come from charrnn.config. Knows nothing of sessions.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from typing import Any

from charrnn.config import SamplingConfig, ShapingConfig, bounds_text, check_value, setting
from charrnn.errors import UsageError

NO_STOP = "off"
NOTABLE = ("temp", "length", "seed")
PATTERNS = ("regex", "stop_regex")  # in which a double quote is a double quote


@dataclass(frozen=True)
class Settings(ShapingConfig, SamplingConfig):
    """Everything /set can change: how a token is chosen, what an answer looks like, and how long it is."""

    length: int = setting(200, "Tokens of one answer.", low=1, high=100_000)
    finish: str = setting(
        "off",
        "After length tokens, go on to the end of the word or of the line.",
        choices=["off", "word", "line"],
    )
    ghost: int = setting(40, "Characters of the continuation that is shown while you type (0: none).", low=0, high=1000)
    seed: int = setting(1, "The same lines and seed give the same text.", low=0, high=2**63 - 1)


_FIELDS: dict[str, Field[Any]] = {item.name: item for item in fields(Settings)}
NAMES = tuple(_FIELDS)


def changed(settings: Settings, name: str, value: str) -> Settings:
    """`settings` with one setting as typed; raises UsageError if there is none of that name or the value is wrong."""
    item = _FIELDS[canonical(name)]
    if isinstance(item.default, tuple):
        several: dict[str, Any] = {item.name: _several(item.name, value)}
        return replace(settings, **several)
    if item.metadata["choices"]:
        chosen: dict[str, Any] = {item.name: check_value(item, value)}
        return replace(settings, **chosen)
    if isinstance(item.default, str):
        text: dict[str, Any] = {item.name: _text(item.name, value)}
        return replace(settings, **text)
    try:
        checked = check_value(item, _number(item, value))
    except UsageError as error:
        kind = "a whole number" if isinstance(item.default, int) else "a number"
        message = error.message.replace("--" + item.name.replace("_", "-"), item.name)
        raise UsageError(message, f"Type /set {item.name} and {kind}{bounds_text(item)}.") from error
    return replace(settings, **{item.name: checked})


def canonical(name: str) -> str:
    """The name of the setting that was typed (top-k is top_k); raises UsageError with a suggestion."""
    wanted = name.lower().replace("-", "_")
    if wanted not in _FIELDS:
        raise UsageError(f"There is no setting {name!r}.", did_you_mean(wanted, NAMES) or "/set alone lists them.")
    return wanted


def shown(settings: Settings, name: str) -> str:
    """The value of a setting in the form in which it can be typed."""
    value = getattr(settings, name)
    if isinstance(value, tuple):
        return " ".join(json.dumps(text, ensure_ascii=False) for text in value) or NO_STOP
    if _FIELDS[name].metadata["choices"]:
        return str(value)
    if isinstance(value, str):
        quoted = name not in PATTERNS and (value != value.strip() or value.startswith('"') or value == NO_STOP)
        return json.dumps(value, ensure_ascii=False) if quoted else value.replace("\n", "\\n") or NO_STOP
    return repr(value) if isinstance(value, int) else f"{value:.12g}"


def notable(settings: Settings) -> tuple[str, ...]:
    """The names of the settings that say most, and of all that differ from their defaults."""
    default = Settings()
    return tuple(name for name in NAMES if name in NOTABLE or getattr(settings, name) != getattr(default, name))


def rows(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Name, value and help of every setting."""
    return tuple((name, shown(settings, name), item.metadata["help"]) for name, item in _FIELDS.items())


def from_mapping(values: Any) -> Settings:
    """Settings from an untrusted JSON value, out of bounds none; those that an earlier version lacks keep their default.

    Raises UsageError.
    """
    if not isinstance(values, Mapping) or not set(values) <= set(_FIELDS):
        raise UsageError("its settings are not those of this version")
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in read.items():
        if _too_large(value):
            raise UsageError(f"its {name} is too large")
        check_value(_FIELDS[name], value)
    return Settings(**read)


def as_typed(text: str) -> str:
    """A message about options, of the command line, as one about settings: --line-length is line_length here."""
    text = text.replace("--prompt", "the line")
    return re.sub("--([a-z-]+)", lambda option: name if (name := option[1].replace("-", "_")) in _FIELDS else option[0], text)


def did_you_mean(word: str, known: Iterable[str], sign: str = "") -> str:
    """A question naming the known word most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"Did you mean {sign}{close[0]}?" if close else ""


def _number(item: Field[Any], value: str) -> Any:
    """`value` as the field's type, if it can be read so; else as it is, for check_value to refuse."""
    try:
        number = int(value) if isinstance(item.default, int) else float(value)
    except ValueError:
        return value
    return value if _too_large(number) else number


def _too_large(number: Any) -> bool:
    return isinstance(number, int) and abs(number) >= 2**63


def _text(name: str, value: str) -> str:
    """One text as it stands, with \\n for a line end; or in double quotes, as JSON has it, which keep spaces at its ends."""
    if value == NO_STOP:
        return ""
    if value.startswith('"') and name not in PATTERNS:
        with contextlib.suppress(ValueError, RecursionError):
            quoted = json.loads(value)
            return _well_formed(quoted) if isinstance(quoted, str) else value
    return value.replace("\\n", "\n")


def _several(name: str, value: str) -> tuple[str, ...]:
    """One text as it stands, with \\n and \\t for line end and tab; or several in double quotes, as JSON has them."""
    if value == NO_STOP:
        return ()
    if not value.startswith('"'):
        return (value.replace("\\n", "\n").replace("\\t", "\t"),)
    decoder, texts, rest = json.JSONDecoder(), list[str](), value
    while rest:
        try:
            text, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            text, end = None, 0
        if not isinstance(text, str):
            hint = f'Type for example /set {name} "\\n\\n" "END"'
            raise UsageError(f"{name} is {value}; expected texts in double quotes.", hint)
        texts, rest = [*texts, text], rest[end:].lstrip()
    return tuple(_well_formed(text) for text in texts if text)


def _well_formed(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON can spell; charrnn.text would import NumPy for it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
