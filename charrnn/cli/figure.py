"""Charts as a picture, drawn by matplotlib, which is an extra: the only file that imports it, and only when one is wanted."""

from __future__ import annotations

import io
from collections.abc import Sequence

from charrnn.cli.chart import Chart
from charrnn.errors import CharrnnError

# Without the time at which it was drawn and with names that do not change, so that the same log gives the same file.
DATELESS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
SIZE, SALT = (8.0, 9.0), "charrnn"  # inches


def picture(charts: Sequence[Chart], kind: str) -> bytes:
    """The charts one below the other, as "png", "svg" or "pdf"; raises CharrnnError where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CharrnnError(
            "a picture needs matplotlib, which is not installed.",
            "Type: python -m pip install matplotlib    (without -o the charts are drawn in the terminal)",
        ) from error
    with matplotlib.rc_context({"svg.hashsalt": SALT}):
        figure = Figure(figsize=SIZE, layout="constrained")
        panels = figure.subplots(len(charts), 1, squeeze=False)[:, 0]
        for panel, chart in zip(panels, charts, strict=True):
            for line in chart.lines:
                steps, values = [step for step, _ in line.points], [value for _, value in line.points]
                panel.plot(steps, values, "o-" if line.marked else "-", label=line.name, markersize=3, linewidth=1)
            panel.set_ylabel(chart.title)
            panel.set_yscale("log" if chart.logarithmic else "linear")
            panel.grid(alpha=0.3)
            panel.legend()
        panels[-1].set_xlabel("step")
        data = io.BytesIO()
        figure.savefig(data, format=kind, metadata=DATELESS[kind])
    return data.getvalue()
