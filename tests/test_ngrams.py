"""Which runs stand in a text: by hashes, against the definition by comparing strings."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.text import ngrams
from charrnn.text.ngrams import GRAM, LEAST, Copies, hashes

ALPHABET = "ab\U0001f600\u65e5"
TEXTS = st.text(ALPHABET[:2], max_size=50) | st.text(ALPHABET, max_size=50)
DOCUMENTS = st.lists(st.text(ALPHABET[:2], min_size=1, max_size=60) | st.text(ALPHABET, min_size=1, max_size=60), max_size=4)
LENGTHS = st.integers(LEAST, 3 * GRAM + 2)  # one, two, three and four pieces, and all there is between


def pieces(documents: Sequence[str], seed: int = 0) -> list[tuple[int, str]]:
    """The documents cut at random, as the reader of a corpus gives them."""
    generator, result = random.Random(seed), []
    for number, document in enumerate(documents):
        while document:
            cut = generator.randint(1, len(document))
            result.append((number, document[:cut]))
            document = document[cut:]
    return result


def by_definition(documents: Sequence[str], text: str, longest: int) -> list[bool]:
    windows = (text[start : start + longest + 1] for start in range(len(text) - longest))
    return [any(window in document for document in documents) for window in windows]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], str, int]:
    """Documents, a text that is partly taken from them, and the longest run allowed."""
    documents, longest = draw(DOCUMENTS), draw(LENGTHS)
    whole = "".join(documents)
    start = draw(st.integers(0, len(whole)))
    text = draw(TEXTS) + whole[start : start + draw(st.integers(0, 60))] + draw(TEXTS)
    return documents, text, longest


@given(cases(), st.integers(0, 9))
@settings(max_examples=400)
def test_found_is_standing_in_a_document(case: tuple[list[str], str, int], seed: int) -> None:
    documents, text, longest = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "GATHERED", 7)
        patch.setattr(ngrams, "CHUNK", 5)
        copies = Copies(hashes(pieces(documents, seed)), longest)
        assert copies.found(text).tolist() == by_definition(documents, text, longest)


@given(cases(), st.integers(0, 40))
@settings(max_examples=400)
def test_a_piece_offends_that_ends_a_run_too_long(case: tuple[list[str], str, int], cut: int) -> None:
    documents, text, longest = case
    tail, piece = text[: len(text) - cut], text[len(text) - cut :] if cut else ""
    new = by_definition(documents, text, longest)[max(0, len(tail) - longest) :]
    assert Copies(hashes(pieces(documents)), longest).offends(tail, piece) is any(new)


def test_a_copy_is_found_and_its_like_is_not() -> None:
    text = "the tide goes out to talk it over with the sand"
    copies = Copies(hashes([(0, text)]), 20)
    assert copies.found(text).all()
    assert len(copies.found(text)) == len(text) - 20
    for place in range(len(text)):  # whichever character of a window differs
        changed = text[:place] + "#" + text[place + 1 :]
        assert copies.found(changed).tolist() == by_definition([text], changed, 20)


def test_of_a_run_that_is_allowed_the_next_character_is_not() -> None:
    text = "and leaves the boats to think of what it said"
    copies = Copies(hashes([(0, text)]), 16)
    assert not copies.offends(text[:15], text[15])
    assert copies.offends(text[:16], text[16])
    assert not copies.offends(text[:16], "#")
    assert not copies.offends("#" + text[1:16], text[16])
    assert not copies.offends(text[:20], "")  # what stands already is not the piece's fault
    assert not copies.offends("", text[:16])
    assert copies.offends("", text[:17])


@pytest.mark.parametrize("few", [0, 1000])
def test_both_ways_to_look_up_a_piece_agree(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "FEW", few)
    text = "one by one the lamps come up like bread, \U0001f35e after \U0001f35e"
    copies = Copies(hashes([(0, text)]), 12)
    for start in range(len(text) - 25):
        assert copies.offends(text[start : start + 8], text[start + 8 : start + 25])
        assert not copies.offends(text[start : start + 8], text[start + 9 : start + 13])


def test_no_run_crosses_from_one_document_into_the_next() -> None:
    first, second = "the harbour holds ", "the evening in its hand"
    apart, whole = (Copies(hashes(found), 12) for found in ([(0, first), (1, second)], [(0, first), (0, second)]))
    crossing = (first + second)[10:23]
    assert whole.found(crossing).tolist() == [True]
    assert apart.found(crossing).tolist() == [False]
    assert apart.found(first).all()
    assert apart.found(second).all()


def test_there_is_a_hash_for_each_window_in_the_order_of_the_text() -> None:
    text = "abcdefghijklmnop"
    found = hashes([(0, text)])
    assert found.dtype == np.uint32
    assert found.tolist() == [int(hashes([(0, text[start : start + GRAM])])[0]) for start in range(len(text) - GRAM + 1)]
    apart = hashes([(3, text), (5, text)])
    assert len(apart) == 2 * len(text) + 1 - GRAM + 1
    assert apart[: len(found)].tolist() == apart[-len(found) :].tolist() == found.tolist()


def test_the_hashes_are_those_of_every_version() -> None:
    """Files hold them: a change of weights must come with another GRAM or format, or old files would lie."""
    weights = ngrams._weights(GRAM + 2)
    assert weights[0] == 0xE220A8397B1DCDAF  # as SplitMix64 is defined
    codes = [ord(character) for character in "ab \u65e5\U0001f600\nyz"]
    expected = (sum(code * weight for code, weight in zip(codes, weights, strict=False)) % 2**64) >> 32
    assert hashes([(0, "ab \u65e5\U0001f600\nyz")]).tolist() == [expected]
    assert hashes([(0, "abcdefgh")]).tolist() == [4095290664]
    twelve = ngrams.grams("abcdefghijkl")
    key = (int(twelve[0]) * weights[GRAM] + int(twelve[4]) * weights[GRAM + 1]) % 2**64
    assert ngrams.keys(twelve, 12).tolist() == [key]


@pytest.mark.parametrize("documents", [[], ["a"], ["abcdefg"], ["abcdefgh"], ["abc", "def", "ghi"]])
def test_short_texts_hold_no_runs(documents: list[str]) -> None:
    copies = Copies(hashes(pieces(documents)), LEAST)
    assert copies.found("abcdefghi abcdefghi").tolist() == [False] * 11
    assert copies.found("abcdefgh").tolist() == []
    assert copies.found("").tolist() == []
    assert not copies.offends("abcdefgh", "i")


def test_many_windows_of_another_text_raise_no_false_alarm() -> None:
    """200,000 windows that differ from 200,000 others; a hash of 32 bits alone would meet nine times."""
    generator = np.random.Generator(np.random.PCG64(7))
    one, two = ("".join(map(chr, generator.integers(97, 107, 200_000))) for _ in range(2))
    copies = Copies(hashes([(0, one)]), 23)
    assert not copies.found(two).any()
    assert copies.found(one).all()
    assert len(set(ngrams.keys(hashes([(0, one)]), 24).tolist())) == len({one[i : i + 24] for i in range(len(one) - 23)})


def test_a_shorter_run_than_can_be_told_is_no_run() -> None:
    with pytest.raises(AssertionError):
        Copies(hashes([(0, "abcdefghijkl")]), LEAST - 1)
