"""Django's own pages: the admin. The proxy's paths are in proxy/urls.py, and are served before these (asgi.py)."""

from django.contrib import admin
from django.urls import path

from proxy import dashboard

urlpatterns = [
    path("admin/proxy/dashboard/", admin.site.admin_view(dashboard.page), name="dashboard"),
    path("admin/proxy/dashboard/data/", admin.site.admin_view(dashboard.data), name="dashboard-data"),
    path("admin/", admin.site.urls),
]
