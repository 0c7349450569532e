"""The proxy's HTTP paths: each configured one leads to its view."""

import pytest
from django.urls import Resolver404, resolve

from proxy import views


@pytest.mark.parametrize(
    ("path", "view"),
    [
        ("/connect", views.connect),
        ("/send", views.send),
        ("/close", views.close),
        ("/ping", views.ping),
        ("/stats", views.show_stats),
    ],
)
def test_paths(path: str, view: object) -> None:
    assert resolve(path, "proxy.urls").func is view
    with pytest.raises(Resolver404):
        resolve(f"{path}/more", "proxy.urls")
