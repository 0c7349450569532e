"""The configuration's problems as Django system checks."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks

from proxy import conf


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
