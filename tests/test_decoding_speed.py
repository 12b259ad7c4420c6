"""`charrnn bench sample`: every way draws what it says it draws, and the table shows what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from charrnn.cli.bench import _show_decoding, bench
from charrnn.config import ModelConfig
from charrnn.errors import UsageError
from charrnn.training import decoding_speed
from charrnn.training.decoding_speed import Row
from charrnn.training.speed import Machine, product_weights


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_speed, "SLICE", 0.001)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_each_shape_gives_a_row_of_speeds(cell: str) -> None:
    rows = list(decoding_speed.measure([(1, 8), (2, 16)], cell, rounds=1))
    assert [(row.cell, row.layers, row.hidden_size) for row in rows] == [(cell, 1, 8), (cell, 2, 16)]
    for row in rows:
        measured = (row.bare, row.stepped, row.fused, row.numpy, row.many_bare, row.many, row.many_text)
        assert all(value > 0 for value in measured)
        assert row.compiled is row.int8 is None  # the kernel is switched off in tests


def test_streams_are_counted_together_and_the_median_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("bare", "stepped", "fused", "numpy", "many_bare", "many", "many_text")
    rounds = (1.0, 3.0, 2.0)  # seconds: the median is 2
    clock = iter([time for seconds in rounds for _ in names for time in (0.0, seconds)])
    monkeypatch.setattr(decoding_speed, "_ways", lambda model: dict.fromkeys(names, lambda count: None))
    monkeypatch.setattr(decoding_speed, "_size", lambda way: 10)
    monkeypatch.setattr(decoding_speed.time, "perf_counter", lambda: next(clock))
    (row,) = decoding_speed.measure([(1, 8)], "lstm", rounds=3)
    assert row.bare == pytest.approx(10 / 2)
    assert row.many == pytest.approx(64 * 10 / 2)


def test_the_plain_torch_step_is_an_lstm() -> None:
    layer, x = torch.nn.LSTMCell(3, 4), torch.randn(1, 3)
    state = torch.randn(1, 4), torch.randn(1, 4)
    expected = layer(x, state)
    found = decoding_speed._lstm(x, state, layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_bare_products_read_what_a_step_reads() -> None:
    model = ModelConfig(vocab_size=69, hidden_size=8, layers=2)
    shapes = decoding_speed.product_shapes(model)
    assert shapes == [(8, 32), (16, 32), (8, 69)]
    of_the_input = 32 * model.embedding_size
    assert sum(rows * columns for rows, columns in shapes) == product_weights(model) - of_the_input


def test_the_command_shows_a_table_and_json() -> None:
    result = CliRunner().invoke(bench, ["sample", "--shape", "1x8", "--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["rows"][0]["hidden_size"] == 8
    assert {"machine", "rows"} == set(document)


def test_shares_are_of_the_bare_products(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("lstm", 1, 256, 69, 1000.0, 10.0, 100.0, 550.0, 1200.0, None, 5000.0, 2500.0, 1250.0)
    _show_decoding([row], Machine("a processor", 2, "", "2.13", "3.11"))
    shown = capsys.readouterr().out
    assert "550 (55%)" in shown
    assert "1,200 (120%)" in shown
    assert "2,500 (50%)" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("shape", ["256", "0x8", "1x0", "axb", "1x99999", "x"])
def test_a_shape_that_is_none_is_refused(shape: str) -> None:
    result = CliRunner().invoke(bench, ["sample", "--shape", shape])
    assert isinstance(result.exception, UsageError)
    assert "expected layers x hidden size" in str(result.exception)
