"""A model and a run of each released format must load for ever: the same weights, the same words, and on from there.

The files are never made again; a new format gets files of its own. `format-1.safetensors` is a model alone;
`format-1/` is a run, made in /tmp/golden from harbour.txt (five lines, six times) by

    charrnn train harbour.txt --name format-1 --steps 240 --cell lstm --hidden-size 32 --embedding-size 8 --layers 1
        --batch-size 8 --window 16 --eval-every 120 --val-fraction 0.1 --ema 0.9 --learning-rate 0.02
        --muon-learning-rate 0.05 --dropout-output 0.1 --warmup 10 --clip 1 --threads 1 --device cpu --precision fp32
        --tokenizer char --seed 1

by charrnn 0.1.0 with torch 2.13.0 and NumPy 2.4.6, the text copied beside it. Its last save names /tmp/golden/harbour.txt
as its text, which is nobody's folder, and nowhere: who resumes it says where the text is. Copies of it are damaged here.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hostile import complaints
from test_fuzz import LAST, MODEL, REFUSED, RESUME, RUN, case, used

import charrnn
from charrnn.errors import WriteError
from charrnn.runs import checkpoint, copies
from charrnn.runs import model as runs

GOLDEN = Path(__file__).parent / "golden"
SAVED = "04b73914e81f4d8231105628e3c28016c3f93fe095d2fdf296346191f18418fd"  # the averaged weights, best and last alike
WORDS = " holds the evening in its hand,\nand one by one the lamps come"
SAMPLE = (("sample", "evil", "--length", "20", "--seed", "1"),)
LARGEST = 200_000  # bytes: a golden run is committed for ever


def test_format_1() -> None:
    model = charrnn.load(GOLDEN / "format-1.safetensors")
    assert model.model.digest == "56e29ce6ee48ab4c65a8d4ab7a385dd8eae69a703f8cb10b161d8dc9e62027a6"
    assert model.generate("The harbour", temp=0, length=60) == " hold one by one the lamps come up leaves the boats to think"
    assert model.bits_per_character("the tide goes out to talk it over with the sand\n") < 2


@pytest.mark.parametrize("file", ["model.safetensors", "last.safetensors"])
def test_a_golden_run_loads_to_the_same_weights_and_words(file: str) -> None:
    model = charrnn.load(RUN / file)
    assert model.model.digest == SAVED
    assert model.generate("The harbour", temp=0, length=61) == WORDS
    assert model.bits_per_character((RUN / "harbour.txt").read_text(encoding="utf-8")) < 0.2


def test_the_index_of_a_golden_run_knows_its_text() -> None:
    known = copies.watch(runs.load(RUN), 16)
    assert known.found("the lamps come up").all()
    assert not known.found("the lamps went out").any()


def test_a_golden_run_goes_on_where_it_was_left(tmp_path: Path) -> None:
    from charrnn.training import job
    from charrnn.training.recipe import Bound

    folder = tmp_path / "format-1"
    shutil.copytree(RUN, folder)
    events = list(job.resume(folder, corpus=[str(RUN / "harbour.txt")], bound=Bound(steps=260)))
    assert (events[-1].step, events[-1].reason) == (260, "done")  # type: ignore[union-attr]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    before = (RUN / "metrics.jsonl").read_bytes().splitlines()
    assert lines[: len(before)] == [json.loads(line) for line in before]
    assert [line["step"] for line in lines if line["event"] == "evaluated"] == [120, 240, 260]
    assert lines[-1]["bits_per_character"] < 0.3  # 0.09 at its end; a network that had lost its weights begins at 5
    assert runs.load(folder / "last.safetensors").digest != SAVED


def test_a_golden_run_is_small_and_tells_nothing_of_its_maker() -> None:
    files = sorted(RUN.iterdir())
    assert [file.name for file in files] == [
        "harbour.txt", "last.safetensors", "metrics.jsonl", "model.safetensors", "ngrams.safetensors",
    ]  # fmt: skip
    assert sum(file.stat().st_size for file in files) < LARGEST
    assert checkpoint.read(RUN / "last.safetensors").metadata["resume"]["sources"] == ["/tmp/golden/harbour.txt"]
    assert b"/tmp" not in (RUN / "model.safetensors").read_bytes()


def test_the_largest_seed_and_the_largest_header_value_are_read_again() -> None:
    metadata = {"seed": 2**63 - 1, "low": -(2**63), "sources": [f"/home/x/{number}.txt" for number in range(100_000)]}
    found = checkpoint.decode(checkpoint.encode(metadata, {}), "x").metadata
    assert {name: found[name] for name in metadata} == metadata
    for unreadable in ({"seed": 2**63}, {"many": [0] * checkpoint.MAX_VALUES}, {"long": "x" * checkpoint.MAX_HEADER_BYTES}):
        with pytest.raises(WriteError, match="too much to say"):  # what is read before it takes the place of a good one
            checkpoint.encode(unreadable, {})


def damages(count: int, cut: int, data: bytes, file: str) -> list[tuple[str, bytes]]:
    """So many copies with one bit flipped, half of them in the header, and so many cut off somewhere."""
    header, found = 8 + int.from_bytes(data[:8], "little"), []
    for number in range(count):
        generator = random.Random(number)
        bit = generator.randrange(8 * (header if number % 2 else len(data)))
        flipped = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        found.append((f"bit {bit} {file}", flipped))
    for number in range(cut):
        length = 0 if number == 0 else len(data) - 1 if number == 1 else random.Random(number).randrange(len(data))
        found.append((f"length {length} {file}", data[:length]))
    return found


AMOUNTS = [(30, 10), pytest.param((500, 100), marks=pytest.mark.slow)]  # of flips and of cuts, for each of two files


@pytest.mark.parametrize("file", [MODEL, LAST])
@pytest.mark.parametrize("amounts", AMOUNTS)
def test_a_flipped_bit_or_a_cut_is_refused_by_name(amounts: tuple[int, int], file: str, tmp_path: Path) -> None:
    cases = damages(*amounts, (RUN / file).read_bytes(), file)
    assert complaints(cases, lambda name, data: used(name, data, SAMPLE, [REFUSED]), tmp_path, 40) == []


@pytest.mark.parametrize("amounts", AMOUNTS)
def test_a_run_with_a_flipped_bit_or_a_cut_is_not_gone_on_with(amounts: tuple[int, int], tmp_path: Path) -> None:
    from charrnn.training import job  # noqa: F401 - imported once, and not by each child

    cases = damages(*amounts, (RUN / LAST).read_bytes(), LAST)
    assert complaints(cases, lambda name, data: used(name, data, RESUME, [REFUSED]), tmp_path, 40) == []


def test_a_reader_that_does_not_look_would_be_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the checksum flipped bits go unseen, without the check of weights changed files end otherwise."""
    monkeypatch.setattr(checkpoint, "_verify_checksum", lambda *_: None)
    cases = damages(30, 0, (RUN / MODEL).read_bytes(), MODEL)
    assert complaints(cases, lambda name, data: used(name, data, SAMPLE, [REFUSED]), tmp_path, 30)
    monkeypatch.setattr(runs, "_check_weights", lambda *_: None)
    changed = [case(seed) for seed in range(60)]
    assert complaints(changed, lambda name, data: used(name, data, SAMPLE, [0, REFUSED]), tmp_path, 60)
