"""The program `manage.py worker` with other constants. The first argument is a JSON object of them.

{"core.jobs.queue._SEND_AGAIN": 1}      sets a number, or a timedelta in seconds if the constant is one
{"tests.support.jobs.tasks.not_yet": null}   removes an attribute, as an older release lacks it
"""

import json
import signal
import sys
from datetime import timedelta
from importlib import import_module
from typing import Any


def _change(path: str, value: Any) -> None:
    from core.jobs.schedule import Entry

    module_name, _, name = path.rpartition(".")
    module = import_module(module_name)
    if value is None:
        delattr(module, name)
        return
    if value == "unchanged":
        return
    if isinstance(value, list):
        value = tuple(Entry(task, timedelta(seconds=seconds)) for task, seconds in value)
    is_duration = isinstance(getattr(module, name), timedelta)
    setattr(module, name, timedelta(seconds=value) if is_duration else value)


def main() -> None:
    import django
    from django.core.management import execute_from_command_line

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` ignores it for all processes
    django.setup()
    for path, value in json.loads(sys.argv[1]).items():
        _change(path, value)
    execute_from_command_line(["manage.py", "worker", *sys.argv[2:]])


if __name__ == "__main__":
    main()
