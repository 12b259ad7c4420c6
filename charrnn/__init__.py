"""charrnn: train a small recurrent language model on your own text, and write with it.

    import charrnn
    model = charrnn.load("checkpoints/poems")
    for piece in model.stream("Shall I"):
        print(piece, end="")

    model = charrnn.train("my.txt", minutes=2)

The names below are resolved when they are first used: `import charrnn` alone imports neither torch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CharrnnError", "TextModel", "__version__", "load", "train", "train_events"]

if TYPE_CHECKING:
    from charrnn.api import TextModel, load, train, train_events
    from charrnn.errors import CharrnnError


def __getattr__(name: str) -> Any:
    if name == "CharrnnError":
        from charrnn.errors import CharrnnError

        return CharrnnError
    if name in __all__:
        from charrnn import api

        return getattr(api, name)
    raise AttributeError(f"module 'charrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
