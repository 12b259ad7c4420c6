"""The command that repeats a run: each setting that matters, as it would be typed. How it was chosen is not known here."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from charrnn.config import FOR_TASKS, ModelConfig, ReadingConfig, TokenizerConfig, TrainingConfig
from charrnn.training.recipe import FOUND


def command(
    corpus: Sequence[str], reading: ReadingConfig, tokenizer: TokenizerConfig, model: ModelConfig, training: TrainingConfig,
    asked: Collection[str] = (), without: Collection[str] = (),
) -> str:  # fmt: skip
    """The `charrnn train` command that repeats a plan exactly, on a machine of the same kind.

    What was `asked` for is named even where it is the default, which the environment may have changed; `without` is not.
    """
    texts = [f"./{name}" if name.startswith("-") and name != "-" else name for name in corpus]
    words = ["charrnn", "train", *texts, "--steps", str(training.steps)]
    configs: tuple[Any, ...] = (reading, tokenizer, model, training)
    always = {"hidden_size", "layers", "embedding_size", "batch_size", "learning_rate", "eval_every", "eval_tokens"}
    always |= {"precision", "threads", "warmup", "dropout_embedding", "dropout_layers", "dropout_output", *asked}
    for config in configs:
        for item in fields(config):
            value = getattr(config, item.name)
            told = item.name == "steps" or item.name in without or (config is model and item.name in FOUND)
            if told or model.task not in FOR_TASKS.get(item.name, (model.task,)):  # a file may serve several tasks
                continue
            if value != item.default or item.name in always:
                words += _words(item.name, value)
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]
