"""How much is new: shares against the definition, and what is drawn to measure them."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from charrnn.config import SamplingConfig
from charrnn.decoding import generate, novelty
from charrnn.decoding.engine import Engine
from charrnn.runs.model import Model
from charrnn.text import ngrams
from charrnn.text.tokenizers import EOS

TRAINED = "The harbour holds the evening in its hand, and one by one the lamps come up like bread in the dark of the street"
ELSEWHERE = "0123456789 " * 10


def model(kind: str = "char", end_bias: float = -1e4, many: bool = False) -> Model:
    units = toy.tokenizer(kind)
    start = (EOS,) if many else (int(units.encode("\n")[0]),)
    return Model(toy.config(units), units, toy.weights(units, end_bias), start, {}, "toy", Path("toy"), "")


def by_definition(documents: list[str], size: int) -> float | None:
    windows = [text[start : start + size] for text in documents for start in range(len(text) - size + 1)]
    return 1 - sum(window in TRAINED for window in windows) / len(windows) if windows else None


@pytest.mark.parametrize(
    "documents",
    [
        [TRAINED],
        [ELSEWHERE],
        [TRAINED[:60] + ELSEWHERE + TRAINED[7:90]],
        [TRAINED[:45], TRAINED[45:], ELSEWHERE],
        [TRAINED[:30], "", TRAINED[30:60], "no"],
        ["too short"],
        [],
    ],
)
def test_the_share_of_runs_that_are_new(documents: list[str]) -> None:
    found = novelty.novelty(ngrams.hashes([(0, TRAINED)]), documents, [ELSEWHERE])
    assert list(found[0]) == [20, 40, 80]
    for size, share in found[0].items():
        expected = by_definition(documents, size)
        assert share == (expected if expected is None else pytest.approx(expected))
    assert found[1] == {20: 1.0, 40: 1.0, 80: 1.0}


def test_by_hand() -> None:
    """25 characters of the text and 15 others: 6 of 21 runs of 20 are copies, and none of the single run of 40."""
    text = TRAINED[10:35] + "#" * 15
    assert novelty.novelty(ngrams.hashes([(0, TRAINED)]), [text]) == [{20: pytest.approx(15 / 21), 40: 1.0, 80: None}]


def test_what_is_drawn_are_the_streams_of_the_default_settings() -> None:
    drawn, toys = novelty.draw(model()), model()
    assert [len(text) for text in drawn] == [500] * 20
    engine = Engine(toys.config, toys.weights)
    prefix = generate.prime(engine, toys.start)
    for index in (0, 7):
        options = {"seed": 1, "stream_index": index, "length": 500}
        tokens = generate.stream(engine, toys.tokenizer, prefix, SamplingConfig(), at_eos="never", **options)  # type: ignore[arg-type]
        assert drawn[index] == "".join(token.text for token in tokens)


def test_a_byte_model_draws_as_many_characters() -> None:
    drawn = novelty.draw(model("byte"))
    assert [len(text) for text in drawn] == [500] * 20


def test_a_model_that_knows_ends_draws_documents() -> None:
    drawn = novelty.draw(model(end_bias=2.0, many=True))
    assert len(drawn) > 40
    assert sum(map(len, drawn)) == 10_000
    unending = novelty.draw(model(end_bias=2.0))  # one document: its end is never drawn
    assert len(unending) == 20


def test_a_model_that_hardly_writes_comes_to_an_end() -> None:
    drawn = novelty.draw(model(end_bias=1e4, many=True))
    assert drawn == []
    assert novelty.novelty(ngrams.hashes([(0, TRAINED)]), drawn) == [{20: None, 40: None, 80: None}]
