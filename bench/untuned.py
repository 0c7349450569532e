"""`manage.py` with the garbage collector as Python sets it: the yardstick of what tuning it brings (`ours-untuned`)."""

import sys

from django.core.management import execute_from_command_line

from proxy import garbage

if __name__ == "__main__":
    garbage.tune_garbage_collector = lambda: None
    execute_from_command_line(sys.argv)
