"""Two ranks of one thread against one process of two threads, and of one: the table in docs/scaling.md.

    python docs/measure_ranks.py TEXT --rounds 5 --steps 150

Each round trains the same network for so many steps in each of the ways, one after the other, so that what else the
machine does falls on all alike. Tokens per second are the median of a run's own log, its first fifth left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPES = ((256, 1), (512, 1), (512, 2))
WAYS = {
    "one process, 1 thread": ([sys.executable, "-m", "charrnn"], 1),
    "one process, 2 threads": ([sys.executable, "-m", "charrnn"], 2),
    "2 ranks, 1 thread each": ([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "charrnn"], 1),
}


def tokens_per_second(way: str, text: str, shape: tuple[int, int], batch: int, steps: int, folder: Path) -> float:
    """The median over the steps of one run."""
    start, threads = WAYS[way]
    hidden, layers = shape
    settings = ["--hidden-size", hidden, "--layers", layers, "--batch-size", batch, "--steps", steps, "--threads", threads]
    command = [
        *start,
        "train",
        text,
        *map(str, settings),
        "--name",
        "x",
        "--checkpoints",
        str(folder),
        "--eval-every",
        str(steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [json.loads(line) for line in (folder / "x" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [line["tokens_per_second"] for line in lines if line["event"] == "step" and line["step"] > steps / 5]
    return statistics.median(found)


def main() -> None:
    """Print a row for each shape and batch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, action="append", help="32 and 128 by default")
    asked = parser.parse_args()
    print("| size | batch |", " | ".join(WAYS), "| ranks over 2 threads | over 1 thread |")
    print("|---" * (len(WAYS) + 4) + "|")
    for shape in SHAPES:
        for batch in asked.batch_size or (32, 128):
            rows: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(asked.rounds):
                for way in WAYS:
                    with tempfile.TemporaryDirectory() as folder:
                        rows[way].append(tokens_per_second(way, asked.text, shape, batch, asked.steps, Path(folder)))
            one, two, ranks = (rows[way] for way in WAYS)
            ratios = [statistics.median(a / b for a, b in zip(ranks, other, strict=True)) for other in (two, one)]
            shown = " | ".join(f"{statistics.median(rows[way]) / 1e3:.1f}k" for way in WAYS)
            print(f"| {shape[1]}x{shape[0]} | {batch} | {shown} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
