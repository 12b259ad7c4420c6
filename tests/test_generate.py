"""Streams against their definition: draw by draw, in one piece or many, alone or in a batch, with stops and ends."""

from __future__ import annotations

import collections
import gc
import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, SamplingConfig, ShapingConfig
from charrnn.decoding import generate, sampling
from charrnn.decoding import kernel as kernel_module
from charrnn.decoding.engine import Engine, Ids, State
from charrnn.decoding.generate import AtEos, Prefix, Token, draw_many, logprobs, prime, stream
from charrnn.decoding.kernel import Library
from charrnn.decoding.sampling import choose, forbid, uniform
from charrnn.decoding.stops import StopFinder
from charrnn.errors import CharrnnError, CheckpointError, UsageError
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK, ByteTokenizer, CharTokenizer
from charrnn.weights import weight_shapes

LETTERS = CharTokenizer(np.array([ord(letter) for letter in "abcde"], np.uint32))
SETTINGS = SamplingConfig(temp=0.9)


def make_engine(
    vocab_size: int, cell: str = "lstm", eos: float = -30.0, kernel: Library | None = None, size: float = 0.6
) -> Engine:
    """A random net whose <eos> is as likely as its bias `eos` says; with weights of 0.6 it never does the same for long."""
    config = ModelConfig(cell=cell, vocab_size=vocab_size, hidden_size=16, embedding_size=8, layers=2)
    generator = np.random.default_rng(5)
    weights = {name: generator.normal(0, size, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}
    weights["output.bias"][EOS] += eos
    return Engine(config, weights, kernel=kernel)


KINDS = ["numpy", "compiled"]


def kernel_of(kind: str, request: pytest.FixtureRequest) -> Library | None:
    library: Library | None = request.getfixturevalue("library") if kind == "compiled" else None
    return library


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


class OneByOne:
    """An engine of which nobody knows that it can do more than one step: each token is drawn by itself."""

    def __init__(self, engine: Engine, kernel: Library | None = None) -> None:
        self.begin, self.step, self.gather, self.vocab_size = engine.begin, engine.step, engine.gather, engine.vocab_size
        self.kernel = kernel


def shown(tokens: Iterable[Token]) -> list[tuple[int, str, int]]:
    return [(token.id, token.text, token.prefix.position) for token in tokens]


WAYS_TO_END: list[tuple[AtEos, float]] = [("end", -1.5), ("newline", 0.0), ("never", 1.0), ("end", -30.0)]


@pytest.mark.parametrize("length", [0, 1, 2, 5, 13, 30, 100])
@pytest.mark.parametrize(("at_eos", "eos"), WAYS_TO_END)
@pytest.mark.parametrize("stops", [(), ("db", "cde"), ("\n",)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_ahead_is_what_is_drawn_one_by_one(
    kind: str, stops: tuple[str, ...], at_eos: AtEos, eos: float, length: int, request: pytest.FixtureRequest
) -> None:
    kernel = kernel_of(kind, request)
    engine = make_engine(LETTERS.vocab_size, eos=eos, kernel=kernel)
    prefix = prime(engine, [BOS, 5, 6])
    ends = set()
    for seed in range(3):
        options: dict[str, Any] = {"seed": seed, "length": length, "at_eos": at_eos, "shaping": ShapingConfig(stop=stops)}
        ahead = list(stream(engine, LETTERS, prefix, SETTINGS, **options))
        for other in (OneByOne(engine, kernel), OneByOne(engine)):  # drawn compiled, too, and by NumPy
            alone = list(stream(other, LETTERS, prefix, SETTINGS, **options))
            assert shown(ahead) == shown(alone)
            for mine, theirs in zip(ahead, alone, strict=True):
                assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-6)
                assert same(mine.prefix, theirs.prefix)
        ends.add(len(ahead))
    assert max(ends) <= length
    if length == 100 and (eos == -1.5 or "db" in stops):
        assert max(ends) < length


@pytest.mark.parametrize("temp", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_compiled_or_not_it_is_the_same_text(cell: str, temp: float, library: Library) -> None:
    """No draw of these comes closer than 1e-5 to a boundary; a net with larger weights would make much of little."""
    plain, fast = (make_engine(LETTERS.vocab_size, cell, kernel=kernel, size=0.25) for kernel in (None, library))
    settings, options = SamplingConfig(temp=temp), {"seed": 11, "length": 300, "at_eos": "newline", "stream_index": 3}
    mine = list(stream(fast, LETTERS, prime(fast, [BOS]), settings, **options))  # type: ignore[arg-type]
    theirs = list(stream(plain, LETTERS, prime(plain, [BOS]), settings, **options))  # type: ignore[arg-type]
    assert shown(mine) == shown(theirs)
    np.testing.assert_allclose([token.logprob for token in mine], [token.logprob for token in theirs], rtol=0, atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_before_a_spoilt_score_come_before_its_error(kind: str, together: bool, request: pytest.FixtureRequest) -> None:
    """A net that doubles what it holds at each step is infinite after 120, in the middle of what is drawn ahead."""
    config = ModelConfig(cell="rnn", nonlinearity="relu", vocab_size=LETTERS.vocab_size, hidden_size=3, embedding="onehot")
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(config).items()}
    weights["layers.0.weight_hh"] += 2 * np.eye(3, dtype=np.float32)
    weights["layers.0.bias_ih"] += 256
    weights["output.weight"] += 1
    engine = Engine(config, weights, kernel=kernel_of(kind, request))
    prefix, came = prime(engine, [BOS]), list[Token]()
    options: dict[str, Any] = {"seed": 1, "length": None, "at_eos": "never"}
    drawn: Iterator[Any] = stream(engine, LETTERS, prefix, SETTINGS, **options)
    if together:
        drawn = (token for index, token in draw_many(engine, LETTERS, prefix, SETTINGS, count=2, **options) if index)
    with pytest.raises(CharrnnError, match="expected a number"), np.errstate(over="ignore", invalid="ignore"):
        collections.deque(map(came.append, drawn))
    count = 0
    while np.isfinite(prefix.logits).all():
        with np.errstate(over="ignore", invalid="ignore"):
            prefix, count = prime(engine, [4], prefix), count + 1
    assert (count - 2 - 4 - 8) % 16  # not where what is drawn ahead ends anyway
    assert len(came) == count


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
    assert toy.found(StopFinder(stops), text, cuts) == first_stop(text, stops)


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("stops", [(), ("ab", "dd")])
def test_a_batch_gives_each_stream_what_it_gives_alone(
    cell: str, stops: tuple[str, ...], kind: str, request: pytest.FixtureRequest
) -> None:
    engine = make_engine(LETTERS.vocab_size, cell, -1.0, kernel_of(kind, request), 0.3)  # streams end at different times
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


def test_scores_that_are_no_numbers_have_no_sum() -> None:
    """Weights may be finite and still too large for what they are multiplied with."""

    class Spoilt:
        vocab_size = ENGINE.vocab_size

        def step(self, ids: Ids, state: State) -> tuple[Any, State]:
            return np.full((len(ids), self.vocab_size), np.inf, np.float32), state

    with pytest.raises(CheckpointError, match="expected a number"):
        logprobs(Spoilt(), [5, 6, 7], PREFIX)  # type: ignore[arg-type]


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


def resident(process: int) -> int:
    """Bytes of memory that the process has, its C libraries' included."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the memory of a process from")
@pytest.mark.parametrize("options", [[], ["--repetition-penalty", "1.1", "--stop", "no such text"]], ids=["plain", "filtered"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_characters_take_no_more_memory(
    kind: str, options: list[str], trained: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`charrnn sample --length inf` from 50,000 to 1,000,000 characters: less than 512 KB more, half a byte for each."""
    if kind == "compiled":
        assert kernel_of(kind, request) is not None
        monkeypatch.delenv("CHARRNN_KERNEL")
        monkeypatch.setenv("CHARRNN_CACHE", str(trained / "cache"))
        assert kernel_module.make() is not None
    command = [sys.executable, "-m", "charrnn", "sample", "verse", "--length", "inf", "--seed", "1", *options]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(50_000)) == 50_000
        early = resident(process.pid)
        assert len(process.stdout.read(950_000)) == 950_000
        late = resident(process.pid)
        process.kill()
    assert late - early < 512 << 10


def test_decoding_imports_neither_torch_nor_what_it_does_not_need() -> None:
    code = "import sys, charrnn.decoding.generate; print({'torch', 'click', 'rich', 'sentencepiece'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"
