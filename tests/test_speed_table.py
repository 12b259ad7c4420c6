"""The table of steps: its bounds counted by hand and by torch, its rows, and what becomes of one that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run, runner
from torch.utils.flop_counter import FlopCounterMode

from charrnn.cli import speeds
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import UsageError
from charrnn.training import language, speed, step_speed
from charrnn.training.learner import Learner
from charrnn.training.muon import orthogonalise
from charrnn.training.step_speed import Rates, Wanted

CPU = torch.device("cpu")
SMALL = ModelConfig(vocab_size=5, embedding_size=3, hidden_size=2)
FOUR_BY_TWO = TrainingConfig(window=4, batch_size=2, precision="fp32", device="cpu", threads=1, steps=1000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_speed, "LOOK", 0.01)
    monkeypatch.setattr(step_speed, "RATE_SECONDS", 0.01)
    monkeypatch.setattr(step_speed, "COPIED", 1 << 16)
    monkeypatch.setitem(step_speed.LARGE, "cpu", 64)


# --- the bounds


def test_bytes_counted_by_hand() -> None:
    """Of each of the 8 tokens: the layer moves 3 * 3 + (16 + 4 + 1) * 2 = 51 numbers, the output 3 * 2 + 4 * 5 = 26, the
    embedding 6. Weights: 15 of the embedding, 8 * 3 and 8 * 2 of the layer and its 16 biases, 5 * 2 + 5 of the output: 86."""
    assert step_speed.step_bytes(SMALL, FOUR_BY_TWO, rereading=False) == 8 * 83 * 4 + 86 * (4 + 4 + 36) == 6440
    assert step_speed.step_bytes(SMALL, FOUR_BY_TWO, rereading=True) == 6440 + 2 * 3 * (8 * 2) * 4
    half = replace(FOUR_BY_TWO, precision="fp16")
    assert step_speed.step_bytes(SMALL, half, rereading=False) == 8 * 83 * 2 + 86 * (2 + 2 + 36 + 6) == 5284
    assert step_speed.step_bytes(SMALL, half, rereading=True) == 5284 + 2 * 3 * (8 * 2) * 2


def test_a_second_layer_and_another_cell_are_counted() -> None:
    two = replace(SMALL, layers=2)  # its input is as wide as the layer below: 3 * 2 + 42 numbers, and 8 * 2 + 8 * 2 + 16 weights
    assert step_speed.step_bytes(two, FOUR_BY_TWO, rereading=False) == 6440 + 8 * 48 * 4 + 48 * 44
    gru = replace(SMALL, cell="gru")  # 3 * 3 + (12 + 2 + 1) * 2 = 39 numbers; 6 * 3 + 6 * 2 + 12 = 42 weights instead of 56
    assert step_speed.step_bytes(gru, FOUR_BY_TWO, rereading=False) == 6440 - 8 * 12 * 4 - 14 * 44


def test_operations_counted_by_hand() -> None:
    assert step_speed.step_gigaflops(SMALL, FOUR_BY_TWO) * 1e9 == pytest.approx(6 * (24 + 16 + 10) * 8)
    # Three rounds, four gates: W_ih 2 x 3 takes 2 * 2 * 2 * 3 twice and 2 * 2 * 2 * 2 each time, W_hh 2 x 2 three times 16.
    assert step_speed.muon_gigaflops(SMALL) * 1e9 == pytest.approx(3 * 4 * (24 + 24 + 16) + 3 * 4 * 48)


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (16, 16)])
def test_orthogonalising_is_counted_as_torch_counts_it(shape: tuple[int, int]) -> None:
    hidden, width = shape
    with FlopCounterMode(display=False) as counter:
        orthogonalise(torch.randn(4, hidden, width))
        orthogonalise(torch.randn(4, hidden, hidden))
    model = ModelConfig(vocab_size=9, hidden_size=hidden, embedding_size=width)
    assert step_speed.muon_gigaflops(model) * 1e9 == pytest.approx(counter.get_total_flops())


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_a_step_is_counted_as_torch_counts_it(cell: str) -> None:
    """Not an LSTM's, which is one call that torch does not look into."""
    torch.set_num_threads(1)
    model = ModelConfig(cell=cell, vocab_size=20, embedding_size=8, hidden_size=16, layers=2)
    learner = Learner(model, FOUR_BY_TWO, np.random.default_rng(1).integers(4, 20, 300).astype(np.uint8), CPU)
    with FlopCounterMode(display=False) as counter:
        learner.advance()
    counted = step_speed.step_gigaflops(model, FOUR_BY_TWO) + step_speed.muon_gigaflops(model)
    assert counted * 1e9 == pytest.approx(counter.get_total_flops())


def test_shares_are_those_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_speed, "_seconds", lambda *_: 1e-3)
    rates = Rates({"fp32": 0.01, "bf16": 0.04}, 0.02)  # 1e9 a second
    fp32, bf16 = (step_speed._row(SMALL, replace(FOUR_BY_TWO, precision=name), CPU, rates) for name in ("fp32", "bf16"))
    assert fp32.arithmetic == pytest.approx((2400 + 1344) / 0.01e9 / 1e-3)
    assert bf16.arithmetic == pytest.approx((2400 + 1344) / 0.04e9 / 1e-3)
    fp16 = step_speed._row(SMALL, replace(FOUR_BY_TWO, precision="fp16"), CPU, Rates({"fp16": 0.04, "fp32": 0.01}, 0.02))
    assert fp16.arithmetic == pytest.approx((2400 / 0.04e9 + 1344 / 0.01e9) / 1e-3)  # beside fp16, Muon multiplies in fp32
    assert (fp32.bandwidth, fp32.rereading) == (pytest.approx(6440 / 0.02e9 / 1e-3), pytest.approx(6824 / 0.02e9 / 1e-3))
    assert (fp32.tokens_per_second, fp32.memory_bytes, fp32.failed) == (8000.0, None, "")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_muon_multiplies_as_is_reckoned(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.training.device.WORKING", {(precision, "cpu")})
    learner = Learner(SMALL, replace(FOUR_BY_TWO, precision=precision), np.full(300, 4, np.uint8), CPU)
    assert learner.optimizers[1].product == speed.DTYPES[step_speed.product_in(precision)]  # type: ignore[attr-defined]


def test_a_copy_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_alternating", lambda *_, **__: [[0.002, 0.001, 0.004]])
    assert step_speed.copy_rate(CPU) == pytest.approx(2 * (1 << 16) / 0.002 / 1e9)


# --- the rows


WANTED = Wanted(shapes=[(1, 8), (2, 8)], batches=[2, 4], embedding_size=4, window=6, device="cpu", threads=1)


def test_a_row_for_each_shape_precision_and_batch() -> None:
    rows = list(step_speed.measure(WANTED))
    found = [(row.layers, row.precision, row.batch_size) for row in rows]
    assert found == [(layers, name, batch) for layers in (1, 2) for name in ("fp32", "bf16") for batch in (2, 4)]
    for row in rows:
        assert row.seconds_per_step is not None
        assert row.tokens_per_second == pytest.approx(row.batch_size * 6 / row.seconds_per_step)
        assert (row.arithmetic or 0) > 0
        assert 0 < (row.bandwidth or 0) < (row.rereading or 0)


def test_a_step_that_went_in_parts_is_no_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner helps itself where memory is short; that is another step than the one which is asked about."""
    loss, most = language.loss, 2

    def narrow(network: Any, batch: Any, *rest: Any) -> Any:
        if batch.inputs.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(network, batch, *rest)

    monkeypatch.setattr(language, "loss", narrow)
    wanted = replace(WANTED, precisions=["fp32"], shapes=[(1, 8)])
    assert [(row.batch_size, row.failed) for row in step_speed.measure(wanted)] == [(2, ""), (4, "out of memory")]
    most = 0  # not even one stream
    assert [row.failed for row in step_speed.measure(wanted)] == ["out of memory"] * 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("... can't allocate memory: ...")])
def test_what_does_not_fit_is_a_row_that_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(model: ModelConfig, training: TrainingConfig, *_: Any) -> float:
        if training.batch_size == 4:
            raise error
        return 0.5

    monkeypatch.setattr(step_speed, "_seconds", seconds)
    rows = list(step_speed.measure(replace(WANTED, precisions=["fp32"])))
    assert [row.failed for row in rows] == ["", "out of memory"] * 2
    assert [row.seconds_per_step for row in rows] == [0.5, None] * 2


def test_another_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(*_: Any) -> float:
        raise RuntimeError("something else")

    monkeypatch.setattr(step_speed, "_seconds", seconds)
    with pytest.raises(RuntimeError, match="something else"):
        next(step_speed.measure(WANTED))


def test_what_the_device_has_not_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "matrix_rate", lambda *_: pytest.fail("measured"))
    with pytest.raises(UsageError, match="fp16 does not work on a cpu"):
        next(step_speed.measure(replace(WANTED, precisions=["fp32", "fp16"])))


def test_precisions_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for new in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda new=new: new)
        assert step_speed.working(torch.device("cuda")) == (["fp32", "bf16", "fp16"] if new else ["fp32", "fp16"])
    assert step_speed.working(torch.device("mps")) == ["fp32"]


# --- the command


@pytest.fixture
def bench(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    return runner(capsysbinary)


FEW = ("--device", "cpu", "--threads", "1", "--precision", "fp32", "--window", "6", "--embedding-size", "4")


def test_the_table(bench: Run) -> None:
    done = bench("bench", "speed", "--shape", "1x8", "--shape", "2x8", "--batch-size", "2", "--batch-size", "4", *FEW)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == [
        "network", "precision", "streams", "tokens/s", "ms/step", "memory", "arithmetic", "bandwidth", "re-read",
    ]  # fmt: skip
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["lstm", shape, "fp32", streams] for shape in ("1x8", "2x8") for streams in ("2", "4")
    ]
    assert "windows of 6, embedding of 4" in " ".join(" ".join(lines[5:]).split())
    assert done.err.splitlines()[1] == "lstm 1x8, fp32, 2 streams ..."


def test_json(bench: Run) -> None:
    done = bench("bench", "speed", "--shape", "1x8", "--batch-size", "2", "--cell", "gru", "--json", *FEW)
    record = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert list(record) == ["machine", "rows"]
    (row,) = record["rows"]
    assert (row["cell"], row["hidden_size"], row["batch_size"], row["window"], row["memory_bytes"]) == ("gru", 8, 2, 6, None)


def test_a_row_that_failed_is_shown(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_speed, "_measured", lambda *_: (None, None))
    done = bench("bench", "speed", "--shape", "1x8", "--batch-size", "2", *FEW)
    assert done.out.splitlines()[1].split() == ["lstm", "1x8", "fp32", "2", "out", "of", "memory"]


def test_what_was_measured_before_an_end_is_shown(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = step_speed._measured

    def interrupted(model: ModelConfig, training: TrainingConfig, where: torch.device) -> Any:
        if training.batch_size == 4:
            raise KeyboardInterrupt
        return measured(model, training, where)

    monkeypatch.setattr(step_speed, "_measured", interrupted)
    done = bench("bench", "speed", "--shape", "1x8", "--batch-size", "2", "--batch-size", "4", *FEW)
    assert done.code == 130
    assert len([line for line in done.out.splitlines() if line.startswith("lstm")]) == 1


@pytest.mark.parametrize("options", [["--shape", "8"], ["--batch-size", "0"], ["--precision", "fp64"], ["--device", "cuda"]])
def test_wrong_usage(options: list[str], bench: Run) -> None:
    if options[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("here there is one")
    done = bench("bench", "speed", *options)
    assert (done.code, done.out) == (2, "")


def test_bench_train_has_it_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "SHAPES", ((1, 8),))
    monkeypatch.setattr(speeds, "BATCHES", (2,))
    monkeypatch.setattr("charrnn.training.bench.trials", lambda *_: [])
    done = run("bench", "train", "verse.txt", "--speeds", "--threads", "1", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert [row["hidden_size"] for row in record["speeds"]] == [8, 8]
    assert list(record)[:2] == ["machine", "text"]
    assert "speeds" not in json.loads(run("bench", "train", "verse.txt", "--threads", "1", "--json").out)


@pytest.mark.gpu
def test_a_gpu_has_a_table_within_its_bounds() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    wanted = Wanted(shapes=[(1, 512), (2, 1024)], batches=[32, 512], embedding_size=128, device="cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_speed, "COPIED", 1 << 28)
        patch.setattr(step_speed, "LOOK", 0.3)
        rows = list(step_speed.measure(wanted))
    assert {row.precision for row in rows} >= {"fp32", "fp16"}
    for row in rows:
        print(row)
        assert not row.failed
        assert (row.memory_bytes or 0) > 0
        assert 0 < (row.bandwidth or 0) <= 1
        assert row.precision == "fp32" or 0 < (row.arithmetic or 0) <= 1  # cuDNN has TF32 for the other


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_says_so() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        rows = list(step_speed.measure(Wanted(shapes=[(4, 4096), (1, 64)], batches=[64], precisions=["fp16"], device="cuda")))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [row.failed for row in rows] == ["out of memory", ""]
