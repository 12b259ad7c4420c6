"""What size and schedule suit this text, this machine and this much time.

Pure arithmetic over facts; the one thing measured, the seconds of a step, is asked of the caller's `timer`. Values that
somebody set are never touched. The rules and their figures are in docs/results.md.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from charrnn.config import ModelConfig, ReadingConfig, TokenizerConfig, TrainingConfig, check, weight_shapes
from charrnn.errors import CorpusError, UsageError
from charrnn.training.batching import fit

SIZES = (128, 192, 256, 384, 512, 768, 1024)
TOKENS_PER_PARAMETER = 6.0  # a larger network must be fed this many tokens for each of its weights to pay,
PASSES = 18  # or see the text this often, after which there is little more in it;
PARAMETERS_PER_TOKEN = 6.0  # and may hold at most this many weights for each token of the text
EVALUATIONS = 15
LEAST_EVERY = 20  # steps between evaluations, however short the run
FORWARD_SHARE = 0.29  # measured: of a step's time that the same tokens take in an evaluation
SMALLEST_WINDOW = 4

Timer = Callable[[ModelConfig, TrainingConfig, float], float]  # the last: how many seconds it may take to measure
LOOK, LONG_LOOK = 0.4, 0.02  # seconds for each candidate; share of the time for the one that is chosen


@dataclass(frozen=True)
class Facts:
    """What is known of the text once it is tokens."""

    train_tokens: int
    val_tokens: int
    vocab_size: int
    device: str


@dataclass(frozen=True)
class Bound:
    """How long to train: exactly one of the three is set; minutes count from the start of the process."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} both bound the run.", "Give one of them.")
        for name in given:
            value = getattr(self, name)
            whole = isinstance(value, int) or name != "steps"
            if isinstance(value, bool) or not (isinstance(value, int | float) and whole and 0 < value < 1e12):
                raise UsageError(f"--{name} is {value!r}; expected a positive number.", f"Try --{name} 5.")

    @property
    def given(self) -> bool:
        """Whether anybody set one."""
        return any(value is not None for value in (self.steps, self.epochs, self.minutes))


@dataclass(frozen=True)
class Plan:
    """Every setting filled in."""

    model: ModelConfig
    training: TrainingConfig
    notes: tuple[str, ...]


def default_minutes(train_tokens: int) -> float:
    """How long `charrnn train FILE` takes when nobody says: a small text is soon learnt by heart."""
    for tokens, minutes in ((50_000, 1.0), (300_000, 2.0), (5_000_000, 5.0)):
        if train_tokens < tokens:
            return minutes
    return 10.0


def plan(asked: Mapping[str, Any], facts: Facts, bound: Bound, seconds_gone: Callable[[], float], timer: Timer) -> Plan:
    """Resolve all settings; `seconds_gone()` is what the process has used so far, `timer` measures one step.

    Raises UsageError (settings that exclude each other) or CorpusError (a text too small).
    """
    notes: list[str] = []
    if not bound.given:
        bound = Bound(minutes=default_minutes(facts.train_tokens))
        notes.append(f"time: {bound.minutes:g} min, chosen for this much text (--minutes, --epochs or --steps set it)")
    training = _fitted(asked, facts, notes)
    model = _model(asked, facts, int(asked.get("hidden_size", SIZES[0])))
    budget = _Budget(facts, bound, training, seconds_gone, timer)
    if "hidden_size" not in asked:
        model = _largest_affordable(asked, facts, training, budget)
        notes.append(f"size: {model.hidden_size} hidden units, the most that the text and the time can feed")
    training = replace(training, learning_rate=asked.get("learning_rate", _learning_rate(model)))
    training = replace(training, steps=budget.steps(model, carefully=True))
    training = _regularised(asked, facts, model, training)
    training = replace(training, eval_every=asked.get("eval_every", 0) or max(LEAST_EVERY, training.steps // EVALUATIONS))
    return Plan(check(model), check(training), tuple(notes))


@dataclass
class _Budget:
    """How many steps a size can make within the bound."""

    facts: Facts
    bound: Bound
    training: TrainingConfig
    seconds_gone: Callable[[], float]
    timer: Timer

    def steps(self, model: ModelConfig, carefully: bool = False) -> int:
        tokens = self.training.batch_size * self.training.window
        if self.bound.steps is not None:
            return int(self.bound.steps)
        if self.bound.epochs is not None:
            return max(1, round(self.bound.epochs * self.facts.train_tokens / tokens))
        assert self.bound.minutes is not None
        seconds = self.timer(model, self.training, max(LOOK, LONG_LOOK * 60 * self.bound.minutes * carefully))
        left = self.bound.minutes * 60 - self.seconds_gone() - 0.5
        scored = min(self.training.eval_tokens, self.facts.val_tokens or self.facts.train_tokens)
        left -= EVALUATIONS * (scored / tokens * seconds * FORWARD_SHARE + 0.1)
        return max(20, int(left / (seconds * 1.03)))


def _fitted(asked: Mapping[str, Any], facts: Facts, notes: list[str]) -> TrainingConfig:
    """The settings asked for, with batch and window cut to what the text can fill."""
    names = {item.name for item in fields(TrainingConfig)}
    training = TrainingConfig(**{name: value for name, value in asked.items() if name in names})
    least = int(asked.get("window", SMALLEST_WINDOW))
    if facts.train_tokens <= least:
        raise CorpusError(
            f"the text has {facts.train_tokens:,} tokens to train on; one window needs {least + 1:,}.",
            "Give more text, a smaller --window, or --val-fraction 0 to train on all of it.",
        )
    batch, window = fit(facts.train_tokens, training.batch_size, training.window)
    if (batch, window) != (training.batch_size, training.window):
        notes.append(f"batch: {batch} streams of {window} tokens, all that so short a text can fill")
    return replace(training, batch_size=batch, window=window)


def _model(asked: Mapping[str, Any], facts: Facts, hidden: int) -> ModelConfig:
    names = {item.name for item in fields(ModelConfig)} - {"task", "vocab_size", "hidden_size"}
    given = {name: value for name, value in asked.items() if name in names}
    if given.get("tie_weights"):
        if given.get("embedding") == "onehot" or given.get("embedding_size", hidden) != hidden:
            raise UsageError(
                "--tie-weights shares the embedding with the output layer, so the embedding must be learned and as wide as "
                "the hidden layer.", "Leave --embedding and --embedding-size out.",
            )  # fmt: skip
        given["embedding_size"] = hidden
    elif "embedding_size" not in given and facts.vocab_size > 1000:
        given["embedding_size"] = 128  # pieces carry more meaning than letters
    return check(ModelConfig(vocab_size=facts.vocab_size, hidden_size=hidden, **given))


def _largest_affordable(asked: Mapping[str, Any], facts: Facts, training: TrainingConfig, budget: _Budget) -> ModelConfig:
    chosen = _model(asked, facts, SIZES[0])
    for size in SIZES[1:]:
        model = _model(asked, facts, size)
        weights = recurrent_parameters(model)
        if weights > PARAMETERS_PER_TOKEN * facts.train_tokens:
            break
        fed = budget.steps(model) * training.batch_size * training.window
        if fed < min(TOKENS_PER_PARAMETER * weights, PASSES * facts.train_tokens):
            break
        chosen = model
    return chosen


def parameters(model: ModelConfig) -> int:
    """How many weights a model has."""
    return sum(math.prod(shape) for shape in weight_shapes(model).values())


def recurrent_parameters(model: ModelConfig) -> int:
    """Weights of the recurrent layers alone: those of a large vocabulary's rows are fed by their own tokens only."""
    return sum(math.prod(shape) for name, shape in weight_shapes(model).items() if name.startswith("layers."))


def _learning_rate(model: ModelConfig) -> float:
    if model.cell == "lstm":
        return 7e-3 if model.hidden_size < 512 else 6e-3
    return 4e-3 if model.cell == "gru" else 2e-3


def _regularised(asked: Mapping[str, Any], facts: Facts, model: ModelConfig, training: TrainingConfig) -> TrainingConfig:
    """Dropout by how hard the text will be pressed: passes over it times weights for each of its tokens."""
    passes = training.steps * training.batch_size * training.window / facts.train_tokens
    pressure = passes * recurrent_parameters(model) / facts.train_tokens
    output = round(min(0.5, max(0.0, 0.115 * math.log(max(pressure, 1e-9) / 1.9))), 2)
    values = {"dropout_output": output, "dropout_embedding": round(output * 0.3, 2)}
    if model.layers > 1:
        values["dropout_layers"] = output
    return replace(training, **{name: asked.get(name, value) for name, value in values.items()})


def command(
    corpus: Sequence[str], reading: ReadingConfig, tokenizer: TokenizerConfig, model: ModelConfig, training: TrainingConfig
) -> str:
    """The `charrnn train` command that repeats a plan exactly, on a machine of the same kind."""
    words = ["charrnn", "train", *corpus, "--steps", str(training.steps)]
    configs: tuple[Any, ...] = (reading, tokenizer, model, training)
    defaults: tuple[Any, ...] = (ReadingConfig(), TokenizerConfig(), ModelConfig(), TrainingConfig())
    always = {"hidden_size", "embedding_size", "learning_rate", "eval_every", "threads"}
    always |= {"dropout_embedding", "dropout_layers", "dropout_output"}
    for config, default in zip(configs, defaults, strict=True):
        for item in fields(config):
            value = getattr(config, item.name)
            if (config is model and item.name in ("task", "vocab_size")) or item.name == "steps":
                continue
            if value != getattr(default, item.name) or item.name in always:
                words += _words(item.name, value)
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]
