"""`manage.py worker`: run background jobs until SIGTERM."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.jobs import worker_http
from core.jobs.worker import Worker
from core.tasks import verify_backups_in


class Command(BaseCommand):
    help = "Runs background jobs until SIGTERM. Any number of workers may run. docs/OPERATIONS.md describes them."
    # The system checks load the URLs and with them the readiness metrics of a server, which /metrics would report as 0,
    # so that alerts would fire.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--bind", metavar="HOST:PORT", help="serve /health and /metrics at this address")
        parser.add_argument(
            "--drill", type=Path, metavar="BACKUP_DIR", help="prove the newest base backup in this folder every week"
        )
        parser.add_argument("--identity", type=Path, metavar="FILE", help="age's private key, for --drill")

    def handle(self, *, bind: str | None, drill: Path | None, identity: Path | None, **options: Any) -> None:
        worker = Worker()
        if drill or identity:
            if not (drill and identity and drill.is_dir() and identity.is_file()):
                raise CommandError("--drill needs the folder of the backups, and --identity the file with the key.")
            verify_backups_in(drill, identity)
        if bind:
            host, _, port = bind.rpartition(":")
            if not (host and port.isdecimal() and int(port) < 65536):
                raise CommandError(f"--bind {bind} is not HOST:PORT.")
            try:
                worker_http.serve(host.strip("[]"), int(port), lambda: worker.last_round)
            except OSError as error:
                raise CommandError(f"Could not listen on {bind}: {error.strerror}. Choose another address.") from None
        if not worker.run():
            raise CommandError("A job hung, see the log. Start the worker again.")
