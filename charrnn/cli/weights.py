"""The weights of a run in the terminal: a table of them by their textbook names, and all their numbers as text.

Knows how they are shown; what they are called, and what is computed of them, is in charrnn.runs.named. NumPy is imported
once there is a model to show.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charrnn.cli import console, destination

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.runs.named import Named

WIDTH = 80  # off a terminal, and where that is not wider
LEGEND = """\
E embedding, U input-to-hidden, W hidden-to-hidden, V hidden-to-output
b hidden bias, in two parts (b_U beside U, b_W beside W), c output bias
norm: Frobenius, of a vector Euclidean; radius: the largest absolute eigenvalue
"""
DUMP_FORMAT = "# charrnn weights 1"


def show(model: Model, as_json: bool) -> None:
    """Write the table, row by row as it is computed: the eigenvalues of a large block take seconds."""
    blocks = _blocks(model)
    with console.Output() as out:
        if as_json:
            record = {"name": model.name, "digest": model.digest, "weights": [_record(block) for block in blocks]}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        out.write(LEGEND + "\n")
        for line in _table(blocks, _width(out)):
            out.write(line + "\n")


def dump(model: Model, output: str) -> None:
    """Write every number of every block into a file or, for `-`, to stdout."""
    blocks = _blocks(model)
    with destination.opened(output, "--dump") as out:
        out.write(f"{DUMP_FORMAT}\trun {json.dumps(model.name)}\tdigest {json.dumps(model.digest)}\n")
        for block in blocks:
            for line in _numbers(block):
                out.write(line + "\n")
    if output != "-":
        console.note(f"wrote {sum(block.values.size for block in blocks):,} numbers to {output}")


def _blocks(model: Model) -> list[Named]:
    from charrnn.runs.named import named

    return list(named(model.weights, model.config.cell, tied=model.config.tie_weights))


def _numbers(block: Named) -> Iterator[str]:
    """A block as text: a line that says what it is, then a row of numbers a line, each the shortest that reads back exactly."""
    shape, kind = "x".join(map(str, block.values.shape)), str(block.values.dtype)
    yield "# " + "\t".join((_clean(block.tensor), block.index, shape, kind, _clean(block.name)))
    for row in block.values if block.values.ndim > 1 else block.values[None]:
        yield " ".join(map(str, row))  # str of a NumPy number: what is shortest in its own precision


def _table(blocks: list[Named], width: int) -> Iterator[str]:
    """A header and a line for each block; where that is too wide, the tensor stands below its name."""
    names = [_clean(block.name) for block in blocks]
    places = [_clean(block.tensor) + ("" if block.place is None else f"[{block.index}]") for block in blocks]
    shapes = ["x".join(map(str, block.values.shape)) for block in blocks]
    longest, broadest = (max(map(len, column), default=0) for column in (names, shapes))
    folded = longest + broadest + max(map(len, places), default=0) + 22 > width
    below = "\n    " if folded else "  "

    def line(name: str, shape: str, norm: str, radius: str, place: str) -> str:
        return f"{name:<{longest}}  {shape:>{broadest}}  {norm:>7}  {radius:>7}{below}{place}"

    yield line("name", "shape", "norm", "radius", "tensor")
    for block, name, shape, place in zip(blocks, names, shapes, places, strict=True):
        radius = block.spectral_radius()
        yield line(name, shape, _figure(block.norm), "" if radius is None else _figure(radius), place)


def _record(block: Named) -> dict[str, Any]:
    place = None if block.place is None else [block.place.start, block.place.stop]
    return {
        "name": block.name,
        "tensor": block.tensor,
        "rows": place,
        "shape": list(block.values.shape),
        "norm": block.norm,
        "spectral_radius": block.spectral_radius(),
    }


def _figure(value: float) -> str:
    return f"{value:.3f}" if value < 999.9995 else f"{value:.4g}"


def _clean(text: str) -> str:
    """A name on one line, whatever a file has in it."""
    return console.visible(text.replace("\n", "\u240a").replace("\t", "\u2409"))


def _width(out: console.Output) -> int:
    return max(WIDTH, shutil.get_terminal_size().columns) if out.tty else WIDTH
