"""Options that are one of several words."""

from importlib.util import find_spec

import pytest

from proxy import choices


def test_one_of_several() -> None:
    assert choices.one_of(("replace", "reject", "join"), "reject") == "reject"
    for value in ("oldest", "", ["reject"], None):
        with pytest.raises(ValueError, match=r"^replace, reject or join$"):
            choices.one_of(("replace", "reject", "join"), value)


def test_spans_need_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choices.tracing(value) for value in ("off", "pass", "spans")] == ["off", "pass", "spans"]
    installed = find_spec
    monkeypatch.setattr(choices, "find_spec", lambda name: installed(f"absent.{name}"))
    assert [choices.tracing(value) for value in ("off", "pass")] == ["off", "pass"]
    with pytest.raises(ValueError, match=r"requirements-tracing\.txt"):
        choices.tracing("spans")
