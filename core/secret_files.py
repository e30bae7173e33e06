"""Read the files of `NAME_FILE` variables again, so that secrets can be replaced while the server runs.

`reload` executes the settings module once more, beside the one in use. So the module stays the only reader of the
environment, and every value is checked as at the start. If one is invalid, nothing changes.

    SIGHUP to the master     all secrets, for the workers that the master starts then
    a rejected login         only what connections use, in the process that was rejected, at most once per second

After a rejected login SECRET_KEY stays, because other processes would not accept signatures with a new key yet.
"""

import importlib.util
import sys
import threading
import time
from typing import Any

import structlog
from django.conf import settings

log = structlog.stdlib.get_logger("voiceassist.secrets")

_CONNECTION_SETTINGS = ("REDIS_URL", "QDRANT_API_KEY")
_OTHER_SETTINGS = ("SECRET_KEY", "SECRET_KEY_FALLBACKS", "METRICS_TOKEN", "SENTRY_DSN")
_MIN_INTERVAL = 1.0  # seconds between two readings because of rejected logins
_lock = threading.Lock()
_next_reading = 0.0  # time.monotonic()
_last_problem = ""


def reload() -> None:
    """Read all secrets again, or log why the current ones stay."""
    _apply(_CONNECTION_SETTINGS + _OTHER_SETTINGS)


def reload_after_rejection() -> None:
    """Read the secrets of connections again, unless that was done a moment ago. The caller compares and tries again."""
    global _next_reading
    with _lock:
        if settings.READS_FILES and time.monotonic() >= _next_reading:
            _apply(_CONNECTION_SETTINGS)
            _next_reading = time.monotonic() + _MIN_INTERVAL


def _apply(names: tuple[str, ...]) -> None:
    global _last_problem
    try:
        new = _execute_settings()
    except (SystemExit, Exception) as error:
        # The text of SystemExit names the variable without its value. Others may quote it.
        problem = str(error) if isinstance(error, SystemExit) else type(error).__name__
        if problem != _last_problem:  # otherwise each rejected login would repeat it
            log.error("The secrets were not read again. The current ones stay in use.", reason=problem)
        _last_problem = problem
        return
    _last_problem = ""
    changed = [name for name in names if new[name] != getattr(settings, name)]
    for name in changed:
        setattr(settings, name, new[name])
    # Every thread's connection has this dictionary, so it is changed in place.
    database, new_database = settings.DATABASES["default"], new["DATABASES"]["default"]
    if any(database.get(name) != value for name, value in new_database.items()):
        database.update(new_database)
        changed.append("DATABASES")
    if changed:
        log.info("Secrets were read again.", changed=sorted(changed))


def _execute_settings() -> dict[str, Any]:
    spec = sys.modules[settings.SETTINGS_MODULE].__spec__
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)  # not put into sys.modules
    spec.loader.exec_module(module)
    return vars(module)
