"""Django for the tests that use this package in their own process. No EKBO_* variable of the caller leaks in."""

import atexit
import os
import tempfile

import django
from hypothesis import settings

pytest_plugins = ["tests.evidence"]
# Two processes of tests take turns. `make fuzz` says how often to try.
examples = int(os.environ.get("FUZZ_EXAMPLES", "100"))
settings.register_profile("shared machine", deadline=None, max_examples=examples)
settings.load_profile("shared machine")
for name in [name for name in os.environ if name.startswith("EKBO_")]:
    del os.environ[name]
_directory = tempfile.TemporaryDirectory(prefix="kuiperbelt-tests-")
atexit.register(_directory.cleanup)
os.environ["EKBO_CONNECT_CALLBACK_URL"] = "http://127.0.0.1:9/connect"
os.environ["EKBO_DATABASE_URL"] = f"sqlite:///{_directory.name}/kuiperbelt.sqlite3"
os.environ["DJANGO_SETTINGS_MODULE"] = "kbproject.settings"
django.setup()
