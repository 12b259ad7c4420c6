"""What a text must look like, as an automaton over its characters: lines, first letters, a pattern.

A `Shape` is what has been written so far, as much of it as matters; `after(letter)` is the shape after one more
character, or None where that character may not come. It never changes, so that a text can be taken back, tried again
or go two ways. Line lengths are only noticed here (`over`): the course of a text takes back what was too much. Texts
that end a stream are in stops.py. Knows nothing of tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from charrnn.config import ShapingConfig
from charrnn.errors import CharrnnError, UsageError

PATTERN_SECONDS = 1.0  # for one look at a text; a pattern that backtracks without end would hang the program


@dataclass(frozen=True)
class Rules:
    """What does not change while a text is written: `exact` is whether it has `count` lines, none empty, or at most that."""

    count: int = 0  # 0: any number
    exact: bool = False
    letters: str = ""  # the first letter of each line; a space stands for an empty line
    prefix: str = ""  # of each line
    width: int = 0  # most characters of a line; 0: any number
    pattern: Any = None  # of the package `regex`


@dataclass(frozen=True)
class Shape:
    """Where in its lines a text is; `text` is kept only where a pattern needs it."""

    rules: Rules
    line: int = 0
    column: int = 0
    blank: bool = True  # nothing but the prefix and spaces in this line
    forced: str = ""  # what must come next
    due: bool = False  # whether the line's first letter is still to come, after what is forced
    over: bool = False  # whether this line is too long
    ended: bool = False
    text: str = ""

    def after(self, letter: str) -> Shape | None:
        """The shape after one more character, or None if it may not come."""
        if self.ended or (self.forced and letter != self.forced[0]):
            return None
        if not self.forced and self.due and letter.casefold() != self.rules.letters[self.line].casefold():
            return None
        text = self.text
        if self.rules.pattern is not None:
            text += letter
            if not _matches(self.rules.pattern, text, partial=True):
                return None
        if letter == "\n":
            return self._after_line(text)
        over = self.over or 0 < self.rules.width <= self.column
        blank = self.blank and (bool(self.forced) or letter.isspace())
        due = self.due and bool(self.forced)
        return replace(self, column=self.column + 1, blank=blank, forced=self.forced[1:], due=due, over=over, text=text)

    def reading(self, text: str) -> Shape | None:
        """The shape after all of `text`, or None."""
        shape: Shape | None = self
        for letter in text:
            if shape is None:
                return None
            shape = shape.after(letter)
        return shape

    def may_begin(self, rest: bytes) -> bool:
        """Whether `rest`, the first bytes of a character, can become one that may come (it may say so where none can)."""
        if self.forced:
            return self.forced[0].encode("utf-8").startswith(rest)
        if not self.due and self.rules.pattern is None:
            return True
        letters = _completions(rest)
        return not letters or any(self.after(letter) is not None for letter in letters)

    @property
    def may_end(self) -> bool:
        """Whether the text may end here of its own accord, without a newline."""
        if self.ended:
            return True
        if self.forced or self.due or (self.rules.exact and (self.line < self.rules.count - 1 or self.blank)):
            return False
        return self.rules.pattern is None or _matches(self.rules.pattern, self.text, partial=False)

    @property
    def key(self) -> tuple[object, ...] | None:
        """What the characters that may come depend on; None if on too much to be remembered."""
        if self.rules.pattern is not None:
            return None
        return (self.line if self.rules.count else 0, self.blank, self.forced, self.due, self.ended)

    def broken(self) -> Shape:
        """The same, if the line must end here."""
        return replace(self, forced="\n", due=False)

    def _after_line(self, text: str) -> Shape | None:
        rules = self.rules
        if rules.exact and self.blank and not self.forced:
            return None
        line = self.line + 1
        ended = 0 < rules.count <= line
        return _line_begun(replace(self, line=line, column=0, over=False, ended=ended, text=text))


def rules_of(shaping: ShapingConfig) -> Rules | None:
    """The rules that these settings make, or None if any text will do; raises UsageError if they cannot be kept."""
    letters = shaping.acrostic
    if letters and (letters != letters.strip() or any(letter.isspace() and letter != " " for letter in letters)):
        raise UsageError(f"--acrostic is {letters!r}; expected letters, and single spaces for empty lines.", "Give a word.")
    if letters and shaping.lines not in (0, len(letters)):
        raise UsageError(
            f"--acrostic {letters} makes {len(letters)} lines, --lines asks for {shaping.lines}.", "Leave --lines out."
        )
    if "\n" in shaping.line_prefix:
        raise UsageError("--line-prefix holds a line end; expected a text within a line.", "Leave it out.")
    needed = len(shaping.line_prefix) + 1
    if 0 < shaping.line_length < needed:
        raise UsageError(
            f"--line-length is {shaping.line_length}; with this prefix a line has at least {needed}.", "Give a larger one."
        )
    exact = len(letters) or shaping.lines
    count = min(exact or shaping.max_lines, shaping.max_lines or exact)
    rules = Rules(
        count, bool(exact) and count == exact, letters, shaping.line_prefix, shaping.line_length, _pattern(shaping.regex)
    )
    return None if rules == Rules() else rules


def begun(rules: Rules, shown: str) -> Shape:
    """The shape after `shown`, with which the text began already; raises UsageError if it can't go on so.

    The last line of it is the first that counts, unless it is empty, or begins with another letter than it should.
    """
    line = shown[shown.rfind("\n") + 1 :]
    shape = Shape(rules, text=shown if rules.pattern is not None else "")
    if rules.pattern is not None and not _matches(rules.pattern, shown, partial=True):
        raise UsageError(f"no text that begins with {shown[:60]!r} matches the pattern.", "Change --prompt or --regex.")
    if not line:
        return _line_begun(shape)
    if rules.letters and line.lstrip()[:1].casefold() != rules.letters[0].casefold():
        return replace(shape, line=-1, column=len(line), blank=False, forced="\n")
    return replace(shape, column=len(line), blank=not line.strip())


def compiled(pattern: str, name: str) -> Any:
    """A pattern of the package `regex`; raises UsageError that names the option."""
    import regex  # 20 ms, and few need it

    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        hint = "Patterns are those of Python's `re` and of the package `regex`."
        raise UsageError(f"{name} {pattern[:200]!r} is no pattern: {error}.", hint) from error


def _pattern(pattern: str) -> Any:
    return compiled(pattern, "--regex") if pattern else None


def _matches(pattern: Any, text: str, *, partial: bool) -> bool:
    try:
        return pattern.fullmatch(text, partial=partial, timeout=PATTERN_SECONDS) is not None
    except TimeoutError as error:
        hint = "Write it without repetitions inside repetitions."
        raise CharrnnError(f"the pattern took more than {PATTERN_SECONDS:g} s on {len(text):,} characters.", hint) from error


def _line_begun(shape: Shape) -> Shape:
    """The shape at the beginning of its line."""
    rules = shape.rules
    if shape.ended:
        return replace(shape, blank=True, forced="", due=False)
    if rules.letters[shape.line : shape.line + 1] == " ":
        return replace(shape, blank=True, forced="\n", due=False)
    return replace(shape, blank=True, forced=rules.prefix, due=bool(rules.letters))


def _completions(rest: bytes) -> list[str]:
    """The characters whose UTF-8 is `rest` and one byte more; none if more are missing."""
    whole = [(rest + bytes([value])).decode("utf-8", "ignore") for value in range(0x80, 0xC0)]
    return [letter for letter in whole if letter]
