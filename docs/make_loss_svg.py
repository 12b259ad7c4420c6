"""Draw loss on unseen text against training time: python docs/make_loss_svg.py LABEL=RUN ... > docs/loss.svg

RUN is the folder of a run or its metrics.jsonl; each becomes a line through its evaluations, in nats per token, over the
wall-clock since its process started (logarithmic). The number behind a label is the line's last loss. Standard library
only. The background is transparent and the greys are readable on white and on black.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape

TITLE = "Loss on unseen text against training time"
WIDTH, HEIGHT = 760, 420
LEFT, TOP, BOTTOM = 62, 52, 54  # margins; the right one is as wide as the labels
LETTER = 7.2  # pixels of a letter, about
LABEL_HEIGHT = 16
CLOSEST = 46  # pixels between labels below the time axis, at least
GREY = "#888888"
COLOURS = ("#3f8fd2", "#e07b39", "#3fa66b", "#c2569b", "#8b78d0", "#b08d28", "#2fa3a3", "#d05555")
TIMES = {
    1: "1 s", 2: "2 s", 5: "5 s", 10: "10 s", 20: "20 s", 30: "30 s", 60: "1 min", 120: "2 min", 300: "5 min", 600: "10 min",
    1200: "20 min", 1800: "30 min", 3600: "1 h", 7200: "2 h", 18000: "5 h", 36000: "10 h", 86400: "1 day",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One run: its label and its evaluations as (seconds, nats per token)."""

    label: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """From seconds and nats to pixels."""

    seconds: tuple[float, float]
    loss: tuple[float, float]
    right: float  # margin, pixels

    def x(self, seconds: float) -> float:
        """Pixels from the left; logarithmic."""
        low, high = (math.log(end) for end in self.seconds)
        return LEFT + (math.log(seconds) - low) / (high - low) * (WIDTH - LEFT - self.right)

    def y(self, loss: float) -> float:
        """Pixels from the top."""
        low, high = self.loss
        return TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)


@dataclass(frozen=True)
class Box:
    """A place that is taken: pixels from the left, and `half` above and below `y`."""

    left: float
    right: float
    y: float
    half: float

    def touches(self, other: Box) -> bool:
        """Whether the two overlap."""
        beside = self.right < other.left or self.left > other.right
        return not beside and abs(self.y - other.y) < self.half + other.half


def main(arguments: list[str]) -> None:
    """Write the picture of the runs in `arguments` to stdout."""
    if not arguments:
        sys.exit("usage: python docs/make_loss_svg.py LABEL=FOLDER_OR_METRICS_JSONL ... > docs/loss.svg")
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(draw([read(argument) for argument in arguments]))


def read(argument: str) -> Line:
    """The line that LABEL=PATH means; leaves with a message if there is none."""
    label, equals, name = argument.partition("=")
    if not (label and equals and name):
        sys.exit(f"found {argument!r}; expected LABEL=FOLDER or LABEL=metrics.jsonl")
    path = Path(name) / "metrics.jsonl" if Path(name).is_dir() else Path(name)
    try:
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {str(path)!r}: {error}")
    points = [(event["seconds"], event["loss"]) for event in events if event["event"] == "evaluated"]
    points = [point for point in points if point[1] is not None and point[0] > 0]
    if not points:
        sys.exit(f"{str(path)!r} holds no evaluation; train for longer")
    return Line(label, points)


def draw(lines: list[Line]) -> str:
    """The whole picture."""
    scale = scale_of(lines)
    body = [*time_axis(scale), *loss_axis(scale)]
    for line, colour in zip(lines, colours(len(lines)), strict=True):
        body.append(curve(line, colour, scale))
    body += labels(lines, scale)
    names = ", ".join(f"{line.label} {line.points[-1][1]:.3f}" for line in lines)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
            f"<title>{TITLE}</title>",
            f"<desc>Last losses in nats per token: {escape(names)}</desc>",
            f'<text x="{LEFT}" y="26" font-size="16" font-weight="600" fill="{GREY}">{TITLE}</text>',
            *body,
            "</svg>",
        ]
    )


def scale_of(lines: list[Line]) -> Scale:
    """Axes that hold all points with a little room around them, and as much room for labels as the longest needs."""
    seconds = [point[0] for line in lines for point in line.points]
    losses = [point[1] for line in lines for point in line.points]
    room = 0.05 * (max(losses) - min(losses)) or 0.05
    right = 18 + LETTER * min(32, max(len(text_of(line)) for line in lines))
    return Scale((min(seconds) / 1.15, max(seconds) * 1.02), (min(losses) - 2 * room, max(losses) + room), right)


def tick_step(span: float) -> float:
    """The roundest step (1, 2 or 5 times a power of ten) that cuts `span` into at most seven."""
    power = 10 ** math.floor(math.log10(span / 7))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 7)


def time_axis(scale: Scale) -> list[str]:
    """Ticks at round times, as many as there is room for, and the name of the axis."""
    parts, last, bottom = [], -math.inf, HEIGHT - BOTTOM
    for seconds, text in TIMES.items():
        if not scale.seconds[0] <= seconds <= scale.seconds[1] or scale.x(seconds) - last < CLOSEST:
            continue
        last = x = scale.x(seconds)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{GREY}" stroke-opacity="0.18"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle" fill="{GREY}">{text}</text>')
    middle = (LEFT + WIDTH - scale.right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 12}" text-anchor="middle" fill="{GREY}">wall-clock since the start</text>')
    return parts


def loss_axis(scale: Scale) -> list[str]:
    """A line across for each round loss, and the name of the axis."""
    low, high = scale.loss
    step = tick_step(high - low)
    digits = max(1, -math.floor(math.log10(step) + 1e-9))
    parts = []
    for number in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1):
        y = scale.y(number * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - scale.right:.1f}" stroke="{GREY}" stroke-opacity="0.3"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4.5:.1f}" text-anchor="end" fill="{GREY}">{number * step:.{digits}f}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(18 {middle:.1f}) rotate(-90)"'
    return [*parts, f'<text {turned} text-anchor="middle" fill="{GREY}">nats per token</text>']


def curve(line: Line, colour: str, scale: Scale) -> str:
    """The line itself, with a dot at its end."""
    places = [(scale.x(seconds), scale.y(loss)) for seconds, loss in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>'
    )


def labels(lines: list[Line], scale: Scale) -> list[str]:
    """Each label behind the end of its line, or as near as no other label and no line is in the way."""
    parts, taken = [], [spot for line in lines for spot in spots(line, scale)]
    ends = [(scale.y(line.points[-1][1]), line, colour) for line, colour in zip(lines, colours(len(lines)), strict=True)]
    for y, line, colour in sorted(ends, key=lambda end: end[0]):
        left, text = scale.x(line.points[-1][0]) + 8, text_of(line)
        box = free_box(Box(left, left + LETTER * len(text), y, LABEL_HEIGHT / 2), taken)
        taken.append(box)
        parts.append(f'<text x="{left:.1f}" y="{box.y + 4.5:.1f}" font-weight="600" fill="{colour}">{escape(text)}</text>')
    return parts


def spots(line: Line, scale: Scale) -> list[Box]:
    """Small boxes along a line, close enough together that no label slips through."""
    found = []
    for (x, y), (to_x, to_y) in itertools.pairwise((scale.x(seconds), scale.y(loss)) for seconds, loss in line.points):
        parts = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / 4))
        for part in range(parts + 1):
            at = x + (to_x - x) * part / parts
            found.append(Box(at - 2, at + 2, y + (to_y - y) * part / parts, 2))
    return found


def free_box(wanted: Box, taken: list[Box]) -> Box:
    """The box moved up or down, as little as will do, so that it touches none of `taken`; inside the picture."""
    for shift in range(HEIGHT):
        for moved in (replace(wanted, y=wanted.y + shift), replace(wanted, y=wanted.y - shift)):
            if TOP - 4 < moved.y < HEIGHT - BOTTOM - 4 and not any(moved.touches(other) for other in taken):
                return moved
    return wanted


def text_of(line: Line) -> str:
    """What stands behind the end of a line."""
    return f"{line.label} {line.points[-1][1]:.3f}"


def colours(number: int) -> list[str]:
    """A colour for each line; from the ninth on they come again."""
    return [COLOURS[i % len(COLOURS)] for i in range(number)]


if __name__ == "__main__":
    main(sys.argv[1:])
