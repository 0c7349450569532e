"""The options that are paths: what is served is exactly what they name."""

from dataclasses import fields

import pytest
from django.urls import Resolver404, resolve

from proxy.options import Options
from proxy.paths import Paths


def test_each_path_leads_to_a_view_of_its_own() -> None:
    paths: list[str] = [getattr(Paths(), spec.name) for spec in fields(Paths)]
    views = {resolve(path, "proxy.urls").func for path in paths}
    assert len(views) == len(paths)
    with pytest.raises(Resolver404):
        resolve("/", "proxy.urls")


def test_they_are_options_as_all_others() -> None:
    assert {spec.name for spec in fields(Paths)} == {spec.name for spec in fields(Options) if "_path" in spec.name}
    assert all(spec.metadata["key"].startswith("path.") for spec in fields(Paths))
