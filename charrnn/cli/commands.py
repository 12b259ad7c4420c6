"""The `charrnn` command: a table of commands, each loaded when it is wanted. Knows nothing of what they do."""

from __future__ import annotations

import importlib
from typing import Any

import click
import rich_click

from charrnn import __version__
from charrnn.cli import console

COMMANDS = {
    "train": "charrnn.cli.train:train",
    "sample": "charrnn.cli.sample:sample",
    "repl": "charrnn.cli.repl:repl",
    "chat": "charrnn.cli.chat:chat",
    "classify": "charrnn.cli.classify:classify",
    "translate": "charrnn.cli.translate:translate",
    "eval": "charrnn.cli.evaluate:evaluate",
    "score": "charrnn.cli.score:score",
    "runs": "charrnn.cli.runs:runs",
    "inspect": "charrnn.cli.inspect:inspect",
    "plot": "charrnn.cli.plot:plot",
    "bench": "charrnn.cli.bench:bench",
}
HELP_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "rich_help_config": {
        "text_markup": "ansi",
        "text_paragraph_linebreaks": "\n\n",
        "default_string": "{}",
        "commands_panel_title": "Commands",
        "max_width": 110,
        "options_table_column_types": ["opt_all_metavar", "help"],
        "options_table_help_sections": ["help", "default"],
        "style_options_panel_box": "SIMPLE",
        "style_commands_panel_box": "SIMPLE",
        **console.help_colours(),
    },
}


class LazyGroup(rich_click.RichGroup):
    """A group that imports a command's module when the command is run or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table, which is the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        with console.Output() as output:
            output.write(f"charrnn {__version__}\n")
        context.exit()


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings=HELP_SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and leave."
)
@click.pass_context
def charrnn(context: click.Context) -> None:
    """Train a small recurrent language model on your own text, and write with it.

    RUN is the name of a run, its folder or a .safetensors file; without one, the run saved last is taken.
    The product of a command goes to stdout, everything else to stderr.

        charrnn train my.txt     learn a text (--minutes 5 for better results)
        charrnn sample           write with the run saved last
        charrnn repl             write together with it
        charrnn chat dialogues   talk with the model that came with the project

    Tab completion: put one of these into your shell's start-up file:

        bash    eval "$(_CHARRNN_COMPLETE=bash_source charrnn)"
        zsh     eval "$(_CHARRNN_COMPLETE=zsh_source charrnn)"
        fish    _CHARRNN_COMPLETE=fish_source charrnn | source
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
