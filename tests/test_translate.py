"""Answers of seq2seq models: the search against all that there is, batches against single sources, the command, the chat."""

from __future__ import annotations

import io
import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from commands import Done, Run, environment, runner

from charrnn.cli import attention_map, chat, sessions
from charrnn.cli.attention_map import Look
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.decoding import memory, translate
from charrnn.decoding.engine import Floats, Ids, State
from charrnn.decoding.events import Heated, Notice, Problem, Text, Typed
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.translate import Found, normalised
from charrnn.decoding.turns import PAIRS, STANDARD
from charrnn.errors import CheckpointError
from charrnn.models import attention, replying
from charrnn.models.seq2seq import Seq2seq
from charrnn.models.stepping import Decoder
from charrnn.models.weights import export_weights
from charrnn.runs import model as models
from charrnn.text.examples import Examples, Ragged
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK, Tokenizer
from charrnn.training import answering, seq2seq
from charrnn.training.batching import Cursor
from charrnn.training.padding import padded

ROOT = Path(__file__).parent.parent
LETTERS = "ab"
LEARNT = (("ab", "a猫"), ("狗", "b\nb"), ("猫 a", "狗\\a"))
UNITS = toy.letters("ab \n\\猫狗早")


def network(units: Tokenizer, context: str = "attention", *, cell: str = "lstm", seed: int = 6, ending: float = 0.0) -> Seq2seq:
    """Random weights, large enough that the source matters."""
    torch.manual_seed(seed)
    config = ModelConfig(
        task="seq2seq", cell=cell, vocab_size=units.vocab_size, embedding_size=6, hidden_size=12, layers=2, context=context,
        attention="additive" if seed % 2 else "dot",
    )  # fmt: skip
    made = Seq2seq(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3)
        made.output.bias[EOS] += ending
    return made.eval()


def sources(units: Tokenizer, *texts: str) -> list[Ids]:
    return [units.encode(text) for text in texts]


def test_additive_attention_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of some pairs of pages would fill the memory: they are made part by part, and so are their gradients."""
    torch.manual_seed(1)
    made, states, memory = attention.Attention(8, additive=True), torch.randn(3, 7, 8), torch.randn(3, 5, 8)

    def learnt() -> list[torch.Tensor]:
        made.zero_grad()
        seen, weights = made(states, memory, torch.ones(3, 5, dtype=torch.bool))
        seen.square().sum().backward()
        return [seen, weights, *(weight.grad.clone() for weight in made.parameters() if weight.grad is not None)]

    calls, whole = 0, learnt()

    def counted(*parts: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return energies(*parts)

    energies = made._energies
    monkeypatch.setattr(made, "_energies", counted)
    monkeypatch.setattr(attention, "MOST_NUMBERS", 2 * 3 * 5 * 8)
    for one, other in zip(whole, learnt(), strict=True):
        torch.testing.assert_close(one, other)
    assert calls == 2 * 4  # two steps at a time, and all of it again for the gradient


class Table:
    """A decoder whose scores follow from the last tokens and the source alone: nothing but the search is tried."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.scores = 2 * np.random.default_rng(seed).standard_normal((number, 6, 6, 6)).astype(np.float32)

    def begin(self) -> State:
        return np.arange(self.number), np.zeros(self.number, np.int64)

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        rows, before = state
        return self.scores[rows, before, ids], (rows, ids)

    def gather(self, state: State, indices: Ids) -> State:
        return tuple(part[indices] for part in state)

    def every(self, source: int, longest: int, alpha: float) -> Iterator[Found]:
        """All answers that end within `longest` tokens, <eos> included."""
        for length in range(longest):
            for ids in itertools.product((4, 5), repeat=length):
                logprob, state = 0.0, (np.array([source]), np.zeros(1, np.int64))
                for before, token in zip((BOS, *ids), (*ids, EOS), strict=True):
                    logits, state = self.step(np.array([before]), state)
                    logprob += float(logits[0, token]) - float(np.logaddexp.reduce(logits[0].astype(np.float64)))
                yield Found(ids, logprob, normalised(logprob, length + 1, alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_is_wide_enough_finds_the_best_of_all(seed: int, alpha: float) -> None:
    decoder, longest = Table(3, seed), (5, 3, 4)
    for source, found in enumerate(translate.search(decoder, width=64, longest=longest, alpha=alpha)):
        best = sorted(decoder.every(source, longest[source], alpha), key=lambda one: -one.score)
        assert [one.ids for one in found] == [one.ids for one in best[: len(found)]]
        assert len(found) == len(best)
        assert np.allclose([one.score for one in found], [one.score for one in best])


@pytest.mark.parametrize("context", ["attention", "last", "transformed"])
def test_a_beam_of_a_network_finds_the_best_of_all(context: str) -> None:
    units = toy.letters(LETTERS)
    made = network(units, context)
    source = units.encode("abba")
    best: tuple[float, tuple[int, ...]] = (-np.inf, ())
    for length in range(5):
        for ids in itertools.product((4, 5), repeat=length):
            decoder = Decoder(made, [source])
            state, logprob = decoder.begin(), 0.0
            for before, token in zip((BOS, *ids), (*ids, EOS), strict=True):
                logits, state = decoder.step(np.array([before]), state)
                logprob += float(logits[0, token] - np.logaddexp.reduce(logits[0].astype(np.float64)))
            best = max(best, (normalised(logprob, length + 1, 0.6), ids))
    found = translate.search(Decoder(made, [source]), width=64, longest=5)[0][0]
    assert (found.ids, found.score) == (best[1], pytest.approx(best[0], abs=1e-4))


def test_an_answer_that_is_cut_counts_only_where_none_has_ended() -> None:
    decoder = Table(2, 1)
    decoder.scores[0, :, :, EOS] = -np.inf
    decoder.scores[1, :, :, EOS] = -3
    cut, ended = translate.search(decoder, width=64, longest=3)
    assert [len(one.ids) for one in cut] == [3]
    assert max(len(one.ids) for one in ended) == 2


class Steps:
    """A decoder whose odds of <eos>, a and b follow from the step alone."""

    def __init__(self, *odds: tuple[float, float, float]) -> None:
        self.odds, self.taken = odds, 0

    def begin(self) -> State:
        return (np.zeros(1, np.int64),)

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        logits = np.full((len(ids), 6), -1e9, np.float32)
        logits[:, [EOS, 4, 5]] = np.log(self.odds[self.taken])
        self.taken += 1
        return logits, state

    def gather(self, state: State, indices: Ids) -> State:
        return tuple(part[indices] for part in state)


def test_a_search_goes_on_while_a_longer_answer_could_win_and_no_further() -> None:
    """Two answers end soon; the third is less likely than both, and wins by its length alone."""
    soon, on, end = [(0.5, 0.49, 0.01), (0.6, 0.39, 0.01)], [(0.005, 0.99, 0.005)] * 7, [(0.99, 0.005, 0.005)] * 3
    decoder = Steps(*soon, *on, *end)
    best = translate.search(decoder, width=2, longest=12, alpha=2.0)[0][0]
    assert best.ids == (4,) * 9
    assert best.logprob == pytest.approx(np.log(0.49 * 0.39 * 0.99**8), abs=1e-5)
    assert best.score == pytest.approx(best.logprob / (15 / 6) ** 2, abs=1e-5)
    decoder = Steps(*soon, *on, *end)
    assert [one.ids for one in translate.search(decoder, width=2, longest=12, alpha=0.0)[0]] == [(), (4,)]
    assert decoder.taken == 2  # nothing longer could be likelier


def test_scores_that_are_no_numbers_are_an_error() -> None:
    decoder = Table(2, 1)
    decoder.scores[1] = np.nan
    with pytest.raises(CheckpointError, match="expected a number"):
        translate.search(decoder, width=2, longest=4)


@pytest.mark.parametrize("context", ["attention", "last"])
@pytest.mark.parametrize("width", [1, 4])
def test_a_batch_answers_as_each_source_alone(context: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(UNITS, context, ending=1.0)
    asked = sources(UNITS, "a", "abba ab", "猫", "b" * 30, "ab 狗", "早早早")
    together = answering.search(made, asked, width=width)
    for source, found in zip(asked, together, strict=True):
        alone = answering.search(made, [source], width=width)[0]
        assert [one.ids for one in found] == [one.ids for one in alone]
        assert np.allclose([one.logprob for one in found], [one.logprob for one in alone], atol=1e-5)
    monkeypatch.setattr(answering, "TOGETHER", 2)  # in the order of the sources, however they are grouped
    again = answering.search(made, asked, width=width)
    assert [[one.ids for one in found] for found in again] == [[one.ids for one in found] for found in together]


def test_groups_hold_each_source_once_and_no_more_than_fits() -> None:
    made, lengths = network(UNITS), np.random.default_rng(1).integers(1, 10_000, 2000).tolist()
    found = list(answering.groups(made, lengths, 8))
    assert sorted(itertools.chain(*found)) == list(range(2000))
    assert max(map(len, found)) <= answering.TOGETHER
    assert all(len(group) * 8 * 12 * (lengths[group[-1]] + 2) <= answering.MOST_NUMBERS for group in found)


@pytest.mark.parametrize("seed", [2, 3])
def test_width_one_is_greedy(seed: int) -> None:
    made = network(UNITS, seed=seed, ending=0.5)
    for source in sources(UNITS, "ab", "猫猫 a", "bbbbbb"):
        decoder, ids, token = Decoder(made, [source]), list[int](), BOS
        state = decoder.begin()
        while len(ids) < translate.bound(len(source)):
            logits, state = decoder.step(np.array([token]), state)
            logits[0, [PAD, BOS, UNK]] = -np.inf
            token = int(logits[0].argmax())
            if token == EOS:
                break
            ids.append(token)
        assert list(answering.search(made, [source], width=1)[0][0].ids) == ids


@pytest.mark.parametrize("seed", [2, 3])
def test_attention_sums_to_one_over_what_is_no_padding(seed: int) -> None:
    made = network(UNITS, seed=seed)
    asked = sources(UNITS, "ab", "猫猫 abab", "b")
    decoder = Decoder(made, asked)
    for row, source in enumerate(asked):
        weights = decoder.attend(row, [BOS, 5, 4]).numpy()  # all that is no padding: what it sums to, nothing else has
        assert np.allclose(weights.sum(1), 1, atol=1e-6)
        alone = answering.attention(made, source, [5, 4, 6])
        assert alone.shape == (3, len(source))
        assert np.allclose(alone, weights, atol=1e-6)


def taught() -> Seq2seq:
    """A network that has learnt three pairs by heart."""
    made, encode = network(UNITS).train(), UNITS.encode
    pairs = [(encode(source), np.append(encode(target), EOS)) for source, target in LEARNT]
    data = Examples(Ragged.of(source for source, _ in pairs), Ragged.of(target for _, target in pairs))
    batch, optimizer = padded(data, np.arange(3), Cursor()), torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        seq2seq.loss(made, batch, (), TrainingConfig(), torch.device("cpu")).nats.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return made.eval()


def stored(place: Path, name: str, made: Seq2seq, units: Tokenizer) -> None:
    folder = place / "checkpoints" / name
    folder.mkdir(parents=True)
    about = {"name": name, "start": [BOS], "provenance": {}}
    models.save(folder / models.MODEL_FILE, made.config, units, export_weights(made), about)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, one of them without attention, and some files."""
    folder = tmp_path_factory.mktemp("pairs")
    stored(folder, "plain", network(UNITS, "last", ending=1.0), UNITS)
    stored(folder, "pairs", taught(), UNITS)
    (folder / "lines.txt").write_text("ab\n\n猫 a\n", encoding="utf-8")
    (folder / "pairs.tsv").write_text("ab\t猫\n狗\tb\\nb\nbba\ta\n", encoding="utf-8")
    (folder / "alone.csv").write_text("source\nab\n狗\n", encoding="utf-8")
    (folder / "some.jsonl").write_text('{"source": "ab", "target": "b"}\n{"source": "狗"}\n', encoding="utf-8")
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    monkeypatch.chdir(place)
    return partial(runner(capsysbinary), "translate")


def found(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_each_way_to_name_a_source_gives_the_same_answer(run: Run) -> None:
    one, other = (run("pairs", text).out for text in ("ab", "狗"))
    assert (one, other) == ("a猫\n", "b\\nb\n")
    assert run("pairs", "a", "b").out == run("pairs", "a b").out
    assert run("pairs", "alone.csv").out == run("pairs", "some.jsonl").out == one + other
    lines = run("pairs", "lines.txt").out.split("\n")
    assert lines == ["a猫", "", "狗\\\\a", ""]


def test_targets_are_only_counted(run: Run) -> None:
    done = run("pairs", "pairs.tsv")
    assert done.out.splitlines()[:2] == [run("pairs", text).out.rstrip("\n") for text in ("ab", "狗")]
    assert done.err.startswith("exact match 33.33% of 3, character error rate ")
    assert "of 1," in run("pairs", "some.jsonl").err


def test_the_best_come_with_their_scores(run: Run) -> None:
    rows = [line.split("\t") for line in run("pairs", "ab", "--top", "3").out.splitlines()]
    scores = [float(score) for score, _ in rows]
    assert (len(rows), scores) == (3, sorted(scores, reverse=True))
    assert run("pairs", "ab").out.rstrip("\n") == rows[0][1]
    assert len(run("pairs", "ab", "--top", "6").out.splitlines()) == 6  # the beam widens
    refused = run("pairs", "ab", "--top", "6", "--beam", "2")
    assert (refused.code, refused.out) == (2, "")
    assert "a beam of 2 has no 6 answers" in refused.err


def test_json_holds_answers_scores_and_attention(run: Run) -> None:
    records = found(run("pairs", "lines.txt", "--json", "--attention", "--top", "2"))
    assert [record["source"] for record in records] == ["ab", "", "猫 a"]
    assert records[1]["answers"] == []
    for record in (records[0], records[2]):
        assert record["tokens"] == list(record["source"])
        for answer in record["answers"]:
            weights = np.array(answer["attention"]).reshape(-1, len(record["source"]))
            assert answer["score"] == pytest.approx(normalised(answer["logprob"], len(answer["tokens"]) + 1, 0.6))
            assert ("".join(answer["tokens"]), len(weights)) == (answer["text"], len(answer["tokens"]))
            assert np.allclose(weights.sum(1), 1, atol=1e-4)


def test_what_cannot_be_is_refused(run: Run) -> None:
    for line, code, words in (
        (("plain", "ab", "--attention"), 2, "plain learnt without attention"),
        (("pairs", " "), 65, "the text is empty"),
        (("pairs",), 2, "TEXT"),
        (("pairs", "ab", "--beam", "0"), 2, "--beam is 0"),
    ):
        done = run(*line)
        assert (done.code, done.out) == (code, "")
        assert words in done.err


def test_characters_that_it_does_not_know_are_named_once(run: Run, place: Path) -> None:
    (place / "odd.txt").write_text("axb\nyx\x1b\n", encoding="utf-8")
    err = run("pairs", "odd.txt").err
    assert err.count("U+0078") == 1
    assert "\x1b" not in err


def test_the_picture_is_aligned_cut_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    weights = np.array([[1.0, 0.0, 0.0, 0.0], [0.1, 0.3, 0.6, 0.0]])
    columns, rows = (attention_map._labels(pieces, Look()) for pieces in (["猫", "a", "\x1b[2J", "\u0301"], ["早", "b"]))
    plain = ["".join(text for text, _ in line) for line in attention_map.lines(columns, rows, weights, Look())]
    assert plain == ["   猫a\u241b[2J.", "早 9 00   0", "b  1 36   0"]
    shaded = ["".join(text for text, _ in line) for line in attention_map.lines(columns, rows, weights, Look(shaded=True))]
    assert shaded[1:] == ["早 ██      ", "b  ░░▓████ "]
    assert [attention_map._fitting(columns, rows, width) for width in (0, 4, 5, 6, 9, 10, 11)] == [4, 0, 1, 2, 2, 3, 4]
    assert attention_map._labels(["猫"], Look(encoding="ascii")) == ["?"]


def talk(made: Seq2seq | None = None) -> Session:
    """A session with a model of random weights."""
    made = made or network(UNITS, ending=1.0)
    weights, path = export_weights(made), Path("nowhere.safetensors")
    model = models.Model(made.config, UNITS, weights, (BOS,), {}, "pairs", path, "d" * 64)
    return Session(sessions.replier(model), Settings(temp=0.0, length=400), PAIRS)


def said(session: Session, line: str) -> str:
    events = list(session.feed(line))
    assert not any(isinstance(event, Problem) for event in events), events
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.parametrize("context", ["attention", "last"])
def test_a_chat_says_what_a_greedy_search_finds_and_remembers_nothing(context: str) -> None:
    made = network(UNITS, context, ending=1.0)
    session = talk(made)
    for text in ("ab", "猫 ab", "ab", "bb\\", "x"):
        wanted = answering.search(made, [UNITS.encode(text)], width=1)[0][0].ids
        assert said(session, text) == UNITS.decode(wanted)


def test_a_chat_takes_back_and_answers_again() -> None:
    session = talk()
    session.settings = Settings(temp=1.5, seed=5)
    first = said(session, "ab")
    second = said(session, "/retry")
    assert first != second
    list(session.feed("/undo"))
    assert said(session, "ab") == first
    list(session.feed("/reset"))
    assert said(session, "ab") == first


def test_a_chat_goes_on_after_an_answer_that_was_stopped() -> None:
    session = talk()
    whole = said(session, "a")
    assert len(whole) > 4
    list(session.feed("/reset"))
    events = session.feed("a")
    begun = "".join(next(one.text for one in events if isinstance(one, Text)) for _ in range(3))
    events.close()
    assert begun + said(session, "") == whole
    events = session.feed("猫")
    next(one for one in events if isinstance(one, Typed))
    events.close()  # before the first character
    assert said(session, "a") == whole


def test_a_chat_can_be_kept(tmp_path: Path) -> None:
    session = talk()
    answers = [said(session, text) for text in ("ab", "x猫")]
    list(session.feed(f"/save {tmp_path / 's.json'}"))
    other = talk()
    (tree,), *_ = memory.read(tmp_path / "s.json", other.partner, PAIRS)
    assert tree.text() == session.text
    other.replace(tree)
    assert said(other, "ab") == answers[0]


def test_only_what_is_predicted_has_a_surprise_or_a_ghost() -> None:
    session = talk()
    assert session.ghost("ab", lambda: False) == ""
    assert session.next_tokens("ab", lambda: False) == []
    said(session, "ab")
    list(session.feed("/heat on"))
    events = list(session.feed("猫"))
    assert [event.heat for event in events if isinstance(event, Typed)] == [()]
    assert all(event.bits is not None for event in events if isinstance(event, Text))
    words = [event.text for event in events if isinstance(event, Notice)][-1]
    assert words.startswith("Bits per character: ")
    assert "your lines" not in words
    pieces: tuple[Heated, ...] = session.last_said()[1]
    decoder = Decoder(network(UNITS, ending=1.0), [UNITS.encode("猫")])
    logits, _ = decoder.step(np.array([BOS]), decoder.begin())
    first = UNITS.encode(pieces[0].text)[0]
    assert pieces[0].bits == pytest.approx((np.logaddexp.reduce(logits[0]) - logits[0, first]) / np.log(2), abs=1e-4)


def test_several_streams_of_a_source_go_together() -> None:
    engine = replying.Replier(network(UNITS))
    state = engine.begin(1)
    for token in replying.spelling(UNITS, "ab猫\n").tolist():
        _, state = engine.step(np.array([token]), state)
    together = engine.gather(state, [0, 0, 0])
    many, _ = engine.step(np.array([4, 5, 6]), together)
    for row, token in enumerate((4, 5, 6)):
        assert np.allclose(engine.step(np.array([token]), state)[0][0], many[row], atol=1e-5)
    assert engine.step(np.array([4, 4]), engine.begin(2))[0].argmax() == EOS


def test_the_baseline_takes_the_nearest_source() -> None:
    baseline = runpy.run_path(str(ROOT / "docs" / "baseline_pairs.py"))
    learnt = [("good morning", "1"), ("good evening", "2"), ("good evenink", "3")]
    assert baseline["answered"](learnt, ["good mornin", "good eveninx", "g"]) == ["1", "2", "1"]


def test_lines_of_a_pipe_are_answered_as_they_come(place: Path) -> None:
    command = [sys.executable, "-m", "charrnn", "translate", "pairs", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=place, env=environment(), **pipes) as child:  # type: ignore[call-overload]
        assert child.stdin
        assert child.stdout
        answers = []
        for line in ("ab", "", "ab"):
            child.stdin.write(f"{line}\n".encode())
            child.stdin.flush()
            answers.append(child.stdout.readline())  # before the next is sent: else this waits for ever
        child.stdin.close()
        assert child.wait(20) == 0
    assert (answers[0], answers[1]) == (answers[2], b"\n")
    assert len(answers[0]) > 1


def test_lines_of_a_pipe_are_read_as_it_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(data: bytes, *options: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("pairs", "-", "--json", *options)

    read = [
        [record["source"] for record in found(said("ab 猫\r\n\na".encode(encoding), *options))]
        for encoding, options in (("utf-8-sig", ()), ("gb18030", ("--encoding", "gb18030")), ("utf-16", ("--encoding", "utf-16")))
    ]
    assert read == [["ab 猫", "", "a"]] * 3
    assert found(said(b"a\xffb\n", "--errors", "replace"))[0]["source"] == "a\ufffdb"
    done = said(b"a\n" * 3 + b"\xff\n")
    assert (done.code, "standard input is not utf-8" in done.err) == (65, True)
    assert said(b"a\n", "--encoding", "no-such").code == 2


def test_eval_tells_how_many_answers_are_right(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(place)
    run = partial(runner(capsysbinary), "eval", "pairs", "pairs.tsv", "--threads", "1")
    (record,) = found(run("--json"))
    rows = [line.split("\t") for line in (place / "pairs.tsv").read_text(encoding="utf-8").splitlines()]
    assert (record["examples"], record["tokens"], record["exact_match"]) == (3, sum(len(row[1]) for row in rows) + 2, 1 / 3)
    assert record["wrong"][0] == {"source": "ab", "answer": "a猫", "target": "猫"}
    assert [one["source"] for one in record["wrong"]] == ["ab", "bba"]
    made, nats = taught(), 0.0
    for source, target in (("ab", "猫"), ("狗", "b\nb"), ("bba", "a")):
        decoder = Decoder(made, [UNITS.encode(source)])
        state, before = decoder.begin(), BOS
        for token in (*UNITS.encode(target).tolist(), EOS):
            logits, state = decoder.step(np.array([before]), state)
            nats, before = nats + float(np.logaddexp.reduce(logits[0].astype(np.float64)) - logits[0, token]), token
    assert record["loss"] == pytest.approx(nats / record["tokens"], abs=1e-5)
    assert record["bits_per_character"] == pytest.approx(nats / np.log(2) / 5, abs=1e-4)
    text = run().out
    assert text.startswith("exact match           33.33% of 3 with a beam of 4, greedy 33.33%\ncharacter error rate  ")
    assert text.splitlines()[-2].split() == ["ab", "a猫", "猫"]


def test_a_chat_without_a_name_prefers_what_learnt_conversations(place: Path, tmp_path: Path) -> None:
    stored(tmp_path, "pairs", network(UNITS), UNITS)
    assert chat._newest(tmp_path / "checkpoints", STANDARD).name == "pairs"
    shape, weights, units = toy.talker()
    (tmp_path / "checkpoints" / "talker").mkdir()
    about = {"name": "talker", "start": [EOS], "provenance": {}}
    models.save(tmp_path / "checkpoints" / "talker" / models.MODEL_FILE, shape, units, weights, {**about, "saved": 1.0})
    assert chat._newest(tmp_path / "checkpoints", STANDARD).name == "talker"


def test_a_chat_with_pairs_has_no_turns(place: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    monkeypatch.chdir(place)
    done = runner(capsysbinary)("chat", "pairs", "--turns", "a,b")
    assert (done.code, done.out) == (2, "")
    assert "learnt pairs" in done.err


def test_of_a_source_without_end_the_beginning_is_answered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.text.examples.LONGEST_READ", 2)
    long, short = run("pairs", "ab" * 20), run("pairs", "ab")
    assert long.out == short.out
    assert "of 1 source only the first 2 tokens were read" in long.err
