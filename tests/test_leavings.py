"""What may stand in the folder of a run when one comes to it: damage, leavings of the killed, a stranger's links."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import Run
from forked import Child, command, forked, running
from test_crash import FILES, TINY, await_file, saved_step

from charrnn import durable
from charrnn.errors import CheckpointError
from charrnn.runs import model as runs
from charrnn.runs.model import METRICS_FILE


def test_a_damaged_last_save_leaves_the_model_usable_and_says_so(run: Run, trained: Path) -> None:
    last = trained / "checkpoints" / "verse" / runs.LAST_FILE
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    done = run("train", "--resume", "verse", "--steps", "80")
    assert done.code == CheckpointError.exit_code
    assert "last.safetensors' is damaged" in done.err
    assert "is whole: `charrnn sample`" in done.err
    assert run("sample", "verse", "--length", "20").code == 0


@pytest.mark.parametrize("cut", [False, True])  # killed while it logged; a disk that lost what it had promised to keep
def test_a_torn_last_line_of_the_log_is_taken_off(cut: bool, run: Run, trained: Path) -> None:
    log = trained / "checkpoints" / "verse" / METRICS_FILE
    log.write_bytes(log.read_bytes()[:-20] if cut else log.read_bytes() + b'{"event": "st')
    assert run("train", "--resume", "verse", "--steps", "60").code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["step"] == 60


def test_what_killed_writers_left_goes_with_the_next_write(tmp_path: Path) -> None:
    child = Child(lambda: 0)
    dead = child.pid
    child.end()
    stray, ours = (tmp_path / f".poem.txt.{number}{durable.TEMPORARY_SUFFIX}" for number in (dead, os.getppid()))
    stray.write_bytes(b"half")
    ours.write_bytes(b"somebody at work")
    durable.replace(tmp_path / "poem.txt", b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["poem.txt", ours.name])


def test_a_damaged_model_points_to_the_last_save(run: Run, trained: Path) -> None:
    folder = trained / "checkpoints" / "verse"
    (folder / runs.MODEL_FILE).write_bytes((folder / runs.MODEL_FILE).read_bytes()[:-1])
    done = run("sample", "verse")
    assert done.code == CheckpointError.exit_code
    assert "model.safetensors' is damaged" in done.err
    assert "checkpoints/verse/last.safetensors'" in done.err
    assert run("sample", "checkpoints/verse/last.safetensors", "--length", "20").code == 0


def test_a_damaged_model_is_put_right_by_going_on(run: Run, trained: Path) -> None:
    model = trained / "checkpoints" / "verse" / runs.MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1])
    done = run("train", "--resume", "verse", "--steps", "60")
    assert done.code == 0
    assert "the best model, of before, is damaged or gone" in done.err
    assert run("sample", "verse", "--length", "20").code == 0


@pytest.mark.parametrize("name", ["lock", "lock.holder", METRICS_FILE, runs.MODEL_FILE, runs.LAST_FILE, "ngrams.safetensors"])
def test_links_and_pipes_in_a_strangers_run_are_refused(name: str, run: Run, trained: Path) -> None:
    """Going on would write to what they lead to, or wait for ever."""
    path, victim = trained / "checkpoints" / "verse" / name, trained / "victim"
    victim.write_bytes(path.read_bytes() if path.exists() else b"mine")
    before = victim.read_bytes()
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    done = run("train", "--resume", "verse", "verse.txt", "--steps", "60")
    assert done.code == CheckpointError.exit_code
    assert name in done.err
    assert victim.read_bytes() == before
    path.unlink()
    os.mkfifo(path)
    assert run("train", "--resume", "checkpoints/verse", "verse.txt", "--steps", "60").code == CheckpointError.exit_code


def test_what_was_killed_before_its_first_save_is_out_of_the_way(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    new = ("train", "verse.txt", "--name", "long", *TINY[:-1], "100000", "--steps", "100000")
    run = trained / "checkpoints" / "long"
    with running(Child(command(*new))) as child:
        await_file(run / METRICS_FILE)
        refused = forked(command(*new))
        assert refused.code == 2, refused.err  # somebody is at work there
        child.kill()
        child.end()
    assert not any((run / name).exists() for name in FILES)
    assert forked(command("train", "verse.txt", "--name", "long", *TINY, "--steps", "5")).code == 0
    assert saved_step(run) == 5
