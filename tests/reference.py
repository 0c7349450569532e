"""What docs/ says of options and commands, made from the code; `make docs` (`python -m tests.reference`) writes it."""

from __future__ import annotations

import os
from argparse import SUPPRESS, Action
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import django
from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from bench.report import write_between_markers
from proxy.options import Options
from proxy.values import OriginPolicy

DOCS = Path(__file__).parent.parent / "docs"
COMMANDS = Path(__file__).parent.parent / "proxy/management/commands"
REQUIRED = "callback.connect"


def options() -> str:
    """The table of all options, as they are declared."""
    lines = ["| YAML | variable | default | meaning |", "|---|---|---|---|"]
    for spec in fields(Options):
        key, variable, meaning = (spec.metadata[name] for name in ("key", "variable", "meaning"))
        lines.append(f"| `{key}` | `{variable}` | {_default(spec)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(spec: Field[Any]) -> str:
    """As one would write it."""
    value = spec.default
    assert value is not MISSING
    if spec.metadata["key"] == REQUIRED:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _duration(value)
    if isinstance(value, OriginPolicy):
        return value.name
    return "" if value in (None, ()) else str(value)


def _duration(seconds: float) -> str:
    if not seconds:
        return "0"
    return f"{seconds / 3600:g}h" if seconds % 3600 == 0 else f"{seconds:g}s"


def commands() -> str:
    """A section for each command: what it says of itself, and its arguments."""
    names = sorted(path.stem for path in COMMANDS.glob("*.py") if path.stem != "__init__")
    return "\n".join(_command(name) for name in names)


def _command(name: str) -> str:
    command = load_command_class("proxy", name)
    lines = [f"### `{name}`", "", str(command.help), ""]
    if arguments := list(_arguments(command, name)):
        lines += ["| argument | meaning |", "|---|---|", *arguments, ""]
    return "\n".join(lines)


def _arguments(command: BaseCommand, name: str) -> Iterator[str]:
    """Those of its own: what all of Django's commands have is left out."""
    common = {option for action in _actions(BaseCommand(), name) for option in action.option_strings}
    for action in _actions(command, name):
        if action.help is not SUPPRESS and not common.issuperset(action.option_strings or [""]):
            required = "; required" if action.required and action.option_strings else ""
            yield f"| `{_written(action)}` | {action.help}{required} |"


def _actions(command: BaseCommand, name: str) -> list[Action]:
    return command.create_parser("manage.py", name)._actions


def _written(action: Action) -> str:
    """How the argument is typed."""
    value = str(action.metavar or action.dest.upper())
    if action.choices:
        value = f"{{{','.join(map(str, action.choices))}}}"
    if not action.option_strings:
        value = value if "..." in value or action.nargs is None else f"{value}..."
        return f"[{value}]" if action.nargs == "*" else value
    return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {value}"


PAGES: Mapping[str, Callable[[], str]] = {"options": options, "commands": commands}
"""The page in docs/, which is also what its marks are called, and what stands between them."""


def marks(page: str) -> tuple[str, str]:
    return f"<!-- made: {page} -->", f"<!-- end of {page} -->"


def main() -> None:
    """Write all of it."""
    for page, made in PAGES.items():
        write_between_markers(DOCS / f"{page}.md", made(), *marks(page))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kbproject.settings")
    django.setup()
    main()
