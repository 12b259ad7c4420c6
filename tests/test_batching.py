"""Streams and windows: every token is learnt in order, cut where the plan says, the same from the same cursor."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charrnn.training.batching import Cursor, Streams, fit


def make(tokens: int, batch: int, window: int, **more: float) -> Streams:
    batch, window = fit(tokens, batch, window)
    return Streams(np.arange(tokens, dtype=np.uint32), batch, window, int(more.get("seed", 1)), more.get("reset", 0.0))


@given(st.integers(5, 3000), st.integers(1, 40), st.integers(1, 70), st.integers(0, 5))
def test_targets_follow_inputs_and_streams_run_on(tokens: int, batch: int, window: int, seed: int) -> None:
    streams = make(tokens, batch, window, seed=seed)
    cursor, ends = Cursor(), None
    for _ in range(2 * streams.windows_per_epoch):
        piece = streams.at(cursor)
        assert piece.inputs.shape == (streams.window, streams.batch_size)
        assert np.array_equal(piece.targets, piece.inputs + 1)
        assert piece.targets.max() < tokens
        if cursor.window:
            assert np.array_equal(piece.inputs[0], ends)
        else:
            assert piece.reset.all()
        cursor, ends = piece.after, piece.targets[-1]
    assert cursor == Cursor(2, 0)


def test_an_epoch_sees_nearly_all_of_the_text_once() -> None:
    streams = make(10_000, 4, 50)
    seen = np.concatenate([streams.at(Cursor(0, w)).inputs.ravel() for w in range(streams.windows_per_epoch)])
    assert len(set(seen.tolist())) == len(seen) > 9_700


def test_the_phase_moves_from_epoch_to_epoch() -> None:
    streams = make(10_000, 4, 50)
    assert len({int(streams.at(Cursor(epoch, 0)).inputs[0, 0]) for epoch in range(20)}) > 10


def test_a_window_depends_on_its_cursor_alone() -> None:
    one, other = make(5000, 8, 20, reset=0.3), make(5000, 8, 20, reset=0.3)
    one.at(Cursor(0, 3))
    for cursor in (Cursor(0, 7), Cursor(2, 1)):
        a, b = one.at(cursor), other.at(cursor)
        assert np.array_equal(a.inputs, b.inputs)
        assert np.array_equal(a.reset, b.reset)


def test_streams_are_reset_as_often_as_asked() -> None:
    # 12,000 draws at 0.05: mean 600, standard deviation 24; five of them either way fails falsely once in 1.7 million.
    streams = make(400_000, 100, 20, reset=0.05)
    resets = sum(int(streams.at(Cursor(0, window)).reset.sum()) for window in range(1, 121))
    assert abs(resets - 600) < 120


@given(st.integers(2, 5000), st.integers(1, 64), st.integers(1, 256))
def test_fit_never_asks_for_more_than_there_is(tokens: int, batch: int, window: int) -> None:
    fitted_batch, fitted_window = fit(tokens, batch, window)
    assert 1 <= fitted_batch <= batch
    assert 1 <= fitted_window <= window
    assert fitted_batch * fitted_window <= tokens - 1
