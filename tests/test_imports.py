"""Who may import whom: the rule of the house, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn

PACKAGE = Path(charrnn.__file__).parent
GROUND = {"errors", "config", "durable", "weights", "launch"}
MAY_IMPORT = {
    "errors": set[str](),
    "config": {"errors"},
    "durable": {"errors"},
    "weights": {"errors", "config"},
    "launch": {"errors"},
    "text": GROUND,
    "runs": GROUND | {"text"},
    "models": GROUND | {"text", "runs"},
    "decoding": GROUND | {"text", "runs"},
    "training": GROUND | {"text", "runs", "models", "decoding"},
    "api": GROUND | {"text", "runs", "models", "decoding", "training"},
    "cli": GROUND | {"text", "runs", "models", "decoding", "training", "api"},
    "__main__": {"cli"},
    "__init__": GROUND | {"api"},
}
ONLY_IN = {
    "torch": {"models", "training"},
    "click": {"cli"},
    "rich": {"cli"},
    "rich_click": {"cli"},
    "sentencepiece": {"text"},
    "safetensors": {"runs"},
    "filelock": {"durable"},
}
BANNED = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_in_the_rule() -> None:
    assert {room(path) for path in files()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_lower_room_never_imports_a_higher_one(path: Path) -> None:
    allowed = MAY_IMPORT[room(path)] | {room(path)}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "charrnn" and len(parts) > 1 and (PACKAGE / parts[1]).with_suffix("").name != "__version__":
            assert parts[1] in allowed, f"{path.name} imports {name}"
        assert room(path) in ONLY_IN.get(parts[0], {room(path)}), f"{path.name} imports {name}"
        assert parts[0] not in BANNED


def test_rich_and_the_line_editor_have_one_home_each() -> None:
    homes = {"prompt_toolkit": {"prompt.py"}}
    for path in files():
        for name in imported(path):
            top = name.split(".")[0]
            assert path.name in homes.get(top, {path.name}), f"{path} imports {name}"


def test_nothing_can_run_code_from_data() -> None:
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "compile", "__import__", "torch.load", "np.load"} or (
                    called == "np.load" and "allow_pickle=False" in ast.unparse(node)
                ), f"{path} calls {called}"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import charrnn", ["torch", "numpy", "rich", "click"]),
        ("import charrnn; charrnn.load", ["torch", "sentencepiece"]),
        ("import charrnn.decoding.generate, charrnn.runs.registry", ["torch", "rich", "click", "sentencepiece"]),
    ],
)
def test_imports_stay_light(code: str, absent: list[str]) -> None:
    check = f"{code}; import sys; print([n for n in {absent!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
