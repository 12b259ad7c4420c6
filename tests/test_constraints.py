"""The automaton of shapes against what the shapes say, the tokens against their bytes, and patterns that never end."""

from __future__ import annotations

import codecs
import collections
import itertools
import time
from typing import Any

import pytest
import regex
import toy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding import constraints, patterns
from charrnn.decoding.constraints import Shape, begun, rules_of
from charrnn.decoding.course import AtEos, Course, Drawing
from charrnn.decoding.patterns import Pattern
from charrnn.decoding.pending import NOTHING, Pending
from charrnn.decoding.stops import PatternFinder
from charrnn.decoding.vocabulary import RESERVED_IDS, Vocabulary
from charrnn.errors import CharrnnError, UsageError
from charrnn.text.tokenizers import EOS, UNK

LETTERS = "ab \n-H"
SHAPES = st.builds(
    ShapingConfig,
    lines=st.sampled_from([0, 0, 1, 2, 3]),
    max_lines=st.sampled_from([0, 0, 1, 2]),
    line_prefix=st.sampled_from(["", "", "- ", "a", " "]),
    line_length=st.sampled_from([0, 0, 3, 5]),
    acrostic=st.sampled_from(["", "", "h", "Ab", "a b", "HAB"]),
)
PROMPTS = st.sampled_from(["", "", "a", "Ha", "- ", "- hb", "  ", "b\n", "ab\na", "aaaaaaa"])


def rules(shaping: ShapingConfig, hard: bool = False) -> constraints.Rules | None:
    try:
        return rules_of(shaping, hard)
    except UsageError:
        assume(False)
        raise


def same(letter: str, other: str) -> bool:
    return letter.casefold() == other.casefold()


def may_become(shaping: ShapingConfig, hard: bool, prompt: str, text: str) -> bool:
    """Whether a text of this shape can go on from `prompt` with `text`: what the help says, line by line."""
    letters, prefix = shaping.acrostic, shaping.line_prefix
    count, exact = len(letters) or shaping.lines or shaping.max_lines, bool(letters or shaping.lines)
    first = prompt.rpartition("\n")[2]
    said = first.removeprefix(prefix)
    if letters and said and not same(said.lstrip()[:1], letters[0]):  # it belongs to no line of the acrostic
        if not text.startswith("\n"):
            return not text
        text, first = text[1:], ""
    lines = (first + text).split("\n")
    for number, line in enumerate(lines):
        is_open, begun_before = number == len(lines) - 1, number == 0 and first not in ("", prefix)
        if count and number >= count:
            return is_open and not line
        if letters[number : number + 1] == " ":
            if line:
                return False
            continue
        words = line.removeprefix(prefix)
        if not begun_before and not line.startswith(prefix) and not (is_open and prefix.startswith(line)):
            return False
        if letters and not begun_before and line.startswith(prefix) and not same((words + letters[number])[0], letters[number]):
            return False
        if (exact or letters) and not is_open and not words.strip():
            return False
        room = max(shaping.line_length, len(first) if number == 0 else 0)
        added = line[len(first) :] if number == 0 else line
        if shaping.line_length and hard and len(line) > room:
            return False
        if shaping.line_length and exact and words and not words.strip() and added:
            assume(len(line) < room)  # that a line of spaces alone ends before its end is for the test below
    return True


@settings(max_examples=500)
@given(SHAPES, st.booleans(), PROMPTS, st.text(LETTERS, max_size=9))
def test_a_text_may_come_where_the_help_says_so(shaping: ShapingConfig, hard: bool, prompt: str, text: str) -> None:
    made = rules(shaping, hard)
    assume(made is not None)
    assert made is not None
    shape: Shape | None = begun(made, prompt)
    for end in range(len(text) + 1):
        expected = may_become(shaping, hard, prompt, text[:end])
        assert (shape is not None) == expected, text[:end]
        if shape is None:
            return
        assert shape == begun(made, prompt).reading(text[:end])
        shape = shape.after(text[end]) if end < len(text) else None


@settings(max_examples=250)
@given(SHAPES, st.booleans(), PROMPTS, st.text(LETTERS, max_size=9))
def test_a_text_ends_where_all_its_lines_are_there(shaping: ShapingConfig, hard: bool, prompt: str, text: str) -> None:
    made = rules(shaping, hard)
    assume(made is not None and all(may_become(shaping, hard, prompt, text[: end + 1]) for end in range(len(text))))
    assert made is not None
    shape = begun(made, prompt).reading(text)
    assert shape is not None
    count = len(shaping.acrostic) or shaping.lines or shaping.max_lines
    skipped = begun(made, prompt).line  # -1 where the prompt is no line of it
    written = text.count("\n") + skipped
    assert shape.ended == (0 < count <= written)
    line = (prompt + text).rpartition("\n")[2]
    begins = written == 0 and not skipped and bool(prompt.rpartition("\n")[2])
    whole = begins or line.startswith(shaping.line_prefix) or shaping.acrostic[written : written + 1] == " "
    if shaping.acrostic or shaping.lines:
        words = line.removeprefix(shaping.line_prefix).strip()
        assert shape.may_end == (shape.ended or (written == count - 1 and whole and bool(words)))
    else:
        assert shape.may_end == (shape.ended or whole)


@settings(max_examples=250)
@given(SHAPES, st.booleans(), PROMPTS, st.lists(st.text(LETTERS, max_size=8), min_size=2, max_size=2))
def test_shapes_of_one_key_allow_the_same(shaping: ShapingConfig, hard: bool, prompt: str, texts: list[str]) -> None:
    """What a key leaves out must not matter: masks are kept by it."""
    made = rules(shaping, hard)
    assume(made is not None)
    assert made is not None
    one, other = (begun(made, prompt).reading(text) for text in texts)
    assume(one is not None and other is not None and one.key == other.key)
    assert one is not None
    assert other is not None
    for size in (1, 2):
        for letters in itertools.product(LETTERS, repeat=size):
            piece = "".join(letters)
            assert (one.reading(piece) is None) == (other.reading(piece) is None), piece
    assert one.may_end == other.may_end


def test_no_line_of_spaces_where_lines_must_not_be_empty() -> None:
    made = rules_of(ShapingConfig(lines=2, line_length=3))
    assert made is not None
    shape = begun(made, "")
    assert shape.reading("  ") is not None
    assert shape.reading("   ") is None
    assert shape.reading("  a") is not None


FINITE = ["ab|abc", "a{2}b?", "(a|b) a", "a(?!b).", r"(a|b)\1", "(?i)hA", r"a\b b", "(?<=a)b|ab", "a|", "[^a]{2}", r"b\n?a"]


@pytest.mark.parametrize("pattern", FINITE)
def test_what_a_pattern_lets_come_is_what_can_become_a_match(pattern: str) -> None:
    """Against all texts of up to four characters that match."""
    everything = ["".join(letters) for size in range(5) for letters in itertools.product(LETTERS, repeat=size)]
    matching = [text for text in everything if regex.fullmatch(pattern, text)]
    made = rules_of(ShapingConfig(regex=pattern))
    assert made is not None
    for text in (text for text in everything if len(text) < 4):
        if not any(match.startswith(text) for match in matching):
            assert begun(made, "").reading(text) is None or (pattern, text) == ("(?<=a)b|ab", "")
            continue
        shape = begun(made, "").reading(text)
        assert shape is not None
        assert shape.may_end == (text in matching)


@pytest.mark.parametrize(("pattern", "allowed"), [("a\nb", True), ("a\nb\n", True), ("a\nbb", False)])
def test_the_line_end_after_the_last_line_may_be_part_of_the_match_or_not(pattern: str, allowed: bool) -> None:
    made = rules_of(ShapingConfig(lines=2, regex=pattern))
    assert made is not None
    shape = begun(made, "a").reading("\nb")
    assert shape is not None
    after = shape.after("\n")
    assert (after is not None) == allowed
    assert after is None or after.may_end


@pytest.mark.parametrize(
    ("shaping", "word"),
    [
        (ShapingConfig(acrostic="HOPE", lines=3), "4 lines"), (ShapingConfig(acrostic="a\tb"), "letters"),
        (ShapingConfig(acrostic=" a"), "letters"), (ShapingConfig(line_prefix="a\n"), "line end"),
        (ShapingConfig(line_prefix="ab", line_length=2), "at least 3"), (ShapingConfig(regex="("), "no pattern"),
        (ShapingConfig(lines=3, max_lines=2), "--max-lines allows 2"),
        (ShapingConfig(acrostic="abc", max_lines=2), "--acrostic asks for 3"),
        (ShapingConfig(regex="a{5,2}"), "no pattern"), (ShapingConfig(regex="(?V0)(?V1)"), "no pattern"),
        (ShapingConfig(regex=r"(?P<a>x)(?P=b)"), "no pattern"),
    ],
)  # fmt: skip
def test_wishes_that_contradict_each_other_are_refused(shaping: ShapingConfig, word: str) -> None:
    with pytest.raises(UsageError, match=regex.escape(word)) as caught:
        rules_of(shaping)
    assert caught.value.hint


def test_a_prompt_that_cannot_become_a_match_is_refused() -> None:
    made = rules_of(ShapingConfig(regex="ab+"))
    assert made is not None
    assert begun(made, "a").after("b") is not None
    with pytest.raises(UsageError, match="begins with 'b'"):
        begun(made, "b")


# --- patterns


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a|aa)+$"])
def test_a_pattern_that_never_ends_is_an_error(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    made = Pattern(pattern, "--regex")
    with pytest.raises(CharrnnError, match=r"--regex took more than 0\.05 s on 61 char") as caught:
        made.matches("a" * 60 + "-", partial=True)
    assert "repetitions" in caught.value.hint
    with pytest.raises(CharrnnError, match="--stop-regex took more"):
        PatternFinder(pattern + "q").push("a" * 60 + "-")


def test_the_time_is_for_all_looks_at_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that take half of it each: a thousand of them would take as long as one that never ends."""
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    made, text = Pattern("(a|a)*b", "--regex"), "aaaaaaaa-"
    while (spent := _seconds(made, text)) < 0.01:
        made.begin()
        text = "a" + text
    assert spent < 0.05
    with pytest.raises(CharrnnError, match="took more"):
        collections.deque(made.matches(text, partial=True) for _ in range(1000))
    made.begin()
    assert not made.matches(text, partial=True)


def _seconds(pattern: Pattern, text: str) -> float:
    started = time.thread_time()
    pattern.matches(text, partial=True)
    return time.thread_time() - started


def test_a_pattern_that_calls_itself_without_end_is_an_error() -> None:
    """`(?R)-` takes a gigabyte before that is clear, so that here something else runs out of memory."""

    class Endless:
        def fullmatch(self, text: str, partial: bool, timeout: float) -> None:
            raise MemoryError

    made = Pattern("(?R)-", "--regex")
    made._compiled = Endless()
    with pytest.raises(CharrnnError, match="calls itself"):
        made.matches("a", partial=True)


PIECES = [
    "a", "b", "[a-c]", ".", r"\.", "[^a]", r"\w", r"\n", "(?:ab)", "(?i)k", "(?=a)", "(?<!a)", "[[:alpha:]]", "\u00e9", r"\x{e9}",
    "*", "+", "{2}", "|", "(a){e<=1}", r"\\", r"\pL", "(?s:.)", "[a-z--b]", r"\S", r"\b", "[.?!]", "[a.^]", r"[\]\w]",
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5), st.sampled_from(["", "a", "b", "ab", "."]))
def test_a_pattern_said_to_be_of_ascii_alone_takes_nothing_else(pieces: list[str], text: str) -> None:
    try:
        made = Pattern("".join(pieces), "--regex")
    except UsageError:
        return
    if made.ascii_alone:
        assert not any(
            made.matches(text + letter, partial=True) for letter in "\u00e9\u017f\u212a\u2028\u0661\u2014\U0001f600\x80\xa0\u03a9"
        )


def test_patterns_of_plain_letters_are_of_ascii_alone() -> None:
    assert all(Pattern(pattern, "").ascii_alone for pattern in ["[a-z ,.]+", r"(?:ab|c\.)\n", "[A-Z][a-z]{2,5}", "(?<=a)b"])


# --- stops by pattern

STOPS = [
    "ab",
    "a+",
    "[ab]{2}c",
    r"\bab\b",
    "b$",
    "a(?=c)",
    "a(?!c)",
    "(?<=c)a",
    "a|abc",
    "c a",
    r"\n\n",
    "a*",
    "(?:ab)+c",
    "c.*b",
    r"a\Z",
]


def first_match(pattern: str, text: str) -> str:
    """Read letter by letter, the first place from which there is a match that one more letter does not undo."""
    for end in range(1, len(text) + 1):
        for start in range(end):
            known = text[: end + 1] if any(sign in pattern for sign in (r"\b", "$", r"\Z", "(?=", "(?!")) else text[:end]
            found = regex.compile(pattern).search(known, start)
            if found and found.start() < found.end() <= end:
                return text[: found.start()]
            if not found:
                break
    return text


@pytest.mark.parametrize("pattern", STOPS)
@settings(max_examples=60)
@given(st.text("abc \n", max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_a_pattern_stops_the_text_however_it_is_cut(pattern: str, text: str, cuts: list[int]) -> None:
    assert toy.found(PatternFinder(pattern), text, cuts)[0] == first_match(pattern, text)


def test_a_word_that_is_the_beginning_of_another_is_not_the_word() -> None:
    for text, shown in [("then the end", "then "), ("then there", "then there"), ("on the", "on ")]:
        finder = PatternFinder(r"\bthe\b")
        said, found = finder.push(text)
        assert (said if found else said + finder.flush()) == shown


def test_a_stop_is_found_as_soon_as_it_is_certain() -> None:
    assert PatternFinder("ab").push("cab") == ("c", True)
    assert PatternFinder(r"ab\b").push("cab") == ("c", False)
    assert PatternFinder("x.*").push("cx") == ("c", True)


# --- tokens as text

VOCABULARIES = {kind: Vocabulary(toy.tokenizer(kind), "\n") for kind in ("char", "byte", "subword")}


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@given(data=st.data())
def test_a_vocabulary_reads_as_text_is_decoded(kind: str, data: st.DataObject) -> None:
    """Also where bytes are no characters: half of one, then the beginning of another."""
    vocabulary, tokenizer = VOCABULARIES[kind], toy.tokenizer(kind)
    bytes_ids = [token for token, piece in enumerate(tokenizer.pieces()) if piece and max(piece) > 127 and token != UNK]
    tokens = st.integers(4, tokenizer.vocab_size - 1) | (st.sampled_from(bytes_ids) if bytes_ids else st.nothing())
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), b""
    for token in data.draw(st.lists(tokens, max_size=12)):
        text, rest = vocabulary.read(token, rest)
        assert text == decoder.decode(tokenizer.pieces()[token])
        assert rest == decoder.getstate()[0]


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@pytest.mark.parametrize("rest", ["", "c3", "e2", "e282", "f09f98"])
def test_tokens_that_fit_are_found(kind: str, rest: str) -> None:
    """Each token by itself: the text that it decides, and the half character that it leaves."""
    vocabulary, pieces, before = VOCABULARIES[kind], toy.tokenizer(kind).pieces(), bytes.fromhex(rest)
    pieces[EOS] = b"\n"
    mask = vocabulary.allowed(
        before, lambda text: all(letter in "the lamp\n\u20ac\u00e9" for letter in text), lambda rest: rest[0] < 0xF0
    )
    for token, piece in enumerate(pieces):
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        try:
            text, left = decoder.decode(before + piece), decoder.getstate()[0]
            fits = all(letter in "the lamp\n\u20ac\u00e9" for letter in text) and (not left or left[0] < 0xF0)
        except UnicodeDecodeError:
            fits = False
        assert mask[token] == (fits and bool(piece) and token not in RESERVED_IDS)


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_the_tokens_a_text_can_begin_with(kind: str) -> None:
    vocabulary, pieces = VOCABULARIES[kind], toy.tokenizer(kind).pieces()
    for text, rest in [(" lamp", b""), ("th", b""), ("\u20ac x", b"\xe2\x82"), ("\u20ac x", b"")]:
        data = text.encode()
        whole, inside = vocabulary.beginning(text, rest)
        for token in range(4, len(pieces)):
            held = rest + pieces[token]
            assert (token in whole) == held.startswith(data)
            assert (token in inside) == (data.startswith(held) and held != data)
            if token in inside:
                left, half = inside[token]
                assert data == held[: len(held) - len(half)] + left.encode()
                assert held.endswith(half)


# --- what is masked


def course(kind: str, shaping: ShapingConfig, settings: SamplingConfig, at_eos: AtEos, shown: str = "") -> Course:
    return Course.begun(Drawing(toy.tokenizer(kind), settings, shaping, at_eos), shown, (), NOTHING)


@pytest.mark.parametrize("at_eos", ["end", "newline", "never"])
def test_the_end_of_a_document_where_it_may_be(at_eos: AtEos) -> None:
    """As an end only where nothing is missing; as a line end where one may come; else not at all."""
    one = course("char", ShapingConfig(lines=2), SamplingConfig(), at_eos)
    allowed = []
    for token in toy.tokenizer().encode("a\nb").tolist():
        allowed.append(bool(one.drawing.added(one)[0][EOS] == 0))
        one.accept(token)
    allowed.append(bool(one.drawing.added(one)[0][EOS] == 0))
    expected = {"end": [False, False, False, True], "newline": [False, True, False, True], "never": [False] * 4}
    assert allowed == expected[at_eos]


@pytest.mark.parametrize(
    ("kind", "settings", "shaping", "word"),
    [
        ("char", {"bias": ("x",)}, {}, "TEXT=NUMBER"), ("char", {"bias": ("=1",)}, {}, "TEXT=NUMBER"),
        ("char", {"bias": ("a=nan",)}, {}, "TEXT=NUMBER"), ("char", {"bias": ("a=1001",)}, {}, "at most 1000"),
        ("char", {"bias": ("ab=1",)}, {}, "not one token"), ("char", {"bias": ("\u00e9=1",)}, {}, "not one token"),
        ("char", {"ban": toy.ALPHABET}, {}, "leaves no"), ("char", {"ban": "hH"}, {"acrostic": "Hope"}, "--ban forbids"),
        ("byte", {"ban": "-"}, {"line_prefix": "- "}, "--ban forbids"), ("char", {}, {"acrostic": "a\u00e9"}, "never seen"),
        ("char", {}, {"line_prefix": "A"}, "never seen"), ("byte", {"ban": "\n"}, {"lines": 2}, "line ends"),
        ("byte", {"ban": "\n"}, {"line_length": 9}, "line ends"), ("byte", {}, {"line_prefix": "\udcff"}, "never seen"),
        ("char", {}, {"stop": ("a", "")}, "empty"), ("char", {}, {"stop_regex": "["}, "--stop-regex '[' is no pattern"),
    ],
)  # fmt: skip
def test_what_this_model_cannot_write_is_refused(kind: str, settings: Any, shaping: Any, word: str) -> None:
    with pytest.raises(UsageError, match=regex.escape(word)) as caught:
        course(kind, ShapingConfig(**shaping), SamplingConfig(**settings), "never")
    assert caught.value.hint


def test_a_letter_of_one_case_is_enough() -> None:
    assert course("char", ShapingConfig(acrostic="HOPE"), SamplingConfig(), "never").shape is not None
    assert course("byte", ShapingConfig(acrostic="HOPE"), SamplingConfig(ban="hope"), "never").shape is not None


def test_a_model_without_line_ends_writes_no_lines() -> None:
    units = toy.letters("abc")
    for shaping in (ShapingConfig(lines=2), ShapingConfig(line_length=5), ShapingConfig(max_lines=1)):
        with pytest.raises(UsageError, match="never seen a line end"):
            Drawing(units, SamplingConfig(), shaping, "never")
        Drawing(units, SamplingConfig(), shaping, "newline")  # the end of a document is one


def test_what_is_pending_may_hold_what_is_banned() -> None:
    one = Course.begun(
        Drawing(toy.tokenizer("subword"), SamplingConfig(ban="e"), ShapingConfig(), "never"), "the", (), Pending("the")
    )
    allowed = {toy.tokenizer("subword").decode([token]) for token, added in enumerate(one.drawing.added(one)[0]) if added == 0}
    assert "the" in allowed
    assert all(text.startswith("the") and "e" not in text[3:] for text in allowed)
