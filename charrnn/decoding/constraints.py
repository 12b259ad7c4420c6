"""What a text must look like, as an automaton over its characters: lines, first letters, a pattern.

A `Shape` is what has been written so far, as much of it as matters; `after(letter)` is the shape after one more
character, or None where that character may not come. It never changes, so that a text can be taken back, tried again
or go two ways. How long a line may be is enforced here only if it is `hard`; else the voice takes back what was too much.
Texts that end a stream are in stops.py. Knows nothing of tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from charrnn.config import ShapingConfig
from charrnn.decoding.patterns import Pattern
from charrnn.errors import UsageError


@dataclass(frozen=True)
class Rules:
    """What does not change while a text is written: `exact` is whether it has `count` lines, none empty, or at most that."""

    count: int = 0  # 0: any number
    exact: bool = False
    letters: str = ""  # the first letter of each line; a space stands for an empty line
    prefix: str = ""  # of each line
    width: int = 0  # most characters of a line; 0: any number
    hard: bool = False  # whether more than `width` are refused
    pattern: Pattern | None = None

    @property
    def lined(self) -> bool:
        """Whether anything but a pattern is asked for."""
        return bool(self.count or self.letters or self.prefix or self.width)


@dataclass(frozen=True)
class Shape:
    """Where in its lines a text is; `text` is kept only where a pattern needs it."""

    rules: Rules
    line: int = 0
    column: int = 0
    blank: bool = True  # nothing but the prefix and spaces in this line
    forced: str = ""  # what must come next
    due: bool = False  # whether the line's first letter is still to come, after what is forced
    cut: bool = False  # whether the line end is forced because the line would get too long
    ended: bool = False
    text: str = ""

    def after(self, letter: str) -> Shape | None:
        """The shape after one more character, or None if it may not come."""
        return self.reading(letter)

    def reading(self, text: str) -> Shape | None:
        """The shape after all of `text`, or None."""
        shape: Shape | None = self
        if self.rules.lined:
            for letter in text:
                shape = None if shape is None else shape._next(letter)
        else:
            shape = replace(self, text=self.text + text)  # letter by letter takes ten times as long
        if shape is None or not text or self.rules.pattern is None:
            return shape
        return shape if shape._suits(self.rules.pattern) else None  # then all shorter texts did, too

    def may_begin(self, rest: bytes) -> bool:
        """Whether `rest`, the first bytes of a character, can become one that may come.

        It may say so where a pattern allows none: to ask it for thousands of characters would take too long. Whoever draws
        takes such a half back.
        """
        if self.forced:
            return self.forced[0].encode("utf-8").startswith(rest)
        if self.due:
            return any(letter.encode("utf-8").startswith(rest) for letter in self.next_letters)
        pattern = self.rules.pattern
        return not (self.rules.hard and self.full) and (pattern is None or not pattern.ascii_alone)

    @property
    def full(self) -> bool:
        """Whether the line has no room left."""
        return 0 < self.rules.width <= self.column

    @property
    def next_letters(self) -> list[str]:
        """The letters one of which is due."""
        letter = self.rules.letters[self.line]
        forms = dict.fromkeys([letter, letter.lower(), letter.upper(), letter.title(), letter.casefold()])
        return [form for form in forms if len(form) == 1 and _same(form, letter)]

    @property
    def may_end(self) -> bool:
        """Whether the text may end here of its own accord, without a newline."""
        if self.ended:
            return True
        if self.forced or self.due or (self.rules.exact and (self.line < self.rules.count - 1 or self.blank)):
            return False
        return self.rules.pattern is None or self.rules.pattern.matches(self.text)

    @property
    def key(self) -> tuple[object, ...] | None:
        """What the characters that may come depend on; None if on too much to be remembered."""
        rules = self.rules
        if rules.pattern is not None:
            return None
        room = max(0, rules.width - self.column) if rules.hard or (rules.exact and self.blank) else 0
        line = self.line if rules.letters else self.line == rules.count - 1
        return (line, self.blank, self.forced, self.due, self.ended, room)

    def broken(self) -> Shape:
        """The same, if the line must end here."""
        return replace(self, forced="\n", due=False, cut=True)

    def _next(self, letter: str) -> Shape | None:
        """`after` without a look at the pattern."""
        rules = self.rules
        if self.ended or (self.forced and letter != self.forced[0]):
            return None
        text = self.text + letter if rules.pattern is not None else ""
        if letter == "\n":
            return self._after_line(text)
        if not self.forced and self.due and not _same(letter, rules.letters[self.line]):
            return None
        blank = self.blank and (bool(self.forced) or letter.isspace())
        if self.full and rules.hard:
            return None
        if rules.width == self.column + 1 and blank and rules.exact and not self.forced:  # there must be room for a letter
            return None
        due = self.due and bool(self.forced)
        return replace(self, column=self.column + 1, blank=blank, forced=self.forced[1:], due=due, text=text)

    def _after_line(self, text: str) -> Shape | None:
        rules = self.rules
        if rules.exact and self.blank and not self.forced:
            return None
        line = self.line + 1
        ended = 0 < rules.count <= line
        return _line_begun(replace(self, line=line, column=0, cut=False, ended=ended, text=text))

    def _suits(self, pattern: Pattern) -> bool:
        """Whether the text can become one that matches; the newline that ends the last line need not be part of it."""
        if self.ended:
            return pattern.matches(self.text[:-1]) or pattern.matches(self.text)
        return pattern.matches(self.text, partial=True)


def rules_of(shaping: ShapingConfig, hard: bool = False) -> Rules | None:
    """The rules that these settings make, or None if any text will do; raises UsageError if they cannot be kept.

    `hard` says that lines must never get too long, because nobody can take them back.
    """
    letters, prefix, width = shaping.acrostic, shaping.line_prefix, shaping.line_length
    if letters and (letters != letters.strip() or any(letter.isspace() and letter != " " for letter in letters)):
        raise UsageError(f"--acrostic is {letters!r}; expected letters, and spaces between them for empty lines.", "Give a word.")
    if letters and shaping.lines not in (0, len(letters)):
        message = f"--acrostic {letters} makes {len(letters)} lines, --lines asks for {shaping.lines}."
        raise UsageError(message, "Leave --lines out.")
    exact = len(letters) or shaping.lines
    if 0 < shaping.max_lines < exact:
        name = "--acrostic" if letters else "--lines"
        message = f"{name} asks for {exact} lines, --max-lines allows {shaping.max_lines}."
        raise UsageError(message, "Leave --max-lines out.")
    if "\n" in prefix:
        raise UsageError("--line-prefix holds a line end; expected a text within a line.", "Leave it out.")
    if 0 < width <= len(prefix):
        message = f"--line-length is {width}; with this prefix a line has at least {len(prefix) + 1}."
        raise UsageError(message, "Give a larger one.")
    pattern = Pattern(shaping.regex, "--regex") if shaping.regex else None
    rules = Rules(exact or shaping.max_lines, bool(exact), letters, prefix, width, pattern=pattern)
    return None if rules == Rules() else replace(rules, hard=hard)


def begun(rules: Rules, shown: str) -> Shape:
    """The shape after `shown`, with which the text began already; raises UsageError if it can't go on so.

    The last line of it is the first that counts, unless it is empty, or begins with another letter than it should.
    """
    line = shown[shown.rfind("\n") + 1 :]
    said = line.removeprefix(rules.prefix)
    shape = Shape(rules, text=shown if rules.pattern is not None else "")
    if rules.pattern is not None and not rules.pattern.matches(shown, partial=True):
        raise UsageError(f"no text that begins with {shown[:60]!r} matches the pattern.", "Change --prompt or --regex.")
    if not line:
        return _line_begun(shape)
    if not said:
        return replace(_line_begun(shape), column=len(line), forced="")
    if rules.letters and not _same(said.lstrip()[:1], rules.letters[0]):
        return replace(shape, line=-1, column=len(line), blank=False, forced="\n")
    shape = replace(shape, column=len(line))
    return replace(shape, blank=not said.strip() and not shape.full)


def _line_begun(shape: Shape) -> Shape:
    """The shape at the beginning of its line."""
    rules = shape.rules
    if shape.ended:
        return replace(shape, blank=True, forced="", due=False)
    if rules.letters[shape.line : shape.line + 1] == " ":
        return replace(shape, blank=True, forced="\n", due=False)
    return replace(shape, blank=True, forced=rules.prefix, due=bool(rules.letters))


def _same(letter: str, other: str) -> bool:
    return letter.casefold() == other.casefold()
