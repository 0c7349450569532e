"""The database: can it be reached and written, has it the proxy's tables, and what limits it. For `doctor`."""

import contextlib
import os
from collections.abc import Iterator

from django.conf import settings
from django.db import Error, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils.timezone import now

from proxy.conf import Options
from proxy.findings import Finding, State, failed, ok, skipped, warning
from proxy.models import Node

AREA = "database"
SPARE_CONNECTIONS = 10  # of PostgreSQL, for commands, migrations and people
CLOCKS = 2.0  # seconds that machines' clocks may differ by
PATIENCE = 2.0  # seconds for a connection, a lock and each answer


def check(options: Options) -> Iterator[Finding]:
    """The registry's database. Makes none where there is none yet."""
    if not options.registry:
        yield skipped(AREA, "database", "the registry is off (EKBO_REGISTRY)")
        return
    file = settings.SQLITE_FILE
    if file and not os.path.exists(file):
        yield _absent(file)
        return
    try:
        with briefly():
            place = file or connection.settings_dict["HOST"] or "local"
            yield ok(AREA, "database", f"{connection.display_name}, {place}")
            tables = _tables()
            yield tables
            yield from (
                _sqlite(file)
                if file
                else _postgres(Node.objects.filter(ended_at=None).count() if tables.state is State.OK else 0)
            )
    except (Error, OSError) as error:
        yield no_answer(error)
    finally:
        connection.close()


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """A transaction in which nothing is waited for longer than PATIENCE: locks, or a server that hangs.

    SQLite's is one that could write (settings: IMMEDIATE), so it fails where the proxy's would. Raises Error.
    """
    waits = connection.settings_dict["OPTIONS"]
    waits["timeout" if connection.vendor == "sqlite" else "connect_timeout"] = round(PATIENCE)
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {PATIENCE * 1000:.0f}")
        yield


def no_answer(error: Exception) -> Finding:
    """It can't be asked, or not written."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "locked" in said or "statement timeout" in said:
        advice = "Something holds a lock for long: a migration, a backup, a shell, or a process that hangs. End that."
    elif "readonly" in said or "unable to open" in said:
        advice = "File and directory must belong to the proxy's user. Is this command run as that user?"
    else:
        advice = "Does it run, and is EKBO_DATABASE_URL right?"
    advice += " Connections and pushes go on without it, the registry and close events don't."
    return failed(AREA, "database", "an answer", said, advice)


def _absent(file: str) -> Finding:
    directory = os.path.dirname(os.path.abspath(file))
    if os.access(directory, os.W_OK | os.X_OK):
        return skipped(AREA, "database", f"{file} isn't there yet; `manage.py runproxy` makes it")
    advice = (
        "Set EKBO_DATABASE_URL to a place that the proxy's user may write, as sqlite:////var/lib/kuiperbelt/db.sqlite3"
    )
    return failed(AREA, "database", f"a directory for {file} that this user may write", "none", advice)


def _tables() -> Finding:
    executor = MigrationExecutor(connection)
    missing = [str(step) for step, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    if not missing:
        return ok(AREA, "tables", "up to date")
    return failed(AREA, "tables", "all migrations", f"{len(missing)} to do", "Run `manage.py migrate`, once.")


def _sqlite(file: str) -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
    if mode == "wal":
        yield ok(AREA, "journal", "WAL")
    else:
        advice = (
            "Readers stop writers. Is the file on a network's file system? Put it on a local disk, or use PostgreSQL."
        )
        yield warning(AREA, "journal", "WAL", mode, advice)
    for path in (file, os.path.dirname(os.path.abspath(file))):
        if not os.access(path, os.W_OK):
            advice = f"Give it to the proxy's user, as in `chown kuiperbelt {path}`."
            yield failed(AREA, "access", f"{path}, which this user may write", "it may not", advice)


def _postgres(processes: int) -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT clock_timestamp(), pg_is_in_recovery(), current_setting('transaction_read_only')::bool,"
            " current_setting('max_connections')::int,"
            " current_setting('superuser_reserved_connections')::int,"
            " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
        )
        clock, standby, read_only, most, reserved, used = cursor.fetchone()
    if standby:
        advice = "It can't be written. Name the primary in EKBO_DATABASE_URL."
        yield failed(AREA, "server", "the primary", "a standby", advice)
    elif read_only:
        advice = "Nothing can be written: see default_transaction_read_only, of the database and of the user."
        yield failed(AREA, "server", "one that can be written", "read-only transactions", advice)
    free, need = most - reserved - used, processes + SPARE_CONNECTIONS
    found = f"{used} of {most - reserved} in use"
    if most - reserved < need or free < 1:
        advice = "Each process keeps one. Raise max_connections in postgresql.conf, and restart PostgreSQL."
        yield warning(AREA, "max_connections", f"{need} or more, and some free", found, advice)
    else:
        yield ok(AREA, "max_connections", found)
    off = (clock - now()).total_seconds()
    if abs(off) <= CLOCKS:
        yield ok(AREA, "clock", "as here")
    else:
        advice = "Ages and plots are wrong. Let NTP set both clocks (`timedatectl`)."
        yield warning(AREA, "clock", f"this machine's, to {CLOCKS:g} s", f"{off:+.0f} s", advice)
