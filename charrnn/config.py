"""Every setting of charrnn once: its name, default, bounds and help.

Frozen dataclasses, one per concern. The command line makes its options from these fields, a checkpoint stores them,
and `check` refuses what is out of bounds, so that no number stands in two places. Knows nothing of click or torch.

What was *asked* for is a plain dict that holds only what somebody set; what was *resolved* is a dataclass with every
value filled in. Only resolved values travel with a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from charrnn.errors import UsageError

T = TypeVar("T")
LARGEST = (1 << 63) - 1  # of whole numbers, for what is beyond Python: files, arrays


def setting(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    choices: Sequence[str] = (),
    automatic: str = "",
) -> Any:
    """A dataclass field that knows its help text and bounds.

    `automatic` says, for the help, how the value is chosen when nobody sets it (otherwise the default is shown).
    """
    bounds = (low, high, low_open, high_open)
    return field(default=default, metadata={"help": help, "bounds": bounds, "choices": tuple(choices), "automatic": automatic})


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network; with the tokenizer it is all that is needed to run the weights."""

    task: str = setting(
        "language",
        "What to learn: to write, to tell which label a text has, to write by label, or to answer one text with another.",
        choices=["language", "classify", "conditional", "seq2seq"],
    )
    cell: str = setting("lstm", "Recurrent cell.", choices=["lstm", "gru", "rnn"])
    nonlinearity: str = setting("tanh", "Activation of the plain rnn cell.", choices=["tanh", "relu"])
    vocab_size: int = setting(0, "Tokens in the vocabulary, the four reserved ones included.", low=4, high=1_000_000)
    embedding: str = setting("learned", "Input representation.", choices=["learned", "onehot"])
    embedding_size: int = setting(64, "Width of the embedding.", low=1, high=65536)
    hidden_size: int = setting(256, "Units in each recurrent layer.", low=1, high=65536, automatic="from corpus and time")
    layers: int = setting(1, "Recurrent layers.", low=1, high=64, automatic="from corpus and time; 1 with --hidden-size")
    tie_weights: bool = setting(False, "Share the embedding with the output layer (makes embedding size = hidden size).")
    input: str = setting("tokens", "What classify reads: text, or rows of numbers (.npz, IDX).", choices=["tokens", "rows"])
    bidirectional: bool = setting(True, "Read what is classified, or translated, in both directions.")
    pooling: str = setting(
        "mean", "What classify makes its decision from: the last step, or all of them.", choices=["mean", "max", "last"]
    )
    lowercase: bool = setting(True, "Read what is classified in small letters.")
    label_as: str = setting(
        "both", "How a label enters conditional: as the initial state, at each step, or both.", choices=["both", "state", "step"]
    )
    context: str = setting(
        "attention", "What the decoder of seq2seq knows of the source: all states by attention, or the last one.",
        choices=["attention", "last", "transformed"],
    )  # fmt: skip
    attention: str = setting("dot", "How attention compares two states.", choices=["dot", "additive"])
    classes: int = setting(0, "Labels.", low=0, high=100_000)
    features: int = setting(0, "Numbers in a row of --input rows.", low=0, high=65536)
    input_mean: float = setting(0.0, "Mean of the numbers of --input rows, which is taken off.", low=-1e18, high=1e18)
    input_deviation: float = setting(1.0, "What they are divided by then.", low=1e-30, high=1e18)

    @property
    def input_size(self) -> int:
        """Width of what enters the first layer."""
        return self.vocab_size if self.embedding == "onehot" and self.input == "tokens" else self.embedding_size

    @property
    def directions(self) -> int:
        """In how many directions the input of classify, or the source of seq2seq, is read."""
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        """Gate blocks stacked in one weight matrix: LSTM i, f, g, o; GRU r, z, n; plain RNN one."""
        return {"lstm": 4, "gru": 3, "rnn": 1}[self.cell]


SINGLE = ("classify", "conditional", "seq2seq")  # tasks whose examples stand alone
FOR_TASKS: Mapping[str, tuple[str, ...]] = {  # settings that mean something to some tasks only
    "input": ("classify",), "pooling": ("classify",), "lowercase": ("classify",), "label_smoothing": ("classify",),
    "balance": ("classify",), "label_as": ("conditional",), "context": ("seq2seq",), "attention": ("seq2seq",),
    "bidirectional": ("classify", "seq2seq"), "longest": SINGLE,
    "label_column": ("classify", "conditional"), "text_column": ("classify", "conditional"),
    "source_column": ("seq2seq",), "target_column": ("seq2seq",),
    "window": ("language",), "reset": ("language",), "field": ("language",), "column": ("language",),
}  # fmt: skip


def contradiction(model: ModelConfig) -> str:
    """Why there can be no such model, or an empty string."""
    if model.tie_weights and (model.embedding != "learned" or model.embedding_size != model.hidden_size):
        return "tied weights need a learned embedding as wide as the hidden layer"
    if model.task == "classify" and model.tie_weights:
        return "weights can be tied only where text is written, not with --task classify"
    if model.task == "seq2seq" and model.hidden_size % model.directions:
        return f"both directions share the {model.hidden_size} units of the encoder: their number must be even"
    if model.input == "rows" and (model.task != "classify" or not model.features):
        return "--input rows needs --task classify, and numbers in each row"
    if model.input == "rows" and model.embedding != "learned":
        return "rows of numbers have no one-hot form"
    least = {"classify": 2, "conditional": 1}.get(model.task, 0)
    return f"--task {model.task} needs at least {least} labels" if model.classes < least else ""


@dataclass(frozen=True)
class PresetConfig:
    """A name for settings that go together; each of them can still be set on its own."""

    size: str = setting(
        "auto", "A ready-made network; auto suits corpus and time.", choices=["auto", "tiny", "small", "medium", "large"]
    )


@dataclass(frozen=True)
class ReadingConfig:
    """How files become text."""

    encoding: str = setting("utf-8", "Encoding of the files; a byte order mark wins.")
    errors: str = setting("strict", "What to do with bytes that do not decode.", choices=["strict", "replace"])
    newline: str = setting("lf", "Turn CRLF and CR into LF, or keep them.", choices=["lf", "keep"])
    field: str = setting("text", "The field of .jsonl rows that holds the text.")
    column: str = setting(
        "",
        "The column of .csv and .tsv rows: a name, or a number from 1 (then there is no header).",
        automatic="the only one, or 'text'",
    )
    label_column: str = setting(
        "", "The column (or field) of the label, by name or number, for classify and conditional.", automatic="'label', or 1"
    )
    text_column: str = setting("", "The column (or field) of the text beside it.", automatic="'text', or 2")
    source_column: str = setting("", "The column (or field) of the source, for seq2seq.", automatic="'source', or 1")
    target_column: str = setting("", "The column (or field) of the target.", automatic="'target', or 2")
    max_unpacked: int = setting(8 << 30, "Most bytes a .gz may unpack to.", low=1)


@dataclass(frozen=True)
class TokenizerConfig:
    """What the units of text are."""

    tokenizer: str = setting(
        "auto",
        "Units of text; auto is char up to 500 distinct characters or while each is rare; else subword.",
        choices=["auto", "char", "byte", "subword"],
    )
    vocab_size: int = setting(
        0, "Pieces of a subword vocabulary, from 300.", low=0, high=200_000, automatic="from the corpus size"
    )
    subword_model: str = setting("unigram", "Kind of subword model.", choices=["unigram", "bpe"])
    min_count: int = setting(
        0, "Characters seen fewer times become <unk>.", low=0, automatic="2 where that hides under 0.1 % of the text, else 1"
    )


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; every number an exact repetition needs, apart from the text and the machine."""

    dropout_embedding: float = setting(
        0.0, "Dropout on the embedding.", low=0, high=1, high_open=True, automatic="from corpus and time"
    )
    dropout_layers: float = setting(
        0.0, "Dropout between recurrent layers.", low=0, high=1, high_open=True, automatic="from corpus and time"
    )
    dropout_output: float = setting(
        0.0, "Dropout before the output layer.", low=0, high=1, high_open=True, automatic="from corpus and time"
    )
    batch_size: int = setting(32, "Parallel streams.", low=1, high=65536, automatic="32; fewer for a short text")
    window: int = setting(64, "Time steps of truncated backpropagation.", low=1, high=65536)
    micro_batch: int = setting(
        0, "Streams computed at once: fewer take less memory and more time, and learn the same (0: all).", low=0, high=65536,
        automatic="all; half, and half again, where memory is short",
    )  # fmt: skip
    optimizer: str = setting("muon", "What updates the recurrent matrices; AdamW updates the rest.", choices=["muon", "adamw"])
    muon_learning_rate: float = setting(0.02, "Peak learning rate of Muon.", low=0, high=10, low_open=True)
    muon_momentum: float = setting(0.95, "Muon's momentum.", low=0, high=1, high_open=True)
    muon_weight_decay: float = setting(0.1, "Muon's decoupled weight decay.", low=0, high=10)
    learning_rate: float = setting(
        7e-3, "Peak learning rate of AdamW.", low=0, high=10, low_open=True, automatic="by cell and optimizer"
    )
    beta1: float = setting(0.9, "AdamW's first moment decay.", low=0, high=1, high_open=True)
    beta2: float = setting(0.99, "AdamW's second moment decay.", low=0, high=1, high_open=True)
    weight_decay: float = setting(0.05, "AdamW's decoupled weight decay, on matrices.", low=0, high=10)
    warmup: int = setting(100, "Steps over which the learning rate rises.", low=0, high=2**40, automatic="100, at most a tenth")
    schedule: str = setting(
        "trapezoid", "The learning rate after its rise: trapezoid stays up, then falls in a line.",
        choices=["trapezoid", "linear", "cosine", "constant"],
    )  # fmt: skip
    decay: float = setting(0.5, "Share of the steps, the last ones, over which a trapezoid falls.", low=0, high=1, high_open=True)
    clip: float = setting(0.25, "Most the global norm of the gradient may be (0: no clipping).", low=0, high=1e6)
    ema: float = setting(0.998, "Decay of the averaged weights (0: no averaging).", low=0, high=1, high_open=True)
    reset: float = setting(0.05, "Chance that a stream starts a window from a zero state, as a prompt does.", low=0, high=1)
    forget_bias: float = setting(0.0, "Added to an LSTM's forget gate, or a GRU's update gate, at the start.", low=-100, high=100)
    recurrent_init: str = setting(
        "uniform", "Initial recurrent weights; uniform is torch's own.", choices=["uniform", "orthogonal"]
    )
    steps: int = setting(0, "Optimizer steps to make.", low=0, high=2**40, automatic="from the time")
    val_fraction: float = setting(
        0.1, "Share kept for validation (0: none): of a text its end, of examples some of each label.", low=0, high=0.9
    )
    longest: int = setting(2_000, "Most tokens of one text that are learnt from, where texts stand alone.", low=1, high=100_000)
    label_smoothing: float = setting(
        0.1, "Share of the truth that classify spreads over all labels while it learns, so as not to be too sure.",
        low=0, high=1, high_open=True,
    )  # fmt: skip
    balance: bool = setting(False, "Weigh each label of classify by the inverse of its share.")
    eval_every: int = setting(0, "Steps between evaluations.", low=0, automatic="8 to 30 a run")
    eval_tokens: int = setting(
        65_536, "Most validation tokens scored in an evaluation during training.", low=2, automatic="up to 65,536"
    )
    patience: int = setting(6, "Evaluations without a better loss after which training stops (0: never).", low=0)
    seed: int = setting(1, "Seed of weights, data order and dropout.", low=0, high=2**63 - 1)
    device: str = setting(
        "auto", "Where to compute; auto is cuda if there is one, else cpu.", choices=["auto", "cpu", "cuda", "mps"]
    )
    precision: str = setting(
        "auto",
        "Arithmetic; auto is bf16 where the device is built for it, on older GPUs fp16, else fp32; in a timed run on a GPU the "
        "fastest.",
        choices=["auto", "fp32", "bf16", "fp16"],
    )
    threads: int = setting(0, "CPU threads.", low=0, high=512, automatic="all cores, or 1 if faster")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen; all of it applies in the order of the fields."""

    ban: str = setting("", "Characters that are never written.")
    bias: tuple[str, ...] = setting((), "Add NUMBER to the score of a token: TEXT=NUMBER, such as e=-2.")
    no_repeat_ngram: int = setting(0, "Never write the same N tokens again within the last 1,000 (0: may).", low=0, high=1000)
    repetition_penalty: float = setting(1.0, "Divide the scores of the last 64 tokens (1: off).", low=0, high=100, low_open=True)
    frequency_penalty: float = setting(
        0.0, "Take this from a token's score for each time it is among the last 64.", low=-100, high=100
    )
    temp: float = setting(0.8, "Temperature: 0 takes the likeliest, 1 the model's own odds.", low=0, high=100)
    top_k: int = setting(0, "Keep the k likeliest tokens (0: all).", low=0)
    top_p: float = setting(
        1.0, "Keep the likeliest tokens that hold this share of the odds (1: all).", low=0, high=1, low_open=True
    )
    min_p: float = setting(0.0, "Keep tokens at least this share as likely as the likeliest (0: all).", low=0, high=1)


@dataclass(frozen=True)
class ShapingConfig:
    """What a text must look like, whatever tokens it is made of."""

    stop: tuple[str, ...] = setting((), "End before this text.")
    stop_regex: str = setting("", "End before the first text that matches this pattern.")
    max_lines: int = setting(0, "End after this many lines (0: no end).", low=0, high=10**9)
    lines: int = setting(0, "Write exactly this many lines, none of them empty (0: any number).", low=0, high=10**6)
    line_length: int = setting(0, "Most characters of a line; it ends at a space before them (0: any number).", low=0, high=10**6)
    line_prefix: str = setting("", "What each line begins with.")
    acrostic: str = setting("", "A word that the first letters of the lines spell.")
    regex: str = setting("", "A pattern that the whole text matches, the prompt included.")
    max_copy: int = setting(
        0, "No more than this many characters in a row as they stand in the training text (0: any).", low=0, high=10_000
    )


@dataclass(frozen=True)
class DynamicConfig:
    """How a model goes on learning from the text it reads (dynamic evaluation); chosen on training text (docs/results.md)."""

    dynamic_rate: float = setting(0.1, "Learning rate of --dynamic (0: learn nothing).", low=0, high=100)
    dynamic_window: int = setting(32, "Tokens that --dynamic scores before it learns from them.", low=1, high=65536)


def check(config: T) -> T:
    """Return `config` if each of its fields is inside its bounds; raise UsageError naming the first that is not."""
    for item in fields(config):  # type: ignore[arg-type]
        check_value(item, getattr(config, item.name))
    return config


def check_value(item: Field[Any], value: Any) -> Any:
    """Return `value` if field `item` allows it (nan never is); raise UsageError that says what is allowed."""
    name, choices = "--" + item.name.replace("_", "-"), item.metadata["choices"]
    if isinstance(item.default, tuple):
        wrong, allowed = not (isinstance(value, tuple) and all(part and _is_text(part) for part in value)), "some text"
    elif isinstance(item.default, str):
        wrong = not _is_text(value) or (choices and value not in choices)
        allowed = f"one of {', '.join(choices)}" if choices else "text"
    elif isinstance(item.default, bool):
        wrong, allowed = not isinstance(value, bool), "bool"
    else:
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not _inside(value, item.metadata["bounds"])
        wrong = wrong or (isinstance(item.default, int) and not isinstance(value, int))
        kind = "a whole number" if isinstance(item.default, int) else "a number"
        allowed = f"{kind}{bounds_text(item)}"
    if wrong:
        raise UsageError(f"{name} is {value!r}; expected {allowed}.", f"Give {name} {allowed}.")
    return value


def _is_text(value: Any) -> bool:
    """Whether it is a string without halves of surrogate pairs, which is how bytes that are no UTF-8 arrive."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _inside(value: float, bounds: tuple[float, float, bool, bool]) -> bool:
    low, high, low_open, high_open = bounds
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    return above and below and abs(value) != math.inf and abs(value) <= LARGEST  # nan compares false with everything


def bounds_text(item: Field[Any]) -> str:
    """The bounds of a numeric field in words, or an empty string."""
    low, high, low_open, high_open = item.metadata["bounds"]
    parts = []
    if not math.isinf(low):
        parts.append(f"{'above' if low_open else 'at least'} {_shown(low)}")
    if not math.isinf(high):
        parts.append(f"{'below' if high_open else 'at most'} {_shown(high)}")
    return " " + " and ".join(parts) if parts else ""


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a checked config of `kind` from untrusted values; unknown names raise UsageError naming `where`."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise UsageError(f"{where} has an unknown setting {unknown[0]!r}.", f"Known settings: {', '.join(sorted(names))}.")
    return check(kind(**values))
