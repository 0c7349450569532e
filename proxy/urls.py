"""The proxy's HTTP paths, as configured."""

from django.urls import path

from proxy import batch, conf, metrics, reconcile, views

_options = conf.options()

urlpatterns = [
    path(_options.connect_path.removeprefix("/"), views.connect),
    path(_options.send_path.removeprefix("/"), views.send),
    path(_options.close_path.removeprefix("/"), views.close),
    path(_options.batch_path.removeprefix("/"), batch.batch),
    path(_options.ping_path.removeprefix("/"), views.ping),
    path(_options.ready_path.removeprefix("/"), views.ready),
    path(_options.stats_path.removeprefix("/"), views.show_stats),
    path(_options.metrics_path.removeprefix("/"), metrics.metrics),
    path(_options.sessions_path.removeprefix("/"), reconcile.sessions),
    path(f"{_options.sessions_path.strip('/')}/<path:key>".removeprefix("/"), reconcile.session),
]
