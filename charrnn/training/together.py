"""What the first rank of several decides for all: the plan of a run, its bound; and whether so many can share the work.

Knows what must be the same everywhere; knows nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError, CorpusError, UsageError
from charrnn.training import device as machine
from charrnn.training.distributed import Ranks
from charrnn.training.material import Material
from charrnn.training.recipe import Bound, Plan


def wished(ranks: Ranks, wishes: Mapping[str, Any], bound: Bound) -> tuple[dict[str, Any], Bound]:
    """The first rank's settings and bound, on all: another machine may have another environment."""
    if ranks.count == 1:
        return dict(wishes), bound
    told = ranks.first_does(lambda: {"wishes": dict(wishes), "bound": asdict(bound)})
    return told["wishes"], Bound(**told["bound"])


def planned(ranks: Ranks, make: Callable[[], Plan]) -> Plan:
    """The first rank's plan, which may rest on measured times, on all; raises UsageError if there are too few streams."""
    if ranks.count == 1:
        return make()

    def first() -> dict[str, Any]:
        plan = make()
        check_streams(ranks, plan.training)
        return asdict(plan)

    told = ranks.first_does(first)
    model, training = ModelConfig(**told["model"]), TrainingConfig(**told["training"])
    torch.set_num_threads(training.threads)
    return Plan(model, training, tuple(told["notes"]), told["minutes"], told["most_steps"])


def settled(ranks: Ranks, make: Callable[[], TrainingConfig]) -> TrainingConfig:
    """The first rank's settings, on all."""
    return make() if ranks.count == 1 else TrainingConfig(**ranks.first_does(lambda: asdict(make())))


def check_streams(ranks: Ranks, training: TrainingConfig) -> None:
    """Raise UsageError unless each rank has a stream, or an example, of each step."""
    if training.batch_size < ranks.count:
        found = f"{ranks.count:,} ranks cannot share {training.batch_size:,} streams: each needs one."
        raise UsageError(found, f"Start fewer ranks, or train with --batch-size {ranks.count} or more.")


def check_sources(ranks: Ranks, corpus: Sequence[str]) -> None:
    """Raise UsageError for a text that only one process can read."""
    if ranks.count > 1 and "-" in corpus:
        raise UsageError("several ranks cannot read one standard input.", "Put the text into a file, and name that.")


def check_same(ranks: Ranks, material: Material) -> None:
    """Raise CorpusError on a rank that has read another text, or reads it as other tokens, than the first."""
    hint = "Put the same files on every machine, and the same version of charrnn."
    mine = f"{material.survey.digest} {material.tokenizer.digest()}"
    _compare(ranks, mine, lambda _: CorpusError("the text, or what it is cut into, is not that of rank 0.", hint))


def check_devices(ranks: Ranks, device: torch.device) -> None:
    """Raise UsageError on a rank that would learn on another kind of device than the first: their sums would never meet."""
    mine = device.type
    hint = "Train with --device cpu, or start ranks only where there is a GPU."
    _compare(ranks, mine, lambda first: UsageError(f"rank 0 learns on a device of the kind {first}, this one on {mine}.", hint))


def _compare(ranks: Ranks, mine: str, error: Callable[[str], CharrnnError]) -> None:
    """Raise the error, which is given what the first rank has, on a rank that has something else."""
    first = ranks.tell(mine.encode()).decode()

    def compare() -> None:
        if first != mine:
            raise error(first)

    ranks.together(compare)


def shared(ranks: Ranks, training: TrainingConfig, before: int) -> TrainingConfig:
    """The settings of a run that was saved by `before` ranks: where there are more or fewer now, with other threads."""
    if before == ranks.count:
        return training
    return replace(training, threads=max(1, machine.available_cores() // ranks.local_count))


def other_ranks(ranks: Ranks, before: int) -> tuple[str, ...]:
    """A note where a run goes on among more or fewer than it was saved by."""
    if before == ranks.count:
        return ()
    counted = f"{before:,} {'rank' if before == 1 else 'ranks'}"
    return (f"saved by {counted}, goes on with {ranks.count:,}: the same text in the same order, not the same to the bit",)
