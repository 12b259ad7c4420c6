"""`charrnn repl`: writing together with a model. Knows what can be asked for, nothing of what a line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click

from charrnn.cli import converse, labels, loading, options, sessions

DEFAULTS = {"finish": "line"}  # a poem should not be torn in the middle of a word


@rich_click.command()
@options.apply([options.run_argument(required=False), *sessions.flags(DEFAULTS)])
def repl(run: str | None, checkpoints: Path, keys: str, narrow: bool, **values: Any) -> None:
    """Write together with a model: type a line, and it goes on from there.

    An empty line lets it go on, Ctrl-C stops it, /help shows the commands, Ctrl-D leaves. While you type, a dim text
    shows how the line may go on: Right takes it, Tab lists what else may come. The same lines with the same seed give
    the same text. Without a terminal each line of input gives a line, or several, of text.

    \b
    charrnn repl                              with the newest run
    charrnn repl poems --temp 0.6 --length 80
    charrnn repl verses --label haiku         by a label; /label changes it
    echo "Shall I" | charrnn repl poems
    """
    settings = sessions.settings(values, DEFAULTS)
    from charrnn.decoding import engine as engines
    from charrnn.decoding.session import Session

    model = loading.load(run, checkpoints)
    label = labels.chosen(model, values["label"], settings.seed)
    with engines.single_thread():
        session = Session(sessions.partner(model, narrow, label, checkpoints), settings)
        session.check(settings)
        sessions.tell_seed(values, settings, model, label)
        greeting = sessions.greeting(model, "Type a line and it goes on; /help tells more.", label)
        converse.run(session, greeting, vi=keys == "vi")
