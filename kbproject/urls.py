"""Django's own pages: none yet. The proxy's paths are in proxy/urls.py, and are served before these (asgi.py)."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
