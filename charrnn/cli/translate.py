"""`charrnn translate`: what a run answers to a source, to many, or to each line as it comes. Knows nothing of how it searches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import attention_map, console, loading, options, reading
from charrnn.config import ReadingConfig, TrainingConfig, setting
from charrnn.errors import CorpusError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.decoding.translate import Found
    from charrnn.runs.model import Model
    from charrnn.text.rows import Row

TOGETHER = 512  # sources of a file that are read, answered and written before the next ones
READING = ("encoding", "errors", "source_column", "target_column", "max_unpacked")
NAMED_CHARACTERS = 8
Pair = tuple[str, str]  # a source, and the target that stands beside it or ""


@dataclass(frozen=True)
class SearchConfig:
    """How an answer is found."""

    beam: int = setting(4, "Branches that are followed at each step; 1 takes the likeliest token each time.", low=1, high=1000)
    top: int = setting(1, "Give so many answers to each source, with their scores.", low=1, high=1000, automatic="the best alone")
    length_penalty: float = setting(0.6, "How much longer answers are made up for: 0 not at all, 1 completely.", low=0, high=10)


@dataclass(frozen=True)
class Wishes:
    """What was asked for: how to search, and what to write of it."""

    search: SearchConfig
    scored: bool
    as_json: bool
    attention: bool


@rich_click.command()
@options.apply(
    [
        options.run_argument(),
        rich_click.argument("text", nargs=-1, required=True, metavar="TEXT...|-|FILE", shell_complete=options.complete_file),
        *options.settings(SearchConfig, "Search"),
        rich_click.option(
            "--attention", is_flag=True,
            help="Show where each character of the answer looked: a row for it, a column for each character of the source.",
        ),
        options.json_option("One JSON object a line: source, answers with log-probability (nats) and score, any attention."),
        *options.settings(ReadingConfig, "Text", only=READING),
        *options.settings(TrainingConfig, "Machine", only=("device", "threads")),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def translate(run: str, text: tuple[str, ...], attention: bool, as_json: bool, checkpoints: Path, **values: Any) -> None:
    r"""Answer a source with a run that learnt pairs of texts: one answer a line.

    The argument is a file if there is one of that name, - for stdin, a source a line, otherwise the source itself. Of
    .tsv, .csv and .jsonl the column "source" is answered, or the first; where targets stand beside it, the answers are
    compared with them. Line ends, tabs and backslashes of an answer are written \n, \t and \\, as in .tsv, but for --json.

        charrnn translate pairs good morning
        charrnn translate dates "March 3rd, 1999" --top 3
        charrnn translate pairs "good morning" --attention
        charrnn translate pairs letters.txt > letters-zh.txt
    """
    wishes = _wishes(values, as_json, attention)
    model = loading.load(run, checkpoints, ("seq2seq",))
    if attention and model.config.context != "attention":
        raise UsageError(
            f"{model.name} learnt without attention: its decoder begins with the source and never looks back at it.",
            "Leave out --attention, or train with --context attention.",
        )
    pairs = _pairs(text, ReadingConfig(**options.asked(values, ReadingConfig)))
    from charrnn.training import examiner  # torch: only when the sources have been found

    with console.Output() as out:
        # Steps are small: one thread answers 600 numbers in 3.0 s, two in 5.5 s.
        threads = 1 if values["threads"] is None else values["threads"]
        network = examiner.network_of(model, values["device"] or "auto", threads)
        translator = _Translator(model, network, wishes, out)
        for several in pairs:
            translator.answer(several)
            out.flush()
    translator.tell()
    console.suggest(f"`charrnn chat {console.quoted(run)}` to ask line by line")


def _wishes(values: dict[str, Any], as_json: bool, attention: bool) -> Wishes:
    asked = options.asked(values, SearchConfig)
    search = SearchConfig(**asked)
    if search.top > search.beam:
        if "beam" in asked:
            raise UsageError(f"a beam of {search.beam} has no {search.top} answers.", f"Give --beam {search.top}, or less --top.")
        search = replace(search, beam=search.top)
    return Wishes(search, "top" in asked, as_json, attention)


def _pairs(text: Sequence[str], how: ReadingConfig) -> Iterable[list[Pair]]:
    """The sources, those of a file many at a time; raises CorpusError and UsageError before any is answered."""
    if list(text) == ["-"]:
        return _lines_of_stdin(how)
    if len(text) == 1 and reading.is_file(text[0]):
        found = _file(text[0], how)
        return (found[first : first + TOGETHER] for first in range(0, len(found), TOGETHER))
    source = reading.literal(reading.text_or_file(text[0]) if len(text) == 1 else " ".join(text), "the text")
    if not source.strip():
        raise CorpusError("the text is empty; there is nothing to answer.", "Give some text.")
    return [[(source, "")]]


def _lines_of_stdin(how: ReadingConfig) -> Iterator[list[Pair]]:
    """A source a line, each alone: whoever writes them may wait for the answer. Raises CorpusError and UsageError."""
    from charrnn.cli import asked_texts

    (found,) = asked_texts.prepare(["-"], False, how, False)
    return ([(line.text, "")] for line in found() if line is not None)


def _file(name: str, how: ReadingConfig) -> list[Pair]:
    """The rows of a table, or the lines of any other file."""
    from charrnn.text import corpus, rows
    from charrnn.text.sources import find_sources

    sources = find_sources([name])
    if sources[0].format != "text":
        found: list[Row] = rows.read(sources, how, rows.source_columns(how))
        return [(row.first, row.second) for row in found]
    text = corpus.read_text([name], how)
    if not text.strip():
        raise CorpusError(f"there is no source in {name!r}.", "Write one a line.")
    return [(line, "") for line in text.removesuffix("\n").split("\n")]


@dataclass
class _Translator:
    """A network that answers and writes; remembers how well."""

    model: Model
    network: Any
    wishes: Wishes
    out: console.Output
    known: list[Pair] = field(default_factory=list)  # answers and the targets that were given with their sources
    told: set[str] = field(default_factory=set)  # characters that it does not know
    cut: int = 0  # sources of which only the beginning was read
    written: bool = False

    def answer(self, pairs: Sequence[Pair]) -> None:
        """Write the answers to some sources, in their order; to an empty one, an empty one."""
        from charrnn.text.examples import LONGEST_READ
        from charrnn.training import answering

        search, encode = self.wishes.search, self.model.tokenizer.encode
        self._tell_unknown("".join(source for source, _ in pairs))
        asked = [index for index, (source, _) in enumerate(pairs) if source.strip()]
        ids = {index: encode(pairs[index][0]) for index in asked}
        self.cut += sum(len(one) > LONGEST_READ for one in ids.values())
        ids = {index: one[:LONGEST_READ] for index, one in ids.items()}
        found = answering.search(self.network, list(ids.values()), width=search.beam, alpha=search.length_penalty)
        answers = dict(zip(asked, found, strict=True))
        for index, (source, target) in enumerate(pairs):
            best = answers.get(index, [])[: search.top]
            if target:
                self.known.append((self._text(best[0]) if best else "", target))
            if self.wishes.as_json:
                self._write_json(source, target, ids.get(index), best)
            else:
                self._write(source, ids.get(index), best)

    def _write(self, source: str, ids: NDArray[Any] | None, found: Sequence[Found]) -> None:
        from charrnn.text.rows import escaped

        if self.written and (self.wishes.scored or self.wishes.attention):
            self.out.write("\n")  # what belongs to one source stands together
        for one in found:
            score = f"{one.score:.4f}\t" if self.wishes.scored else ""
            self.out.write(f"{score}{escaped(self._text(one))}\n")
        if not found:
            self.out.write("\n")
        elif self.wishes.attention and ids is not None and found[0].ids:
            weights = self._attention(ids, found[0])
            columns, rows = self._labels(source, ids, found[0])
            attention_map.show(columns, rows, weights, attention_map.look(self.out), self.out)
        self.written = True

    def _write_json(self, source: str, target: str, ids: NDArray[Any] | None, found: Sequence[Found]) -> None:
        record: dict[str, Any] = {"source": source} | ({"target": target} if target else {})
        record["answers"] = [{"text": self._text(one), "logprob": one.logprob, "score": one.score} for one in found]
        for answer, one in zip(record["answers"], found, strict=True):
            if self.wishes.attention and ids is not None:
                record["tokens"], answer["tokens"] = self._labels(source, ids, one)
                answer["attention"] = [[round(share, 5) for share in row] for row in self._attention(ids, one).tolist()]
        self.out.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _labels(self, source: str, ids: NDArray[Any], found: Found) -> tuple[list[str], list[str]]:
        """The pieces of a source and of its answer."""
        units = self.model.tokenizer
        return attention_map.pieces(units, ids.tolist(), source), attention_map.pieces(units, found.ids, self._text(found))

    def _attention(self, ids: NDArray[Any], found: Found) -> NDArray[Any]:
        from charrnn.training import answering

        return answering.attention(self.network, ids, found.ids)

    def _text(self, found: Found) -> str:
        return self.model.tokenizer.decode(found.ids)

    def _tell_unknown(self, text: str) -> None:
        """Name the characters that the model cannot read, each once."""
        unknown = [letter for letter in self.model.tokenizer.unknown(text) if letter not in self.told]
        self.told.update(unknown)
        if unknown:
            named = ", ".join(f"'{letter}' (U+{ord(letter):04X})" for letter in unknown[:NAMED_CHARACTERS])
            more = f" and {len(unknown) - NAMED_CHARACTERS} more" if len(unknown) > NAMED_CHARACTERS else ""
            console.note(f"the model has never seen {named}{more}: read as <unk>")

    def tell(self) -> None:
        """What was cut, and how the answers compare with the targets, if there were any."""
        reading.tell_cut(self.cut, "source")
        if not self.known:
            return
        from charrnn.training.seq2seq import compared

        scores = compared(*(list(side) for side in zip(*self.known, strict=True)))
        console.say(
            f"exact match {scores['exact_match']:.2%} of {len(self.known):,}, "
            f"character error rate {scores['character_error_rate']:.2%}"
        )
