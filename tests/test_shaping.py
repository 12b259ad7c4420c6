"""Streams under every wish at once: what comes out has all that was asked for, and nothing is lost or said twice."""

from __future__ import annotations

import codecs
import functools
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

import charrnn
from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding import generate, healing, sampling
from charrnn.decoding.course import Copies
from charrnn.decoding.generate import AtEos, Token, draw_many, stream
from charrnn.decoding.healing import Opening
from charrnn.decoding.sampling import NothingLeft, uniform
from charrnn.decoding.tree import text_of
from charrnn.decoding.vocabulary import RESERVED_IDS
from charrnn.errors import CharrnnError, UsageError
from charrnn.text import ngrams
from charrnn.text.tokenizers import BOS, EOS, Tokenizer

POEMS = toy.POEMS.read_text(encoding="utf-8")[:3000].lower()
partner = functools.cache(toy.partner)

PATTERNS = [
    "", "", "", "", "[a-z \n,.;-]*", "[a-m\n -]+", "([a-z]{1,5} ?)+", "[^e]*", "(?s).{5,30}", "[a-z]{3}( [a-z]{2,4})*",
    "([a-z ]{2,9}\n){2}", "[a-z ]+\n[a-z ]+", "a.*", ".{0,6}(\n.{0,6})*",
]  # fmt: skip
SHAPES = st.builds(
    ShapingConfig,
    stop=st.sampled_from([(), (), (), ("q",), ("ab", "e "), ("\n\n", "x")]),
    stop_regex=st.sampled_from(["", "", "", "[aeiou]{2}", r"\b[a-e]\b", "x.z", "[a-c]+$"]),
    max_lines=st.sampled_from([0, 0, 0, 1, 3]),
    lines=st.sampled_from([0, 0, 0, 1, 2, 4]),
    line_length=st.sampled_from([0, 0, 1, 4, 9, 20]),
    line_prefix=st.sampled_from(["", "", "", "- ", "ab", " "]),
    acrostic=st.sampled_from(["", "", "", "ab", "Hope", "x y"]),
    regex=st.sampled_from(PATTERNS),
)
SAMPLINGS = st.builds(
    SamplingConfig,
    ban=st.sampled_from(["", "", "", "e", "aeiou", " ", "\ufffd", "\u00e9\u20ac", "xyz\n"]),
    bias=st.sampled_from([(), (), ("a=2",), ("e=-1000", "\\n=3")]),
    no_repeat_ngram=st.sampled_from([0, 0, 2]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    temp=st.sampled_from([0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 0, 5]),
)
PROMPTS = st.sampled_from(["", "", "hop", "the ", "x y\n", "ab", "zyx wvu tsr qpo nml", "lamp", "\u00e9", "- h"])


def told(tokens: Sequence[Token]) -> list[tuple[int, str]]:
    return [(token.id, token.text) for token in tokens]


def said(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


@settings(max_examples=120)
@given(
    kind=st.sampled_from(["char", "byte", "subword"]), at_eos=st.sampled_from(["end", "newline", "never"]),
    end_bias=st.sampled_from([-1e4, 1.0, 4.0]), shaping=SHAPES, asked=SAMPLINGS, prompt=PROMPTS,
    longest=st.sampled_from([0, 0, 2, 3, 4]), length=st.sampled_from([1, 2, 5, 20, 60]), seed=st.integers(0, 99),
)  # fmt: skip
def test_all_wishes_are_met_and_nothing_is_lost(
    kind: str, at_eos: AtEos, end_bias: float, shaping: ShapingConfig, asked: SamplingConfig, prompt: str, longest: int,
    length: int, seed: int,
) -> None:  # fmt: skip
    who = partner(kind, end_bias)
    opening = healing.opening(who.engine, who.tokenizer, who.start, prompt)
    copies = toy.Copies(POEMS, longest) if longest else None
    options: dict[str, Any] = {
        "seed": seed, "length": length, "at_eos": at_eos, "shaping": shaping, "recent": opening.recent, "shown": opening.shown,
        "pending": opening.pending, "copies": copies,
    }  # fmt: skip
    try:
        alone = [
            list(stream(who.engine, who.tokenizer, opening.prefix, asked, stream_index=index, **options)) for index in (0, 1)
        ]
    except UsageError:
        return  # wishes that contradict each other are for test_constraints.py
    except NothingLeft:
        assert copies is not None  # two characters are soon copied
        return
    except CharrnnError as error:
        if not shaping.regex or "20 texts were begun" not in error.message:
            raise
        return
    together: dict[int, list[Token]] = {0: [], 1: []}
    for index, token in draw_many(who.engine, who.tokenizer, opening.prefix, asked, count=2, **options):
        together[index].append(token)
    for index, tokens in enumerate(alone):
        assert told(together[index]) == told(tokens)
        np.testing.assert_allclose([one.logprob for one in together[index]], [one.logprob for one in tokens], atol=1e-4)
        assert len(tokens) <= length
        check_tokens(who, opening, tokens, at_eos, shaping, asked, length)
        check_shape(prompt, said(tokens), shaping, asked)
        check_lines(prompt, said(tokens), shaping, len(tokens) < length)
        if copies is not None and not (shaping.line_prefix or shaping.acrostic):
            check_copies(prompt, said(tokens), copies)


def check_tokens(
    who: Any, opening: Opening, tokens: Sequence[Token], at_eos: AtEos, shaping: ShapingConfig, asked: SamplingConfig, length: int
) -> None:
    """The text is that of the tokens, without what the prompt has already, a stop, and the line end after the last line."""
    ids = [token.id for token in tokens]
    if ids:
        before = generate.prime(who.engine, ids[:-1], opening.prefix)
        assert before.position == tokens[-1].prefix.position
        assert np.array_equal(before.logits, tokens[-1].prefix.logits)
    if at_eos == "end" and ids and ids[-1] == EOS:
        ids = ids[:-1]
    whole = text_of(ids, who.tokenizer)
    assert whole.startswith(opening.pending) or length <= len(opening.pending)
    whole = whole[len(opening.pending) :]
    if "\ufffd" in asked.ban:
        whole = whole.removesuffix("\ufffd")  # half a character, when the length ended the text
    if shaping.stop or shaping.stop_regex:
        assert whole.startswith(said(tokens))
    elif shaping.lines or shaping.max_lines or shaping.acrostic:
        assert said(tokens) in (whole, whole.removesuffix("\n"))
    else:
        assert said(tokens) == whole


def check_shape(prompt: str, text: str, shaping: ShapingConfig, asked: SamplingConfig) -> None:
    assert not any(stop in text for stop in shaping.stop)
    assert not any(letter in text for letter in asked.ban)
    if shaping.regex:
        assert any(regex.fullmatch(shaping.regex, whole) for whole in (prompt + text, prompt + text + "\n"))
    if shaping.line_length:
        first = prompt.rpartition("\n")[2]
        room = max(shaping.line_length, len(first))
        lines = (first + text).split("\n")
        assert len(lines[0]) <= room
        assert all(len(line) <= shaping.line_length for line in lines[1:])


def check_lines(prompt: str, text: str, shaping: ShapingConfig, ended: bool) -> None:
    """`ended` is whether the text ended before its length."""
    letters, prefix, first = shaping.acrostic, shaping.line_prefix, prompt.rpartition("\n")[2]
    named = first.removeprefix(prefix)
    if letters and named and named.lstrip()[:1].lower() != letters[0].lower():
        assert not text or text[0] == "\n"
        if not text:
            return
        text, first = text[1:], ""
    lines = (first + text).split("\n")
    count = len(letters) or shaping.lines
    assert len(lines) <= (count or shaping.max_lines or len(lines))
    if count and ended and not (shaping.stop or shaping.stop_regex or shaping.regex):
        assert len(lines) == count
    for number, line in enumerate(lines):
        is_last = number == len(lines) - 1
        if letters[number : number + 1] == " ":
            assert not line
            continue
        own = number > 0 or first in ("", prefix)
        assert not own or line.startswith(prefix) or (is_last and prefix.startswith(line))
        words = line.removeprefix(prefix) if own else line
        assert not count or is_last or words.strip()
        if own and letters and line.startswith(prefix) and words:
            assert words[0].lower() == letters[number].lower()


def check_copies(prompt: str, text: str, copies: toy.Copies) -> None:
    whole, size = prompt + text, copies.longest + 1
    for end in range(len(prompt) + 1, len(whole) + 1):
        assert end < size or whole[end - size : end] not in copies.text


# --- the mask is what the rules say, and nothing else chooses

RULES = [
    ShapingConfig(lines=2, line_prefix="ab"), ShapingConfig(acrostic="ab"), ShapingConfig(max_lines=1),
    ShapingConfig(regex="[a-m]{3}( [n-z]{2})*"), ShapingConfig(regex="[a-m ]*\n?[n-z ]*"),
]  # fmt: skip


@pytest.mark.parametrize("shaping", RULES)
@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_each_token_is_drawn_from_those_that_may_come(shaping: ShapingConfig, temp: float) -> None:
    """`choose` from the logits with -inf where the shape of the text and one more token is none (see test_constraints.py)."""
    from charrnn.decoding import constraints

    who, asked = partner("char", -1e4), SamplingConfig(temp=temp)
    prefix = generate.prime(who.engine, who.start)
    made = constraints.rules_of(shaping)
    assert made is not None
    shape, pieces = constraints.begun(made, ""), who.tokenizer.pieces()
    tokens = list(stream(who.engine, who.tokenizer, prefix, asked, seed=5, length=40, at_eos="never", shaping=shaping))
    assert len(tokens) > 3
    for token in tokens:
        logits = token.prefix.logits.astype(float)
        for other, piece in enumerate(pieces):
            if other in RESERVED_IDS or other == EOS or shape.reading(piece.decode()) is None:
                logits[other] = -np.inf
        assert token.id == sampling.choose(logits, asked, [], uniform(5, 0, token.prefix.position, 0))
        after = shape.reading(pieces[token.id].decode())
        assert after is not None
        shape = after


def test_biases_and_bans_are_added_to_the_logits() -> None:
    who, asked = partner("byte", -1e4), SamplingConfig(temp=1.0, ban="a\u00e9", bias=("e=2.5", "\\n=-1000"))
    prefix, half = generate.prime(who.engine, who.start), b""
    for token in stream(who.engine, who.tokenizer, prefix, asked, seed=5, length=300, at_eos="never"):
        logits = token.prefix.logits.astype(float)
        logits[[*RESERVED_IDS, EOS, 4 + ord("a")]] = -np.inf
        logits[4 + ord("e")] += 2.5
        logits[4 + ord("\n")] -= 1000
        for value in range(256) if half else ():  # what began must become a character, and not the one that is banned
            if decoded(half + bytes([value])) in ("not one", "\u00e9"):
                logits[4 + value] = -np.inf
        assert token.id == sampling.choose(logits, asked, [], uniform(5, 0, token.prefix.position, 0))
        half += bytes([token.id - 4])
        half = b"" if decoded(half) else half


def decoded(data: bytes) -> str:
    """The character that these bytes are, nothing if more are missing, or "not one"."""
    try:
        return codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError:
        return "not one"


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@pytest.mark.parametrize("letters", ["\u20ac", "\u00e9\U0001f600", "e"])
def test_a_banned_character_never_appears(kind: str, letters: str) -> None:
    """A model that wants to say nothing else, in whatever pieces."""
    units = toy.tokenizer(kind) if kind != "char" else toy.letters(toy.ALPHABET + "\u20ac\u00e9\U0001f600")
    teller = toy.Teller(f"the {letters} " * 20, units, 6.0)
    prefix = generate.prime(teller, [BOS])
    for seed in range(5):
        options: dict[str, Any] = {"seed": seed, "length": 150, "at_eos": "never"}
        free = said(list(stream(teller, units, prefix, SamplingConfig(), **options)))
        banned = said(list(stream(teller, units, prefix, SamplingConfig(ban=letters), **options)))
        assert any(letter in free for letter in letters)
        assert not any(letter in banned for letter in letters)


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_no_n_tokens_come_twice(kind: str) -> None:
    units = toy.tokenizer(kind)
    teller, asked = toy.Teller("the lamps come up like bread; " * 30, units, 6.0), SamplingConfig(no_repeat_ngram=3)
    opening = healing.opening(teller, units, [BOS], "the lamps\n")
    options: dict[str, Any] = {"seed": 1, "length": 200, "at_eos": "never", "recent": opening.recent}
    ids = [*opening.recent, *(token.id for token in stream(teller, units, opening.prefix, asked, **options))]
    grams = [tuple(ids[start : start + 3]) for start in range(len(ids) - 2)]
    assert len(set(grams[len(opening.recent) - 2 :])) == len(grams) - max(0, len(opening.recent) - 2)


# --- lines


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@pytest.mark.parametrize("width", [11, 16, 30, 31, 32, 60, 500])
def test_a_line_is_broken_at_its_last_space(kind: str, width: int) -> None:
    """What a model says that goes on from where it was taken back to is the tale, wrapped; lines that just fit are whole."""
    assert tell(toy.TALE, kind, line_length=width) == textwrap.fill(toy.TALE, width)


def tell(tale: str, kind: str, prompt: str = "", length: int = 1000, copies: Copies | None = None, **shaping: Any) -> str:
    units = toy.spaced(toy.tokenizer(kind))
    teller = toy.Teller(tale, units)
    tokens = list(
        stream(
            teller, units, generate.prime(teller, [BOS]), SamplingConfig(temp=0.0), seed=1, length=length, shown=prompt,
            shaping=ShapingConfig(**shaping), copies=copies,
        )
    )  # fmt: skip
    return said(tokens)


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_a_word_that_is_longer_than_a_line_is_cut(kind: str) -> None:
    assert tell("so unpronounceable is it", kind, line_length=6) == "so\nunpron\nouncea\nble is\nit"
    assert tell("unpronounceable", kind, line_length=4, prompt="abc") == "u\nnpro\nnoun\nceab\nle"
    assert tell("unpronounceable", kind, line_length=4, prompt="abcdef") == "\nunpr\nonou\nncea\nble"


def test_a_character_of_three_bytes_is_not_cut() -> None:
    assert tell("\u20ac" * 10, "byte", line_length=4) == "\u20ac\u20ac\u20ac\u20ac\n" * 2 + "\u20ac\u20ac"


def test_tokens_that_are_taken_back_do_not_count() -> None:
    units = toy.tokenizer()
    teller, shaping = toy.Teller(toy.TALE, units), ShapingConfig(line_length=16)
    for length in (1, 17, 18, 19, 60):
        tokens = list(
            stream(teller, units, generate.prime(teller, [BOS]), SamplingConfig(temp=0.0), seed=1, length=length, shaping=shaping)
        )
        assert len(tokens) == length
        assert textwrap.fill(toy.TALE, 16).startswith(said(tokens))
        assert [token.prefix.position for token in tokens] == list(range(1, length + 1))


def test_words_come_as_soon_as_the_line_cannot_lose_them() -> None:
    """Each of them with the space after it, or the line end; not only with its line."""
    units = toy.tokenizer()
    teller, drawn = toy.Teller("one two three four five", units), 0
    told: list[tuple[int, str]] = []

    class Counted:
        vocab_size = units.vocab_size
        begin, gather = teller.begin, teller.gather

        def step(self, ids: Any, state: Any) -> Any:
            nonlocal drawn
            drawn += 1
            return teller.step(ids, state)

    engine = Counted()
    prefix = generate.prime(engine, [BOS])
    for token in stream(engine, units, prefix, SamplingConfig(temp=0.0), seed=1, length=50, shaping=ShapingConfig(line_length=9)):
        told.append((drawn, token.text))
    assert "".join(text for _, text in told) == "one two\nthree\nfour five"
    first = {text: when for when, text in reversed(told)}
    assert first["o"] == 1  # before anything else is read
    assert first["w"] < first["h"] < 15  # long before the end of the text


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_what_a_shape_asks_for_by_hand(kind: str) -> None:
    assert tell("hope is\non feathers\nit", kind, acrostic="Ho", prompt="Hi ") == "hope is\non feathers"
    assert tell("\nhope is\non feathers\nit", kind, acrostic="Ho", prompt="no") == "\nhope is\non feathers"
    assert tell("hope\n\nis", kind, acrostic="h i") == "hope\n\nis"
    assert tell("one\ntwo\nthree\nfour", kind, lines=2) == "one\ntwo"
    assert tell("one\ntwo\nthree\nfour", kind, max_lines=3) == "one\ntwo\nthree"
    assert tell("one\ntwo", kind, max_lines=3) == "one\ntwo"
    assert tell("one\n\n", kind, lines=1) == "one"
    assert tell("and one\nand two", kind, line_prefix="and ") == "and one\nand two"
    assert tell("one two.\nthree", kind, regex="[a-z ]+\\.") == "one two."
    assert tell("one two", kind, prompt="no ", regex="no one.*") == "one two"


def test_a_prefix_is_read_by_the_model() -> None:
    who = partner("char", -1e4)
    prefix = generate.prime(who.engine, who.start)
    tokens = list(
        stream(who.engine, who.tokenizer, prefix, SamplingConfig(), seed=3, length=30, shaping=ShapingConfig(line_prefix="abc"))
    )
    assert said(tokens).startswith("abc")
    read = generate.prime(who.engine, who.tokenizer.encode("abc"), prefix)
    assert np.array_equal(tokens[3].prefix.logits, read.logits)


# --- patterns


def test_a_text_ends_at_the_last_place_where_it_matches() -> None:
    assert tell("abc.de", "char", regex=r"[a-z]+\.") == "abc."
    assert tell("abcdefg", "char", regex="(abc)?(def)?", length=5) == "abc"
    assert tell("abcdefg", "char", regex="abc(def)?h?") == "abcdef"
    assert tell("ab cd ef", "char", regex="[a-z ]+", line_length=6) == "ab cd "  # a line end would not match
    assert tell("ab cdef", "char", regex="[a-z ]+(\n[a-z]{9})?", line_length=5, length=7) == "ab"  # not "ab cd", taken back


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_lines_are_broken_where_a_pattern_has_to_be_matched_too(kind: str) -> None:
    tale = toy.TALE[:53].rstrip()
    assert tell(tale, kind, regex="[a-z \n]+", line_length=11) == textwrap.fill(tale, 11)


def test_tokens_come_when_the_text_matches() -> None:
    """Not before it is certain that the text so far can be an end."""
    units = toy.tokenizer()
    teller = toy.Teller("ab, cd, ef", units)
    places = []
    drawn = stream(
        teller, units, generate.prime(teller, [BOS]), SamplingConfig(temp=0.0), seed=1, length=50,
        shaping=ShapingConfig(regex="([a-z]{2}(, )?)*"),
    )  # fmt: skip
    for token in drawn:
        places.append(token.text)
    assert "".join(places) == "ab, cd, ef"


@pytest.mark.parametrize("length", [1, 5, 6, 7])
def test_what_never_matches_is_begun_anew_and_then_an_error(length: int) -> None:
    who = partner("char", -1e4)
    prefix = generate.prime(who.engine, who.start)
    options: dict[str, Any] = {"seed": 1, "length": length, "shaping": ShapingConfig(regex="[a-e ]{6}")}
    if length < 6:
        with pytest.raises(CharrnnError, match=r"20 texts were begun, and none matched") as caught:
            list(stream(who.engine, who.tokenizer, prefix, SamplingConfig(), **options))
        assert "--length" in caught.value.hint
    else:
        assert len(list(stream(who.engine, who.tokenizer, prefix, SamplingConfig(), **options))) == 6


def test_another_try_draws_other_numbers() -> None:
    """One of two letters, and no way on after the first: half of all streams need another try, none more than 20."""
    units = toy.letters("ab\n")
    teller = toy.Teller("", units, 0.0)
    prefix, texts = generate.prime(teller, [BOS]), []
    for index in range(100):
        drawn = stream(
            teller, units, prefix, SamplingConfig(ban="\n"), seed=1, stream_index=index, length=2, at_eos="never",
            shaping=ShapingConfig(regex="b(?=b)b|a(?=q)."),
        )  # fmt: skip
        texts.append(said(list(drawn)))
    assert set(texts) == {"bb"}


def test_half_characters_that_a_pattern_does_not_take_are_taken_back() -> None:
    """A byte model that would rather write other signs: each of their beginnings is tried and given up, the text goes on."""
    units = toy.tokenizer("byte")
    for sign in ("\u2014", "\U0001f600", "\u00e9"):
        teller = toy.Teller(f"a{sign}" * 30, units, 9.0)
        drawn = list(
            stream(
                teller, units, generate.prime(teller, [BOS]), SamplingConfig(temp=1.0), seed=1, length=20, at_eos="never",
                shaping=ShapingConfig(regex=r"[\x00-\x7f]*"),
            )
        )  # fmt: skip
        assert 17 <= len(drawn) <= 20  # half of a sign may have been at the end
        assert said(drawn).isascii()
        assert tell(f"a{sign}b", "byte", regex=f"a{sign}b") == f"a{sign}b"
        assert tell(f"a{sign}b", "byte", regex=".{3}") == f"a{sign}b"


@pytest.mark.parametrize(
    ("pattern", "stop", "text"),
    [
        ("[a-z ]+", "d", "abc "),
        ("[a-z ]+d", "d", None),
        ("[a-z ]+d?", "d", "abc "),
        ("abc|abc d", "d", "abc"),
        ("ab.*", " d", "abc"),
    ],
)
def test_a_stop_ends_a_text_only_where_it_matches_without_it(pattern: str, stop: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(CharrnnError, match="none matched"):
            tell("abc defg", "char", regex=pattern, stop=(stop,))
    else:
        assert tell("abc defg", "char", regex=pattern, stop=(stop,)) == text


def test_what_a_stop_holds_back_is_not_lost_where_a_pattern_ends_the_text() -> None:
    assert tell("aabq", "char", regex="a*b", stop=("abc",)) == "aab"
    assert tell("aabq", "char", regex="a*b", stop_regex="abc") == "aab"
    assert tell("aab", "char", lines=1, stop=("abc",)) == "aab"
    assert tell("aab\nab", "char", max_lines=1, stop=("b\nb",)) == "aab"


def test_a_line_end_before_a_stop_is_part_of_the_match() -> None:
    assert tell("a\nb\n", "char", regex="a\n(b\n)?", stop=("\nb",), max_lines=2) == "a\n"


def test_of_two_kinds_of_stops_the_text_keeps_its_order() -> None:
    assert tell("xay bay END", "char", stop=("b",), stop_regex="ay.z") == "xay "
    assert tell("xay bay", "char", stop=("q",), stop_regex="ay$") == "xay b"


# --- copies


class Loud:
    """A Stepper that has learnt a text by heart: it is nearly certain of what followed the last seven characters there.

    After others it begins at the beginning.
    """

    def __init__(self, text: str, units: Tokenizer) -> None:
        self.text, self.units, self.vocab_size = text, units, units.vocab_size
        self._texts = [""]

    def begin(self, batch: int = 1, context: object = None) -> tuple[np.ndarray, ...]:
        return (np.zeros((batch, 1), np.float32),)

    def step(self, ids: np.ndarray, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        logits, after = np.zeros((len(ids), self.vocab_size), np.float32), []
        for row, (token, place) in enumerate(zip(ids, state[0][:, 0], strict=True)):
            text = (self._texts[int(place)] + self.units.decode([int(token)]))[-7:]
            text = text if text in self.text else ""
            if text not in self._texts:
                self._texts.append(text)
            after.append(self._texts.index(text))
            logits[row, self.units.encode(self.text[(self.text.index(text) + len(text)) % len(self.text)])] = 12
        return logits, (np.array(after, np.float32)[:, None],)

    def gather(self, state: tuple[np.ndarray, ...], indices: Any) -> tuple[np.ndarray, ...]:
        return (state[0][np.asarray(indices)],)


def longest_copy(text: str, source: str) -> int:
    starts = range(len(text))
    return max(
        (size for start in starts for size in range(len(text) - start + 1) if text[start : start + size] in source), default=0
    )


@pytest.mark.parametrize("longest", [8, 12, 25])
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_no_longer_copy_of_the_training_text_than_allowed(kind: str, longest: int) -> None:
    """By the index of hashes; against a search for the text itself. Without it all is a copy."""
    units, source = toy.tokenizer(kind), toy.TALE
    model, watch = Loud(source, units), ngrams.Copies(ngrams.hashes([(0, source)]), longest)
    opening = healing.opening(model, units, [BOS], "the evening in its hand")
    for shaping in (ShapingConfig(), ShapingConfig(line_length=20), ShapingConfig(lines=4)):
        for seed in range(3):
            options: dict[str, Any] = {
                "seed": seed,
                "length": 120,
                "at_eos": "never",
                "shaping": shaping,
                "recent": opening.recent,
            }
            copied = said(list(stream(model, units, opening.prefix, SamplingConfig(), shown=opening.shown, **options)))
            text = said(
                list(stream(model, units, opening.prefix, SamplingConfig(), shown=opening.shown, copies=watch, **options))
            )
            assert longest_copy(text, source) <= longest
            whole = opening.shown + text
            for end in range(len(opening.shown) + 1, len(whole) + 1):  # no run that ends in what was drawn
                assert end <= longest or whole[end - longest - 1 : end] not in source
            assert shaping.line_length or longest_copy(copied, source) > 40


def test_the_offending_token_is_redrawn_from_the_state_before_it() -> None:
    units = toy.tokenizer()
    model = Loud(toy.TALE, units)
    watch: Copies = ngrams.Copies(ngrams.hashes([(0, toy.TALE)]), 10)
    prefix, text, redrawn = generate.prime(model, [BOS, *units.encode("the ")]), "the ", 0
    for token in stream(
        model,
        units,
        prefix,
        SamplingConfig(),
        seed=4,
        length=80,
        at_eos="never",
        recent=units.encode("the ").tolist(),
        copies=watch,
    ):
        logits = token.prefix.logits.astype(float)
        logits[[*RESERVED_IDS, EOS]] = -np.inf
        for redraw in itertools.count():
            number = uniform(4, 0, token.prefix.position, redraw << 32)
            drawn = sampling.choose(logits, SamplingConfig(), [], number)
            if (text + units.decode([drawn]))[-11:] not in toy.TALE or len(text) < 10:
                break
            logits[drawn] = -np.inf
            redrawn += 1
        assert token.id == drawn
        text += token.text
    assert redrawn > 3


def test_a_line_that_must_not_end_at_its_last_space_ends_at_one_before() -> None:
    assert tell("ab cd efgh", "char", line_length=8) == "ab cd\nefgh"
    assert tell("ab cd efgh", "char", line_length=8, copies=toy.Copies("cd\n", 2)) == "ab\ncd efgh"


def test_what_one_asks_for_is_no_copy_of_the_models() -> None:
    """A prefix that stands in the training text, and first letters that would go on with a copy at a line's end."""
    units, source = toy.tokenizer(), "one by one the lamps\ncome up like bread\nand one by one"
    model, watch = Loud(source, units), ngrams.Copies(ngrams.hashes([(0, source)]), 8)
    opening = healing.opening(model, units, [BOS], "")
    for shaping in (ShapingConfig(line_prefix="one by one ", lines=3), ShapingConfig(acrostic="COCO")):
        for seed in range(20):
            tokens = list(
                stream(
                    model,
                    units,
                    opening.prefix,
                    SamplingConfig(bias=("\\n=10",)),
                    seed=seed,
                    length=400,
                    at_eos="never",
                    shaping=shaping,
                    copies=watch,
                )
            )
            text = said(tokens)
            assert text.count("\n") + 1 == (shaping.lines or 4)
            assert longest_copy(text.replace(shaping.line_prefix, "#") if shaping.line_prefix else text, source) <= 8


def test_where_all_that_may_come_is_a_copy_it_is_said_so() -> None:
    units = toy.letters("a\n")
    watch = toy.Copies("aaaaaaaaaaaaaaaaaaaaaaaaa", 8)
    teller = toy.Teller("", units, 0.0)
    with pytest.raises(NothingLeft, match="more than 8 characters") as caught:
        list(
            stream(
                teller,
                units,
                generate.prime(teller, [BOS]),
                SamplingConfig(ban="\n"),
                seed=1,
                length=20,
                at_eos="never",
                copies=watch,
            )
        )
    assert "--max-copy" in caught.value.hint


# --- from Python


@pytest.fixture
def model(trained: Path) -> charrnn.api.TextModel:
    return charrnn.load(trained / "checkpoints" / "verse")


def test_shapes_from_python(model: charrnn.api.TextModel) -> None:
    text = model.generate(lines=3, line_length=20, seed=1)
    assert text.count("\n") == 2
    assert max(map(len, text.split("\n"))) <= 20
    assert [line[0].lower() for line in model.generate(acrostic="TEA", length=2000, seed=1).split("\n")] == ["t", "e", "a"]
    assert regex.fullmatch("the [a-z ]+", "the " + model.generate("the ", regex="the [a-z ]+", length=30, seed=1))
    assert "e" not in model.generate(ban="e", seed=1)
    assert model.generate(bias=["e=1000"], length=5, seed=1) == "eeeee"
    assert model.generate(stop="e", seed=1) == model.generate(stop=["e"], seed=1) == model.generate(seed=1).partition("e")[0]
    assert "".join(model.stream(lines=2, seed=4)) == model.generate(lines=2, seed=4)


def test_no_long_copies_from_python(model: charrnn.api.TextModel, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one has learnt too little to copy eight characters, the fewest that the index can tell."""
    text = (trained / "verse.txt").read_text(encoding="utf-8")
    monkeypatch.setattr("charrnn.runs.copies.watch", lambda model, longest: toy.Copies(text, longest - 8))
    free, watched = (model.generate("and one by", length=400, seed=1, temp=0.5, **wish) for wish in ({}, {"max_copy": 11}))
    assert longest_copy(free, text) > 3
    assert longest_copy("by" + watched, text) <= 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lines": -1}, "--lines"), ({"lines": "2"}, "--lines"), ({"acrostic": "Q\u00e9"}, "never seen"),
        ({"max_copy": 3}, "at least 8"), ({"regex": "("}, "no pattern"), ({"stop": [1]}, "--stop"), ({"limes": 3}, "unknown"),
        ({"acrostic": "ab", "lines": 3}, "2 lines"), ({"line_prefix": "\udcff"}, "--line-prefix"),
    ],
)  # fmt: skip
def test_wrong_wishes_from_python(options: dict[str, Any], word: str, model: charrnn.api.TextModel) -> None:
    with pytest.raises(UsageError, match=word):
        model.generate(**options)


def test_no_index_no_watch(model: charrnn.api.TextModel, trained: Path) -> None:
    (trained / "checkpoints" / "verse" / "ngrams.safetensors").unlink()
    with pytest.raises(CharrnnError, match="no index of its training text"):
        model.generate(max_copy=20, length=5)
