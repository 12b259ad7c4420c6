"""The tasks of docs/make_tasks.py: their answers are right, no row comes twice, and the same seed makes the same file.

Numbers and forms of a date are checked against tables written by hand; then every form is read back by readers that share
nothing with the script.
"""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "docs" / "make_tasks.py"


def loaded() -> ModuleType:
    description = importlib.util.spec_from_file_location("make_tasks", SCRIPT)
    assert description
    assert description.loader
    module = sys.modules["make_tasks"] = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


tasks = loaded()
KINDS = sorted(tasks.KINDS)


def pairs(kind: str, rows: int = 2000, seed: int = 1, length: int | None = None) -> list[list[str]]:
    made = tasks.make(kind, rows, seed, tasks.KINDS[kind].length or 0 if length is None else length)
    return [row.split("\t") for row in made]


ENGLISH = {
    0: "zero", 1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten",
    11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen", 17: "seventeen", 18: "eighteen",
    19: "nineteen", 20: "twenty", 21: "twenty-one", 40: "forty", 88: "eighty-eight", 99: "ninety-nine", 100: "one hundred",
    101: "one hundred and one", 110: "one hundred and ten", 115: "one hundred and fifteen", 200: "two hundred",
    999: "nine hundred and ninety-nine", 1000: "one thousand", 1001: "one thousand and one", 1100: "one thousand one hundred",
    10_010: "ten thousand and ten", 12_300: "twelve thousand three hundred", 100_000: "one hundred thousand",
    100_001: "one hundred thousand and one", 123_405: "one hundred and twenty-three thousand four hundred and five",
    999_999: "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
}  # fmt: skip

# with 一十 at the start, 二 before 百, 两 before 千 and 万
CHINESE = {
    0: "零", 1: "一", 2: "二", 3: "三", 4: "四", 5: "五", 6: "六", 7: "七", 8: "八", 9: "九", 10: "一十", 11: "一十一",
    12: "一十二", 13: "一十三", 14: "一十四", 15: "一十五", 16: "一十六", 17: "一十七", 18: "一十八", 19: "一十九", 20: "二十",
    21: "二十一", 22: "二十二", 100: "一百", 101: "一百零一", 102: "一百零二", 110: "一百一十", 115: "一百一十五", 200: "二百",
    999: "九百九十九", 1000: "一千", 1001: "一千零一", 1010: "一千零一十", 1100: "一千一百", 2002: "两千零二",
    2222: "两千二百二十二", 10_000: "一万", 10_001: "一万零一", 10_010: "一万零一十", 10_100: "一万零一百", 11_000: "一万一千",
    20_000: "两万", 100_000: "一十万", 101_000: "一十万一千", 100_001: "一十万零一", 120_000: "一十二万", 200_000: "二十万",
    1_020_000: "一百零二万", 10_000_001: "一千万零一", 20_002_000: "两千万两千", 10_050_010: "一千零五万零一十",
    99_999_999: "九千九百九十九万九千九百九十九",
}  # fmt: skip


@pytest.mark.parametrize("number", ENGLISH)
def test_an_english_number(number: int) -> None:
    assert tasks.english(number) == ENGLISH[number]


@pytest.mark.parametrize("number", CHINESE)
def test_a_chinese_number(number: int) -> None:
    assert tasks.chinese(number) == CHINESE[number]


def test_the_other_ways_to_say_a_number() -> None:
    assert tasks.english(123_405, " ", " ", ",") == "one hundred twenty three thousand, four hundred five"
    assert tasks.english(100_001, " and ", "-", ",") == "one hundred thousand and one"
    assert [tasks.chinese(number, "十") for number in (10, 15, 20, 110, 100_000, 150_015)] == [
        "十", "十五", "二十", "一百一十", "十万", "十五万零一十五",
    ]  # fmt: skip
    assert tasks.chinese(22_222, "十", "两百", "二千", "二万") == "二万二千两百二十二"
    assert tasks.chinese(2_220_022, "十", "两百", "两千", "两万") == "两百二十二万零二十二"


def read_english(words: str) -> int:
    """A number out of its words."""
    values = {word: number for number, word in ENGLISH.items() if number < 20}
    values |= {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
    thousands = part = 0
    for word in re.findall("[a-z]+", words):
        if word == "thousand":
            thousands, part = part, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += values[word]
    return 1000 * thousands + part


def read_chinese(words: str) -> int:
    """A number out of its words."""
    myriads, part, digit = 0, 0, 0
    for letter in words:
        if letter in "零一二三四五六七八九两":
            digit = 2 if letter == "两" else "零一二三四五六七八九".index(letter)
        elif letter == "万":
            myriads, part, digit = part + digit, 0, 0
        else:
            part += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[letter]
            digit = 0
    return 10_000 * myriads + part + digit


@pytest.mark.parametrize(("kind", "read", "most"), [("numbers-en", read_english, 6), ("numbers-zh", read_chinese, 8)])
def test_a_file_of_numbers_reads_back_and_has_all_lengths(kind: str, read: object, most: int) -> None:
    found = pairs(kind, 8000)
    assert all(str(read(words)) == digits for words, digits in found)  # type: ignore[operator]
    lengths = Counter(len(digits) for _, digits in found)
    assert [lengths[1], lengths[2], lengths[3]] == [10, 90, 900]
    others = [lengths[length] for length in range(4, most + 1)]
    assert max(others) - min(others) <= 1
    assert len({digits for _, digits in found}) == 8000
    if kind == "numbers-en":
        said = [words for words, digits in found if int(digits) > 1000]
        for part in (" and ", "-", ","):
            assert 0.2 < sum(part in words for words in said) / len(said) < 0.6
    else:
        said = "\n".join(words for words, _ in found if words != "零")
        assert all(part in said for part in ("两万", "二万", "两千", "二千", "两百", "二百", "万零"))
        assert not re.search("两十|十两|两零|零零|零万|零$|[百千万]十", said, re.MULTILINE)
        starts = Counter(words[:2] == "一十" for words, _ in found if re.match("一?十", words))
        assert min(starts[True], starts[False]) > 20


THIRD_OF_MARCH = """
1987-03-03; 1987/03/03; 1987.03.03; 19870303; 1987/3/3 (y/m/d); 3/3/1987 (d/m/y); 3/3/1987 (m/d/y); 3 March 1987;
3 MARCH 1987; March 3, 1987; MARCH 3, 1987; March 3 1987; 1987 March 3; 1987, March 3; 3 Mar 1987; 3 Mar. 1987;
Mar 3, 1987; Mar. 3, 1987; 3-Mar-1987; 03-MAR-1987; 03MAR1987; 1987-Mar-03; 1987 Mar 3; 3 III 1987; 3.III.1987;
3rd March 1987; 3rd of March 1987; the 3rd of March 1987; the 3rd of March, 1987; March 3rd, 1987; March the 3rd, 1987;
the 3rd day of March, 1987; March 3rd in the year 1987; 3 March AD 1987; the third of March 1987; March the third, 1987;
March third, 1987; the third of March, nineteen eighty-seven; March third, nineteen eighty-seven; Tuesday, March 3, 1987;
Tuesday, 3 March 1987; Tuesday, the 3rd of March 1987; Tuesday 3 March 1987; Tue, 03 Mar 1987; Tue Mar 3 1987;
Tue, 1987-03-03; 1987年3月3日; 1987年03月03日; 1987年3月3号; 1987 年 3 月 3 日; 公元1987年3月3日; 一九八七年三月三日;
一九八七年三月三号; 公元一九八七年三月三日; 1987年3月3日，星期二; 一九八七年三月三日星期二; 1987年3月3号（周二）
"""
FORMS = tasks.ENGLISH_DATES + tasks.CHINESE_DATES


def test_every_form_of_one_date() -> None:
    parts = tasks.date_parts(date(1987, 3, 3))
    assert [form.format(**parts) for form in FORMS] == THIRD_OF_MARCH.strip().replace("\n", " ").split("; ")
    assert len(set(tasks.ENGLISH_DATES)) >= 25
    assert len(set(FORMS)) == len(FORMS)


def test_other_dates_by_hand() -> None:
    parts = tasks.date_parts(date(2000, 11, 22))  # a Wednesday
    assert [parts[name] for name in ("th", "nth", "mon_dot", "roman", "day", "年", "月", "日")] == [
        "22nd", "twenty-second", "Nov.", "XI", "Wednesday", "二〇〇〇", "十一", "二十二",
    ]  # fmt: skip
    assert [tasks.date_parts(date(1500, month, 1))["mon_dot"] for month in (5, 6, 9)] == ["May", "Jun.", "Sept."]
    assert [tasks.date_parts(date(2024, 2, day))["日"] for day in (10, 11, 20, 29)] == ["十", "十一", "二十", "二十九"]
    assert [tasks.date_parts(date(2026, 11, day))["曜"] for day in range(22, 29)] == list("日一二三四五六")
    years = {1500: "fifteen hundred", 1905: "nineteen oh five", 1999: "nineteen ninety-nine", 2000: "two thousand",
             2009: "two thousand and nine", 2010: "twenty ten", 2100: "twenty-one hundred", 2112: "twenty-one twelve",
             }  # fmt: skip
    assert {year: tasks.english_year(year) for year in years} == years


def test_the_ordinals() -> None:
    words = (
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
        "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
        "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
    )
    short = "1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th 13th 14th 15th 16th 17th 18th 19th 20th 21st 22nd 23rd 24th 25th "
    assert [tasks.ordinal(day) for day in range(1, 32)] == words.split()
    assert [tasks.short_ordinal(day) for day in range(1, 32)] == (short + "26th 27th 28th 29th 30th 31st").split()


NAMES = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10, "xi": 11, "xii": 12}
ROOTS = {
    "first": 1,
    "second": 2,
    "third": 3,
    "fifth": 5,
    "eighth": 8,
    "ninth": 9,
    "twelfth": 12,
    "twentieth": 20,
    "thirtieth": 30,
}


def read_date(text: str) -> tuple[date, int | None]:
    """The date a text means and the day of the week it names (0 is Monday), by looking at what kinds of words it has."""
    if re.search("[年月]", text):
        return read_chinese_date(text)
    text = text.lower()
    weekday = next((n for n, day in enumerate("mon tue wed thu fri sat sun".split()) if re.match(day + r"\w*,? ", text)), None)  # noqa: SIM905
    text = re.sub(r"^(mon|tue|wed|thu|fri|sat|sun)\w*,? ", "", text)
    if order := re.search(r" \((\w)/(\w)/(\w)\)$", text):
        parts = dict(zip(order.groups(), map(int, re.findall(r"\d+", text)), strict=True))
        return date(parts["y"], parts["m"], parts["d"]), weekday
    if numeric := re.fullmatch(r"(\d{4})[-/.]?(\d\d)[-/.]?(\d\d)", text):
        return date(*map(int, numeric.groups())), weekday
    numbers = sorted(map(int, re.findall(r"\d+", text)))
    words = re.findall(r"[a-z-]*[a-z]", re.sub(r"\b(the|of|day|in|year|ad)\b|\d+(st|nd|rd|th)\b", " ", text))
    words = [word.strip("-") for word in words]
    month = next(m for word in words if (m := ROMAN.get(word) or (word[:3] in NAMES and NAMES.index(word[:3]) + 1)))
    words = [word for word in words if word not in ROMAN and word[:3] not in NAMES]
    day = numbers[0] if numbers and numbers[0] < 32 else read_ordinal(words.pop(0))
    return date(numbers[-1] if numbers else read_year(words), month, day), weekday


def read_ordinal(word: str) -> int:
    start, _, last = word.rpartition("-")
    return (read_english(start) if start else 0) + (ROOTS.get(last) or read_english(last.removesuffix("th")))


def read_year(words: list[str]) -> int:
    if words[1] in ("hundred", "thousand"):
        return read_english(" ".join(words))
    return 100 * read_english(words[0]) + read_english(" ".join(words[1:]).removeprefix("oh "))


def read_chinese_date(text: str) -> tuple[date, int | None]:
    found = re.fullmatch(r"(?:公元)?(.+?) ?年 ?(.+?) ?月 ?(.+?) ?[日号](?:，?星期(.)|（周(.)）)?", text)
    assert found, text
    year, month, day, one, other = found.groups()
    plain = "".join(str("〇一二三四五六七八九".find(letter)) if letter in "〇一二三四五六七八九" else letter for letter in year)
    read = lambda part: int(part) if part.isdigit() else read_chinese(part)  # noqa: E731
    return date(int(plain), read(month), read(day)), None if not (one or other) else "一二三四五六日".index(one or other)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_date_reads_back(form: str) -> None:
    days = [date(2000, 1, 1) + timedelta(days=day) for day in range(366)]
    days += [date(year, 1 + year % 12, 1 + year % 28) for year in range(1500, 2200)]
    for day in days:
        read, weekday = read_date(form.format(**tasks.date_parts(day)))
        assert read == day
        assert weekday in (None, day.weekday())
        assert (weekday is not None) == ("day" in form.replace("day of", "") or "曜" in form)


def test_a_file_of_dates_reads_back_and_has_all_forms() -> None:
    found = pairs("dates", 5000)
    assert all(read_date(text)[0].isoformat() == iso for text, iso in found)
    assert len({iso for _, iso in found}) == 5000
    years = [int(iso[:4]) for _, iso in found]
    assert min(years) < 1510
    assert max(years) > 2190
    shapes = {re.sub(r"\d+", "0", re.sub(r"[A-Z]?[a-z]+", "w", text)) for text, _ in found}
    assert len(shapes) > 30


def test_the_first_and_the_last_date() -> None:
    assert tasks.LAST - tasks.FIRST + 1 == 700 * 365 + 175 - 5  # 1500, 1700, 1800, 1900 and 2100 were no leap years
    ends = [tasks.date_row(0, index, 0, Random(1)).split("\t")[1] for index in (0, tasks.LAST - tasks.FIRST)]
    assert ends == ["1500-01-01", "2199-12-31"]


def test_tasks_of_letters_are_true() -> None:
    for text, back in pairs("reverse"):
        assert back == "".join(reversed(text))
        assert re.fullmatch("[a-z]{20}", text)
    for label, text in pairs("memory", length=7):
        assert re.fullmatch(label + "[a-z]{7}", text)
    for label, text in pairs("counting"):
        assert text.count("x") == int(label)
        assert re.fullmatch("[a-z]{100}", text)
    for kind, labels in (("memory", "ABCD"), ("counting", "0123456789")):
        assert Counter(label for label, _ in pairs(kind)) == dict.fromkeys(labels, 2000 // len(labels))


@pytest.mark.parametrize(("kind", "length", "exist"), [("reverse", 2, 26**2), ("memory", 1, 4 * 26), ("counting", 2, 26**2)])
def test_all_rows_there_are(kind: str, length: int, exist: int) -> None:
    assert len({tuple(row) for row in pairs(kind, exist, length=length)}) == exist


def test_the_x_stands_everywhere() -> None:
    assert sum(tasks.counting_groups(12)) == 26**12 - sum(math.comb(12, n) * 25 ** (12 - n) for n in (10, 11, 12))
    places = Counter(place for _, text in pairs("counting", 4000, length=10) for place in range(10) if text[place] == "x")
    assert set(places) == set(range(10))
    assert max(places.values()) < 1.2 * min(places.values())


@pytest.mark.parametrize("kind", KINDS)
def test_exact_rows_none_twice_and_the_same_again(kind: str, tmp_path: Path) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        tasks.main([kind, str(tmp_path / name), "--rows", "3000", "--seed", seed])
    raw = (tmp_path / "a").read_bytes()
    lines = raw.decode("utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(set(lines)) == 3000
    assert all(line.count("\t") == 1 and line == line.strip() for line in lines)
    assert raw == (tmp_path / "b").read_bytes()
    assert set(lines) != set((tmp_path / "c").read_text(encoding="utf-8").splitlines())


def test_rows_are_the_same_in_another_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "dates", str(tmp_path / "a"), "--rows", "50", "--seed", "3"],
        capture_output=True,
        check=True,
    )
    assert done.stdout + done.stderr == b""
    assert (tmp_path / "a").read_text(encoding="utf-8").splitlines() == tasks.make("dates", 50, 3)


def test_a_split_by_position_is_fair() -> None:
    lengths = [len(digits) for _, digits in pairs("numbers-zh", 8000)]
    assert abs(sum(lengths[:4000]) - sum(lengths[4000:])) < 4000 * 0.1


def test_shares_are_even_and_bounded() -> None:
    for sizes in ([10, 90, 900, 9000], [3, 3, 3], [5, 1, 7], [1]):
        for rows in range(1, min(sum(sizes), 400) + 1):
            given = tasks.shares(sizes, rows)
            assert sum(given) == rows
            assert all(0 <= one <= size for one, size in zip(given, sizes, strict=True))
            unspent = [one for one, size in zip(given, sizes, strict=True) if one < size]
            assert not unspent or max(given) - min(unspent) <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dates", "--rows", "300000"], "found --rows 300,000; dates has from 1 to 255,670 different rows"),
        (["numbers-en", "--rows", "1000001"], "1 to 1,000,000 different"),
        (["numbers-zh", "--rows", "100000001"], "1 to 100,000,000 different"),
        (["reverse", "--rows", "677", "--length", "2"], "1 to 676 different"),
        (["dates", "--rows", "0"], "found --rows 0"),
        (["memory", "--rows", "-1"], "found --rows -1; memory has from 1 to as many as memory holds different rows"),
        (["reverse", "--length", "0"], "found --length 0; reverse expects one from 1 to 1,000"),
        (["memory", "--length", "1001"], "found --length 1001"),
        (["dates", "--length", "5"], "dates has no --length; leave it out"),
        (["digits", "--rows", "5"], "leave --rows, --seed and --length out"),
        (["poems"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        tasks.main([arguments[0], str(tmp_path / "a"), *arguments[1:]])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cannot write .*nowhere.*No such file"):
        tasks.main(["dates", str(tmp_path / "nowhere" / "a")])


@pytest.fixture(params=["as they are", "made up"])
def _digits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn, which the project does not need, or something of the shape and the types of its digits."""
    if request.param == "as they are":
        pytest.importorskip("sklearn")
        return
    numbers = np.arange(1797)
    images = np.resize(np.arange(17.0), (1797, 8, 8))
    module = SimpleNamespace(load_digits=lambda: SimpleNamespace(images=images, target=numbers.astype(np.int32) % 10))
    monkeypatch.setitem(sys.modules, "sklearn", SimpleNamespace(datasets=module))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)


@pytest.mark.usefixtures("_digits")
def test_digits_are_arrays_without_pickle(tmp_path: Path) -> None:
    for name in ("a", "b.npz"):
        tasks.main(["digits", str(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a", allow_pickle=False) as found:
        x, y = found["x"], found["y"]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 8, 8), np.float32, (1797,), np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert sorted(set(y.tolist())) == list(range(10))


def test_without_scikit_learn_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="pip install numpy scikit-learn"):
        tasks.main(["digits", str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()


def test_the_classroom() -> None:
    folder = ROOT / "corpora" / "classroom"
    ring, alphabet = ((folder / name).read_text(encoding="utf-8") for name in ("ring.txt", "alphabet.txt"))
    assert ring == "abcde" * 400
    assert alphabet == "abcdefghijklmnopqrstuvwxyz" * 80
    rows = [line.split("\t") for line in (folder / "four.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["e", "abcd"]
    assert sorted(label for label, _ in rows) == sorted(set(alphabet))
    assert all(len(text) == 4 and text + label in alphabet for label, text in rows)
