"""The live panel, drawn as text on consoles of any width."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from charrnn.cli.panel import BLOCKS, MOST_POINTS, LossCurve, Panel, sparkline
from charrnn.cli.progress import Lines, duration, short_number
from charrnn.training.events import Evaluated, Finished, Sampled, Saved, Started, Step

NASTY = "[/INST] list[int] [bold]x[/bold] \x1b[31mred :smile:\n漢字かな交じり文" * 3 + "\nlast line\twith a tab"


def started(**changes: Any) -> Started:
    values: dict[str, Any] = {
        "name": "poems", "folder": Path("checkpoints/poems"), "settings": {}, "parameters": 412_345, "characters": 120_000,
        "vocab_size": 80, "train_tokens": 108_000, "val_tokens": 12_000, "steps": 3200, "step": 0, "device": "cpu",
        "command": "charrnn train poems.txt --steps 3200", "notes": ("[/b] char: 76 distinct characters",),
    }  # fmt: skip
    return Started(**(values | changes))


def step(number: int, loss: float = 1.5) -> Step:
    return Step(number, 3200, number / 1000, loss, 0.542, 7e-3, 0.213, 51_234.0, 12.0, 80.0, 512_000_000)


EVALUATED = Evaluated(1200, 1.601, 2.3097, 2.2, 4.958, 0.5312, True, "validation", 13.0)
FINISHED = Finished(3200, "done", 1200, 1.601, 2.3097, 100.0, Path("checkpoints/poems"))


def drawn(panel: Panel, console: Console) -> str:
    with console.capture() as capture:
        console.print(panel.render())
    return capture.get()


def console_of(width: int, height: int = 40) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=False, markup=False, emoji=False,
        highlight=False, legacy_windows=False,
    )  # fmt: skip


def fed(console: Console) -> Panel:
    panel = Panel(console)
    for event in (step(1100, 2.0), step(1200), EVALUATED, Sampled(1200, NASTY), Saved(1200, Path("x/last.safetensors"))):
        panel.feed(event)
    panel._started = started()
    return panel


@pytest.mark.parametrize("width", [*range(40, 101), 120, 160, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    console = console_of(width)
    for line in drawn(fed(console), console).splitlines():
        assert cell_len(line) == width  # the frame fills the width exactly, also around wide characters


@pytest.mark.parametrize("height", [5, 14, 24, 60])
def test_a_sample_leaves_room_for_the_rest(height: int) -> None:
    console = console_of(100, height)
    panel = fed(console)
    panel.feed(Sampled(1200, "line\n" * 100))
    rows = drawn(panel, console).splitlines()
    assert sum("line" in row for row in rows) == max(1, min(12, height - 11))
    if height >= 14:
        assert len(rows) < height


def test_everything_there_is_to_know_is_shown() -> None:
    console = console_of(110)
    text = drawn(fed(console), console)
    for expected in (
        "poems", "38%", "step 1,200 of 3,200", "epoch 1.20", "0:12 gone, 1:20 left", "train loss", "1.5000",
        "validation loss", "1.6010 *", "bits/char", "2.3097", "53.1%", "7.00e-03", "0.213", "51.2k", "512MB", "loss  █▁",
        "sample at step 1,200",
    ):  # fmt: skip
        assert expected in text


def test_a_sample_is_never_markup_and_never_acts() -> None:
    console = console_of(200)
    text = drawn(fed(console), console)
    assert "[/INST] list[int] [bold]x[/bold] ␛[31mred :smile:" in text
    assert "\x1b" not in text


def test_before_the_first_step_it_can_be_drawn() -> None:
    console = console_of(80)
    panel = Panel(console)
    panel.feed(started())
    assert "step 0 of 3,200" in drawn(panel, console)
    panel.__exit__(None, None, None)


class Counting(Panel):
    """A panel that counts how often it is drawn."""

    drawings = 0

    def render(self) -> RenderableType:
        self.drawings += 1
        return super().render()


def test_it_is_drawn_at_most_eight_times_a_second() -> None:
    now = [0.0]
    console = console_of(80)
    with Counting(console, clock=lambda: now[0]) as panel:
        panel.feed(started())
        before = panel.drawings
        for number in range(1, 2001):  # two seconds, a step each millisecond
            now[0] = number / 1000
            panel.feed(step(number))
        assert 8 <= panel.drawings - before <= 16
        panel.feed(FINISHED)
    assert "2,000" in console.file.getvalue()  # type: ignore[attr-defined]  # the last state is drawn at the end


@given(st.lists(st.floats(0, 20, allow_subnormal=False), max_size=300), st.integers(0, 200))
def test_a_sparkline_fits_and_keeps_order(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS)
    if 0 < len(values) <= width:  # one character a value: their order is kept
        heights = [BLOCKS.index(character) for character in line]
        by_value = [height for _, height in sorted(zip(values, heights, strict=True))]
        assert by_value == sorted(by_value)
        assert min(heights) == 0


@given(st.integers(0, 5000), st.floats(0.1, 10))
def test_the_loss_curve_is_bounded_and_keeps_the_mean(count: int, loss: float) -> None:
    curve = LossCurve()
    for _ in range(count):
        curve.add(loss)
    curve.add(math.nan)
    assert len(curve.points) < MOST_POINTS
    assert all(math.isclose(point, loss) for point in curve.points)
    assert bool(curve.points) is (count > 0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (3723, "1:02:03"), (math.nan, "--"), (math.inf, "--")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (512, "512"), (999.7, "1.0k"), (51_234, "51.2k"), (512e6, "512M"), (1.26e9, "1.3G")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text


def test_plain_lines_are_few() -> None:
    now, lines = [0.0], list[str]()
    listener = Lines(lines.append, clock=lambda: now[0])
    listener.feed(started())
    assert lines[1] == "note: [/b] char: 76 distinct characters"
    for number in range(1, 2001):  # twenty seconds
        now[0] = number / 100
        listener.feed(step(number))
    assert len(lines) - 2 == 4
    listener.feed(EVALUATED)
    listener.feed(Sampled(1200, "one\x1b\ntwo\n"))
    listener.feed(Saved(1200, Path("x/last.safetensors")))
    listener.feed(FINISHED)
    assert lines[6:] == [
        "step 1,200  validation loss 1.6010  2.3097 bits/char  perplexity 4.96  accuracy 53.1%  (best so far)",
        "sample at step 1,200:", "  | one␛", "  | two",
    ]  # fmt: skip
