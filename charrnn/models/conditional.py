"""The conditional language model, shape 1-N: a label in, a text out.

A language model to which the label is told in one of the textbook's two ways, or both: as the state it begins with, and
as a vector that is added to the input of every step. Knows nothing of what the labels are called.
"""

from __future__ import annotations

from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.dropout import dropout
from charrnn.models.language import LanguageModel
from charrnn.models.recurrent import State
from charrnn.weights import state_arrays


class ConditionalModel(LanguageModel):
    """V tokens in, V logits out, C labels; B streams, T time steps, E embedding, H hidden, L layers."""

    def __init__(self, config: ModelConfig, **dropouts: float) -> None:
        super().__init__(config, **dropouts)
        self.label = nn.ModuleDict()
        width = state_arrays(config) * config.layers * config.hidden_size
        if config.label_as in ("both", "state"):
            self.label["state"] = nn.Embedding(config.classes, width)
        if config.label_as in ("both", "step"):
            self.label["step"] = nn.Embedding(config.classes, config.input_size)
        for table in self.label.parameters():
            nn.init.zeros_(table)  # all labels begin as one

    def begin_with(self, labels: Tensor) -> State:
        """The state in which texts of `labels` (B,) begin."""
        if "state" not in self.label:
            return self.begin(len(labels))
        return tuple(self.label["state"](labels).split(self.config.hidden_size, -1))

    def read(self, ids: Tensor, labels: Tensor, state: State) -> tuple[Tensor, State]:
        """(T, B) token ids, labels (B,) and a state to (T, B, V) logits and the state after the last step."""
        x = self.embed(ids)  # (T, B, E)
        if "step" in self.label:
            x = x + self.label["step"](labels)
        y, state = self.recurrent(dropout(x, self.dropout_embedding, self.training), state)  # (T, B, H)
        return self.output(dropout(y, self.dropout_output, self.training)), state
