"""Tasks that check themselves, whole: rows of docs/make_tasks.py, learnt with what is set by default, answered to the letter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import runner

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = "12"
Exact = Callable[..., float]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Exact:
    """Makes 10,000 rows of a kind, trains on them with these options, and gives what `eval` says of those held out."""
    monkeypatch.chdir(tmp_path)
    run = runner(capsysbinary)

    def share(kind: str, *options: str) -> float:
        made = [sys.executable, str(ROOT / "docs" / "make_tasks.py"), kind, "rows.tsv", "--rows", "10000"]
        subprocess.run(made, check=True, capture_output=True)
        trained = run("train", "--task", "seq2seq", "rows.tsv", "--epochs", EPOCHS, "--threads", "1", *options)
        assert trained.code == 0, trained.err
        scored = run("eval", "rows", "rows.tsv", "--split", "val", "--threads", "1", "--json")
        assert scored.code == 0, scored.err
        record = json.loads(scored.out)
        assert record["examples"] >= 500  # so many that a hundredth can be told
        return float(record["exact_match"])

    return share


@pytest.mark.parametrize("kind", ["dates", "numbers-en", "numbers-zh"])
def test_what_is_written_in_words_is_read(kind: str, exact: Exact) -> None:
    assert exact(kind) >= 0.98


def test_letters_are_turned_round_where_the_decoder_can_look_back(exact: Exact) -> None:
    assert exact("reverse") >= 0.99


def test_letters_are_not_turned_round_from_one_vector(exact: Exact) -> None:
    """What attention is for: twenty letters are more than the encoder's last state holds after as many epochs."""
    assert exact("reverse", "--context", "last") < 0.5
