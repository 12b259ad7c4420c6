"""The textbook's own example, whole: handwritten digits, a row of pixels a step, told apart as well as is promised."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from charrnn.cli import main

pytestmark = pytest.mark.slow


def test_digits_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn, of the test extra")
    monkeypatch.chdir(tmp_path)
    digits = datasets.load_digits()
    np.savez("digits.npz", x=digits.images.astype(np.float32), y=digits.target)
    assert main.run(["train", "--task", "classify", "--input", "rows", "digits.npz", "--threads", "1"]) == 0
    found = re.search(r"held-out accuracy ([\d.]+)%", capsys.readouterr().err)
    assert found is not None
    assert float(found[1]) >= 97
    for name, array in (("images.idx3-ubyte", digits.images), ("labels.idx1-ubyte", digits.target)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        Path(name).write_bytes(head + array.astype(np.uint8).tobytes())  # as MNIST has them
    assert main.run(["eval", "digits", "images.idx3-ubyte", "labels.idx1-ubyte", "--split", "val", "--json"]) == 0
    accuracy = re.search(r'"accuracy": ([\d.]+)', capsys.readouterr().out)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.97
