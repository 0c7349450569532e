"""Options that are one of several words. Used by `options`; each raises ValueError as `values` do."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any


def one_of(names: Sequence[str], value: Any) -> str:
    if value in names:
        return str(value)
    raise ValueError(", ".join(names[:-1]) + f" or {names[-1]}")


def tracing(value: Any) -> str:
    if value == "spans" and not _has_packages():
        raise ValueError("the packages of requirements-tracing.txt, for spans")
    return one_of(("off", "pass", "spans"), value)


def _has_packages() -> bool:
    try:
        return bool(find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # of what stands before a dot
        return False
