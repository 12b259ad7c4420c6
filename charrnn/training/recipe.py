"""What size and schedule suit this text, this machine and this much time.

Pure arithmetic over facts; the one thing measured, the seconds of a step, is asked of the caller's `timer`. Values that
somebody set are never touched. The rules and their figures are in docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from charrnn.config import ModelConfig, TrainingConfig, check
from charrnn.errors import CorpusError, UsageError
from charrnn.training.batching import fit
from charrnn.weights import weight_shapes

SHAPES = (  # hidden units, layers
    (128, 1), (256, 1), (192, 2), (256, 2), (384, 2), (512, 2), (640, 2), (768, 2), (1024, 2), (1536, 2),
)  # fmt: skip
UNTIMED = 512  # hidden units at most where the time is no bound: who asks for steps or passes does not ask for days
PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"hidden_size": size, "layers": layers}
    for name, (size, layers) in {"tiny": (128, 1), "small": (256, 2), "medium": (512, 2), "large": (1024, 2)}.items()
}
# A larger network pays if it is fed so many tokens for each of its weights, or sees the text so often that there is little
# more in it; and it may hold at most so many weights for each token of the text.
TOKENS_PER_PARAMETER, PASSES, PARAMETERS_PER_TOKEN = 3.0, 18, 7.0
# Beyond so many passes there is little more to learn but the words by heart: where nobody says how long, and ever.
ENOUGH_PASSES, MOST_PASSES = 40, 60
STEPS_PER_PASS = 40  # a text shorter than this many windows a stream is cut into fewer streams
LEAST_BATCH = 8
LEAST_EVERY = 20  # steps between evaluations, however short the run
EVALUATION_SHARE = 0.04  # of the time, for all of them; as much again for saving and the samples
LEAST_SCORED = 2_048  # tokens
LITTLE_TEXT, SHORT_TEXT = 20_000, 300_000  # tokens
SAVE_SECONDS = 0.2  # of an evaluation, apart from the scoring
FORWARD_SHARE = 0.29  # measured: of a step's time that the same tokens take in an evaluation
SMALLEST_WINDOW = 4
LONGEST_RISE = 100  # steps of the warm-up, and at most a tenth of all
LEAST_STEPS = 20  # however short the time
FOUND = ("vocab_size", "classes", "features", "input_mean", "input_deviation")  # of a model, in its text: not to be wished

Timer = Callable[[ModelConfig, TrainingConfig, float], float]  # the last: how many seconds it may take to measure
LOOK, LONG_LOOK, LONGEST_LOOK = 0.3, 0.02, 3.0  # seconds for each candidate; share of the time for the chosen one, seconds


@dataclass(frozen=True)
class Facts:
    """What is known of the text once it is tokens."""

    train_tokens: int
    val_tokens: int
    vocab_size: int
    examples: int = 0  # where they are learnt one by one, how many there are

    def tokens_per_step(self, training: TrainingConfig) -> float:
        """How many a step learns from; of examples, in the mean."""
        width = self.train_tokens / self.examples if self.examples else training.window
        return training.batch_size * width


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
    minutes: float | None = None  # the bound, where it is the clock; then the number of steps is an estimate,
    most_steps: int = 2**40  # which may grow up to this


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
    most = MOST_PASSES if bound.given else ENOUGH_PASSES
    bound = said(bound, facts, most, notes)
    if facts.train_tokens < LITTLE_TEXT:
        notes.append(
            f"little text: {facts.train_tokens:,} tokens are soon known by heart, and the model will mostly repeat them; "
            "it begins to invent with some hundred thousand"
        )
    training = _fitted(asked, facts, notes)
    training = replace(training, learning_rate=asked.get("learning_rate", learning_rate(asked)))
    budget = Budget(facts, bound, training, most, seconds_gone, timer)
    model = model_of(asked, facts, int(asked.get("hidden_size", SHAPES[0][0])), int(asked.get("layers", 1)))
    if "hidden_size" not in asked:
        model, why = _largest_affordable(asked, facts, training, budget)
        notes.append(f"size: {_described(model)}, {why}")
    training = budget.filled(model, asked, notes)
    training = _regularised(asked, facts, model, training, notes)
    return Plan(check(model), check(training), tuple(notes), bound.minutes, budget.most_steps())


def said(bound: Bound, facts: Facts, most: float, notes: list[str]) -> Bound:
    """The bound, chosen and said if there is none."""
    if bound.given:
        return bound
    minutes = default_minutes(facts.train_tokens)
    notes.append(
        f"time: {minutes:g} min or {most:g} passes, whichever is sooner, chosen for this much text "
        "(--minutes, --epochs or --steps set it)"
    )
    return Bound(minutes=minutes)


def _described(model: ModelConfig) -> str:
    layers = "one layer" if model.layers == 1 else f"{model.layers} layers"
    return f"{layers} of {model.hidden_size} units"


@dataclass
class Budget:
    """How many steps a size can make within the bound."""

    facts: Facts
    bound: Bound
    training: TrainingConfig
    most: float  # passes over the text
    seconds_gone: Callable[[], float]
    timer: Timer
    looks: dict[ModelConfig, float] = field(default_factory=dict)  # seconds of a step, as measured

    def steps(self, model: ModelConfig, carefully: bool = False) -> int:
        """How many steps of `model` fit into the bound, measured `carefully` for longer."""
        tokens = self.facts.tokens_per_step(self.training)
        if self.bound.steps is not None:
            return int(self.bound.steps)
        if self.bound.epochs is not None:
            return max(1, round(self.bound.epochs * self.facts.train_tokens / tokens))
        assert self.bound.minutes is not None
        seconds = self._look(model, carefully)
        left = self.bound.minutes * 60 - self.seconds_gone() - 0.5
        left -= self._evaluations() * (self._scored(seconds) / tokens * seconds * FORWARD_SHARE + SAVE_SECONDS)
        return min(self.most_steps(), max(LEAST_STEPS, int(left / (seconds * 1.03))))

    def _look(self, model: ModelConfig, carefully: bool) -> float:
        """Seconds of a step of `model`; measured once, and again only `carefully`."""
        assert self.bound.minutes is not None
        if carefully or model not in self.looks:
            longer = min(LONGEST_LOOK, LONG_LOOK * 60 * self.bound.minutes)
            self.looks[model] = self.timer(model, self.training, longer if carefully and longer > LOOK else LOOK)
        return self.looks[model]

    def most_steps(self) -> int:
        """Steps after which the passes are done that are enough."""
        tokens = self.facts.tokens_per_step(self.training)
        return max(LEAST_STEPS, int(min(self.most * self.facts.train_tokens / tokens, 2**40)))

    def filled(self, model: ModelConfig, asked: Mapping[str, Any], notes: list[str]) -> TrainingConfig:
        """The training settings with the steps, and the evaluations on the way, that the bound allows."""
        steps = self.steps(model, carefully=self.bound.minutes is not None)
        every = int(asked.get("eval_every", 0)) or max(LEAST_EVERY, min(steps // self._evaluations(), self._pass()))
        scored = self._scored(self.looks.get(model, 0.0))
        if self.bound.minutes is not None and steps == LEAST_STEPS < self.most_steps():
            notes.append(f"steps: about {steps}; {self.bound.minutes:g} min are hardly enough for this size and text")
        elif self.bound.minutes is not None and steps == self.most_steps() and self.most == MOST_PASSES:
            notes.append(
                f"steps: {steps:,}, sooner than {self.bound.minutes:g} min: beyond {self.most:g} passes so short a text is only "
                "learnt by heart (--epochs sets others)"
            )
        return replace(
            self.training, steps=steps, eval_every=every, eval_tokens=asked.get("eval_tokens") or scored,
            warmup=asked.get("warmup", max(1, min(LONGEST_RISE, steps // 10))),
        )  # fmt: skip

    def _pass(self) -> int:
        """Steps between evaluations at most: those of a pass over a text that is soon overlearnt."""
        tokens = self.facts.tokens_per_step(self.training)
        return math.ceil(self.facts.train_tokens / tokens) if self.facts.train_tokens < SHORT_TEXT else 2**40

    def _evaluations(self) -> int:
        """8 in a minute or two, 11 in ten, 20 in an hour; 15 where the clock is no bound; up to 30 of a text soon overlearnt."""
        most = 30 if self.facts.train_tokens < SHORT_TEXT else 15
        if self.bound.minutes is None:
            return most
        if self.facts.train_tokens < SHORT_TEXT:
            return max(8, min(most, int(EVALUATION_SHARE * 60 * self.bound.minutes / SAVE_SECONDS)))
        return max(8, min(20, round(5 + 2 * math.sqrt(self.bound.minutes))))

    def _scored(self, seconds: float) -> int:
        """Tokens of an evaluation: the most, halved until all of them take little of the time."""
        tokens, most = self.facts.tokens_per_step(self.training), TrainingConfig().eval_tokens
        if self.bound.minutes is None:
            return most
        allowed = EVALUATION_SHARE * 60 * self.bound.minutes / self._evaluations()
        while most > LEAST_SCORED and most / tokens * seconds * FORWARD_SHARE > allowed:
            most //= 2
        return most


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
    if "batch_size" not in asked:
        streams = facts.train_tokens // (STEPS_PER_PASS * training.window)
        training = replace(training, batch_size=max(LEAST_BATCH, min(training.batch_size, streams // 8 * 8)))
    batch, window = fit(facts.train_tokens, training.batch_size, training.window)
    if (batch, window) != (training.batch_size, training.window):
        notes.append(f"batch: {batch} streams of {window} tokens, all that so short a text can fill")
    elif "batch_size" not in asked and batch < TrainingConfig().batch_size:
        notes.append(f"batch: {batch} streams, so that a pass over so short a text has steps enough")
    return replace(training, batch_size=batch, window=window)


def model_of(asked: Mapping[str, Any], facts: Facts, hidden: int, layers: int) -> ModelConfig:
    names = {item.name for item in fields(ModelConfig)} - {"vocab_size", "hidden_size", "layers"}
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
    return check(ModelConfig(vocab_size=facts.vocab_size, hidden_size=hidden, layers=layers, **given))


def _largest_affordable(
    asked: Mapping[str, Any], facts: Facts, training: TrainingConfig, budget: Budget
) -> tuple[ModelConfig, str]:
    """The size, and why no larger one."""
    timed = budget.bound.minutes is not None
    most = math.inf if timed else UNTIMED
    shapes = [(hidden, int(asked.get("layers", layers))) for hidden, layers in SHAPES if hidden <= most]
    shapes = sorted(dict.fromkeys(shapes), key=lambda shape: recurrent_parameters(model_of(asked, facts, *shape)))
    chosen = smallest = model_of(asked, facts, *shapes[0])
    for shape in shapes[1:]:
        model = model_of(asked, facts, *shape)
        weights = recurrent_parameters(model)
        if weights > PARAMETERS_PER_TOKEN * facts.train_tokens:
            return chosen, "the smallest there is" if chosen is smallest else "the largest that so much text can fill"
        fed = budget.steps(model) * training.batch_size * training.window
        if fed < min(TOKENS_PER_PARAMETER * weights, PASSES * facts.train_tokens):
            return chosen, f"the largest that the {'time' if timed else 'steps'} can feed"
        chosen = model
    return chosen, "the largest of all" if timed else "the largest without --minutes or --hidden-size"


def parameters(model: ModelConfig) -> int:
    """How many weights a model has."""
    return sum(math.prod(shape) for shape in weight_shapes(model).values())


def recurrent_parameters(model: ModelConfig) -> int:
    """Weights of the recurrent layers alone: those of a large vocabulary's rows are fed by their own tokens only."""
    return sum(math.prod(shape) for name, shape in weight_shapes(model).items() if name.startswith("layers."))


def learning_rate(asked: Mapping[str, Any]) -> float:
    """AdamW's; alone it must be gentler with the recurrent matrices of a GRU or a plain RNN."""
    cell, optimizer = asked.get("cell", "lstm"), asked.get("optimizer", TrainingConfig().optimizer)
    if optimizer == "muon" or cell == "lstm":
        return TrainingConfig().learning_rate
    return 4e-3 if cell == "gru" else 2e-3


def _regularised(
    asked: Mapping[str, Any], facts: Facts, model: ModelConfig, training: TrainingConfig, notes: list[str]
) -> TrainingConfig:
    """Dropout by how hard the text will be pressed: passes over it times weights for each of its tokens."""
    passes = training.steps * training.batch_size * training.window / facts.train_tokens
    pressure = passes * recurrent_parameters(model) / facts.train_tokens
    output = round(min(0.5, max(0.0, 0.12 * math.log(max(pressure, 1e-9) / 5.6))), 2)
    values = {"dropout_output": output, "dropout_embedding": round(output * 0.3, 2)}
    if model.layers > 1:
        values["dropout_layers"] = output
    if "dropout_output" not in asked:
        per_token = recurrent_parameters(model) / facts.train_tokens
        shown = f"{passes:.0f}" if passes >= 10 else f"{passes:.2g}"
        shown += " pass" if shown == "1" else " passes"
        notes.append(f"dropout: {output:g}, for {shown} over a text with {per_token:.2g} weights for each of its tokens")
    return replace(training, **{name: asked.get(name, value) for name, value in values.items()})
