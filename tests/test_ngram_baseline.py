"""`charrnn eval --ngram`: which text is counted, that it is never the scored one unawares, and what is said of it."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from commands import Run

from charrnn.cli import evaluate as evaluation
from charrnn.runs import checkpoint
from charrnn.runs import model as models
from charrnn.text import kneser_ney
from charrnn.training import evaluate, job
from charrnn.training.recipe import Bound

FIGURES = ("bits_per_character", "bits_per_byte", "loss", "perplexity")
OTHER = "The lamps go out upon the harbour; one by one the boats come home.\n" * 4


@pytest.fixture(autouse=True)
def _no_novelty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes most of the time, and has nothing to do with it."""
    monkeypatch.setattr(evaluation, "_novelty", lambda model, documents: None)


def scored(run: Run, *arguments: str, name: str = "verse") -> dict[str, Any]:
    done = run("eval", name, *arguments, "--json", "--threads", "1")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def nats(name: str, counted: str, text: str) -> tuple[float, int]:
    """What the model of n-grams counted on one text makes of another, in the tokens of a run, and its order."""
    model = models.load(Path("checkpoints") / name)
    units, size = model.tokenizer, model.tokenizer.vocab_size
    order = kneser_ney.best_order(units.encode(counted), size)
    costs = kneser_ney.losses(units.encode(counted), np.array(model.start), units.encode(text), size, order)
    return float(costs.sum()) + units.hidden(text) * units.escape_nats, order


def halves(path: str = "verse.txt") -> tuple[str, str]:
    text = Path(path).read_text(encoding="utf-8")
    return text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]


def test_it_is_counted_before_the_split_and_scored_behind_it(run: Run) -> None:
    record = scored(run, "verse.txt", "--split", "val", "--ngram")
    network = scored(run, "verse.txt", "--split", "val")
    ngram = record.pop("ngram")
    assert record == network
    counted, text = halves()
    cost, order = nats("verse", counted, text)
    assert ngram["loss"] == pytest.approx(cost / len(text))
    assert ngram["perplexity"] == pytest.approx(math.exp(cost / len(text)))
    assert ngram["bits_per_character"] == ngram["bits_per_byte"] == pytest.approx(cost / math.log(2) / len(text))
    assert ngram["network_adds"] == pytest.approx(ngram["bits_per_character"] - network["bits_per_character"])
    assert (ngram["order"], ngram["counted_tokens"], ngram["counted_on"]) == (
        order,
        len(counted),
        "the training part of verse.txt",
    )
    assert ngram["copied"] == 1  # the verse stands there twenty times


def test_its_rows_name_the_order_and_the_text(run: Run) -> None:
    ngram = scored(run, "verse.txt", "--split", "val", "--ngram")["ngram"]
    done = run("eval", "verse", "verse.txt", "--split", "val", "--ngram", "--threads", "1")
    rows = [line for line in done.out.splitlines() if line.startswith(("n-gram", "network saves"))]
    bits, per_byte, loss = ngram["bits_per_character"], ngram["bits_per_byte"], ngram["loss"]
    assert rows == [
        f"n-gram, order {ngram['order']:<6}{bits:.4f} bits per character, {per_byte:.4f} per byte;"
        f" perplexity {ngram['perplexity']:.3f}, loss {loss:.4f}",
        f"n-gram, counted on  {ngram['counted_tokens']:,} tokens: the training part of verse.txt;"
        " 100% of the text scored stands in it (modified Kneser-Ney)",
        f"network saves       {ngram['network_adds']:.4f} bits per character: the n-gram model predicts this text better",
    ]
    assert done.err.startswith("100% of this text stands word for word in the one that is counted")


def test_the_text_that_is_counted_is_not_scored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that is said before the network has spent its minutes on it."""
    monkeypatch.setattr(evaluate, "evaluate_text", lambda *_, **__: pytest.fail("too late"))
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    Path("copy.txt").write_bytes(Path("other.txt").read_bytes())
    for arguments in (["verse.txt", "--ngram"], ["other.txt", "--ngram-text", "copy.txt"]):
        done = run("eval", "verse", *arguments)
        assert done.code == 2
        assert "on the very text that it is counted on" in done.err
        assert "--split val" in done.err


def test_another_text_is_scored_by_what_the_run_was_trained_on(run: Run) -> None:
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    ngram = scored(run, "other.txt", "--ngram")["ngram"]
    assert ngram["counted_on"] == "the training part of verse.txt"
    assert ngram["copied"] < 0.5
    cost, order = nats("verse", halves()[0], OTHER)
    assert (ngram["loss"], ngram["order"]) == (pytest.approx(cost / len(OTHER)), order)
    assert scored(run, "other.txt", "--split", "val", "--ngram")["ngram"]["counted_tokens"] == ngram["counted_tokens"]


def test_a_text_that_cannot_be_found_has_to_be_named(run: Run, trained: Path) -> None:
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    expected = scored(run, "other.txt", "--ngram")["ngram"]
    (trained / "checkpoints" / "verse" / "last.safetensors").unlink()
    done = run("eval", "verse", "other.txt", "--ngram")
    assert done.code == 65
    assert "not the text that 'verse' was trained on" in done.err
    assert "--ngram-text FILE" in done.err
    assert scored(run, "other.txt", "--ngram-text", "verse.txt")["ngram"] == expected
    Path("third.txt").write_text("a boat, and a lamp, and the tide\n" * 9, encoding="utf-8")
    ngram = scored(run, "other.txt", "--ngram-text", "third.txt", "--ngram-text", "verse.txt")["ngram"]
    assert (ngram["counted_on"], ngram["counted_tokens"]) == ("third.txt and 1 more", 33 * 9 + 1 + os.path.getsize("verse.txt"))
    ngram = scored(run, "other.txt", "--ngram-text", "other.txt", "--split", "val")["ngram"]
    assert (ngram["counted_on"], ngram["counted_tokens"]) == ("the training part of other.txt", int(0.9 * len(OTHER)))


def test_a_text_that_has_changed_or_gone_is_not_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    gone, unknown = (["gone.txt"], ["/dev/zero"], ["a\0b"], ["-"]), ([3], [], None)
    cases = [(["other.txt"], "has changed since"), *((named, "no longer where it was") for named in gone)]
    for named, said in [*cases, *((named, "is not known") for named in unknown)]:
        monkeypatch.setattr(checkpoint, "read_metadata", lambda path, named=named: {"resume": {"sources": named}})
        done = run("eval", "verse", "other.txt", "--ngram")
        assert (done.code, said in done.err, "--ngram-text" in done.err) == (65, True, True), done.err


def test_the_text_may_come_through_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scored(run, "verse.txt", "--split", "val", "--ngram")["ngram"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("verse.txt").read_bytes())))
    ngram = scored(run, "-", "--split", "val", "--ngram")["ngram"]
    assert ngram == {**expected, "counted_on": ngram["counted_on"]}


def test_unknown_characters_cost_both_the_same(run: Run) -> None:
    Path("other.txt").write_text(OTHER + "\u2603\u2604", encoding="utf-8")
    record = scored(run, "other.txt", "--ngram")
    assert record["hidden"] == 2
    assert record["ngram"]["loss"] == pytest.approx(nats("verse", halves()[0], OTHER + "\u2603\u2604")[0] / (len(OTHER) + 2))


def test_of_too_long_a_text_the_end_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kneser_ney, "MOST_COUNTED", 1000)
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    done = run("eval", "verse", "other.txt", "--ngram", "--json", "--threads", "1")
    counted = halves()[0]
    assert f"counted on the last 1,000 of {len(counted):,} tokens" in done.err
    assert json.loads(done.out)["ngram"]["loss"] == pytest.approx(nats("verse", counted[-1000:], OTHER)[0] / len(OTHER))


@pytest.mark.parametrize("kind", ["byte", "subword"])
def test_other_tokens_and_several_documents(run: Run, trained: Path, kind: str) -> None:
    """All tokens of the network are the n-gram model's, <eos> between documents among them."""
    folder = trained / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("\u00e9t\u00e9: the lamps come up, \u00e0 l'heure\n" * 30, encoding="utf-8")
    asked = {"hidden_size": 8, "embedding_size": 4, "threads": 1, "window": 8, "tokenizer": kind}
    list(job.run([str(folder)], asked=asked, root=trained / "checkpoints", bound=Bound(steps=1)))
    record = scored(run, "texts", "--split", "val", "--ngram", name="texts")
    ngram = record["ngram"]
    assert ngram["loss"] * record["tokens"] / math.log(2) == pytest.approx(ngram["bits_per_character"] * record["characters"])
    assert ngram["bits_per_byte"] < ngram["bits_per_character"] < record["bits_per_character"]
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    both = scored(run, "other.txt", "texts/0.txt", "--ngram", name="texts")
    assert both["ngram"]["counted_tokens"] == ngram["counted_tokens"]
    assert both["ngram"]["counted_on"] == "the training part of 0.txt and 2 more"


def test_single_examples_have_no_n_grams(run: Run, trained: Path) -> None:
    units = toy.tokenizer()
    shape, weights = toy.labelled(units)
    about = {"name": "odes", "start": [2], "provenance": {}, "labels": list(toy.LABELS)}
    (trained / "checkpoints" / "odes").mkdir()
    models.save(trained / "checkpoints" / "odes" / models.MODEL_FILE, shape, units, weights, about)
    done = run("eval", "odes", "verse.txt", "--ngram")
    assert done.code == 2
    assert "--ngram is for runs of running text" in done.err
