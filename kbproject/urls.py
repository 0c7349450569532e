"""Django's own pages: the admin. The proxy's paths are in proxy/urls.py, and are served before these (asgi.py)."""

from django.contrib import admin
from django.urls import path

from proxy import console_page, dashboard, watch_page

_staff = admin.site.admin_view
handler400 = "proxy.pages.bad_request"

urlpatterns = [
    path("admin/proxy/dashboard/", _staff(dashboard.page), name="dashboard"),
    path("admin/proxy/dashboard/data/", _staff(dashboard.data), name="dashboard-data"),
    path("admin/proxy/watch/", _staff(watch_page.page), name="watch"),
    path("admin/proxy/watch/stream/", _staff(watch_page.stream), name="watch-stream"),
    path("admin/proxy/console/", _staff(console_page.page), name="console"),
    path("admin/proxy/console/stream/", _staff(console_page.stream), name="console-stream"),
    path("admin/", admin.site.urls),
]
