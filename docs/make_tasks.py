"""Files to train on, of tasks that check themselves: python docs/make_tasks.py KIND FILE [--rows N] [--seed S] [--length L]

Every row is a pair with a tab between, in UTF-8; what stands right of the tab is known to be true of what stands left (or
the other way round, where a label comes first), so that an answer can be marked without a person. The same KIND, N, S and
L give the same bytes. No row comes twice; nor does a date or a number in another form, so that what is held out of
training is new. The rows are shuffled: a split by position is fair.

    dates       a date in English or Chinese, in one of many forms   its ISO form; 1500 to 2199, the Gregorian calendar
                                                                     throughout, as ISO 8601 has it
    numbers-en  an English number in words, up to 999,999            its digits; every number of digits is as common
    numbers-zh  a Chinese number in words, up to 99,999,999          its digits; likewise
    reverse     L random letters (20)                                the same from back to front
    memory      the label, one of A B C D                            the label again and L random letters (50): to be kept
                                                                     until the end by who answers there
    counting    the label, 0 to 9                                    L random letters (100), so many of them an x: without
                                                                     clipping the gradient of a ReLU network explodes
    digits      the 8x8 handwritten digits of scikit-learn, all 1,797, as .npz: x (1797, 8, 8) float32 from 0 to 1, y (1797,)
                int64

Standard library only, but for digits (NumPy, scikit-learn). Knows nothing of charrnn.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from string import ascii_lowercase

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
            "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}  # fmt: skip
CHINESE = "零一二三四五六七八九"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August",
          "September", "October", "November", "December")  # fmt: skip
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
FIRST, LAST = date(1500, 1, 1).toordinal(), date(2199, 12, 31).toordinal()

# Only what can be read in one way: a month is a name, or the order is the year first, or it is said.
ENGLISH_DATES = (
    "{y}-{mm}-{dd}", "{y}/{mm}/{dd}", "{y}.{mm}.{dd}", "{y}{mm}{dd}", "{y}/{m}/{d} (y/m/d)", "{d}/{m}/{y} (d/m/y)",
    "{m}/{d}/{y} (m/d/y)", "{d} {month} {y}", "{d} {MONTH} {y}", "{month} {d}, {y}", "{MONTH} {d}, {y}", "{month} {d} {y}",
    "{y} {month} {d}", "{y}, {month} {d}", "{d} {mon} {y}", "{d} {mon_dot} {y}", "{mon} {d}, {y}", "{mon_dot} {d}, {y}",
    "{d}-{mon}-{y}", "{dd}-{MON}-{y}", "{dd}{MON}{y}", "{y}-{mon}-{dd}", "{y} {mon} {d}", "{d} {roman} {y}", "{d}.{roman}.{y}",
    "{th} {month} {y}", "{th} of {month} {y}", "the {th} of {month} {y}", "the {th} of {month}, {y}", "{month} {th}, {y}",
    "{month} the {th}, {y}", "the {th} day of {month}, {y}", "{month} {th} in the year {y}", "{d} {month} AD {y}",
    "the {nth} of {month} {y}", "{month} the {nth}, {y}", "{month} {nth}, {y}", "the {nth} of {month}, {year}",
    "{month} {nth}, {year}", "{day}, {month} {d}, {y}", "{day}, {d} {month} {y}", "{day}, the {th} of {month} {y}",
    "{day} {d} {month} {y}", "{day3}, {dd} {mon} {y}", "{day3} {mon} {d} {y}", "{day3}, {y}-{mm}-{dd}",
)  # fmt: skip
CHINESE_DATES = (
    "{y}年{m}月{d}日", "{y}年{mm}月{dd}日", "{y}年{m}月{d}号", "{y} 年 {m} 月 {d} 日", "公元{y}年{m}月{d}日",
    "{年}年{月}月{日}日", "{年}年{月}月{日}号", "公元{年}年{月}月{日}日", "{y}年{m}月{d}日，星期{曜}",
    "{年}年{月}月{日}日星期{曜}", "{y}年{m}月{d}号（周{曜}）",
)  # fmt: skip


def english(number: int, joiner: str = " and ", hyphen: str = "-", comma: str = "") -> str:
    """The words of a number below a million; `joiner` stands before the tens, `comma` after the thousands."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10] + (hyphen + UNITS[number % 10] if number % 10 else "")
    unit, name = (1000, " thousand") if number >= 1000 else (100, " hundred")
    more, rest = divmod(number, unit)
    words = english(more, joiner, hyphen) + name
    if rest:
        words += (joiner if rest < 100 else comma + " ") + english(rest, joiner, hyphen)
    return words


def ordinal(number: int) -> str:
    """The third from 3, the twenty-first from 21."""
    start, hyphen, last = english(number).rpartition("-")
    return start + hyphen + ORDINALS.get(last, last + "th")


def short_ordinal(number: int) -> str:
    """3rd from 3, 11th from 11."""
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def english_year(year: int) -> str:
    """A year as it is spoken: nineteen eighty-seven, nineteen oh five, nineteen hundred, two thousand and five."""
    century, rest = divmod(year, 100)
    if century % 10 == 0 and rest < 10:
        return english(year)
    return english(century) + (f" {english(rest)}" if rest > 9 else f" oh {UNITS[rest]}" if rest else " hundred")


def chinese(number: int, ten: str = "一十", hundreds: str = "二百", thousands: str = "两千", myriads: str = "两万") -> str:
    """The words of a number below a hundred million.

    `ten` is how it begins where it begins with ten (only there may 一 be left out); the others are how two of them are
    said. Zeros before a digit are one 零, but those that end the part before 万 are silent: 十万一千, 一千万零一.
    """
    if number == 0:
        return CHINESE[0]
    more, rest = divmod(number, 10_000)
    words = chinese_four(more, hundreds, thousands) + "万" if more else ""
    if more == 2:
        words = myriads
    if rest:
        words += ("零" if more and rest < 1000 else "") + chinese_four(rest, hundreds, thousands)
    return ten + words[2:] if words.startswith("一十") else words


def chinese_four(number: int, hundreds: str, thousands: str) -> str:
    """The words of a number from 1 to 9,999."""
    words, gap = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, size)
        if digit:
            twice = {"千": thousands, "百": hundreds}.get(name) if digit == 2 else None
            words += ("零" if gap and words else "") + (twice or CHINESE[digit] + name)
        gap = not digit
    return words


def date_parts(day: date) -> dict[str, str]:
    """What the forms of a date are made of."""
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    short = "Sept" if day.month == 9 else month[:3]
    return {
        "y": str(day.year), "m": str(day.month), "d": str(day.day), "mm": f"{day.month:02}", "dd": f"{day.day:02}",
        "month": month, "MONTH": month.upper(), "mon": month[:3], "MON": month[:3].upper(), "roman": ROMAN[day.month - 1],
        "mon_dot": short if short == month else short + ".", "th": short_ordinal(day.day), "nth": ordinal(day.day),
        "year": english_year(day.year), "day": weekday, "day3": weekday[:3], "曜": "一二三四五六日"[day.weekday()],
        "年": "".join("〇" if digit == "0" else CHINESE[int(digit)] for digit in str(day.year)),
        "月": chinese(day.month, "十"), "日": chinese(day.day, "十"),
    }  # fmt: skip


def date_row(group: int, index: int, length: int, random: Random) -> str:
    day = date.fromordinal(FIRST + index)
    form = random.choice(ENGLISH_DATES + CHINESE_DATES)
    return f"{form.format(**date_parts(day))}\t{day.isoformat()}"


def digits_groups(most: int) -> Callable[[int], list[int]]:
    """How many numbers have one digit, two, ... up to `most` digits."""
    return lambda length: [10] + [9 * 10**more for more in range(1, most)]


def number_of(group: int, index: int) -> int:
    """The number that stands at `index` among those of as many digits."""
    return index + (10**group if group else 0)


def english_row(group: int, index: int, length: int, random: Random) -> str:
    number = number_of(group, index)
    return f"{english(number, random.choice((' and ', ' ')), random.choice('- '), random.choice((',', '')))}\t{number}"


def chinese_row(group: int, index: int, length: int, random: Random) -> str:
    number = number_of(group, index)
    two = (random.choice("两二") + name for name in "百千万")
    return f"{chinese(number, random.choice(('十', '一十')), *two)}\t{number}"


def letters(index: int, length: int, alphabet: str = ascii_lowercase) -> str:
    """The text at `index` among all of so many letters."""
    found = ""
    for _ in range(length):
        index, letter = divmod(index, len(alphabet))
        found += alphabet[letter]
    return found


def reverse_row(group: int, index: int, length: int, random: Random) -> str:
    text = letters(index, length)
    return f"{text}\t{text[::-1]}"


def memory_row(group: int, index: int, length: int, random: Random) -> str:
    return f"{'ABCD'[group]}\t{'ABCD'[group]}{letters(index, length)}"


def counting_groups(length: int) -> list[int]:
    """How many texts have no x, one, ... nine: where they stand, times what stands elsewhere."""
    return [math.comb(length, count) * 25 ** (length - count) for count in range(min(length, 9) + 1)]


def counting_row(group: int, index: int, length: int, random: Random) -> str:
    """The places of the x are a number in the combinatorial number system, the other letters one in base 25.

    Of a hundred letters (64 ReLU units, orthogonal at the start, AdamW 0.003, 800 steps of 32 rows, three seeds), without
    clipping: gradients of up to 1,700, 51,000 and ten million, 10 to 13 % right; clipped at 0.25: 33 to 49 %.
    """
    others, places = divmod(index, math.comb(length, group))
    rest, text, left = letters(others, length - group, ascii_lowercase.replace("x", "")), "", group
    for place in range(length - 1, -1, -1):
        here = places >= math.comb(place, left) if left else False
        if here:
            places -= math.comb(place, left)
            left -= 1
        text += "x" if here else rest[place - left]
    return f"{group}\t{text}"


@dataclass(frozen=True)
class Kind:
    """A task: `groups` are how many rows there are of each sort (for a length); they shall be about as common.

    `row` makes the one at (group, index); chance decides no more than its form.
    """

    groups: Callable[[int], list[int]]
    row: Callable[[int, int, int, Random], str]
    length: int | None = None  # by default; None where it has none


KINDS = {
    "dates": Kind(lambda length: [LAST + 1 - FIRST], date_row),
    "numbers-en": Kind(digits_groups(6), english_row),
    "numbers-zh": Kind(digits_groups(8), chinese_row),
    "reverse": Kind(lambda length: [26**length], reverse_row, 20),
    "memory": Kind(lambda length: [26**length] * 4, memory_row, 50),
    "counting": Kind(counting_groups, counting_row, 100),
}
DIGITS, LONGEST, ROWS = "digits", 1000, 10_000


def shares(sizes: list[int], rows: int) -> list[int]:
    """How many rows each group gives: as many as the others, or all it has."""
    given = [0] * len(sizes)
    for done, group in enumerate(sorted(range(len(sizes)), key=lambda group: sizes[group])):
        given[group] = min(sizes[group], rows // (len(sizes) - done))
        rows -= given[group]
    return given


def some(count: int, size: int, random: Random) -> list[int]:
    """So many different numbers below `size`."""
    if size <= sys.maxsize:
        return random.sample(range(size), count)
    found: dict[int, None] = {}  # the same number again is next to impossible here, but not quite
    while len(found) < count:
        found[random.randrange(size)] = None
    return list(found)


def make(name: str, rows: int, seed: int, length: int = 0) -> list[str]:
    """The rows of a file."""
    kind, random = KINDS[name], Random(seed)
    sizes = kind.groups(length)
    places = [
        (group, index)
        for group, count in enumerate(shares(sizes, rows))
        for index in some(count, sizes[group], random)
    ]  # fmt: skip
    random.shuffle(places)
    return [kind.row(group, index, length, random) for group, index in places]


def write_digits(path: Path) -> None:
    import numpy
    from sklearn.datasets import load_digits

    found = load_digits()
    with path.open("wb") as file:  # a name would get .npz behind it
        numpy.savez_compressed(file, x=(found.images / 16).astype(numpy.float32), y=found.target.astype(numpy.int64))


def asked(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for, and made sense; leaves with a message and 2 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, DIGITS], metavar="KIND", help=", ".join([*KINDS, DIGITS]))
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--rows", type=int, metavar="N", help=f"how many ({ROWS:,})")
    parser.add_argument("--seed", type=int, metavar="S", help="another number, other rows (1)")
    parser.add_argument("--length", type=int, metavar="L", help="letters of a text, where there are texts of letters")
    found = parser.parse_args(arguments)
    if found.kind == DIGITS:
        if (found.rows, found.seed, found.length) != (None, None, None):
            parser.error("digits are 1,797 pictures, always the same; leave --rows, --seed and --length out")
        return found
    kind = KINDS[found.kind]
    if found.length is not None and (kind.length is None or not 1 <= found.length <= LONGEST):
        allowed = "has no --length; leave it out" if kind.length is None else f"expects one from 1 to {LONGEST:,}"
        parser.error(f"found --length {found.length}; {found.kind} {allowed}")
    found.length = found.length or kind.length or 0
    found.rows, found.seed = (ROWS if found.rows is None else found.rows), (1 if found.seed is None else found.seed)
    most = sum(kind.groups(found.length))
    if not 1 <= found.rows <= most:
        exist = f"{most:,}" if most < 10**15 else "as many as memory holds"
        parser.error(f"found --rows {found.rows:,}; {found.kind} has from 1 to {exist} different rows")
    return found


def main(arguments: list[str] | None = None) -> None:
    wanted = asked(arguments)
    try:
        if wanted.kind == DIGITS:
            write_digits(wanted.file)
        else:
            rows = make(wanted.kind, wanted.rows, wanted.seed, wanted.length)
            wanted.file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="\n")
    except ImportError as error:
        sys.exit(f"digits need NumPy and scikit-learn ({error}): python -m pip install numpy scikit-learn")
    except OSError as error:
        sys.exit(f"cannot write {str(wanted.file)!r}: {error.strerror}")


if __name__ == "__main__":
    main()
