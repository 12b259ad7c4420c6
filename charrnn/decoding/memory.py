"""A session in a file: JSON with every token id, setting and seed, and the digest of the model that wrote it.

States are not saved: they are primed again from the ids, so a file is small, can be read by anything, and gives the
same text on any machine. A file is untrusted: all of it is checked before any of it counts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

from charrnn import durable
from charrnn.decoding import settings as all_settings
from charrnn.decoding.settings import Settings
from charrnn.decoding.tree import MAIN, Node, Partner, Tree, is_branch_name, text_of
from charrnn.decoding.turns import PAIRS, Turns
from charrnn.errors import CharrnnError, DataError, UsageError

FORMAT = "charrnn_session"  # its value in a file is the version
VERSION = 2  # 1 knew one branch, and no turns
MAX_FILE_BYTES = 32 << 20  # a year of writing; as Python objects, thirty times as much
MOST_ATTEMPTS = 1 << 32  # from there on attempts are redraws (voice.py)


def write(path: Path, trees: Sequence[Tree], settings: Settings, turns: Turns | None, adapted: int = 0) -> None:
    """Put a session at `path`, all of it or nothing; raises what durable.replace raises.

    The first of the trees is the one in use; there are others only where each label has one. `adapted` is how many
    characters the model had learnt in the session; what came of that is not in the file.
    """
    partner = trees[0].partner
    document = {
        FORMAT: VERSION,
        "model": {"name": partner.name, "digest": partner.digest},
        "settings": asdict(settings),
        "turns": None if turns is None else [turns.you, turns.model],
    }
    if adapted:
        document["adapted"] = adapted
    if partner.labels:
        others = {tree.partner.label: _grown(tree) for tree in trees[1:]}
        document |= {"label": partner.label, "others": others}
    document |= _grown(trees[0])
    data = json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
    if len(data) > MAX_FILE_BYTES:
        message = f"the session has {len(data):,} bytes; /load reads at most {MAX_FILE_BYTES:,}."
        raise CharrnnError(message, "/export keeps the text.")
    durable.replace(path, data)


def _grown(tree: Tree) -> dict[str, Any]:
    return {
        "current": tree.current,
        "branch": tree.branch,
        "branches": tree.ends,
        "onward": tree.onward,
        "nodes": [asdict(node) for node in tree.nodes[1:]],  # node 0, the root, holds nothing
    }


def is_session(path: Path) -> bool:
    """Whether the file at `path` begins as a session does."""
    if not os.path.isfile(path):  # reading a pipe would wait for ever
        return False
    try:
        with open(path, "rb") as file:
            return re.match(rb'\{\s*"' + FORMAT.encode("ascii") + rb'":\s*\d', file.read(100)) is not None
    except OSError:
        return False


def read(path: Path, partner: Partner, turns: Turns | None) -> tuple[list[Tree], Settings, int]:
    """The trees and settings of a file that `partner` wrote, with such `turns`, and what `write` was told of its adaptation.

    Raises DataError on any other file.
    """
    document = _document(path)
    _check_model(document, partner, path)
    _check_turns(document.get("turns"), turns, partner, path)
    try:
        settings = all_settings.from_mapping(document.get("settings"))
        adapted = document.get("adapted", 0)
        if not _whole(adapted):
            raise DataError("it does not say how much the model had learnt")
        return [_tree(part, owner, document[FORMAT]) for owner, part in _parts(document, partner)], settings, adapted
    except (DataError, UsageError) as error:
        raise _damaged(path, error.message.rstrip(".")) from error


def _document(path: Path) -> dict[str, Any]:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise DataError(f"{str(path)!r} is not a file.", "Give /load a file that /save wrote.")
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot read {str(path)!r}: {reason}.", "Give /load a file that /save wrote.") from error
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{str(path)!r} has more than {MAX_FILE_BYTES:,} bytes.", "Give /load a file that /save wrote.")
    return _parsed(data, path)


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
        for text in _texts(document):
            text.encode("utf-8")  # finds lone surrogates
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not proper JSON") from error
    version = document.get(FORMAT) if isinstance(document, dict) else None
    if not _whole(version) or version < 1:
        raise _damaged(path, "it does not say that it is a session")
    if version > VERSION:
        raise DataError(
            f"{str(path)!r} is a session of version {version}; this charrnn reads {VERSION}.", "Install a newer charrnn-lm."
        )
    assert isinstance(document, dict)
    return document


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


def _check_model(document: Mapping[str, Any], partner: Partner, path: Path) -> None:
    model = document.get("model")
    if not isinstance(model, Mapping) or not all(isinstance(model.get(key), str) for key in ("name", "digest")):
        raise _damaged(path, "it does not say which model wrote it")
    if model["digest"] != partner.digest:
        name, digest = model["name"][:100], model["digest"][:12]
        raise DataError(
            f"{str(path)!r} was written with the model {name} ({digest}); this is {partner.name} ({partner.digest[:12]}).",
            _start(name, document.get("turns")),
        )


def _check_turns(found: Any, turns: Turns | None, partner: Partner, path: Path) -> None:
    """A conversation goes on as a conversation, with the same beginnings of lines."""
    if found == (None if turns is None else [turns.you, turns.model]):
        return
    if found is not None and not (isinstance(found, list) and len(found) == 2 and all(isinstance(one, str) for one in found)):
        raise _damaged(path, "it does not say whose turns are whose")
    kind = "was saved by `charrnn repl`" if found is None else f"is a chat with {_convention(','.join(found)[:200])}"
    this = "the repl" if turns is None else f"a chat with {_convention(str(turns))}"
    raise DataError(f"{str(path)!r} {kind}; this is {this}.", _start(partner.name, found))


def _convention(turns: str) -> str:
    return "pairs" if turns == str(PAIRS) else f"the turns {turns!r}"


def _start(name: str, turns: Any) -> str:
    """What to type to go on with a session of the model `name`."""
    command = f"charrnn {'repl' if turns is None else 'chat'} {shlex.quote(name)}"
    if isinstance(turns, list) and any(
        turns
    ):  # also the usual ones: a model that has not learnt them is talked with only if they are named
        command += f" --turns {shlex.quote(','.join(map(str, turns))[:200])}"
    return f"Leave with /bye and start `{command}`."


def _parts(document: Mapping[str, Any], partner: Partner) -> Iterator[tuple[Partner, Mapping[str, Any]]]:
    """Whose tree stands where, the one in use first; raises DataError if a label is none of the model's."""
    if partner.by is None:
        if "label" in document:
            raise DataError("it has a label, and this model writes by none")
        yield partner, document
        return
    others = document.get("others", {})
    if not isinstance(others, dict):
        raise DataError("it does not say what was written by other labels")
    for label, part in ((document.get("label"), document), *others.items()):
        if label not in partner.labels or not isinstance(part, Mapping) or (part is not document and label == document["label"]):
            raise DataError("its labels are not those of this model")
        yield partner.by(label), part


def _tree(part: Mapping[str, Any], partner: Partner, version: int) -> Tree:
    tree = _nodes(part.get("nodes"), partner)
    _restore_places(tree, part, version)
    return tree


def _nodes(rows: Any, partner: Partner) -> Tree:
    if not isinstance(rows, list):
        raise DataError("it holds no list of nodes")
    tree = Tree(partner)
    for number, row in enumerate(rows, 1):
        tree.add(_node(row, number, partner))
    return tree


def _restore_places(tree: Tree, document: Mapping[str, Any], version: int) -> None:
    """Where the branches end and which way one went from each node; raises DataError if that cannot be."""
    if version == 1:
        document = {**document, "branch": MAIN, "branches": {MAIN: document.get("current")}, "onward": tree.onward}
    ends, branch, onward, current = (document.get(name) for name in ("branches", "branch", "onward", "current"))
    if not isinstance(ends, dict) or not all(map(is_branch_name, ends)):
        raise DataError("its branches are not those of a session")
    if not all(_whole(place) and place < len(tree.nodes) for place in (current, *ends.values())):
        raise DataError("its place in the text does not exist")
    if not isinstance(branch, str) or branch not in ends:
        raise DataError("the branch that it was on does not exist")
    if not isinstance(onward, list) or len(onward) != len(tree.nodes):
        raise DataError("it does not say which way on was taken last")
    for index, after in enumerate(onward):
        if not _whole(after) or (after and after not in tree.children[index]):
            raise DataError("it does not say which way on was taken last")
    assert isinstance(current, int)
    tree.ends, tree.branch, tree.onward, tree.current = dict(ends), branch, list(onward), current


def _node(row: Any, number: int, partner: Partner) -> Node:
    if not isinstance(row, Mapping) or set(row) != {"parent", "kind", "ids", "text", "seed", "attempt"}:
        raise DataError(f"node {number} is malformed")
    ids, text, kind = row["ids"], row["text"], row["kind"]
    if not all(_whole(row[name]) for name in ("parent", "seed", "attempt")) or row["parent"] >= number:
        raise DataError(f"node {number} is malformed")
    if row["attempt"] >= MOST_ATTEMPTS or kind not in ("you", "model") or not isinstance(text, str) or not isinstance(ids, list):
        raise DataError(f"node {number} is malformed")
    if (not ids and kind == "you") or not all(_whole(token) and token < partner.tokenizer.vocab_size for token in ids):
        raise DataError(f"node {number} holds tokens the model does not have")
    if (text_of(ids, partner.tokenizer) != text) if kind == "model" else (partner.spelt(text).tolist() != ids):
        raise DataError(f"the text of node {number} does not fit its tokens")
    return Node(row["parent"], kind, tuple(ids), text, row["seed"], row["attempt"])


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{str(path)!r} is damaged or not a session: {why}.", "Give /load a file that /save wrote.")
