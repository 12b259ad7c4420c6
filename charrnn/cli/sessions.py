"""What `repl`, `chat` and `sample -i` have in common: their options, their settings, and the model as a partner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli import console, converse, labels, loading, options
from charrnn.cli.runs import shape_text
from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding.settings import Settings

if TYPE_CHECKING:
    from charrnn.decoding.adapting import Adapting
    from charrnn.decoding.tree import Partner
    from charrnn.runs.model import Model


def flags(defaults: Mapping[str, Any]) -> list[options.Decorator[Any]]:
    """The options of a session; some settings may have `defaults` of their own."""
    return [
        *options.settings(Settings, "Text", only=["length", "finish", "ghost"], defaults=defaults),
        *options.settings(options.DrawConfig, "Text", only=["seed"]),
        labels.option(),
        options.keys_option(),
        *options.settings(ShapingConfig, "Shape of an answer"),
        *options.settings(SamplingConfig, "Choice of the next token, in this order", defaults=defaults),
        options.int8_option(),
        options.checkpoints_option(),
        options.config_option(),
    ]


def settings(values: dict[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """The settings that were asked for, others as `defaults` have them, with a new seed where none was asked for."""
    asked = dict(defaults) | options.asked(values, Settings)
    if "seed" not in asked:
        import secrets

        asked["seed"] = secrets.randbelow(2**32)
    return Settings(**asked)


def tell_seed(values: dict[str, Any], settings: Settings, model: Model, label: str) -> None:
    """In a pipe, where /show is not asked for, say with which seed (and label) the text can be had again."""
    if converse.at_terminal():
        return
    if values["seed"] is None:
        console.note(f"seed {settings.seed}")
    if values["label"] is None:
        labels.tell(model, label)


def greeting(model: Model, what_to_do: str, label: str = "") -> str:
    """The first line of a session."""
    from dataclasses import asdict

    by = f" Label {label}; /label tells the others." if label else ""
    return f"{model.name}: {shape_text(asdict(model.config))}.{by} {what_to_do}"


def partner(model: Model, narrow: bool = False, label: str = "", root: Path | None = None) -> Partner:
    """A model as the partner of a session, by a label if it has any: by its first if it does not matter which.

    `root` is where /adapt saves runs; without it, it does not learn.
    """
    from charrnn.decoding.tree import Partner
    from charrnn.runs import copies

    label = label or (*model.labels, "")[0]
    return Partner(
        loading.engine(model, narrow, labels.number(model, label)), model.tokenizer, model.start, model.name, model.digest,
        model.at_eos, tuple(_card(model)), watch=lambda longest: copies.watch(model, longest),
        label=label, labels=model.labels, by=(lambda other: partner(model, narrow, other)) if model.labels else None,
        adapting=(lambda: _pupil(model, narrow, root)) if root is not None and model.config.task == "language" else None,
    )  # fmt: skip


def _pupil(model: Model, narrow: bool, root: Path) -> Adapting:
    """What learns in a session; with torch, which is loaded when somebody wants that."""
    from charrnn.training.adapting import Pupil

    return Pupil(model, narrow, root)


def replier(model: Model) -> Partner:
    """A model that learnt pairs as the partner of a session: each line of yours is a source."""
    from functools import partial

    from charrnn.decoding.tree import Partner
    from charrnn.models import replying
    from charrnn.models.seq2seq import Seq2seq
    from charrnn.runs import copies
    from charrnn.text.tokenizers import EOS
    from charrnn.training import examiner

    network = examiner.network_of(model, threads=1)
    assert isinstance(network, Seq2seq)
    return Partner(
        replying.Replier(network), model.tokenizer, (EOS,), model.name, model.digest, "end", tuple(_card(model)),
        watch=lambda longest: copies.watch(model, longest), spelling=partial(replying.spelling, model.tokenizer),
    )  # fmt: skip


def _card(model: Model) -> Iterator[tuple[str, str]]:
    """What /show tells of a model: where it is, its shape, and what its training wrote about itself, as far as it did."""
    from dataclasses import asdict

    yield "file", console.shown_path(model.path)
    yield "network", f"{shape_text(asdict(model.config))}, {sum(array.size for array in model.weights.values()):,} parameters"
    corpus, scores = (_section(model.provenance, name) for name in ("corpus", "scores"))
    if isinstance(corpus.get("names"), list) and isinstance(corpus.get("characters"), int):
        yield "corpus", f"{', '.join(map(str, corpus['names'][:5]))}: {corpus['characters']:,} characters"
    if isinstance(scores.get("bits_per_character"), float):
        yield "scores", f"{scores['bits_per_character']:.4f} bits per character ({scores.get('on', 'unknown')})"


def _section(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = provenance.get(name)
    return section if isinstance(section, dict) else {}
