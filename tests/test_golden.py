"""A model of each released format must load for ever, to the same weights and the same words."""

from __future__ import annotations

from pathlib import Path

import charrnn

GOLDEN = Path(__file__).parent / "golden"


def test_format_1() -> None:
    model = charrnn.load(GOLDEN / "format-1.safetensors")
    assert model.model.digest == "56e29ce6ee48ab4c65a8d4ab7a385dd8eae69a703f8cb10b161d8dc9e62027a6"
    assert model.generate("The harbour", temp=0, length=60) == " hold one by one the lamps come up leaves the boats to think"
    assert model.bits_per_character("the tide goes out to talk it over with the sand\n") < 2
