"""A primary and a synchronous standby of PostgreSQL from the wheel, which can exchange their roles.

Both run with fsync off. That is safe because faults kill and freeze processes, never the machine: the page cache keeps
what a process has written.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from tests.support.dependency_servers import PASSWORD, QUOTED, Postgres, as_owner, free_port
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.voiceassist_server import ROOT
from voiceassist.embedded.programs import clean_environment, postgres_program

STANDBY = "standby"  # application_name, by which the primary identifies its synchronous standby
# A restarted standby may need old WAL, and the default retry interval of 5 s is too long for tests.
_COMMON = {"wal_keep_size": "512MB", "wal_retrieve_retry_interval": "200ms", "log_min_messages": "warning"}


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    if not succeeds_within(seconds, condition, interval=0.02):
        raise TimeoutError(f"{condition} is still false after {seconds * SLOWNESS:.0f} s")


class Node(Postgres):
    """One of the two servers. It has its own loopback address, so that its packets can be dropped."""

    def __init__(self, folder: Path, address: str, port: int, agent_port: int) -> None:
        super().__init__(folder)
        self.address, self.port, self.agent_port = address, port, agent_port
        self.url = f"postgres://tester:{QUOTED}@{address}:{port}/tests?connect_timeout=3"
        self.is_frozen = False

    def _initialise(self) -> None:
        """Do nothing, because the data comes from a template or from the other server."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", f"listen_addresses={self.address}"]

    def freeze(self) -> None:
        self.is_frozen = True
        super().freeze()

    def thaw(self) -> None:
        super().thaw()
        self.is_frozen = False

    def kill(self) -> None:
        super().kill()
        self.is_frozen = False

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def configure(self, **settings: str) -> None:
        """Write the settings of a role. The server must be stopped or be reloaded afterwards."""
        lines = [f"{name} = '{value}'\n" for name, value in {**_COMMON, **settings}.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))

    def configure_primary(self, *, synchronous: bool) -> None:
        self.configure(synchronous_standby_names=STANDBY if synchronous else "")

    def configure_standby_of(self, primary: "Node") -> None:
        """Prepare a stopped server. It requires no synchronous standby itself, so that it can commit once promoted."""
        self.configure(
            primary_conninfo=f"host={primary.address} port={primary.port} user=tester password=''{PASSWORD}''"
            f" application_name={STANDBY}"
        )
        (self.data / "standby.signal").touch()

    def restore_from(self, primary: "Node") -> None:
        """Replace the data by a base backup of `primary`."""
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(
            [*self._as_user, postgres_program("pg_basebackup"), "-D", self.data, "--checkpoint=fast", "--no-sync",
             "-d", f"host={primary.address} port={primary.port} user=tester password='{PASSWORD}'"],
            check=True, capture_output=True, env=clean_environment(),
        )  # fmt: skip


class Template:
    """A migrated database with a user and sessions, created once. Every cluster starts from a copy of its files."""

    def __init__(self, folder: Path, *, clients: int) -> None:
        self.sessions = [uuid4() for _ in range(clients + 1)]  # one for each client, and one that all share
        self._postgres = Postgres(folder)
        self._postgres.start()
        try:
            self._fill()
        finally:
            self._postgres.stop()
        with (self._postgres.data / "pg_hba.conf").open("a") as rules:
            rules.write("host replication all 127.0.0.0/8 scram-sha-256\nhost all all 127.0.0.0/8 scram-sha-256\n")

    def _fill(self) -> None:
        environment = {**clean_environment(), "DATABASE_URL": as_owner(self._postgres.url)}
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True, env=environment)
        user = uuid4()
        with psycopg.connect(self._postgres.url) as connection:
            connection.execute(
                "INSERT INTO users (id, email, password, full_name, specialty, created_at, updated_at, is_active,"
                " is_staff, is_superuser) VALUES (%s, 'a@example.org', '!', '', '', now(), now(), true, false, false)",
                [user],
            )
            connection.cursor().executemany(
                "INSERT INTO sessions (id, user_id, title, mode, is_archived, context, message_count, created_at,"
                " updated_at) VALUES (%s, %s, '', 'text', false, '{}', 0, now(), now())",
                [(session, user) for session in self.sessions],
            )

    def copy_to(self, data: Path) -> None:
        subprocess.run(["cp", "-a", self._postgres.data, data], check=True)


class Cluster:
    """Two nodes from a template. Both listen on the same port, so that a DNS name can move between them."""

    def __init__(self, folder: Path, template: Template) -> None:
        self.sessions: list[UUID] = template.sessions
        port, agent_port, rng = free_port(), free_port(), random.SystemRandom()
        network = f"127.{rng.randint(64, 254)}.{rng.randint(0, 254)}"
        self.nodes = [Node(folder / f"node{n}", f"{network}.{n}", port, agent_port) for n in (1, 2)]
        self.primary, self.standby = self.nodes
        for node in self.nodes:
            template.copy_to(node.data)

    def __enter__(self) -> "Cluster":
        self.primary.configure_primary(synchronous=True)
        self.standby.configure_standby_of(self.primary)
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.start()
            self.wait_for_standby()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *args: object) -> None:
        for node in self.nodes:
            node.kill()
            shutil.rmtree(node.data)  # 50 MB per case; the log is in another folder and remains

    def wait_for_standby(self) -> None:
        """Wait until the standby is streaming, so that commits on the primary can be confirmed."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            wait_until(lambda: connection.execute(query).fetchone() == (1,))

    def promote(self) -> None:
        """Promote the standby, which then accepts writes without a synchronous standby.

        The old primary still requires one, so it can't acknowledge commits if it comes back.
        """
        with psycopg.connect(self.standby.url, autocommit=True) as connection:
            # A call that waits has a snapshot meanwhile, with which the rest of the recovery may conflict.
            connection.execute("SELECT pg_promote(wait => false)")
            wait_until(lambda: connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,))
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """Start the old primary, which was shut down cleanly, as a standby of the new one."""
        self.standby.configure_standby_of(self.primary)
        self.standby.start()

    def rebuild(self) -> None:
        """Replace the old primary, whether or not it runs, by a synchronous standby of the new one."""
        self.standby.kill()
        self.standby.restore_from(self.primary)
        self.standby.configure_standby_of(self.primary)
        self.standby.start()
        self.primary.configure_primary(synchronous=True)
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        self.wait_for_standby()
