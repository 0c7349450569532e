"""What is read anew at SIGHUP, without a restart: API keys and the certificate (docs/api.md, docs/servers.md).

Called by a process that serves, and by the supervisor of workers, whose next ones begin with what it has read.
"""

import logging
from collections.abc import Callable

from proxy import conf

_sources: dict[str, Callable[[], None]] = {"configuration": conf.read_anew}

logger = logging.getLogger("proxy.reload")


def on_reload(what: str, read: Callable[[], None]) -> None:
    """Have `read` called at each SIGHUP. If it raises OSError or ValueError, it must have changed nothing."""
    _sources[what] = read


def reload() -> None:
    """Read everything anew; what can't be used is said in the log, and what is in use stays."""
    for what, read in _sources.items():
        try:
            read()
        except (OSError, ValueError) as error:
            logger.error("%s: not read anew, what was in use stays: %s", what, error)
        else:
            logger.info("%s: read anew", what)
