"""The compiled library: made once, beside; in silence not made, and not loaded if others could have written it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.config import ModelConfig
from charrnn.decoding import engine, kernel
from charrnn.decoding.engine import Engine
from charrnn.decoding.kernel import Library
from charrnn.weights import weight_shapes

SECONDS = 60  # that something may take before it counts as not happening
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, the kernel switched on, and the compiler of this machine."""
    monkeypatch.delenv(kernel.SWITCH)
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


Fake = Callable[..., Path]


@pytest.fixture
def fake(library: Library, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Fake:
    """Makes a program that writes down how it was called and then is a compiler that is done at once, or what `does` says."""
    made = tmp_path / "made"
    (ready,) = tmp_path_factory.getbasetemp().glob("compiled0/kernels/*.so")  # of the fixture `library`
    made.write_bytes(ready.read_bytes())

    def make(does: str = 'cp {made} "$out"', name: str = "fake-cc") -> Path:
        program = tmp_path / name
        program.parent.mkdir(exist_ok=True)
        find_out = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done'
        program.write_text(f'#!/bin/sh\necho "$@" >> "$0.calls"\n{find_out}\n{does.format(made=made)}\n')
        program.chmod(0o755)
        return program

    return make


def calls(program: Path) -> list[str]:
    log = program.with_name(program.name + ".calls")
    return log.read_text().splitlines() if log.exists() else []


def within_time(happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def tiny(library: Library | None) -> Engine:
    config = ModelConfig(vocab_size=9, hidden_size=5, layers=2)
    shapes = weight_shapes(config)
    weights = {name: np.random.default_rng(0).normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return Engine(config, weights, kernel=library)


def works(library: Library) -> bool:
    plain, fast = tiny(None), tiny(library)
    return np.allclose(fast.step_one(5, fast.begin())[0], plain.step_one(5, plain.begin())[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("switch", ["off", "OFF", "0", "no"])
def test_switched_off_there_is_none_and_nothing_is_made(
    switch: str, monkeypatch: pytest.MonkeyPatch, cache: Path, alone: None
) -> None:
    monkeypatch.setenv(kernel.SWITCH, switch)
    assert kernel.find() is None
    assert kernel.make() is None
    assert not cache.exists()


@pytest.mark.usefixtures("library")  # there is a compiler
def test_it_is_made_beside_and_found_later(cache: Path) -> None:
    assert kernel.find() is None
    found = within_time(kernel.find)
    assert works(found)
    within_time(lambda: len(list(cache.iterdir())) == 1)  # nothing but the library stays
    assert cache.stat().st_mode & 0o77 == 0


def test_once_made_it_is_taken_and_not_made_again(cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(program := fake()))
    found = kernel.make()
    assert found is not None
    assert works(found)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert kernel.make() is not None
    assert kernel.find() is not None
    assert len(calls(program)) == 1


@pytest.mark.parametrize("chosen", ["/nonexistent/cc", "nonexistent-cc -O2", '"unfinished', "", "  "])
def test_without_a_compiler_there_is_none_and_nothing_is_tried(
    chosen: str, monkeypatch: pytest.MonkeyPatch, cache: Path, alone: None
) -> None:
    monkeypatch.setenv("CC", chosen)
    monkeypatch.setenv("PATH", "")
    assert kernel.find() is None
    assert kernel.make() is None
    assert list(cache.iterdir()) == []


def test_what_does_not_compile_is_tried_again_after_a_day_or_with_another_compiler(
    cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(broken := fake("exit 1", "broken")))
    ways = len(kernel._TUNED)
    assert kernel.find() is None
    within_time(lambda: len(calls(broken)) == ways)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)
        assert kernel.find() is None
    (mark,) = cache.glob("*.tried")
    yesterday = time.time() - 86_401
    os.utime(mark, (yesterday, yesterday))
    assert kernel.find() is None
    within_time(lambda: len(calls(broken)) == 2 * ways)
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.find() is None
    assert works(within_time(kernel.find))
    within_time(lambda: not mark.exists())


@pytest.mark.parametrize("does", ["echo hello > $out", ": > $out", ":"])
def test_a_compiler_that_makes_no_library_has_not_compiled(
    does: str, cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor has CC="gcc -m32"."""
    monkeypatch.setenv("CC", str(fake(does)))
    assert kernel.make() is None
    assert libraries(cache) == []


@pytest.mark.parametrize("damage", [b"", b"hello", None, "cut", "flipped"])
def test_a_damaged_library_is_not_loaded_but_made_again(
    damage: Any, cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    (path,) = libraries(cache)
    whole = path.read_bytes()
    path.unlink()  # the one that is loaded goes on to exist
    if damage is None:
        path.mkdir()
    elif damage == "flipped":
        path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    else:
        path.write_bytes(whole[:6000] if damage == "cut" else damage)  # cut: loading it would be a bus error
    assert kernel.find() is None
    if damage is not None:
        assert works(within_time(kernel.find))
        assert path.read_bytes() == whole


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_what_others_could_have_written_is_not_loaded(
    mode: int, cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    (path,) = libraries(cache)
    monkeypatch.setattr(kernel, "_compile_beside", lambda *arguments: None)
    path.chmod(mode)
    assert kernel.find() is None
    path.chmod(0o755)
    assert kernel.find() is not None
    cache.chmod(mode)
    assert kernel.find() is None
    assert kernel.make() is None
    cache.chmod(0o755)
    assert kernel.find() is not None


@posix
def test_a_folder_that_others_could_replace_is_not_used(cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    monkeypatch.setattr(subprocess, "Popen", None)
    above = cache.parent.parent
    for mode, safe in [(0o777, False), (0o1777, True), (0o775, True), (0o757, False), (0o755, True)]:
        above.chmod(mode)
        assert (kernel.find() is not None) == safe, oct(mode)


@posix
@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_loaded(cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    monkeypatch.setattr(kernel, "_compile_beside", lambda *arguments: None)
    for place in (*libraries(cache), cache, cache.parent):
        os.chown(place, 65534, -1)
        assert kernel.find() is None
        os.chown(place, 0, -1)
        assert kernel.find() is not None


@posix
def test_a_symbolic_link_is_as_good_as_the_folders_it_leads_through(
    cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    monkeypatch.setattr(kernel, "_compile_beside", lambda *arguments: None)
    (path,) = libraries(cache)
    path.rename(elsewhere := tmp_path / "elsewhere.so")
    path.symlink_to(elsewhere)
    assert kernel.find() is None  # a link to a file is not taken
    path.unlink()
    elsewhere.rename(path)
    cache.rename(moved := tmp_path / "moved")
    cache.symlink_to(moved)
    assert kernel.find() is not None
    moved.chmod(0o777)
    assert kernel.find() is None


@posix
def test_a_lax_umask_does_not_matter(cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake('cp {made} "$out"; chmod 777 "$out"')))
    before = os.umask(0)
    try:
        (cache.parent.parent / "cache").mkdir(mode=0o755)
        assert kernel.make() is not None
    finally:
        os.umask(before)
    assert kernel.find() is not None


def test_where_nothing_can_be_written_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: None, library: Library
) -> None:
    (tmp_path / "file").touch()
    places = [str(tmp_path / "file"), "/proc/nowhere", "~no-such-user-here/cache"]
    for place in places:
        monkeypatch.setenv("CHARRNN_CACHE", place)
        assert kernel.find() is None
        assert kernel.make() is None


def test_without_its_source_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: None) -> None:
    monkeypatch.setattr(kernel, "SOURCE", tmp_path / "kernel.c")
    assert kernel.find() is None
    assert kernel.make() is None


def test_a_source_a_flag_or_a_processor_of_its_own_has_a_library_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = {kernel._place()}
    (tmp_path / "kernel.c").write_bytes(kernel.SOURCE.read_bytes() + b"\n")
    for name, value in [("SOURCE", tmp_path / "kernel.c"), ("_FLAGS", ("-O2",)), ("_processor", lambda: "another")]:
        with monkeypatch.context() as patch:
            patch.setattr(kernel, name, value)
            places.add(kernel._place())
    assert None not in places
    assert len(places) == 4


@pytest.mark.parametrize("chosen", ["{} -pipe -g0", "'{}' -pipe", "{}"])
def test_cc_may_have_arguments_and_spaces(chosen: str, cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    spaced = chosen != "{} -pipe -g0"
    program = fake(name="my tools/cc" if spaced else "cc")
    monkeypatch.setenv("CC", chosen.format(program))
    assert kernel.make() is not None
    (call,) = calls(program)
    assert call.startswith("-pipe" if "-pipe" in chosen else "-O3")


def test_several_processes_may_compile_at_once(cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(program := fake('sleep 0.2; cp {made} "$out"')))
    command = [sys.executable, "-m", kernel.__name__]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=SECONDS) == (b"", None)
        assert child.returncode == 0
    found = kernel.find()
    assert found is not None
    assert works(found)
    assert list(cache.iterdir()) == libraries(cache)
    assert calls(program)


@posix
def test_what_a_killed_process_and_old_versions_left_is_swept_up(
    cache: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = fake("sleep 100 & echo $! > {made}.pid; wait", "waiting")
    child = subprocess.Popen([sys.executable, "-m", kernel.__name__], env=os.environ | {"CC": str(waiting)})
    sleeper = waiting.with_name("made.pid")
    within_time(lambda: sleeper.exists() and sleeper.read_text())
    child.kill()
    child.wait()
    os.kill(int(sleeper.read_text()), 9)
    (left,) = cache.iterdir()
    (old := cache / "0123-4567.so").touch()
    (new := cache / "making-new").mkdir()
    for stale in (left, old):
        os.utime(stale, (1, 1))
    monkeypatch.setenv("CC", str(fake()))
    assert kernel.make() is not None
    assert sorted(cache.iterdir()) == sorted([*libraries(cache), new])
    assert len(libraries(cache)) == 1


def test_the_process_beside_runs_nothing_that_lies_in_the_current_folder(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("contextlib.py", "ctypes.py", "platformdirs.py", "charrnn.py"):
        (trap / name).write_text(f"open({str(trap / 'caught')!r}, 'w')\nraise SystemExit(1)\n")
    monkeypatch.setenv("CC", str(fake()))
    monkeypatch.chdir(trap)
    assert kernel.find() is None
    assert within_time(kernel.find)
    assert not (trap / "caught").exists()


@posix
def test_whoever_starts_it_hears_nothing_even_at_the_end_and_may_go(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python minds processes that were forgotten; a terminal ends all that belong to it; and what a start says is not ours."""
    monkeypatch.setenv("CC", str(fake('sleep 0.5; cp {made} "$out"')))
    noise = f"import sys\nif {kernel.__name__!r} in sys.orig_argv:\n    print(1, file=sys.stderr)\n    print(2, flush=True)\n"
    (tmp_path / "sitecustomize.py").write_text(noise)
    code = "from charrnn.decoding import kernel; assert kernel.find() is None"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as parent:  # fmt: skip
        assert parent.communicate(timeout=SECONDS) == (b"", None)
        assert parent.returncode == 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGTERM)
    assert within_time(kernel.find)


def test_a_mac_without_tools_is_not_asked_to_compile(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake(name="tools/cc")
    select = fake("exit 2", "tools/xcode-select")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kernel.make() is None
    assert calls(program) == []
    assert set(calls(select)) == {"-p"}


def test_an_engine_takes_what_there_is(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    class Model:
        config = tiny(None).config
        weights = tiny(None)._named

    model: Any = Model()
    monkeypatch.setenv("CC", "/nonexistent/cc")
    plain = engine.of(model, narrow=True)
    assert (plain.kernel, plain.narrow) == (None, False)
    monkeypatch.setenv("CC", str(fake()))
    assert engine.of(model).kernel is None  # it is made beside
    narrow = engine.of(model, narrow=True)  # for this one waits
    assert narrow.kernel is not None
    assert narrow.narrow
    assert not engine.of(model).narrow
