"""A session's learner: a copy of a language model that learns as dynamic evaluation does, and can be kept as a new run.

The `Adapting` of decoding, with torch. Knows the model and where runs are; knows nothing of lines, files or sessions. The
run that it came from is read once and never written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import DynamicConfig
from charrnn.decoding import kernel
from charrnn.decoding.engine import Engine, Ids, State
from charrnn.errors import CharrnnError, UsageError
from charrnn.models.weights import import_weights
from charrnn.runs import model as runs
from charrnn.runs import registry
from charrnn.runs.checkpoint import Tensors
from charrnn.runs.model import Model
from charrnn.training.base import origin
from charrnn.training.device import visiting
from charrnn.training.dynamic import Adapter

THREADS = 1  # a step of one stream is too small for more, and with one the same lines always teach the same


class Pupil:
    """One model's weights on their way; an `Adapting`."""

    def __init__(self, model: Model, narrow: bool, root: Path) -> None:
        """`narrow` is how its engines are (see Engine); new runs are made below `root`."""
        self._model, self._narrow, self._root = model, narrow, root
        self._settings = DynamicConfig()
        with visiting(THREADS):
            self._adapter = Adapter(model.config, model.weights, self._settings)
            # What it has to find out before its first step costs seconds, and is better paid for before a line is typed.
            self._adapter.learn(np.array([model.start[-1]] * 2), self._adapter.begin())
            self._adapter.reset()

    def learn(self, ids: Ids, before: State) -> tuple[NDArray[np.float64], State]:
        """See Adapting."""
        try:
            with visiting(THREADS):
                nats, _, after = self._adapter.learn(ids, before)
        except CharrnnError as error:
            raise CharrnnError(
                "the weights left all measure, and are what they were before that.", "/adapt off starts anew."
            ) from error
        return nats, after

    def mark(self) -> Tensors:
        """See Adapting."""
        return self._adapter.weights()

    def back(self, mark: object) -> None:
        """See Adapting."""
        if mark is None:
            self._adapter.reset()
        else:
            assert isinstance(mark, dict)
            import_weights(self._adapter.network, mark)

    def engine(self) -> Engine:
        """See Adapting."""
        found = kernel.make() if self._narrow else kernel.find()
        return Engine(self._model.config, self._adapter.weights(), kernel=found, narrow=self._narrow)

    def save(self, name: str, learnt: Mapping[str, Any]) -> None:
        """See Adapting; the new run has no last.safetensors, because there is no training to go on with."""
        model = self._model
        try:
            registry.check_free(name, self._root)
            folder = registry.create(name, name, self._root)
        except UsageError as error:
            raise UsageError(error.message, "Choose another name.") from error
        whence = {"from": origin(model), "adapted": {**learnt, "settings": asdict(self._settings)}}
        # Its scores were those of other weights.
        provenance = {key: value for key, value in model.provenance.items() if key not in ("scores", "adapted")} | whence
        about = {"name": name, "start": list(model.start), "provenance": provenance, "labels": [], "saved": round(time.time())}
        saved = False
        try:
            runs.save(folder / runs.MODEL_FILE, model.config, model.tokenizer, self._adapter.weights(), about)
            saved = True
        finally:
            if not saved:
                registry.clear(folder)
