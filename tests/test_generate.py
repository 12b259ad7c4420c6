"""Streams against their definition: draw by draw, in one piece or many, alone or in a batch, with stops and ends."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, SamplingConfig, ShapingConfig, weight_shapes
from charrnn.decoding import generate, sampling
from charrnn.decoding.engine import Engine, Ids, State
from charrnn.decoding.generate import Prefix, Token, draw_many, logprobs, prime, stream
from charrnn.decoding.sampling import choose, forbid, uniform
from charrnn.decoding.stops import StopFinder
from charrnn.errors import UsageError
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK, ByteTokenizer, CharTokenizer

LETTERS = CharTokenizer(np.array([ord(letter) for letter in "abcde"], np.uint32))
SETTINGS = SamplingConfig(temp=0.9)


def make_engine(vocab_size: int, cell: str = "lstm", eos: float = -30.0) -> Engine:
    """A random net whose <eos> is as likely as its bias `eos` says."""
    config = ModelConfig(cell=cell, vocab_size=vocab_size, hidden_size=16, embedding_size=8, layers=2)
    generator = np.random.default_rng(5)
    weights = {name: generator.normal(0, 0.6, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}
    weights["output.bias"][EOS] += eos
    return Engine(config, weights)


ENGINE = make_engine(LETTERS.vocab_size)
PREFIX = prime(ENGINE, [BOS, 5, 6])


class Script:
    """A Stepper that is certain of one text: after i tokens it allows only id i of `ids`."""

    def __init__(self, ids: Sequence[int], vocab_size: int) -> None:
        self.ids, self.vocab_size = ids, vocab_size

    def begin(self, batch: int = 1, context: object = None) -> State:
        return (np.zeros((batch, 1), np.float32),)

    def step(self, ids: Ids, state: State) -> tuple[np.ndarray, State]:
        place = state[0][:, 0].astype(int)
        logits = np.full((len(ids), self.vocab_size), -1e4, np.float32)
        logits[np.arange(len(ids)), [self.ids[p % len(self.ids)] for p in place]] = 0
        return logits, (state[0] + 1,)

    def gather(self, state: State, indices: Any) -> State:
        return (state[0][np.asarray(indices)],)


def ids_of(tokens: Iterable[Token]) -> list[int]:
    return [token.id for token in tokens]


def text_of(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def scripted(ids: Sequence[int], tokenizer: Any = LETTERS, **options: Any) -> list[Token]:
    engine = Script(ids, tokenizer.vocab_size)
    return list(stream(engine, tokenizer, prime(engine, [BOS]), SETTINGS, **{"seed": 0, "length": len(ids), **options}))


def same(left: Prefix, right: Prefix) -> bool:
    arrays = [(*prefix.state, prefix.logits) for prefix in (left, right)]
    return left.position == right.position and all(a.tobytes() == b.tobytes() for a, b in zip(*arrays, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_priming_in_pieces_or_by_steps_is_priming_at_once(cell: str) -> None:
    engine, ids = make_engine(9, cell), np.random.default_rng(0).integers(0, 9, 50)
    whole = prime(engine, ids)
    pieces = prime(engine, ids[20:].tolist(), prime(engine, ids[7:20], prime(engine, ids[:7])))
    state = engine.begin()
    for token in ids:
        logits, state = engine.step(np.array([token]), state)
    assert same(whole, pieces)
    assert same(whole, Prefix(state, logits[0], 50))
    assert prime(engine, [], whole) is whole


def test_a_stream_is_its_definition() -> None:
    prefix = PREFIX
    for token in stream(ENGINE, LETTERS, PREFIX, SETTINGS, seed=4, stream_index=2, attempt=1, length=200):
        assert same(token.prefix, prefix)
        expected = choose(forbid(prefix.logits, [PAD, BOS, UNK]), SETTINGS, [], uniform(4, 2, prefix.position, 1))
        assert token.id == expected
        assert token.text == LETTERS.decode([expected])
        odds = np.exp(prefix.logits.astype(float))
        assert token.logprob == pytest.approx(float(np.log(odds[expected] / odds.sum())))
        prefix = prime(ENGINE, [token.id], prefix)
    assert prefix.position == PREFIX.position + 200


def test_same_seed_same_text_and_each_coordinate_matters() -> None:
    def draw(**options: Any) -> list[int]:
        return ids_of(stream(ENGINE, LETTERS, PREFIX, SETTINGS, **{"seed": 1, "length": 60, **options}))

    assert draw() == draw()
    others = [draw(), draw(seed=2), draw(stream_index=1), draw(attempt=1)]
    assert len({tuple(other) for other in others}) == 4


@given(st.integers(0, 40))
def test_going_on_where_a_stream_stopped_is_the_stream(cut: int) -> None:
    whole = list(stream(ENGINE, LETTERS, PREFIX, SETTINGS, seed=3, length=41))
    middle = prime(ENGINE, ids_of(whole[:cut]), PREFIX)
    rest = list(stream(ENGINE, LETTERS, middle, SETTINGS, seed=3, length=41 - cut))
    assert ids_of(rest) == ids_of(whole[cut:])
    assert [token.logprob for token in rest] == [token.logprob for token in whole[cut:]]


def test_length_counts_tokens_and_none_is_for_ever() -> None:
    assert ids_of(stream(ENGINE, LETTERS, PREFIX, SETTINGS, seed=1, length=0)) == []
    assert len(ids_of(stream(ENGINE, LETTERS, PREFIX, SETTINGS, seed=1, length=17))) == 17
    endless = stream(ENGINE, LETTERS, PREFIX, SETTINGS, seed=1, length=None)
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_reserved_ids_are_never_drawn() -> None:
    engine = Script([UNK, PAD, BOS], LETTERS.vocab_size)  # all it wants to say
    tokens = list(stream(engine, LETTERS, prime(engine, [BOS]), SETTINGS, seed=0, length=300, at_eos="newline"))
    assert set(ids_of(tokens)) == {EOS, 4, 5, 6, 7, 8}


def test_eos_ends_a_stream_or_is_a_newline() -> None:
    assert text_of(scripted([4, 5, EOS, 6])) == "ab"
    assert ids_of(scripted([4, 5, EOS, 6])) == [4, 5]
    tokens = scripted([4, 5, EOS, 6], at_eos="newline")
    assert [token.text for token in tokens] == ["a", "b", "\n", "c"]
    assert tokens[2].id == EOS


def test_text_held_back_comes_out_when_eos_or_the_length_decides_it() -> None:
    assert [token.text for token in scripted([4, 5, EOS], shaping=ShapingConfig(stop=("bcd",)))] == ["a", "", "b"]
    assert [token.text for token in scripted([4, 5, 6], shaping=ShapingConfig(stop=("bcd",)))] == ["a", "", "bc"]


def test_a_stop_across_tokens_ends_the_stream_before_it() -> None:
    tokens = scripted([4, 5, 6, 7, 8], shaping=ShapingConfig(stop=("cd",)))
    assert text_of(tokens) == "ab"
    assert ids_of(tokens) == [4, 5, 6, 7]
    assert text_of(scripted([4, 5, 4, 5, 6, 7], shaping=ShapingConfig(stop=("abc",)))) == "ab"
    assert text_of(scripted([4, 5, EOS, 6], shaping=ShapingConfig(stop=("\n",)), at_eos="newline")) == "ab"


def test_half_a_character_is_never_shown() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("a\u20ac\U0001f600").tolist()
    assert [token.text for token in scripted(ids, tokenizer)] == ["a", "", "", "\u20ac", "", "", "", "\U0001f600"]
    assert text_of(scripted(ids[:3], tokenizer)) == tokenizer.decode(ids[:3]) == "a\ufffd"
    assert text_of(scripted([*ids[:3], EOS, ids[0]], tokenizer, at_eos="newline")) == "a\ufffd\na"
    assert text_of(scripted([*ids[:3], EOS], tokenizer)) == "a\ufffd"
    assert text_of(scripted(ids, tokenizer, shaping=ShapingConfig(stop=("\U0001f600",)))) == "a\u20ac"


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        scripted(
            [4],
            shaping=ShapingConfig(
                stop=(
                    "a",
                    "",
                )
            ),
        )


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The definition: the first stop to be complete, reading letter by letter; of several, the longest."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), max_size=4), st.lists(st.integers(0, 30)))
def test_stops_do_not_depend_on_how_text_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    finder, shown, found = StopFinder(stops), "", False
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(edges):
        piece, found = finder.push(text[start:end])
        shown += piece
        assert text.startswith(shown)
        if found:
            break
    assert (shown if found else shown + finder.flush(), found) == first_stop(text, stops)


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
def test_only_what_may_begin_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    finder = StopFinder(stops)
    shown, found = finder.push(text)
    if not found:
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_the_repetition_penalty_sees_the_recent_tokens_and_those_before() -> None:
    settings, before = SamplingConfig(temp=0.9, repetition_penalty=1.5), [5, 6, 7]
    seen = list(before)
    for token in stream(ENGINE, LETTERS, PREFIX, settings, seed=1, length=150, recent=before):
        logits = forbid(token.prefix.logits, [PAD, BOS, UNK])
        assert token.id == choose(logits, settings, seen[-generate.RECENT :], uniform(1, 0, token.prefix.position, 0))
        seen.append(token.id)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("stops", [(), ("ab", "dd")])
def test_a_batch_gives_each_stream_what_it_gives_alone(cell: str, stops: tuple[str, ...]) -> None:
    engine = make_engine(LETTERS.vocab_size, cell, eos=-1.0)  # streams end at different times
    prefix = prime(engine, [BOS, 4])
    options: dict[str, Any] = {"seed": 8, "length": 60, "shaping": ShapingConfig(stop=stops), "recent": [4]}
    together: dict[int, list[Token]] = {index: [] for index in range(9)}
    for index, token in draw_many(engine, LETTERS, prefix, SETTINGS, count=9, **options):
        together[index].append(token)
    for index, tokens in together.items():
        alone = list(stream(engine, LETTERS, prefix, SETTINGS, stream_index=index, **options))
        assert [(token.id, token.text) for token in tokens] == [(token.id, token.text) for token in alone]
        for mine, theirs in zip(tokens, alone, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            assert mine.prefix.position == theirs.prefix.position
            for left, right in zip(mine.prefix.state, theirs.prefix.state, strict=True):
                np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)
                assert not left.flags.writeable
    assert len({len(tokens) for tokens in together.values()}) > 1


def test_a_batch_comes_step_by_step() -> None:
    drawn = draw_many(ENGINE, LETTERS, PREFIX, SETTINGS, seed=1, count=3, length=2)
    assert [index for index, _ in drawn] == [0, 1, 2, 0, 1, 2]
    assert list(draw_many(ENGINE, LETTERS, PREFIX, SETTINGS, seed=1, count=3, length=0)) == []


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_logprobs_are_those_of_reading_token_by_token(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_CHUNK_TOKENS", chunk)
    ids, prefix = np.random.default_rng(2).integers(0, 9, 100), PREFIX
    found = logprobs(ENGINE, ids, PREFIX)
    for token, logprob in zip(ids, found, strict=True):
        odds = np.exp(prefix.logits.astype(float))
        assert logprob == pytest.approx(float(np.log(odds[token] / odds.sum())), abs=1e-5)
        prefix = prime(ENGINE, [int(token)], prefix)
    assert logprobs(ENGINE, [], PREFIX).shape == (0,)


def test_any_stepper_can_be_scored() -> None:
    engine = Script([4, 5, 6], LETTERS.vocab_size)
    found = logprobs(engine, [4, 5, 7], prime(engine, [BOS]))
    assert found.tolist() == [0.0, 0.0, -1e4]


def test_memory_does_not_grow_with_length() -> None:
    """A token, its state and logits are about 1 KB; 32 bytes each are allowed for whatever Python does."""
    settings = SamplingConfig(temp=0.9, repetition_penalty=1.1)
    tokens = stream(ENGINE, LETTERS, PREFIX, settings, seed=1, length=None, shaping=ShapingConfig(stop=("eeeeeeeeee",)))
    sizes = []
    tracemalloc.start()
    for count in (1000, 2000):  # the first until Python's own caches of small objects are full
        for _ in itertools.islice(tokens, count):
            pass
        sampling._block.cache_clear()  # is bounded, but not full yet
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 64_000


def test_decoding_imports_neither_torch_nor_what_it_does_not_need() -> None:
    code = "import sys, charrnn.decoding.generate; print({'torch', 'click', 'rich', 'sentencepiece'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"
