"""What a run says of itself: in its files, at its start, and as the command that repeats it.

Knows nothing of how a run comes about (job.py) or goes on.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

import charrnn
from charrnn.text.corpus import TokenData
from charrnn.training import base as bases
from charrnn.training import planning, recipe, repeating
from charrnn.training.events import Event, Finished, Started
from charrnn.training.material import Material
from charrnn.training.recipe import Plan
from charrnn.training.trainer import Run


def provenance(material: Material, plan: Plan) -> dict[str, Any]:
    """What a run says of itself; names without folders, nothing of the machine's user."""
    survey, data = material.survey, material.data
    if isinstance(data, TokenData):
        split = {"train_characters": data.train_characters, "val_characters": data.val_characters}
    else:
        split = {"train_examples": len(data.train), "val_examples": len(data.val)}
    versions = {"charrnn": charrnn.__version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "corpus": {"names": list(survey.names)[:20], "digest": survey.digest, "characters": survey.characters,
                   "documents": survey.documents},
        "split": split,
        "settings": {**asdict(material.reading), "tokenizer": asdict(material.units), **asdict(plan.training)},
        "versions": {**versions, "python": platform.python_version()},
    }  # fmt: skip


def resume_facts(material: Material) -> dict[str, Any]:
    """What only last.safetensors holds: it stays on this machine, so it may say where the text lies."""
    where = [item if item == "-" else os.path.abspath(item) for item in material.corpus]
    return {
        "sources": where,
        "digest": material.survey.digest,
        "reading": asdict(material.reading),
        "units": asdict(material.units),
    }


def _started(run: Run, material: Material, notes: tuple[str, ...], command: str) -> Started:
    learner, facts = run.learner, planning.facts_of(material)
    settings = {**asdict(learner.model_config), **asdict(learner.training), "tokenizer": material.tokenizer.kind}
    return Started(
        run.folder.name, run.folder, settings, recipe.parameters(learner.model_config), material.survey.characters,
        material.tokenizer.vocab_size, facts.train_tokens, facts.val_tokens, learner.training.steps,
        learner.step, learner.training.device, command, notes, run.deadline is not None and not run.deadline.settled,
        material.described(),
    )  # fmt: skip


def _command(run: Run, material: Material) -> str:
    """The command that repeats this run exactly; none does where the bound was changed on the way."""
    if run.extended:
        return ""
    model, training = run.learner.model_config, run.learner.training
    origin = str(run.resume.get("init_from", ""))
    without = bases.DECIDED if origin else ()
    said = run.learner.ranks.prefix
    said += repeating.command(material.corpus, material.reading, material.units, model, training, run.asked, without)
    return f"{said} --init-from {shlex.quote(origin)}" if origin else said


def events(run: Run, material: Material, notes: tuple[str, ...]) -> Iterator[Event]:
    """The events of a run, the last one again with the command: only then the number of steps is known for certain."""
    yield _started(run, material, notes, _command(run, material))
    for event in run.events():
        yield replace(event, command=_command(run, material)) if isinstance(event, Finished) else event
