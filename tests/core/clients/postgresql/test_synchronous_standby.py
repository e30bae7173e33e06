"""A primary that lost its synchronous standby: its commits are not acknowledged, and another host is preferred."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction

from core.clients.postgresql.errors import CommitNotReplicated, NoResponse, ReadOnly
from core.clients.postgresql.probe import ProbeConnection
from core.clients.postgresql.servers import preference
from core.clients.postgresql.time_limit import request_time_limit
from core.conversations import append_message
from core.models import Session
from tests.core.clients.postgresql.connections import (
    connect,
    connection_parameters,
    requires_real_transactions,
    separate_connection,
    stored_ids,
)
from tests.support.dependency_servers import SUPERUSER, Postgres
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within


@pytest.fixture(scope="module")
def primary_without_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Yield a primary that waits for a synchronous standby that does not exist."""
    server = Postgres(tmp_path_factory.mktemp("postgres"), options=["synchronous_standby_names=absent"])
    server.start()
    yield server
    server.kill()


def connect_probe(server: Postgres) -> ProbeConnection:
    parameters: dict[str, Any] = {**psycopg.conninfo.conninfo_to_dict(server.url)}
    return ProbeConnection.connect(**parameters, autocommit=True)


def count_waiting_for_standby(server: Postgres) -> int:
    with psycopg.connect(server.url, autocommit=True) as other:
        rows = other.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall()
        return int(rows[0][0])


def test_probe_reports_commit_not_replicated_and_leaves_no_backend(primary_without_standby: Postgres) -> None:
    probe = connect_probe(primary_without_standby)
    for _ in range(3):
        with pytest.raises(CommitNotReplicated):
            probe.check_writable(0.5)
        assert count_waiting_for_standby(primary_without_standby) == 0
    probe.execute("SET synchronous_commit = local")
    probe.check_writable(5)  # the same connection
    probe.close()


def test_abandons_primary_that_cannot_commit(
    primary_without_standby: Postgres, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The synchronous standby was promoted, and the old primary was not fenced."""
    monkeypatch.setattr(preference, "last_success", None)
    monkeypatch.setattr(preference, "cannot_commit", None)
    ports = f"{primary_without_standby.port},{servers.postgres.port}"
    hosts: dict[str, Any] = {"host": "127.0.0.1,127.0.0.1", "port": ports, "dbname": "tests"}
    with connect(**hosts) as old:
        assert old.info.port == primary_without_standby.port
        assert old.leads_to_primary()
        probe = connect_probe(primary_without_standby)
        probe.address = old.address
        with pytest.raises(CommitNotReplicated):
            probe.check_writable(0.5)
        assert not old.leads_to_primary()
    with connect(**hosts) as new:
        assert new.info.port == servers.postgres.port
    probe.execute("SET synchronous_commit = local")
    probe.check_writable(5)
    assert preference.cannot_commit is None
    probe.close()


def test_probe_of_busy_server_times_out(primary_without_standby: Postgres) -> None:
    probe = connect_probe(primary_without_standby)
    with pytest.raises(NoResponse) as raised, probe.time_limit(0.3):
        probe.execute("SELECT pg_sleep(30)")
    assert type(raised.value) is NoResponse
    probe.close()


def test_probe_of_standby_raises_read_only(servers: Servers) -> None:
    probe = ProbeConnection.connect(**connection_parameters(), autocommit=True)
    probe.execute("SET default_transaction_read_only = on")
    with pytest.raises(ReadOnly):
        probe.check_writable(5)
    probe.close()


def waits_for_standby() -> bool:
    """Return whether a commit waits, which begins some time after the settings were reloaded."""
    probe = ProbeConnection.connect(**connection_parameters(), autocommit=True)
    try:
        probe.check_writable(0.5)
    except NoResponse as error:
        return isinstance(error, CommitNotReplicated)
    finally:
        preference.cannot_commit = None  # the probe has set it
        probe.close()
    return False


@requires_real_transactions
@pytest.mark.parametrize("block", [contextlib.nullcontext, transaction.atomic], ids=["autocommit", "atomic"])
def test_cancelled_wait_for_standby_raises(session: Session, block: Callable[[], Any]) -> None:
    """PostgreSQL reports a success with a warning, for example when an operator cancels a hung INSERT."""
    outcome: list[Any] = []

    def append() -> None:
        try:
            with block():
                append_message(session.pk, role="user", client_message_id="m1")
            outcome.append("acknowledged")
        except OperationalError as error:
            outcome.append(error.__cause__)
        finally:
            connections.close_all()

    with separate_connection(user=SUPERUSER) as operator:
        operator.execute("SET synchronous_commit = local")
        operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        operator.execute("SELECT pg_reload_conf()")
        try:
            assert succeeds_within(10, waits_for_standby)
            thread = threading.Thread(target=append)
            thread.start()
            cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

            def has_ended() -> bool:
                operator.execute(cancel)  # the first one may cancel a probe that was left behind
                return not thread.is_alive()

            assert succeeds_within(10, has_ended)
        finally:
            operator.execute("ALTER SYSTEM RESET synchronous_standby_names")
            operator.execute("SELECT pg_reload_conf()")
    assert isinstance(outcome[0], CommitNotReplicated)


@requires_real_transactions
def test_repeated_message_is_not_acknowledged_before_replication(session: Session) -> None:
    """The first copy is visible but not replicated, as after a crash of the waiting primary."""
    append_message(session.pk, role="user", client_message_id="m1")
    with separate_connection(user=SUPERUSER) as operator:
        operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        operator.execute("SELECT pg_reload_conf()")
    try:
        assert succeeds_within(10, waits_for_standby)
        with request_time_limit(0.5), pytest.raises(OperationalError):
            append_message(session.pk, role="user", client_message_id="m1")
    finally:
        with separate_connection(user=SUPERUSER) as other:
            other.execute("SET synchronous_commit = local")
            other.execute("ALTER SYSTEM RESET synchronous_standby_names")
            other.execute("SELECT pg_reload_conf()")
        connection.close()
    append_message(session.pk, role="user", client_message_id="m1")
    with separate_connection() as other:
        assert stored_ids(session, other) == {"m1"}
