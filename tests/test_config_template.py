"""The template functions of kuiperbelt's config.yml, as Go's text/template and go-config take them."""

import pytest

from proxy.config_template import expand

ENVIRON = {"SET": "value", "EMPTY": ""}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a: b", "a: b"),
        ('{{ env "SET" "default" }}', "value"),
        ('{{ env "EMPTY" "default" }}', "default"),
        ('{{ env "UNSET" "SET" "default" }}', "value"),
        ('{{ env "UNSET" "" }}', ""),
        ('{{ env "UNSET" }}', "UNSET"),  # the last one is the default, also where it is the only one
        ("{{env `SET` `d`}}", "value"),
        ('{{- must_env "SET" -}}', "value"),
        ('{{ must_env "EMPTY" }}', ""),
    ],
)
def test_expand(source: str, text: str) -> None:
    assert expand(source, ENVIRON) == (text, [])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{{ must_env "UNSET" }}', "the environment variable UNSET (must_env)"),
        ('{{ must_env "SET" "x" }}', '{{ env "NAME" "default" }} or {{ must_env "NAME" }}'),
        ("{{ env }}", '{{ env "NAME" "default" }} or {{ must_env "NAME" }}'),
        ("{{ .Field }}", '{{ env "NAME" "default" }} or {{ must_env "NAME" }}'),
    ],
)
def test_mistakes(source: str, expected: str) -> None:
    text, ((said, _),) = expand(source, ENVIRON)
    assert (text, said) == ("", expected)
