"""`make run`: prepare development's servers and data, then serve, with a worker for background jobs.

One process runs all commands, because starting Django takes longer than the commands. gunicorn then replaces it.
"""

import os
import signal
import sys


def main() -> None:
    # Ctrl-C ends this process at once. Python's KeyboardInterrupt is lost if it is raised in a destructor.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Set by gunicorn; a command that inherits it would leave metric files that are never merged.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
    from voiceassist import address, embedded, run_worker, settings

    address.require_available(settings.BIND)
    if settings.EMBEDDED_SERVERS:
        _report(f"Starting the embedded servers ({', '.join(settings.EMBEDDED_SERVERS)})")
        embedded.start_or_exit(settings.EMBEDDED_SERVERS)
    _report("Applying migrations")
    _prepare()
    print("Serving. Stop with Ctrl-C. The embedded servers keep running until `make stop`.")
    address.print_urls(settings.BIND, ["health", "ready", "metrics", "admin/", "api/docs/"])
    sys.stdout.flush()
    run_worker.start()
    command = ["-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"]
    os.execv(sys.executable, [sys.executable, *command])


def _prepare() -> None:
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import CommandError, call_command

    try:
        django.setup()
        str(settings.SECRET_KEY)  # generated here if necessary, otherwise a request would fail if that is impossible
        call_command("migrate", verbosity=0, skip_checks=False)
        # The worker, which the check `queue` expects, starts later.
        call_command("checkdeps", only=[name for name in settings.DEPENDENCIES if name not in settings.ALWAYS_OPTIONAL])
        call_command("create_admin")
    except (CommandError, ImproperlyConfigured) as error:
        raise SystemExit(f"make run: {error}") from None


def _report(step: str) -> None:
    print(f"{step} ...", flush=True)


if __name__ == "__main__":
    main()
