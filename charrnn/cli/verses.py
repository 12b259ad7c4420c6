"""What `charrnn eval` says of a model of the task conditional."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.text.examples import Examples
    from charrnn.training.loss import Network


def report(model: Model, network: Network, examples: Examples, split: str, as_json: bool) -> str:
    """Figures and tables, or one JSON object."""
    return json.dumps({"run": model.name, "split": split, "examples": len(examples)}) + "\n"
