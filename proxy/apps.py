"""Django's registration of the proxy."""

from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"
    verbose_name = "kuiperbelt"

    def ready(self) -> None:
        from proxy import checks, deploy_checks  # noqa: F401  registers the checks; needs the app registry
