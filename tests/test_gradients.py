"""The gradient of a batch in parts: the same as of the whole, and smaller parts where memory is short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.errors import CharrnnError
from charrnn.runs import checkpoint
from charrnn.runs.checkpoint import tensor_digest
from charrnn.training import device as machine
from charrnn.training import job
from charrnn.training.distributed import ALONE, Ranks, joined
from charrnn.training.events import Adjusted, Event, Started
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from charrnn.training.tasks import TASKS
from tests.ranks import together
from tests.test_distributed import KINDS, SMALL, in_float64, prepared, text, written
from tests.test_learner import advance, make

SHORT = (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError())


@contextmanager
def room_for(streams: int, task: str = "language", error: Exception = SHORT[0]) -> Iterator[list[int]]:
    """Memory that holds so many streams at once, no more; yields the widths that were tried."""
    module, tried = TASKS[task], list[int]()
    plain = module.loss

    def loss(network: Any, batch: Any, *rest: Any) -> Any:
        tried.append(batch.width)
        if batch.width > streams:
            raise error
        return plain(network, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "loss", loss)
        yield tried


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole(tmp_path: Path, kind: str, size: int) -> None:
    path, wishes = written(tmp_path, kind)
    torch.set_num_threads(1)
    whole, parts = (in_float64(path, {**wishes, "micro_batch": most}, ALONE, steps=12) for most in (0, size))
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=0, atol=1e-9 * max(1.0, float(np.abs(array).max())), err_msg=name)


@pytest.mark.parametrize("error", SHORT, ids=["cuda", "cpu", "python"])
def test_a_step_that_does_not_fit_is_made_in_halves(error: Exception) -> None:
    with room_for(1, error=error) as tried:
        learner = advance(make(batch_size=7), 2)
    assert tried == [7, 4, 2, *[1] * 14]
    assert learner.training.micro_batch == 1
    calm = {"dropout_output": 0.0, "dropout_embedding": 0.0, "precision": "fp32"}
    with room_for(2, error=error):
        short = advance(make(batch_size=4, **calm), 10)
    for one, other in zip(short.network.parameters(), advance(make(batch_size=4, **calm), 10).network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_another_error_is_no_lack_of_memory() -> None:
    with room_for(2, error=RuntimeError("something else")), pytest.raises(RuntimeError, match="something else"):
        advance(make(batch_size=4), 1)


def test_not_even_one_stream_fits() -> None:
    learner = advance(make(batch_size=4), 3)
    before = tensor_digest(learner.tensors())
    with room_for(0), pytest.raises(CharrnnError, match="even with one of the 4 streams") as raised:
        learner.advance()
    assert "--hidden-size" in raised.value.hint
    assert (learner.step, learner.cursor.window) == (3, 3)
    assert tensor_digest(learner.tensors()) == before


def test_the_smaller_size_is_said_and_saved_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, asked = text(tmp_path), {**SMALL, "batch_size": 8, "eval_every": 5}
    with room_for(3):
        events: list[Event] = list(job.run([str(path)], asked=asked, name="x", bound=Bound(steps=10)))
    (said,) = [event for event in events if isinstance(event, Adjusted)]
    assert (said.step, said.note) == (1, "memory is short: 2 streams at a time, same gradient")
    for name in ("last.safetensors", "model.safetensors"):
        metadata = checkpoint.read(Path("checkpoints/x") / name).metadata
        assert metadata["provenance"]["settings"]["micro_batch"] == 2
    assert metadata["provenance"]["settings"]["batch_size"] == 8
    with room_for(3) as tried:
        again = list(job.resume(Path("checkpoints/x"), bound=Bound(steps=12)))
    assert max(tried) == 2
    assert not any(isinstance(event, Adjusted) for event in again)
    assert isinstance(again[0], Started)
    assert again[0].settings["micro_batch"] == 2


def test_where_one_rank_is_short_all_take_less(tmp_path: Path) -> None:
    path, wishes = written(tmp_path, "language")
    expected = in_float64(path, wishes, ALONE, steps=10)

    def work(rank: int) -> int:
        with joined() as ranks, room_for(1 if rank else 99):
            found = in_float64(path, wishes, ranks, steps=10)
            np.savez(tmp_path / f"{rank}.npz", **found)
        return 0

    ended = together(2, work)
    assert [one.code for one in ended] == [0, 0], ended
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz", allow_pickle=False)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-9 * max(1.0, float(np.abs(array).max())), err_msg=name)


def test_a_rank_with_nothing_of_the_first_batch_has_a_scale_of_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wishes = written(tmp_path, "classify")
    material, model, training = prepared(path, wishes)
    monkeypatch.setattr(machine, "resolve_precision", lambda precision, device: "fp16")
    for name in ("add", "copy"):
        monkeypatch.setattr(Ranks, name, lambda self, tensors: None)
    monkeypatch.setattr(Ranks, "any", lambda self, wish: wish)
    monkeypatch.setattr(Ranks, "share", lambda self, width: slice(0, 0))
    learner = Learner(model, training, material.data.train, torch.device("cpu"), Ranks(0, 2))
    learner.advance()
    assert learner.progress()["scaler"]["scale"] == 65536


def test_shares_and_parts_of_a_window() -> None:
    learner = make(batch_size=5)
    window = learner.feed.at(learner.cursor)
    parts = [window.part(Ranks(rank, 2).share(5)) for rank in range(2)]
    assert [part.width for part in parts] == [2, 3]
    assert np.array_equal(np.concatenate([part.targets for part in parts], 1), window.targets)
