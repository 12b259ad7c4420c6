"""A text that lies on the device is cut into the same windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charrnn.runs.checkpoint import tensor_digest
from charrnn.training import resident
from charrnn.training.batching import Cursor, Streams
from tests.test_learner import advance, make

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_the_windows_are_the_same(kind: type[np.generic]) -> None:
    tokens = np.random.default_rng(1).integers(0, 250, 700).astype(kind)
    plain = Streams(tokens, 5, 9, 3, 0.3)
    kept, cursor = resident.resident(CPU, plain), Cursor()
    for _ in range(2 * plain.windows_per_epoch + 1):
        one, other = plain.at(cursor), kept.at(cursor)
        assert np.array_equal(one.inputs, other.inputs)
        assert np.array_equal(one.targets, other.targets)
        assert np.array_equal(one.reset, other.reset)
        assert one.after == other.after
        cursor = one.after
    assert (kept.windows_per_epoch, kept.tokens_per_window) == (plain.windows_per_epoch, plain.tokens_per_window)


def test_what_is_learnt_is_the_same() -> None:
    learner = make(micro_batch=3)
    learner.feed = resident.resident(CPU, learner.feed)  # type: ignore[arg-type]
    assert tensor_digest(advance(learner, 12).tensors()) == tensor_digest(advance(make(micro_batch=3), 12).tensors())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tokens_out_of_the_cache_may_not_be_written_to_and_are_not(kind: type[np.generic]) -> None:
    tokens = np.arange(100).astype(kind)
    tokens.flags.writeable = False  # torch warns of such a one, and a warning is an error here
    kept = resident.resident(CPU, Streams(tokens, 2, 9, 3)).kept
    assert kept.tolist() == tokens.tolist()
    kept[0] = 7
    assert tokens[0] == 0


def test_where_there_is_no_room_for_the_text_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(resident, "resident", short)
    feed = make().feed
    assert resident.kept_on(torch.device("cuda"), feed) is feed


def test_on_a_cpu_nothing_moves() -> None:
    feed = make().feed
    assert resident.kept_on(CPU, feed) is feed


@pytest.mark.gpu
def test_on_a_gpu_it_does() -> None:
    feed = make(device=torch.device("cuda")).feed
    assert isinstance(feed, resident.Resident)
    assert feed.kept.device.type == "cuda"
