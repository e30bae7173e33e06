"""A primary and a synchronous standby of PostgreSQL from the wheel, with the roles moving between them.

Both run with fsync off. The faults kill and freeze processes, and never the machine: what a process has written is in
the page cache, which outlives the process.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from tests.support.dependency_servers import PASSWORD, QUOTED, Postgres, free_port
from tests.support.voiceassist_server import ROOT
from voiceassist.embedded.programs import clean_environment, postgres_program

STANDBY = "standby"  # the application name by which the primary knows its synchronous standby
# The restarted standby may need WAL of some time ago, and tests can't wait 5 s for it to ask again.
_COMMON = {"wal_keep_size": "512MB", "wal_retrieve_retry_interval": "200ms", "log_min_messages": "warning"}


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{true} is still false after {seconds:.0f} s")
        time.sleep(0.02)


class Node(Postgres):
    """One of the two servers. It has a loopback address of its own, so that its packets can be dropped."""

    def __init__(self, folder: Path, address: str, port: int, agent_port: int) -> None:
        super().__init__(folder)
        self.address, self.port, self.agent_port = address, port, agent_port
        self.url = f"postgres://tester:{QUOTED}@{address}:{port}/tests?connect_timeout=3"
        self.frozen = False

    def _initialise(self) -> None:
        """The data comes from a template or from the other server."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", f"listen_addresses={self.address}"]

    def freeze(self) -> None:
        self.frozen = True
        super().freeze()

    def thaw(self) -> None:
        super().thaw()
        self.frozen = False

    def kill(self) -> None:
        super().kill()
        self.frozen = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def configure(self, **settings: str) -> None:
        """Write the settings of a role. The server must be stopped, or be reloaded."""
        lines = [f"{name} = '{value}'\n" for name, value in {**_COMMON, **settings}.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))

    def be_primary(self, *, synchronous: bool) -> None:
        self.configure(synchronous_standby_names=STANDBY if synchronous else "")

    def be_standby_of(self, primary: "Node") -> None:
        """Prepare a stopped server. It has no synchronous standby itself, so that it can write once it is promoted."""
        self.configure(
            primary_conninfo=f"host={primary.address} port={primary.port} user=tester password=''{PASSWORD}''"
            f" application_name={STANDBY}"
        )
        (self.data / "standby.signal").touch()

    def copy_of(self, primary: "Node") -> None:
        """Replace the data by a base backup of `primary`."""
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(
            [*self._as_user, postgres_program("pg_basebackup"), "-D", self.data, "--checkpoint=fast", "--no-sync",
             "-d", f"host={primary.address} port={primary.port} user=tester password='{PASSWORD}'"],
            check=True, capture_output=True, env=clean_environment(),
        )  # fmt: skip


class Template:
    """A migrated database with a user and sessions, made once. Every cluster starts from a copy of its files."""

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
        environment = {**clean_environment(), "DATABASE_URL": self._postgres.url}
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
    """Two nodes from a template. Both listen on the same port, so that a name can move between them."""

    def __init__(self, folder: Path, template: Template) -> None:
        self.sessions: list[UUID] = template.sessions
        port, agent_port, chance = free_port(), free_port(), random.SystemRandom()
        network = f"127.{chance.randint(64, 254)}.{chance.randint(0, 254)}"
        self.nodes = [Node(folder / f"node{n}", f"{network}.{n}", port, agent_port) for n in (1, 2)]
        self.primary, self.standby = self.nodes
        for node in self.nodes:
            template.copy_to(node.data)

    def __enter__(self) -> "Cluster":
        self.primary.be_primary(synchronous=True)
        self.standby.be_standby_of(self.primary)
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
            shutil.rmtree(node.data)  # 50 MB for each of many cases; the log beside it stays

    def wait_for_standby(self) -> None:
        """Wait until commits on the primary no longer wait for a standby that is away."""
        found = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            wait_until(lambda: connection.execute(found).fetchone() == (1,))

    def promote(self) -> None:
        """Promote the standby, which then accepts writes without a synchronous standby of its own.

        The old primary keeps waiting for one. So it can acknowledge nothing, should it come back by mistake.
        """
        with psycopg.connect(self.standby.url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, 15)").fetchone() == (True,)
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """Start the old primary, which was stopped in good order, as a standby of the new one."""
        self.standby.be_standby_of(self.primary)
        self.standby.start()

    def rebuild(self) -> None:
        """Make the old primary, whatever became of it, the synchronous standby of the new one."""
        self.standby.kill()
        self.standby.copy_of(self.primary)
        self.standby.be_standby_of(self.primary)
        self.standby.start()
        self.primary.be_primary(synchronous=True)
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        self.wait_for_standby()
