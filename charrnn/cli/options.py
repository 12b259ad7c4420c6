"""Click options made from the settings in charrnn.config, where alone help, bounds and choices stand.

Knows how a value is asked for: flag > environment (CHARRNN_<SETTING>) > --config FILE (TOML) > automatic. An option
that nobody set is None, so that "asked" holds only what was asked.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click
import rich_click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from charrnn import config
from charrnn.errors import UsageError

LONGEST = 10**12  # tokens of a --length that is not inf
LARGEST_FILE = 1 << 20  # bytes of a --config
SHOWN = 40  # characters of a value that a message repeats
F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]
NEVER_IN_A_FILE = {"config", "help", "resume", "init_from", "as_json", "output"}
# of some commands; a file may hold them for all
OTHER_OPTIONS = {"length", "ghost", "finish", "keys", "turns", "prompt", "label", "name", "checkpoints"}


@dataclass(frozen=True)
class BoundConfig:
    """The bounds of a run that are not settings of the training itself, because they become a step count."""

    minutes: float = config.setting(
        0.0, "Minutes the whole command may take.", low=0, low_open=True, high=1e6, automatic="1 to 10, by the text"
    )
    epochs: float = config.setting(0.0, "Passes over the text.", low=0, low_open=True, high=1e9)


@dataclass(frozen=True)
class DrawConfig:
    """What `sample` draws, apart from how a token is chosen."""

    num: int = config.setting(1, "Texts to write; they are drawn together.", low=1, high=1_000_000)
    seed: int = config.setting(0, "Same seed, same text.", low=0, high=2**63 - 1, automatic="a new one each time")
    best_of: int = config.setting(
        1, "Draw so many for each text, and write the one with the fewest bits per character.", low=1, high=10_000
    )
    beam: int = config.setting(
        0, "Search for the likeliest text with a beam of this width, instead of drawing (0: draw).", low=0, high=1000
    )
    length_penalty: float = config.setting(
        0.6, "With --beam, how much longer texts are made up for: 0 not at all, 1 completely.", low=0, high=10
    )


class SettingType(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only, before click 8.5
    """The values one field of a settings dataclass allows; refuses nan, infinity and whatever is out of bounds."""

    def __init__(self, item: Field[Any]) -> None:
        self.item = item
        self.name = _metavar(item)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The checked value; raises UsageError that says what is allowed and, if from the environment, from where."""
        try:
            return config.check_value(self.item, _manageable(self.item, _parsed(self.item, value)))
        except UsageError as error:
            raise UsageError(error.message + _origin(param, ctx), error.hint) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """The choices that begin so."""
        return [CompletionItem(choice) for choice in self.item.metadata["choices"] if choice.startswith(incomplete)]


class PathType(click.Path):
    """A path; refuses a NUL, which no file name can hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; raises UsageError or click.BadParameter."""
        if "\0" in str(value):
            name = param.opts[0] if param is not None else "a path"
            raise UsageError(f"{name} is {_short(str(value))!r}; expected the name of a file or folder.", "Leave out the NUL.")
        return super().convert(value, param, ctx)


class LengthType(click.ParamType):  # type: ignore[type-arg]
    """A number of tokens, or `inf`."""

    name = "N|inf"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Tokens, or float infinity (not None, which to click means that nothing was given)."""
        if str(value).lower() in ("inf", "infinity"):
            return float("inf")
        try:
            number = int(str(value))
        except ValueError:
            number = 0
        if not 1 <= number <= LONGEST:
            allowed = f"a whole number from 1 to {LONGEST:,}, or inf"
            raise UsageError(f"--length is {_short(str(value))!r}; expected {allowed}.", "Give --length 500.")
        return number


def _metavar(item: Field[Any]) -> str:
    if item.metadata["choices"]:
        return "|".join(item.metadata["choices"])
    return {bool: "BOOL", int: "N", float: "X", str: "TEXT"}[type(item.default)]


def _parsed(item: Field[Any], value: Any) -> Any:
    """`value` as the type of the field, if it can be read so; else as it is, for check_value to refuse."""
    if isinstance(item.default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else value
    if isinstance(value, str) and not isinstance(item.default, str):
        try:
            return int(value) if isinstance(item.default, int) else float(value)
        except ValueError:
            return value
    return value


def _manageable(item: Field[Any], value: Any) -> Any:
    """`value`, minus zero as zero; a number that is too large, or is none at all, as the short text that a message repeats."""
    if isinstance(item.default, str) and not item.metadata["choices"]:
        return value
    if isinstance(value, str) or _too_large(value):
        return _short(value)
    return value + 0.0 if isinstance(value, float) else value


def _too_large(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > config.LARGEST


def _short(value: str | int) -> str:
    """As much of a value as a message repeats; Python refuses to write a number of thousands of digits, but not in hex."""
    text = value if isinstance(value, str) else hex(value) if abs(value) >> 1000 else str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _origin(param: click.Parameter | None, ctx: click.Context | None) -> str:
    if param is None or ctx is None or param.name is None:
        return ""
    from_environment = ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT
    return f" (It comes from the environment variable {param.envvar}.)" if from_environment else ""


def setting_option(item: Field[Any], panel: str, default_text: str | None = None) -> Decorator[Any]:
    """The option of one settings field; `default_text` is what its help says of its default, where a command has its own."""
    flag, variable = item.name.replace("_", "-"), f"CHARRNN_{item.name.upper()}"
    if isinstance(item.default, tuple):
        return _repeated_option(item, panel)
    help_text, default = item.metadata["help"], default_text or item.metadata["automatic"] or _default_text(item)
    shared: dict[str, Any] = {"default": None, "envvar": variable, "show_default": default or False, "panel": panel}
    if isinstance(item.default, bool):
        return rich_click.option(f"--{flag}/--no-{flag}", item.name, help=help_text, **shared)
    kind = SettingType(item)
    return rich_click.option(f"--{flag}", item.name, type=kind, metavar=kind.name, help=help_text, **shared)


def _repeated_option(item: Field[Any], panel: str) -> Decorator[Any]:
    """The option of a field of several texts: given once for each, by flag alone; None if it was not given."""
    return rich_click.option(
        f"--{item.name.replace('_', '-')}", item.name, multiple=True, metavar="TEXT", panel=panel,
        help=f"{item.metadata['help']} May be given again.",
        callback=lambda context, parameter, values: config.check_value(item, tuple(values)) if values else None,
    )  # fmt: skip


def _default_text(item: Field[Any]) -> str:
    """The default in words; none if it lies out of bounds, which says that there is no default."""
    default, (low, _, low_open, _) = item.default, item.metadata["bounds"]
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, str):
        return default
    if default < low or (low_open and default == low):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def settings(
    kind: type, panel: str, *, only: Collection[str] = (), without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> list[Decorator[Any]]:  # fmt: skip
    """Options for the fields of a settings dataclass, in its order; `only` some, or all `without` some.

    `defaults` are those that the command itself puts in the place of the dataclass's.
    """
    chosen = [item for item in fields(kind) if item.name not in without and (not only or item.name in only)]
    own = defaults or {}
    return [setting_option(item, panel, str(own[item.name]) if item.name in own else None) for item in chosen]


def apply(options: Iterable[Decorator[Any]]) -> Decorator[Any]:
    """One decorator for many options; the help lists them in the order given here."""

    def decorate(function: Any) -> Any:
        for option in reversed(list(options)):
            function = option(function)
        return function

    return decorate


def asked(values: Mapping[str, Any], *kinds: type) -> dict[str, Any]:
    """Those of `values` that are fields of `kinds` and that somebody set."""
    names = {item.name for kind in kinds for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names and value is not None}


def checkpoints_option(panel: str = "Options") -> Decorator[Any]:
    """--checkpoints DIR: where runs live."""
    return rich_click.option(
        "--checkpoints",
        type=PathType(path_type=Path, file_okay=False),
        default=Path("checkpoints"),
        envvar="CHARRNN_CHECKPOINTS",
        show_default="checkpoints",
        metavar="DIR",
        panel=panel,
        help="The folder in which runs live.",
    )


def json_option(help_text: str) -> Decorator[Any]:
    """--json: for programs."""
    return rich_click.option("--json", "as_json", is_flag=True, help=help_text)


def int8_option() -> Decorator[Any]:
    """--int8: a faster engine."""
    return rich_click.option(
        "--int8", "narrow", is_flag=True,
        help="Round the weights to eight bits: faster, a little worse (docs/decoding.md); needs a C compiler.",
    )  # fmt: skip


def keys_option() -> Decorator[Any]:
    """--keys: how the line editor behaves."""
    return rich_click.option(
        "--keys", type=click.Choice(["emacs", "vi"]), default="emacs", envvar="CHARRNN_KEYS", show_default=True, panel="Text",
        help="The keys of the line editor.",
    )  # fmt: skip


def run_argument(required: bool = True) -> Decorator[Any]:
    """RUN: a name, folder or file; completion offers the names."""
    return rich_click.argument("run", required=required, shell_complete=complete_run)


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Names of runs, found without opening any: completion must not wait for NumPy; what no run is called is left out."""
    folder = Path(context.params.get("checkpoints") or os.environ.get("CHARRNN_CHECKPOINTS") or "checkpoints")
    names = sorted(path.parent.name for path in folder.glob("*/*.safetensors") if path.stem in ("model", "last"))
    found = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete) and name.isprintable()]
    return found or complete_file(context, parameter, incomplete)


def complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Leave it to the shell, which knows files; bytes that are no UTF-8 could not be told to it."""
    return [CompletionItem(incomplete if incomplete.isprintable() else "", type="file")]


def config_option(panel: str = "Options") -> Decorator[Any]:
    """--config FILE: settings from a TOML file, below flags and environment."""
    return rich_click.option(
        "--config",
        type=PathType(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        metavar="FILE",
        panel=panel,
        help="Settings from a TOML file (hidden-size = 256); flags and CHARRNN_* variables win.",
    )


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    options = {option.name: option for option in context.command.params if option.name not in NEVER_IN_A_FILE}
    defaults: dict[str, Any] = {}
    for key, value in _toml(path).items():
        name = key.replace("-", "_")
        if name in options and isinstance(options[name], click.Option):
            defaults[name] = _from_file(path, key, value, options[name], context)
        elif name not in _every_setting():  # a setting of another command is fine: one file can serve them all
            known = ", ".join(sorted(str(name) for name in options if name))
            raise UsageError(f"{str(path)!r} has an unknown setting {key!r}.", f"Known settings: {known}.")
    context.default_map = defaults


def _toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST_FILE):
            raise UsageError(f"{str(path)!r} is no file of settings.", f"Name a TOML file of at most {LARGEST_FILE:,} bytes.")
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except RecursionError as error:
        raise UsageError(f"{str(path)!r} is nested too deep.", "Settings stand flat in the file, one a line.") from error
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}.", "Check the path given to --config.") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise UsageError(f"{str(path)!r} is not a TOML file: {error}.", "Write lines such as: hidden-size = 256") from error


def _from_file(path: Path, key: str, value: Any, option: click.Parameter, context: click.Context) -> Any:
    """The value of one line of the file, checked here so that the error can name the file and the key."""
    where = f"in {str(path)!r}, {key}: "
    if _too_large(value):
        raise UsageError(f"{where}{_short(value)} is too large a number.", f"No setting is above {config.LARGEST:,}.")
    if isinstance(option, click.Option) and option.multiple:
        return _texts(where, key, value)
    if isinstance(value, (dict, list)):
        raise UsageError(f"{where}expected one value, not a table or list.", "Settings stand flat in the file, one a line.")
    if isinstance(option.type, click.types.BoolParamType) and not isinstance(value, bool):
        raise UsageError(f"{where}expected true or false, found {value!r}.", f"Write: {key} = true")
    if isinstance(option.type, click.Path) and (not isinstance(value, str) or "\0" in value):
        raise UsageError(f"{where}expected a path, found {value!r}.", f'Write: {key} = "folder"')
    try:
        return option.type.convert(value if isinstance(value, (bool, int, float)) else str(value), option, context)
    except click.BadParameter as error:
        raise UsageError(where + error.message, "Mend that line of the file.") from error
    except UsageError as error:
        raise UsageError(where + error.message, error.hint) from error


def _texts(where: str, key: str, value: Any) -> list[str]:
    """The value of an option that may be given several times: one text, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{where}expected a text or a list of texts, none of them empty.", f'Write: {key} = ["one", "two"]')
    return texts


def _every_setting() -> set[str]:
    kinds = (
        config.ReadingConfig, config.TokenizerConfig, config.ModelConfig, config.TrainingConfig, config.SamplingConfig,
        config.ShapingConfig, config.PresetConfig, config.DynamicConfig, BoundConfig, DrawConfig,
    )  # fmt: skip
    return OTHER_OPTIONS | {item.name for kind in kinds for item in fields(kind)}
