"""The configuration's problems as Django system checks."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks

from proxy import conf, tls


@checks.register
def check_configuration(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """proxy.E001 for each problem; proxy.W001 for each EKBO_* variable that nothing reads."""
    problems = settings.KUIPERBELT_PROBLEMS
    errors: list[checks.CheckMessage] = [checks.Error(str(problem), id="proxy.E001") for problem in problems]
    warnings = [
        checks.Warning(conf.unread(name), hint="Is it misspelt?", id="proxy.W001")
        for name in settings.KUIPERBELT_UNKNOWN_VARIABLES
    ]
    return [*errors, *warnings]


@checks.register
def check_certificate(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """proxy.W002 for TLS that runproxy will refuse: a warning, since its user may read files that others may not."""
    options, where = conf.options(), "tls_cert, tls_key (EKBO_TLS_CERT, EKBO_TLS_KEY)"
    if bool(options.tls_cert) != bool(options.tls_key):
        return [checks.Warning(f"{where}: expected both or none, found only one", id="proxy.W002")]
    try:
        if options.tls_cert:
            tls.server_context(options.tls_cert, options.tls_key)
    except ValueError as error:
        return [checks.Warning(f"{where}: {error}", id="proxy.W002")]
    return []
