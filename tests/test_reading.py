"""Reading: whatever the bytes, there comes out a text or a CorpusError that says where and what to do."""

from __future__ import annotations

import codecs
import gc
import gzip
import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.text import reading, sources
from charrnn.text.sources import Source, find_sources

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\r\n,"\t'), max_size=40)
CHINESE = "春天来了，山上的花都开了。孩子们在河边放风筝，老人坐在树下说话。"
TRADITIONAL = "春天來了，山上的花都開了。孩子們在河邊放風箏，老人坐在樹下說話。"
JAPANESE = "春が来て、山の花がみんな咲きました。子どもたちは川のそばで遊んでいます。"
KOREAN = "봄이 와서 산에 꽃이 모두 피었습니다. 아이들은 강가에서 연을 날리고 있습니다."
UTF16 = ("utf-16-le", "utf-16-be")
RUSSIAN = "Пришла весна, и на горе распустились цветы; дети пускают змея у реки."
FRENCH = "Le printemps est là, et déjà les fleurs s'ouvrent ; à côté, la rivière s'étire."


def write(folder: Path, name: str, data: bytes | str) -> Source:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return Source(str(path), str(path), path)


def rows(source: Source, block: int = 1 << 20, **options: object) -> list[str]:
    """The documents of a source."""
    found: dict[int, str] = {}
    for row, piece in reading.pieces(source, ReadingConfig(**options), block):  # type: ignore[arg-type]
        assert piece
        found[row] = found.get(row, "") + piece
    assert list(found) == sorted(found)
    return list(found.values())


def text(source: Source, block: int = 1 << 20, **options: object) -> str:
    return "".join(rows(source, block, **options))


# --- plain text -------------------------------------------------------------------------------------------------------


@given(content=texts, encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-32-be", "gb18030"]), block=st.integers(1, 9))
@SAME_FOLDER
def test_blocks_of_any_size_give_the_whole_text(tmp_path: Path, content: str, encoding: str, block: int) -> None:
    content = content.lstrip("\ufeff")
    source = write(tmp_path, "a.txt", content.encode(encoding))
    if any(source.path.read_bytes().startswith(mark) for mark, _ in reading.MARKS):
        return  # bytes that happen to look like a mark
    assert text(source, block, encoding=encoding, newline="keep") == content
    assert text(source, block, encoding=encoding) == content.replace("\r\n", "\n").replace("\r", "\n")
    packed = write(tmp_path, "a.gz", gzip.compress(content.encode(encoding)))
    assert text(packed, block, encoding=encoding, newline="keep") == content


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_newlines_across_blocks(tmp_path: Path, block: int) -> None:
    source = write(tmp_path, "a.txt", "a\r\nb\rc\n\rd\r\r\n\r")
    assert text(source, block) == "a\nb\nc\n\nd\n\n\n"
    assert text(source, block, newline="keep") == "a\r\nb\rc\n\rd\r\r\n\r"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_a_byte_order_mark_wins(tmp_path: Path, encoding: str, block: int) -> None:
    mark = {name: mark for mark, name in reading.MARKS}[encoding]
    source = write(tmp_path, "a.txt", mark + "é\ufeffx\0".encode(encoding))
    assert text(source, block, encoding="cp1252") == "é\ufeffx\0"
    assert text(write(tmp_path, "b.txt", mark), block) == ""


def test_every_code_point_is_text(tmp_path: Path) -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert text(write(tmp_path, "a.txt", everything), newline="keep") == everything


# --- bytes that do not decode -----------------------------------------------------------------------------------------


@given(
    data=st.binary(max_size=40),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "shift_jis", "gb18030", "ascii"]),
    block=st.integers(1, 9),
)
@SAME_FOLDER
def test_the_offset_is_that_of_python(tmp_path: Path, data: bytes, encoding: str, block: int) -> None:
    source = write(tmp_path, "a.txt", data)
    if any(data.startswith(mark) for mark, _ in reading.MARKS):
        return
    replaced = text(source, block, encoding=encoding, errors="replace", newline="keep")
    try:
        expected = data.decode(encoding)
    except UnicodeDecodeError as error:
        assert "\ufffd" in replaced
        with pytest.raises(CorpusError, match=f"at offset {error.start} "):
            text(source, block, encoding=encoding, newline="keep")
    else:
        assert text(source, block, encoding=encoding, newline="keep") == expected == replaced


def test_the_message_names_file_offset_bytes_and_encoding(tmp_path: Path) -> None:
    source = write(tmp_path, "poem.txt", b"Spring: " + CHINESE.encode("gb18030"))
    with pytest.raises(CorpusError) as caught:
        text(source)
    assert "poem.txt" in caught.value.message
    assert "the bytes b4 at offset 8 do not decode" in caught.value.message
    assert caught.value.hint == "It decodes as gb18030: try --encoding gb18030."
    assert caught.value.exit_code == 65
    assert text(source, encoding="gb18030") == "Spring: " + CHINESE


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (CHINESE, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE, "euc-jp", "euc-jp"),
        (KOREAN, "euc-kr", "euc-kr"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (FRENCH, "cp1252", "cp1252"),
        *((content, name, name) for content in (FRENCH, CHINESE, TRADITIONAL, JAPANESE, KOREAN) for name in UTF16),
    ],
)
def test_the_hint_names_what_would_decode(tmp_path: Path, content: str, encoding: str, expected: str) -> None:
    source = write(tmp_path, "a.txt", content.encode(encoding))
    with pytest.raises(CorpusError) as caught:
        text(source)
    assert f"--encoding {expected}." in caught.value.hint
    assert text(source, encoding=expected) == content


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"\x89PNG\r\n\x1a\n\0\0", "a picture"), (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"), (b"PK\x03\x04\xff\xfe", r"\.docx")],
)
def test_what_is_no_text_is_called_what_it_is(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(CorpusError, match="do not decode") as caught:
        text(write(tmp_path, "a.bin", data))
    assert re.search(what, caught.value.hint)
    assert "plain text (.txt)" in caught.value.hint


def test_a_wrong_encoding_leads_back_to_utf8(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        text(write(tmp_path, "a.txt", CHINESE + "a"), encoding="gbk")
    assert "--encoding utf-8" in caught.value.hint


def test_damaged_utf8_is_not_taken_for_something_else(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", FRENCH.encode("utf-8") + b"\xff" + RUSSIAN.encode("utf-8"))
    with pytest.raises(CorpusError) as caught:
        text(source)
    assert caught.value.hint == "Name its --encoding, or use --errors replace."
    assert text(source, errors="replace") == FRENCH + "�" + RUSSIAN


@pytest.mark.parametrize(
    "name", ["base64", "rot13", "zlib", "klingon", "", "idna", "punycode", "undefined", "unicode_escape", "a\0b", "é"]
)
def test_what_is_no_encoding(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="encoding"):
        text(write(tmp_path, "a.txt", "a"), encoding=name)


# --- .gz --------------------------------------------------------------------------------------------------------------


def test_faults_of_gz(tmp_path: Path) -> None:
    whole = gzip.compress(FRENCH.encode("utf-8") * 50)
    assert text(write(tmp_path, "two.txt.gz", whole * 2)) == FRENCH * 100
    damaged = whole[:30] + bytes([whole[30] ^ 1]) + whole[31:]
    for number, data in enumerate([whole[:-9], whole[:40], whole[:5], whole + b"more", b"plain", damaged]):
        with pytest.raises(CorpusError, match=r"no proper \.gz"):
            text(write(tmp_path, f"{number}.gz", data))


def test_a_gz_may_not_unpack_to_more_than_allowed(tmp_path: Path) -> None:
    source = write(tmp_path, "bomb.gz", gzip.compress(b"a" * 100_000))
    assert len(text(source, max_unpacked=100_000)) == 100_000
    with pytest.raises(CorpusError) as caught:
        text(source, max_unpacked=99_999)
    assert "--max-unpacked" in caught.value.hint


# --- rows -------------------------------------------------------------------------------------------------------------


@given(contents=st.lists(texts, max_size=5), block=st.integers(1, 30), ascii=st.booleans())
@SAME_FOLDER
def test_jsonl_gives_its_fields(tmp_path: Path, contents: list[str], block: int, ascii: bool) -> None:
    lines = [json.dumps({"id": 1, "poem": content}, ensure_ascii=ascii) for content in contents]
    source = write(tmp_path, "a.jsonl", "\n\n".join(lines))
    if any(source.path.read_bytes().startswith(mark) for mark, _ in reading.MARKS):
        return
    assert rows(source, block, field="poem", newline="keep") == [content for content in contents if content]
    unified = [content.replace("\r\n", "\n").replace("\r", "\n") for content in contents if content]
    assert rows(source, block, field="poem") == unified


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "a"', "not JSON"),
        ("[1, 2]", "no JSON object"),
        ('"text"', "no JSON object"),
        ('{"body": "a"}', "its fields are 'body'"),
        ('{"text": 3}', "no text in a field"),
        ("{}", "no fields"),
        ("[" * 100_000, "not JSON"),
        ('{"text": ' + "9" * 5000 + "}", "JSON: a value too large"),
    ],
)
def test_faults_of_jsonl_are_named_by_line(tmp_path: Path, line: str, why: str) -> None:
    gc.collect()  # at the recursion limit, what the collector finalises there would fail
    with pytest.raises(CorpusError, match=why) as caught:
        rows(write(tmp_path, "a.jsonl", '{"text": "good"}\n\n' + line + "\n"))
    assert "a.jsonl', line 3 " in caught.value.message


def test_lone_surrogates(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": "a\\ud83d"}\n')
    assert rows(source, errors="replace") == ["\U0001f600", "a�"]
    with pytest.raises(CorpusError, match="line 2 holds half a surrogate pair"):
        rows(source)


@given(contents=st.lists(texts, min_size=1, max_size=5), block=st.integers(1, 30))
@SAME_FOLDER
def test_csv_gives_its_column(tmp_path: Path, contents: list[str], block: int) -> None:
    import csv

    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    table.writerows([["id", "Text"], *([str(number), content] for number, content in enumerate(contents))])
    source = write(tmp_path, "a.csv", buffer.getvalue())
    expected = [content for content in contents if content]
    assert rows(source, block, newline="keep") == rows(source, block, newline="keep", column="Text") == expected
    assert rows(source, block, column="2", newline="keep") == ["Text", *expected]
    assert rows(source, block) == [content.replace("\r\n", "\n").replace("\r", "\n") for content in expected]


def test_the_column_that_is_meant(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "one.csv", "first\n\nsecond, not\n".replace(",", ";"))) == ["first", "second; not"]
    assert rows(write(tmp_path, "head.csv", "text\nfirst\n")) == ["first"]
    assert rows(write(tmp_path, "two.tsv", 'name\tverse\nx\t"a" b\n'), column="verse") == ['"a" b']
    assert rows(write(tmp_path, "none.csv", "")) == []
    with pytest.raises(CorpusError, match="2 columns; its first row is 'name', 'verse'"):
        rows(write(tmp_path, "two.csv", "name,verse\nx,y\n"))
    with pytest.raises(CorpusError, match="no column 'poem'"):
        rows(write(tmp_path, "two.csv", "name,verse\nx,y\n"), column="poem")
    with pytest.raises(UsageError, match="counted from 1"):
        rows(write(tmp_path, "two.csv", "name,verse\nx,y\n"), column="0")


@pytest.mark.parametrize("row", ['"open', '"a"b,c', "short"])
def test_faults_of_csv_are_named_by_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(CorpusError, match=r"a\.csv', line 3 "):
        rows(write(tmp_path, "a.csv", "name,text\nx,y\n" + row))


def test_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ROW", 1000)
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        with pytest.raises(CorpusError, match=r"more than|larger than"):
            rows(write(tmp_path, name, '"' + "a\n" * (name == "a.csv") * 600 + "a" * 1200), block=100)


formats = st.sampled_from(["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz", "a.jsonl.gz"])
parts = [b'{"text":', b'"a"', b"}", b"\n", b"\r", b",", b'"', b"\\ud800", b"\xff", b"\0", b"\t", b"[", b"1"]
json_like = st.lists(st.sampled_from(parts))
options = st.fixed_dictionaries(
    {
        "encoding": st.sampled_from(["utf-8", "utf-16", "utf-7", "cp932", "gb18030", "iso2022_jp", "latin-1", "utf-8-sig", "hz"]),
        "errors": st.sampled_from(["strict", "replace"]),
        "newline": st.sampled_from(["lf", "keep"]),
        "column": st.sampled_from(["", "1", "text"]),
    }
)


@given(
    data=st.binary(max_size=60) | json_like.map(b"".join),
    name=formats,
    packed=st.booleans(),
    options=options,
    block=st.integers(1, 20),
)
@settings(SAME_FOLDER, max_examples=400)
def test_any_bytes_give_a_text_or_a_corpus_error(
    tmp_path: Path, data: bytes, name: str, packed: bool, options: dict[str, str], block: int
) -> None:
    source = write(tmp_path, name, gzip.compress(data) if packed else data)
    try:
        found = "".join(rows(source, block, **options))
    except CorpusError:
        return
    found.encode("utf-8")
    assert options["newline"] == "keep" or "\r" not in found


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ["b.txt", "a.md", "sub/c.jsonl", "sub/d.txt.gz", ".hidden.txt", ".git/e.txt", "notes", "f.py"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "utf16.txt").write_bytes("a".encode("utf-16"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str) -> list[str]:
    return [Path(source.name).name for source in find_sources(arguments)]


def test_a_run_inside_a_folder_is_no_text(tmp_path: Path) -> None:
    for name in ("a.txt", "checkpoints/mine/model.safetensors", "checkpoints/mine/metrics.jsonl", "b/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [source.path.name for source in find_sources([str(tmp_path)])] == ["a.txt", "c.txt"]


def test_folders_globs_and_files(library: Path) -> None:
    assert names(str(library)) == ["a.md", "b.txt", "f.py", "notes", "c.jsonl", "d.txt.gz", "utf16.txt"]
    assert names("*.txt") == ["b.txt", "utf16.txt"]
    assert names("**/*.txt*") == ["b.txt", "d.txt.gz", "utf16.txt"]
    assert names("utf16.txt", "*.txt", "./b.txt", "picture.png") == ["utf16.txt", "b.txt", "picture.png"]
    assert [source.format for source in find_sources(["sub"])] == ["jsonl", "text"]


@pytest.mark.parametrize("argument", ["b.tx", "empty", "*.epub", "", "x\0y", "x\0*", "no/such/folder", "b.txt/c"])
def test_what_is_not_there(library: Path, argument: str) -> None:
    with pytest.raises(CorpusError) as caught:
        find_sources([argument])
    assert caught.value.hint
    assert argument != "b.tx" or "'b.txt'" in caught.value.hint


def test_names_for_runs(library: Path) -> None:
    expected = {"b.txt": "b", "sub/d.txt.gz": "d", "sub": "sub", "sub/": "sub", ".": library.name, "*.md": "a", "notes": "notes"}
    assert {argument: sources.stem(find_sources([argument])) for argument in expected} == expected
    assert sources.stem(find_sources(["-"], io.BytesIO(b"a"))) == "text"


def test_standard_input_is_read_as_often_as_one_likes(tmp_path: Path) -> None:
    content = (FRENCH * 20_000).encode("utf-8")  # more than a block
    (source,) = find_sources(["-", "-"], io.BytesIO(content))
    once = reading.pieces(source, ReadingConfig())
    first = next(once)[1]
    assert text(source) == FRENCH * 20_000  # one reader does not move another
    assert first + "".join(piece for _, piece in once) == FRENCH * 20_000
    assert sources.raw_digest([source]) == sources.raw_digest([write(tmp_path, "a.txt", content)])


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIPE", 10)
    with pytest.raises(CorpusError, match="more than 10 bytes"):
        find_sources(["-"], io.BytesIO(b"a" * 11))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_read_twice(tmp_path: Path) -> None:
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(b"water",), daemon=True).start()
    (source,) = find_sources([str(pipe)])
    assert text(source) == text(source) == "water"


def test_a_digest_depends_on_where_files_end(tmp_path: Path) -> None:
    def digest(*contents: bytes) -> str:
        return sources.raw_digest([write(tmp_path, f"{number}.txt", data) for number, data in enumerate(contents)])

    assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"abc", b""), digest(b"c", b"ab")}) == 5
    assert digest(b"ab", b"c") == digest(b"ab", b"c")


def test_files_that_vanish(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", "a")
    source.path.unlink()
    with pytest.raises(CorpusError, match="cannot read"):
        text(source)
    with pytest.raises(CorpusError, match="cannot read"):
        sources.raw_digest([source])


def test_marks_are_pythons() -> None:
    assert all("\ufeff".encode(name) == mark and codecs.lookup(name) for mark, name in reading.MARKS)
