"""Ranks on machines of their own: what only the first of them has, and a rank that ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.forked import command
from tests.ranks import environments, together
from tests.test_distributed import text, trained


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.mark.parametrize("run", ["x", "checkpoints/x/last.safetensors", ""])
def test_a_resumed_run_lies_where_the_first_rank_is_alone(tmp_path: Path, run: str) -> None:
    text(tmp_path)
    trained(tmp_path, 1, "checkpoints", stop_at=11)
    (tmp_path / "other").mkdir()
    text(tmp_path / "other")

    def work(rank: int) -> int:
        os.chdir("other" if rank else ".")
        return command("train", f"--resume={run}", "words.txt")()

    ended = together(2, work)
    assert [one.code for one in ended] == [0, 0], ended
    assert os.listdir("other") == ["words.txt"]


def test_what_a_base_decides_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text(tmp_path)
    trained(tmp_path, 1, "checkpoints")
    monkeypatch.setenv("CHARRNN_LAYERS", "3")
    ended = together(2, lambda rank: command("train", "words.txt", "--init-from", "x", "--steps", "2", "--threads", "1")())
    assert [one.code for one in ended] == [0, 0], ended
    assert b"layers = 3" in ended[0].err
    assert ended[1].err == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rank_that_waits_for_the_others_can_be_stopped(tmp_path: Path, number: int) -> None:
    text(tmp_path)
    environment = {**os.environ, **environments(2)[0]}
    arguments = [sys.executable, "-m", "charrnn", "train", "words.txt", "--steps", "5", "--threads", "1"]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        _wait_for_a_listener(int(environment["MASTER_PORT"]))
        time.sleep(0.5)  # until it waits in earnest
        process.send_signal(number)
        try:
            told = process.communicate(timeout=15)[1]
        finally:
            process.kill()
    assert (process.returncode, told) == (128 + number, b"")


def _wait_for_a_listener(port: int) -> None:
    for _ in range(300):
        with socket.socket() as knocking:
            if knocking.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the first rank does not wait for anybody")
