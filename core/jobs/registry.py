"""Find tasks by name."""

from importlib import import_module
from typing import Any

from django.apps import apps
from django_tasks.base import Task


def load(path: str) -> "Task[..., Any]":
    """Return a task by its dotted path. Raise ValueError if no installed application has it in its module `tasks`.

    No other module is imported, so that a changed row can't run other code.
    """
    module, _, name = path.rpartition(".")
    task = None
    if module in {f"{config.name}.tasks" for config in apps.get_app_configs()}:
        task = getattr(import_module(module), name, None)
    if not isinstance(task, Task):
        raise ValueError(f"Unknown task {path!r}")
    return task
