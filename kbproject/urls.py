"""Django's own pages. The proxy's paths are in proxy/urls.py, and are served before these (asgi.py)."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
