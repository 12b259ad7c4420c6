"""Any text is accepted: whatever a file holds and is called, it is learnt from, or refused in words; never a traceback.

What reading, tokenizers and token arrays do by themselves is tested beside each; here a text goes the whole way, from
the bytes of a file to arrays, and through the real commands in forked children.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from forked import Ended, command, forked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import charrnn.cli.commands
import charrnn.cli.evaluate
import charrnn.cli.writing
import charrnn.training.evaluate
import charrnn.training.job  # noqa: F401 - all of them for the children, which have no time to import torch
from charrnn.config import ReadingConfig, TokenizerConfig, check
from charrnn.errors import CharrnnError, UsageError
from charrnn.runs import model as models
from charrnn.text import corpus, reading, tokenizers
from charrnn.text.corpus import Source, Survey, TokenData
from charrnn.text.tokenizers import EOS, REPLACEMENT, RESERVED, Tokenizer

Learnt = tuple[Tokenizer, Survey, TokenData]
KINDS = ("char", "byte", "subword")
TINY = ("--hidden-size", "4", "--embedding-size", "2", "--layers", "1", "--window", "4", "--batch-size", "2", "--threads", "1")
TWO_STEPS = ("--steps", "2", "--eval-every", "2", *TINY)
pytestmark = pytest.mark.usefixtures("_trained")  # what torch imports when it is first used, no child has to import then

# --- from bytes to arrays ---------------------------------------------------------------------------------------------

NAMES = [f"a{suffix}{packing}" for suffix in (".txt", ".md", ".jsonl", ".csv", ".tsv") for packing in ("", ".gz")]
ENCODINGS = ["utf-8", "utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030", "shift_jis", "utf-7", "utf-8-sig", "base64"]
ODD_LETTERS = '\r\n\t\0\x1b\x85\u2028\u2029\ufeff\u2581\u202e\u0301\u200d\U0001f600\ue000\uffff\U0010ffff",a '
words = st.text(st.sampled_from(ODD_LETTERS) | st.characters(exclude_categories=["Cs"]), max_size=60)
ROWS = """{"text": "a"}\n | {"text": "\\udc00"}\n | {"text": " | \\ud83d\\ude00"} | text,b\n | "a\r\nb", | text\tb\n | " | ["""


def encoded(text: str, encoding: str) -> bytes:
    return text.encode("utf-8" if encoding == "base64" else encoding, "replace")


bodies = st.one_of(
    st.binary(max_size=80),
    st.builds(encoded, words, st.sampled_from(ENCODINGS)),
    st.lists(st.sampled_from(ROWS.split(" | ")), max_size=8).map(lambda parts: "".join(parts).encode("utf-8")),
    st.lists(words.map(lambda document: json.dumps({"text": document})), max_size=4).map(lambda rows: "\n".join(rows).encode()),
    st.builds(bytes.__add__, st.sampled_from([mark for mark, _ in reading.MARKS]), st.binary(max_size=20)),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=3), st.sampled_from([5000, 9001])),
)
CHOICES = {
    "encoding": ENCODINGS, "errors": ["strict", "replace", "replace", "ignore"], "newline": ["lf", "keep"],
    "column": ["", "", "1", "text", "0"],
}  # fmt: skip
wishes = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()})


def settled(data: bytes, name: str, cut: int, through_pipe: bool, folder: Path) -> list[Source]:
    """The sources for a file of these bytes; a packed one may be cut short, as after a broken download."""
    content = gzip.compress(data)[: cut or None] if name.endswith(".gz") else data
    if through_pipe:
        return corpus.find_sources(["-"], io.BytesIO(content))
    (folder / name).write_bytes(content)
    return corpus.find_sources([str(folder / name)])


def learnt(sources: list[Source], asked: dict[str, str], kind: str, val: float, cache: Path) -> Learnt:
    """The whole way of a text before training, as the job goes it."""
    how = check(ReadingConfig(**asked))
    survey = corpus.survey(sources, how)
    sample = lambda: corpus.training_text(sources, how, survey, val)  # noqa: E731
    units, _ = tokenizers.build(TokenizerConfig(tokenizer=kind), survey.counts, sample)
    return units, survey, corpus.tokenize(sources, how, units, survey, val, cache)


def check_arrays(sources: list[Source], how: ReadingConfig, units: Tokenizer, survey: Survey, data: TokenData) -> None:
    """The arrays give the text back: all of it, and for char but what <unk> hides."""
    text = "".join(piece for _, piece in corpus.pieces(sources, how))
    train, val, cut = data.train.tolist(), data.val.tolist(), data.train_characters
    for ids, part, hidden in ((train, text[:cut], data.train_hidden), (val, text[cut:], data.val_hidden)):
        back = units.decode(ids)
        assert "".join(map((decoder := units.stream_decoder()).push, ids)) + decoder.flush() == back
        assert all(token == EOS or token >= RESERVED - 1 for token in ids)
        wrong = [(was, now) for was, now in zip(part, back, strict=True) if was != now]
        assert hidden == 0 or units.kind == "char"
        assert len([1 for _, now in wrong if now == REPLACEMENT]) == len(wrong) <= hidden
    assert train.count(EOS) + val.count(EOS) == survey.documents - 1
    assert (data.train_bytes + data.val_bytes, survey.characters) == (len(text.encode("utf-8")), len(text))


def check_words(error: CharrnnError, policy: str) -> None:
    """A refusal is one that a person can use."""
    assert error.exit_code in (2, 65)
    assert error.message[-1] + error.hint[-1] == ".."
    assert policy != "ignore" or isinstance(error, UsageError)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("examples", [150, pytest.param(6000, marks=pytest.mark.slow)])
def test_any_file_becomes_arrays_that_give_it_back_or_is_refused_in_words(tmp_path: Path, examples: int) -> None:
    ends = {"arrays": 0, "refused": 0}

    @given(
        data=bodies, name=st.sampled_from(NAMES), cut=st.sampled_from([0, 0, 0, 9, 25]), through_pipe=st.booleans(),
        asked=wishes, kind=st.sampled_from([*KINDS, "auto"]), val=st.sampled_from([0.0, 0.1, 0.5]),
    )  # fmt: skip
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def whole_way(data: bytes, name: str, cut: int, through_pipe: bool, asked: dict[str, str], kind: str, val: float) -> None:
        try:
            sources = settled(data, name, cut, through_pipe, tmp_path)
            units, survey, arrays = learnt(sources, asked, kind, val, tmp_path / "cache")
        except CharrnnError as error:
            check_words(error, asked["errors"])
            ends["refused"] += 1
            return
        check_arrays(sources, ReadingConfig(**asked), units, survey, arrays)
        ends["arrays"] += 1

    whole_way()
    assert min(ends.values()) > examples // 10, ends  # both ends are met, often


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_surrogate_is_read_as_the_replacement_character_and_never_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d a pair"}\n' * 9, encoding="ascii")
    sources = corpus.find_sources([str(tmp_path / "a.jsonl")])
    units, _, data = learnt(sources, {"errors": "replace"}, kind, 0.0, tmp_path / "cache")
    assert units.decode(data.train) == f"half {REPLACEMENT} a pair" * 9
    assert REPLACEMENT in units.decode(units.encode("\udfff"))
    with pytest.raises(CharrnnError, match="half a surrogate pair"):
        learnt(sources, {}, kind, 0.0, tmp_path / "cache")


# --- through `charrnn train` ------------------------------------------------------------------------------------------

POEM = "The harbour holds the evening in its hand,\nand one by one the lamps come up like bread.\n" * 4
FLOOD = "e" + "\u0301\u0323\u0489" * 400 + "\n"
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\ufe0f \U0001f3f4\U000e0067\U000e007f "
HEBREW = "\u05e9\u05dc\u05d5\u05dd \u202e\u0645\u0631\u062d\u0628\u0627\u202c \u2067x\u2069\n"
EVERYTHING = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


@functools.cache
def odd(line: int = 1_000_000) -> dict[str, bytes]:
    """Texts that have broken programs, with a line of so many characters among them."""
    texts = {
        "a long line": POEM.replace("\n", " ") * (line // len(POEM) + 1),
        "CRLF": POEM.replace("\n", "\r\n"), "lone CR": POEM.replace("\n", "\r"), "NUL": POEM + "\0\0 \0" * 9,
        "line ends that are none": "a\u2028b\u2029c\x85d\x0b\x0ce\x1cf" * 20, "only spaces": " " * 500,
        "only tabs": "\t \u3000" * 90, "only newlines": "\n" * 500, "one character repeated": "a" * 5000, "one character": "a",
        "two characters": "ab", "empty": "", "only a CR": "\r", "emoji": FAMILY * 30, "combining": FLOOD * 3,
        "right to left": HEBREW * 20, "private and no characters": "\ue000\uf8ff\ufdd0\ufffe\uffff\U0010fffe\U0010ffff" * 30,
        "U+2581": "\u2581 \u2581\u2581a\u2585" * 60, "no spaces": ("x" * 300 + "\n") * 9, "markup": "[/INST] [red]<unk>" * 30,
        "escapes": "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m" * 30, "a BOM inside": "a\ufeffb" * 60,
    }  # fmt: skip
    found = {name: text.encode("utf-8") for name, text in texts.items()}
    found |= {f"BOM of {name}": mark + POEM.encode(name) for mark, name in reading.MARKS}
    found |= {f"only a BOM of {name}": mark for mark, name in reading.MARKS}
    return found | {"bytes that are no UTF-8": b"\xfd\x80" + POEM.encode(), "half a character": POEM.encode() + b"\xf0\x9f"}


def train(folder: Path, *arguments: str, stdin: bytes = b"", seconds: float = 60) -> Ended:
    """`charrnn train` in a child at work in `folder`."""

    def work() -> int:
        os.chdir(folder)
        os.environ["CHARRNN_CACHE"] = str(folder / "cache")
        return command("train", *arguments)()

    return forked(work, stdin=stdin, seconds=seconds)


def check_end(ended: Ended, folder: Path) -> bool:
    """Whether a run was made, which then can be read; if none was, it is said why and nothing stays behind."""
    assert ended.calm, (ended.code, ended.err[-2000:])
    told = ended.err.decode("utf-8")
    assert "\x1b" not in told
    assert ended.code in (0, 2, 65), told
    if ended.code:
        assert "error: " in told
        assert not list(folder.glob("checkpoints/*"))
        return False
    (made,) = folder.glob("checkpoints/*")
    models.load(made)
    return True


NO_TEXT = {
    "only newlines", "empty", "only a CR", "one character", "two characters", "bytes that are no UTF-8", "half a character",
}  # fmt: skip
QUICK = (
    "a long line", "lone CR", "NUL", "line ends that are none", "only spaces", "only newlines", "one character repeated", "empty",
    "one character", "emoji", "combining", "private and no characters", "U+2581", "BOM of utf-16-be", "half a character",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_train_learns_an_odd_text_or_says_why_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_bytes(odd()[name])
    made = check_end(train(tmp_path, "a.txt", "--tokenizer", KINDS[QUICK.index(name) % 3], *TWO_STEPS), tmp_path)
    assert made or name in NO_TEXT


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [*KINDS, "auto"])
@pytest.mark.parametrize("name", ["all of Unicode", *odd(9)])
def test_train_learns_an_odd_text_with_every_tokenizer_and_policy(tmp_path: Path, name: str, kind: str) -> None:
    data = EVERYTHING.encode("utf-8") if name == "all of Unicode" else odd(20_000_000)[name]
    for number, policy in enumerate([("strict", "lf", "0.1"), ("replace", "keep", "0"), ("replace", "lf", "0.5")]):
        (folder := tmp_path / str(number)).mkdir()
        (folder / "a.txt").write_bytes(data)
        how = ("--errors", policy[0], "--newline", policy[1], "--val-fraction", policy[2])
        made = check_end(train(folder, "a.txt", "--tokenizer", kind, *how, *TWO_STEPS, seconds=600), folder)
        too_many = name == "all of Unicode" and kind in ("char", "auto")  # distinct characters
        assert made or too_many or name in NO_TEXT or name.startswith("only a BOM")
        shutil.rmtree(folder)


@pytest.mark.parametrize(("errors", "code"), [("replace", 0), ("strict", 65), ("ignore", 2)])
def test_what_is_no_utf8_is_replaced_or_refused_as_asked(tmp_path: Path, errors: str, code: int) -> None:
    ended = train(tmp_path, "-", "--errors", errors, *TWO_STEPS, stdin=odd()["bytes that are no UTF-8"])
    assert ended.code == code
    assert check_end(ended, tmp_path) == (code == 0)


FILE_NAMES = [
    b"two\nlines.txt", b"\x1b[2Jcleared.txt", b"\xff\xfe not utf-8 \x80.txt", b"-rf", b"  spaces  .txt", b"--resume",
    b"a*[b]?.txt", b"[INST].txt", "\u202egnp.txt".encode(), "e\u0301\U0001f600.txt".encode(), b"%s{0}$HOME`id`.txt",
    b"n" * 251 + b".txt", b"~", b"a.safetensors", b".txt", b"...", b"'\".txt", b"NUL.txt",
]  # fmt: skip


SOME = [*FILE_NAMES[:6], *(pytest.param(name, marks=pytest.mark.slow) for name in FILE_NAMES[6:])]


@pytest.mark.parametrize("name", SOME, ids=repr)
def test_a_text_may_be_called_anything_and_its_run_goes_on(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_text(POEM, encoding="utf-8")
    assert check_end(train(tmp_path, *TWO_STEPS, "--", os.fsdecode(name)), tmp_path)
    (run,) = (path.name for path in tmp_path.glob("checkpoints/*"))
    assert check_end(train(tmp_path, "--resume", run, "--steps", "4"), tmp_path)
    assert models.load(tmp_path / "checkpoints" / run).name == run


# --- prompts, scores and evaluations ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy model of each kind."""
    folder = tmp_path_factory.mktemp("house")
    for kind in KINDS:
        units = toy.tokenizer(kind)
        about = {"name": kind, "start": [int(units.encode("\n")[0])], "provenance": {}}
        (folder / "checkpoints" / kind).mkdir(parents=True)
        models.save(folder / "checkpoints" / kind / models.MODEL_FILE, toy.config(units), units, toy.weights(units), about)
    return folder


def told(house: Path, *arguments: str, stdin: bytes = b"") -> Ended:
    """A command in a child at work in `house`; whatever the text, it ends as it should."""

    def work() -> int:
        os.chdir(house)
        return command(*arguments)()

    ended = forked(work, stdin=stdin, seconds=60)
    assert ended.calm, (arguments, ended.code, ended.err[-2000:])
    assert ended.code in (0, 2, 65), ended.err
    assert not ended.code or (b"error: " in ended.err and b"hint: " in ended.err)
    assert b"\x1b" not in ended.err
    return ended


def sample(house: Path, kind: str, data: bytes) -> None:
    """The prompt as the shell hands it over, and out of a file: what is written begins with it."""
    argument = os.fsdecode(data.replace(b"\0", b""))
    ended = told(house, "sample", kind, f"--prompt={argument}", "--length", "5", "--seed", "1")
    if ended.code == 0 and not argument.startswith("@") and argument != "-":
        assert ended.out.startswith(argument.encode("utf-8"))
    ended = told(house, "sample", kind, "--prompt", "-", "--length", "5", "--seed", "1", "--json", stdin=data)
    if ended.code == 0:
        (house / "prompt").write_bytes(data)
        assert json.loads(ended.out)["prompt"] == corpus.read_text([str(house / "prompt")], ReadingConfig()).removesuffix("\n")


def score(house: Path, kind: str, data: bytes) -> None:
    """The lines of a score are all of the text, each with a cost that is a number."""
    (house / "text").write_bytes(data)
    ended = told(house, "score", kind, "text", "--json")
    if ended.code == 0:
        lines = [json.loads(line) for line in ended.out.decode("utf-8").split("\n")[:-1]]
        text = corpus.read_text([str(house / "text")], ReadingConfig())
        assert "".join(line["text"] + "\n" for line in lines) == text.removesuffix("\n") + "\n"
        assert all(math.isfinite(line["bits"]) and line["bits"] >= 0 for line in lines)


def evaluated(house: Path, kind: str, data: bytes) -> None:
    """The figures of an evaluation are numbers."""
    ended = told(house, "eval", kind, "-", "--json", "--threads", "1", "--errors", "replace", stdin=data)
    if ended.code == 0:
        figures = json.loads(ended.out)
        assert all(math.isfinite(figures[name]) for name in ("loss", "bits_per_byte"))


Act = Callable[[Path, str, bytes], None]
prompts = bodies | st.sampled_from([data for data in odd(400).values() if len(data) < 3000])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [12, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("act", [sample, score, evaluated], ids=["sample", "score", "eval"])
def test_any_text_can_be_gone_on_from_scored_and_evaluated(house: Path, act: Act, examples: int) -> None:
    @given(kind=st.sampled_from(KINDS), data=prompts)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def acted(kind: str, data: bytes) -> None:
        act(house, kind, data)

    acted()


ODD_PROMPTS = ("emoji", "right to left", "combining", "private and no characters", "escapes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ODD_PROMPTS)
def test_an_odd_prompt_is_gone_on_from_as_it_is(house: Path, name: str, kind: str) -> None:
    ended = told(house, "sample", kind, "--prompt", "-", "--length", "5", "--seed", "1", stdin=odd(400)[name])
    assert ended.code == 0
    assert ended.out.startswith(odd(400)[name].removesuffix(b"\n"))
