#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys

from proxy import __version__

try:
    from django.core.management import execute_from_command_line
    from django.db import OperationalError
except ModuleNotFoundError as error:
    sys.exit(f"expected the packages of requirements.txt, found no {error.name}; run .venv/bin/python manage.py")
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kbproject.settings")
    if sys.argv[1:] == ["--version"]:  # Django says its own
        sys.stdout.write(f"{__version__}\n")
        sys.exit()
    try:
        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:  # before a command could look for it
        sys.exit(130)
    except OperationalError as error:  # of Django's own commands
        sys.exit(f"expected an answer from the database (EKBO_DATABASE_URL), found: {' '.join(str(error).split())}")
