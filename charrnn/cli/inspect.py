"""`charrnn inspect`: everything a run says about itself, as a card. Believes nothing that has not been checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, loading, options, weights
from charrnn.cli.runs import shape_text
from charrnn.config import ModelConfig
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.runs.model import Model

FIRST_TEXT_ID = 4  # below are <pad> <bos> <eos> <unk>
WIDTH = 100


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        rich_click.option(
            "--weights", "named", is_flag=True,
            help="Each matrix and bias, gate by gate, by its textbook name: U, W, V, b, c; with norm and spectral radius.",
        ),
        rich_click.option("--dump", metavar="FILE", help="Write all weights to FILE as text, every number exactly; - is stdout."),
        options.json_option("One JSON object; with --weights, of the weights."),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def inspect(run: str | None, named: bool, dump: str | None, as_json: bool, checkpoints: Path) -> None:
    """Show what a run is: its network, tokenizer, scores, where it came from, and its tensors.

    RUN may be a file that somebody sent you: what it says is checked, and nothing in it is ever executed.

        charrnn inspect poems
        charrnn inspect downloaded.safetensors --json
        charrnn inspect poems --weights              U, W, V and the gates
        charrnn inspect poems --dump weights.txt     every number
    """
    if dump is not None and (named or as_json):
        raise UsageError("--dump writes all numbers, so it goes with neither --weights nor --json.", "Give one of them.")
    model = loading.load(run, checkpoints, ())
    if dump is not None:
        weights.dump(model, dump)
    elif named:
        weights.show(model, as_json)
    else:
        _show(model, as_json)
    loading.suggest_use(model, run)


def _show(model: Model, as_json: bool) -> None:
    with console.Output() as out:
        if as_json:
            out.write(json.dumps(_record(model), ensure_ascii=False) + "\n")
        else:
            out.write(console.visible("\n".join(_card(model))) + "\n")


def _record(model: Model) -> dict[str, Any]:
    tensors = {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in sorted(model.weights.items())}
    return {
        "name": model.name,
        "path": str(model.path),
        "digest": model.digest,
        "parameters": _parameters(model),
        "model": asdict(model.config),
        "tokenizer": {
            "kind": model.tokenizer.kind,
            "vocab_size": model.tokenizer.vocab_size,
            "digest": model.tokenizer.digest(),
            "alphabet": _alphabet(model),
        },
        "labels": list(model.labels),
        "start": list(model.start),
        "provenance": model.provenance,
        "tensors": tensors,
    }


def _card(model: Model) -> Iterator[str]:
    yield model.name
    yield from _section("file", {"path": console.shown_path(model.path), "digest": model.digest})
    shape = {"kind": shape_text(asdict(model.config)), "parameters": f"{_parameters(model):,}"}
    yield from _section("model", shape | meaningful(model.config))
    if model.labels:
        yield from _section("labels", {"number": f"{len(model.labels):,}", "names": _shown_labels(model.labels)})
    if model.config.input == "tokens":
        yield from _section("tokenizer", _tokenizer(model))
    yield from _section("provenance", _without_tables(model.provenance))
    described = {name: f"{array.dtype} {_times(array.shape)}" for name, array in sorted(model.weights.items())}
    yield from _section("tensors", described)


def meaningful(config: ModelConfig) -> dict[str, Any]:
    """The fields of a model's shape that mean something for its task, cell and input."""
    task, rows = config.task, config.input == "rows"
    without = {
        "nonlinearity": config.cell != "rnn",
        "vocab_size": rows,
        "embedding": rows,
        "embedding_size": config.embedding == "onehot" and not rows,
        "tie_weights": task == "classify",
        "input": task != "classify",
        "bidirectional": task not in ("classify", "seq2seq"),
        "pooling": task != "classify",
        "label_as": task != "conditional",
        "context": task != "seq2seq",
        "attention": task != "seq2seq" or config.context != "attention",
        "classes": task not in ("classify", "conditional"),
        **dict.fromkeys(("features", "input_mean", "input_deviation"), not rows),
    }
    return {name: value for name, value in asdict(config).items() if not without.get(name)}


def _without_tables(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance for a card: a confusion table is `charrnn eval`'s to show."""
    scores = provenance.get("scores")
    if not isinstance(scores, dict):
        return dict(provenance)
    return {**provenance, "scores": {name: value for name, value in scores.items() if name != "confusion"}}


def _shown_labels(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[: WIDTH // 2])
    return shown if len(labels) <= WIDTH // 2 and len(shown) <= WIDTH else shown[:WIDTH] + " ..."


def _tokenizer(model: Model) -> dict[str, str]:
    tokenizer = {"kind": model.tokenizer.kind, "tokens": f"{model.tokenizer.vocab_size:,} (4 of them reserved)"}
    alphabet = _alphabet(model)
    if alphabet is not None:
        tokenizer["alphabet"] = f"{len(alphabet):,} characters: {_shown_alphabet(alphabet)}"
    return tokenizer


def _section(title: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield title
    yield from _rows(values, "  ")


def _rows(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Names and values one a line, inner objects indented below their name."""
    width = max((len(str(name)) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_clean(name)}"
            yield from _rows(value, indent + "  ")
        else:
            yield f"{indent}{_clean(name):<{width}}  {_clean(value)}"


def _clean(value: Any) -> str:
    """A value on one line, its control characters visible on a terminal or not: a card is not data to process."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return console.visible(text.replace("\n", "\u240a").replace("\t", "\u2409"))


def _alphabet(model: Model) -> str | None:
    if model.tokenizer.kind != "char":
        return None
    return model.tokenizer.decode(range(FIRST_TEXT_ID, model.tokenizer.vocab_size))


def _shown_alphabet(alphabet: str) -> str:
    shown = _clean(alphabet[:WIDTH])
    return shown if len(alphabet) <= WIDTH else shown + " ..."


def _parameters(model: Model) -> int:
    return sum(array.size for array in model.weights.values())


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
