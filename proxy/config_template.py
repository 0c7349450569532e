"""kuiperbelt's template functions in config.yml: {{ env "NAME" "default" }} and {{ must_env "NAME" }}. Pure rules."""

import re
from collections.abc import Mapping

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_CALL = re.compile(r'(env|must_env)((?:\s+(?:"[^"]*"|`[^`]*`))+)')
_STRING = re.compile(r'"([^"]*)"|`([^`]*)`')

Mistake = tuple[str, str]
"""What was expected, what was found."""


def expand(source: str, environ: Mapping[str, str]) -> tuple[str, list[Mistake]]:
    """The text with every action replaced, and what was wrong with actions.

    `env` takes names to try, of which the last is the default; `must_env` takes one, which must be set.
    """
    mistakes: list[Mistake] = []

    def replace(match: re.Match[str]) -> str:
        call = _CALL.fullmatch(match[1])
        names = [text or raw for text, raw in _STRING.findall(call[2])] if call else []
        if not call or (call[1] == "must_env" and len(names) != 1):
            mistakes.append(('{{ env "NAME" "default" }} or {{ must_env "NAME" }}', match[0]))
            return ""
        if call[1] == "env":
            return next((environ[name] for name in names if environ.get(name)), names[-1])
        if names[0] not in environ:
            mistakes.append((f"the environment variable {names[0]} (must_env)", "nothing"))
        return environ.get(names[0], "")

    return _ACTION.sub(replace, source), mistakes
