"""The connection to PostgreSQL: what is acknowledged is committed, and no call waits for ever."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from core.clients.postgresql.circuit_breaker import CircuitBreaker, State, circuit_breaker
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import CommitNotReplicated, NoAnswer, ReadOnly
from core.clients.postgresql.probe import ProbeConnection
from core.clients.postgresql.servers import preference
from core.clients.postgresql.time_limit import request_time_left, request_time_limit
from core.conversations import append_message
from core.models import Session, User
from tests.support.dependency_servers import Postgres
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.proxy import Proxy

NOISE = 2.0  # seconds that a busy machine may add

real = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def closed_breaker() -> Iterator[None]:
    circuit_breaker.close()
    yield
    circuit_breaker.close()


@pytest.fixture
def session() -> Session:
    return Session.objects.create(user=User.objects.create_user("ann@example.org"))


@contextlib.contextmanager
def beside() -> Iterator[psycopg.Connection]:
    """A connection to the same database that shares nothing with the ORM's."""
    with psycopg.connect(**_parameters(), autocommit=True) as other:
        yield other


def stored(session: Session, other: psycopg.Connection) -> set[str | None]:
    rows = other.execute("SELECT client_message_id FROM messages WHERE session_id = %s", [session.pk])
    return {row[0] for row in rows}


def _parameters() -> dict[str, Any]:
    wanted = ("user", "password", "host", "port", "dbname")
    return {name: value for name, value in connection.get_connection_params().items() if name in wanted}


# Acknowledged is committed


def assert_autocommit_agrees() -> None:
    made = connection.connection
    if made is None or made.closed:
        return
    assert made.autocommit == connection.autocommit
    idle = psycopg.pq.TransactionStatus.IDLE
    assert made.info.transaction_status == idle or not connection.autocommit


@real
def test_a_refused_connection_leaves_no_uncommitted_one_behind(session: Session) -> None:
    append_message(session.pk, role="user", client_message_id="m1")
    connection.connection.close()  # as a killed primary does
    connection.close_if_unusable_or_obsolete()
    connection.connection = None
    circuit_breaker.open()
    with pytest.raises(OperationalError, match="does not answer"):
        append_message(session.pk, role="user", client_message_id="m2")
    assert_autocommit_agrees()
    circuit_breaker.close()
    append_message(session.pk, role="user", client_message_id="m2")
    assert_autocommit_agrees()
    with beside() as other:
        assert stored(session, other) == {"m1", "m2"}


def in_transaction(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with transaction.atomic():
            call()

    return run


def in_savepoint() -> None:
    with transaction.atomic(), transaction.atomic():
        connection.cursor().execute("SELECT 1")


def use_chunked_cursor() -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")


def use_schema_editor() -> None:
    with connection.schema_editor() as editor:
        editor.execute("SELECT 1")


def use_temporary_connection() -> None:
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")


def in_manual_transaction(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        try:
            connection.set_autocommit(False)
            connection.cursor().execute("SELECT 1")
            call()
        finally:
            with contextlib.suppress(DatabaseError, InterfaceError):
                connection.rollback()
            with contextlib.suppress(DatabaseError, InterfaceError):
                connection.set_autocommit(True)

    return run


def connect_again() -> None:
    connection.close()
    connection.connect()


def use_savepoint(end: Callable[[Any], None]) -> Callable[[], None]:
    return in_transaction(lambda: end(connection.savepoint()))


# Every method of Django's wrapper that may talk to PostgreSQL, as a caller would use it.
ENTRY_POINTS: dict[str, Callable[[], Any]] = {
    "atomic": in_savepoint,
    "chunked_cursor": in_transaction(use_chunked_cursor),
    "clean_savepoints": in_transaction(lambda: connection.clean_savepoints()),
    "check_constraints": lambda: connection.check_constraints(),
    "close": lambda: connection.close(),
    "close_if_health_check_failed": lambda: connection.close_if_health_check_failed(),
    "close_if_unusable_or_obsolete": lambda: connection.close_if_unusable_or_obsolete(),
    "commit": in_manual_transaction(lambda: connection.commit()),
    "connect": connect_again,
    "constraint_checks_disabled": lambda: connection.constraint_checks_disabled().__enter__(),
    "cursor": lambda: connection.cursor().execute("SELECT 1"),
    "ensure_timezone": lambda: connection.ensure_timezone(),
    "ensure_connection": lambda: connection.ensure_connection(),
    "get_autocommit": lambda: connection.get_autocommit(),
    "get_new_connection": lambda: connection.get_new_connection(connection.get_connection_params()).close(),
    "init_connection_state": lambda: connection.init_connection_state(),
    "is_usable": lambda: connection.is_usable(),
    "rollback": in_manual_transaction(lambda: connection.rollback()),
    "savepoint": use_savepoint(lambda sid: None),
    "savepoint_commit": use_savepoint(lambda sid: connection.savepoint_commit(sid)),
    "savepoint_rollback": use_savepoint(lambda sid: connection.savepoint_rollback(sid)),
    "schema_editor": use_schema_editor,
    "set_autocommit": in_manual_transaction(lambda: None),
    "temporary_connection": use_temporary_connection,
    "check_database_version_supported": lambda: connection.check_database_version_supported(),
    "get_database_version": lambda: connection.get_database_version(),
}
# The rest asks PostgreSQL nothing: it answers from memory, only changes flags, or is built on what is above.
ASKS_NOTHING = {
    "cached_property",
    *(
        "check_settings",
        "copy",
        "create_cursor",
        "dec_thread_sharing",
        "inc_thread_sharing",
        "disable_constraint_checking",
    ),
    *("enable_constraint_checking", "execute_wrapper", "get_connection_params", "get_rollback", "make_cursor"),
    *("make_debug_cursor", "on_commit", "prepare_database", "run_and_clear_commit_hooks", "set_rollback"),
    *("validate_no_atomic_block", "validate_no_broken_transaction", "validate_thread_sharing"),
}


def test_every_entry_point_is_known() -> None:
    public = {name for name in vars(BaseDatabaseWrapper) if not name.startswith("_")}
    methods = {name for name in public if callable(getattr(BaseDatabaseWrapper, name))}
    assert methods - ASKS_NOTHING - {"display_name"} <= set(ENTRY_POINTS) | {
        name for name in methods if name.endswith("_class")
    }


ERRORS = (DatabaseError, InterfaceError, psycopg.Error)


class Broken(Exception):
    pass


def break_wait(monkeypatch: pytest.MonkeyPatch, number: int, how: str) -> None:
    """Break the exchange with the server of this number, counted from now: it isn't answered, or cut off."""
    waited = 0
    original = Connection.wait

    def wait(self: Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal waited
        waited += 1
        if waited == number:
            if how == "no answer":
                self._give_up(args[0])
                raise NoAnswer("PostgreSQL did not answer in time")
            if how == "cut off":
                self.pgconn.finish()
                raise psycopg.OperationalError("the connection is lost")
            raise Broken
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Connection, "wait", wait)


@real
# psycopg can't close a cursor on the server of a connection that is lost.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function ServerCursorMixin")
@pytest.mark.parametrize("how", ["no answer", "cut off", "another exception"])
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_autocommit_agrees_after_any_exception(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    """The first, the second, … exchange of each entry point fails, on an open connection and on one to be opened."""
    with beside() as other:
        for opened in (True, False):
            for number in range(1, 5):
                start(opened=opened)
                with monkeypatch.context() as context, contextlib.suppress(*ERRORS, Broken):
                    break_wait(context, number, how)
                    ENTRY_POINTS[name]()
                assert_autocommit_agrees()
                assert_commits(session, f"{opened}-{number}", other)


@real
@pytest.mark.parametrize("name", sorted(set(ENTRY_POINTS) - {"get_new_connection", "is_usable"}))
def test_autocommit_agrees_after_a_refusal(session: Session, name: str) -> None:
    with beside() as other:
        for opened in (True, False):
            start(opened=opened)
            circuit_breaker.open()
            with contextlib.suppress(*ERRORS):
                ENTRY_POINTS[name]()
            assert_autocommit_agrees()
            assert_commits(session, str(opened), other)


def start(*, opened: bool) -> None:
    connection.close()
    if opened:
        connection.ensure_connection()
    connection.close_if_unusable_or_obsolete()  # as before a request, so that the next use checks the connection


def assert_commits(session: Session, client_message_id: str, other: psycopg.Connection) -> None:
    circuit_breaker.close()
    connection.close_if_unusable_or_obsolete()
    append_message(session.pk, role="user", client_message_id=client_message_id)
    assert_autocommit_agrees()
    assert client_message_id in stored(session, other)


# No call waits for ever


@pytest.fixture
def proxied(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The ORM's connection of this thread goes through a proxy."""
    with Proxy(servers.postgres.port) as proxy:
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "PORT", str(proxy.port))
        yield proxy
        proxy.mode = "pass"
        connection.close()


def seconds(call: Callable[[], Any]) -> float:
    started_at = time.monotonic()
    with pytest.raises((OperationalError, psycopg.OperationalError)):
        call()
    return time.monotonic() - started_at


def select() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@real
def test_a_statement_on_a_silent_server_ends_with_the_time_of_the_request(proxied: Proxy) -> None:
    select()
    proxied.mode = "silent"
    with request_time_limit(0.5):
        assert seconds(select) < 0.5 + NOISE
        assert connection.connection.closed
        assert seconds(select) < NOISE  # the time is up: nothing else of this request waits
    proxied.mode = "pass"
    connection.close_if_unusable_or_obsolete()
    select()


@real
def test_connecting_to_a_silent_server_ends_with_the_time_of_the_request(proxied: Proxy) -> None:
    proxied.mode = "silent"
    with request_time_limit(0.5):
        assert seconds(select) < 0.5 + NOISE
    assert connection.connection is None


@real
def test_the_health_check_of_a_silent_connection_leaves_time_for_a_new_one(proxied: Proxy) -> None:
    select()
    proxied.mode = "silent"
    proxied_port = connection.settings_dict["PORT"]
    assert proxied_port == str(proxied.port)
    connection.close_if_unusable_or_obsolete()
    threading.Timer(0.2, lambda: setattr(proxied, "mode", "pass")).start()  # the open connection stays silent
    with request_time_limit(4):
        select()


@real
def test_each_answer_gives_the_request_its_time_again() -> None:
    with request_time_limit(1.0):
        for _ in range(4):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.4)")
        assert request_time_left() == 1.0


@real
def test_time_that_a_request_spends_elsewhere_does_not_count() -> None:
    with request_time_limit(0.5):
        select()
        time.sleep(0.7)
        select()


@real
def test_commands_have_no_limit() -> None:
    assert request_time_left() == float("inf")
    select()
    assert connection.connection.timeout is None


@real
def test_waiting_for_a_lock_ends_with_an_error_that_names_it(session: Session) -> None:
    with psycopg.connect(**_parameters()) as holder:
        holder.execute("SELECT 1 FROM sessions FOR UPDATE")
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("10s",)
            cursor.execute("SET lock_timeout = '100ms'")
        with pytest.raises(OperationalError) as raised:
            append_message(session.pk, role="user")
        assert isinstance(raised.value.__cause__, psycopg.errors.LockNotAvailable)
    connection.close()


@real
def test_postgresql_ends_a_statement_whose_request_gave_up(session: Session) -> None:
    def asleep() -> int:
        with beside() as other:
            rows = other.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(77)%' AND pid <> pg_backend_pid()"
            )
            return int(rows.fetchall()[0][0])

    with request_time_limit(0.3), pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(77)")
    connection.close()
    assert asleep() == 1
    end = time.monotonic() + 15
    while asleep() and time.monotonic() < end:
        time.sleep(0.2)
    assert not asleep()


# Hosts and addresses


def connect(seconds: float = 5, **changed: Any) -> Connection:
    return Connection.connect(**{**_parameters(), **changed}, connect_timeout=seconds)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts connections and says nothing, as a host whose power is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def accepted(listener: socket.socket) -> int:
    """Return how many connections were made since the last call."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_a_silent_first_host_leaves_time_for_the_second_which_is_the_first_from_then_on(
    servers: Servers, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference, "last_success", None)
    hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{silent.getsockname()[1]},{servers.postgres.port}"}
    for expected in (1, 0, 0):
        with connect(2, **hosts) as made:
            assert made.info.port == servers.postgres.port
        assert accepted(silent) == expected


@pytest.mark.parametrize(("attribute", "answer"), [(None, "read-only"), ("any", None)])
def test_among_several_hosts_a_standby_is_passed_over(
    servers: Servers, attribute: str | None, answer: str | None
) -> None:
    """Both are read-only here, as while nothing is promoted yet."""
    read_only: dict[str, Any] = {"options": "-c default_transaction_read_only=on"}
    hosts: dict[str, Any] = {"host": "127.0.0.1,127.0.0.1", "port": f"{servers.postgres.port},{servers.postgres.port}"}
    extra: dict[str, Any] = {"target_session_attrs": attribute} if attribute else {}
    with pytest.raises(psycopg.OperationalError, match=answer) if answer else contextlib.nullcontext():
        connect(**hosts, **read_only, **extra).close()
    connect(**read_only).close()  # with one there is no choice


def test_a_name_server_that_hangs_holds_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = threading.Event(), []

    def hanging(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        go_on.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    started_at = time.monotonic()
    for _ in range(3):
        with pytest.raises(NoAnswer, match="name server"):
            connect(0.2, host="database.example.org")
    assert time.monotonic() - started_at < 0.6 + NOISE
    assert asked == ["database.example.org"]
    assert circuit_breaker.is_in(State.SUSPECTED)
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "resolve-database":
            thread.join(10)
    with pytest.raises(psycopg.OperationalError, match="resolve"):
        connect(host="database.example.org")


def test_a_name_with_several_addresses_is_tried_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "database.example.org"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with connect(host="database.example.org") as made:  # nothing listens at 127.0.0.9
        assert made.info.hostaddr == "127.0.0.1"


def test_every_host_is_named_when_none_answers(silent: socket.socket) -> None:
    port = silent.getsockname()[1]
    with pytest.raises(NoAnswer) as raised:
        connect(0.4, host="127.0.0.1,127.0.0.1", port=f"{port},1")
    assert f"port {port} timed out" in str(raised.value)
    assert "refused" in str(raised.value)


@real
def test_a_connection_to_a_demoted_primary_is_not_used_again() -> None:
    select()
    before = connection.connection
    assert connection.is_usable()
    before.execute("SET default_transaction_read_only = on")
    assert not connection.is_usable()
    connection.close_if_unusable_or_obsolete()
    select()
    assert connection.connection is not before


# A lost synchronous standby


@pytest.fixture(scope="module")
def without_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A primary whose synchronous standby never answers."""
    server = Postgres(tmp_path_factory.mktemp("postgres"), options=["synchronous_standby_names=nobody"])
    server.start()
    yield server
    server.kill()


def probe_of(server: Postgres) -> ProbeConnection:
    parameters: dict[str, Any] = {**psycopg.conninfo.conninfo_to_dict(server.url)}
    return ProbeConnection.connect(**parameters, autocommit=True)


def waiting_for_standby(server: Postgres) -> int:
    with psycopg.connect(server.url, autocommit=True) as other:
        rows = other.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall()
        return int(rows[0][0])


def test_a_probe_sees_that_a_commit_is_not_replicated_and_leaves_nothing_behind(without_standby: Postgres) -> None:
    probe = probe_of(without_standby)
    for _ in range(3):
        with pytest.raises(CommitNotReplicated):
            probe.check_writable(0.5)
        assert waiting_for_standby(without_standby) == 0
    probe.execute("SET synchronous_commit = local")
    probe.check_writable(5)  # the same connection
    probe.close()


def test_a_primary_that_can_not_commit_is_tried_last_and_left(
    without_standby: Postgres, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its synchronous standby has been promoted, and nothing has stopped the old primary."""
    monkeypatch.setattr(preference, "last_success", None)
    monkeypatch.setattr(preference, "cannot_commit", None)
    ports = f"{without_standby.port},{servers.postgres.port}"
    hosts: dict[str, Any] = {"host": "127.0.0.1,127.0.0.1", "port": ports, "dbname": "tests"}
    with connect(**hosts) as old:
        assert old.info.port == without_standby.port
        assert old.leads_to_primary()
        probe = probe_of(without_standby)
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


def test_a_probe_of_a_busy_server_is_no_answer(without_standby: Postgres) -> None:
    probe = probe_of(without_standby)
    with pytest.raises(NoAnswer) as raised, probe.time_limit(0.3):
        probe.execute("SELECT pg_sleep(30)")
    assert type(raised.value) is NoAnswer
    probe.close()


def test_a_probe_of_a_standby_is_read_only(servers: Servers) -> None:
    probe = ProbeConnection.connect(**_parameters(), autocommit=True)
    probe.execute("SET default_transaction_read_only = on")
    with pytest.raises(ReadOnly):
        probe.check_writable(5)
    probe.close()


@real
@pytest.mark.parametrize("wrap", [lambda call: call(), lambda call: in_transaction(call)()], ids=["alone", "atomic"])
def test_a_cancelled_wait_for_the_standby_is_no_success(session: Session, wrap: Callable[[Any], None]) -> None:
    """PostgreSQL reports it as one, with a warning. An operator who sees a hanging INSERT may well cancel it."""
    outcome: list[Any] = []

    def append() -> None:
        try:
            wrap(lambda: append_message(session.pk, role="user", client_message_id="m1"))
            outcome.append("acknowledged")
        except OperationalError as error:
            outcome.append(error.__cause__)
        finally:
            connections.close_all()

    with beside() as operator:
        operator.execute("SET synchronous_commit = local")
        operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        operator.execute("SELECT pg_reload_conf()")
        try:
            time.sleep(0.2)
            thread = threading.Thread(target=append)
            thread.start()
            cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            end = time.monotonic() + 10
            while not operator.execute(cancel).fetchall():
                assert time.monotonic() < end
                time.sleep(0.05)
            thread.join(10)
        finally:
            operator.execute("ALTER SYSTEM RESET synchronous_standby_names")
            operator.execute("SELECT pg_reload_conf()")
    assert isinstance(outcome[0], CommitNotReplicated)


@real
def test_a_message_sent_again_is_not_acknowledged_before_it_is_replicated(session: Session) -> None:
    """Its first copy is visible without being replicated, as after a crash of the primary that waited."""
    append_message(session.pk, role="user", client_message_id="m1")
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        cursor.execute("SELECT pg_reload_conf()")
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with beside() as other:
                if other.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",):
                    break
        with request_time_limit(0.5), pytest.raises(OperationalError):
            append_message(session.pk, role="user", client_message_id="m1")
    finally:
        with beside() as other:
            other.execute("SET synchronous_commit = local")
            other.execute("ALTER SYSTEM RESET synchronous_standby_names")
            other.execute("SELECT pg_reload_conf()")
        connection.close()
    append_message(session.pk, role="user", client_message_id="m1")
    with beside() as other:
        assert stored(session, other) == {"m1"}


# The circuit breaker


def failing(error: Exception) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def test_a_closed_breaker_does_not_probe() -> None:
    assert CircuitBreaker().allows(failing(AssertionError()))


def test_after_a_call_without_an_answer_the_next_caller_probes() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    assert breaker.allows(lambda: None)
    assert breaker.is_in(State.CLOSED)
    breaker.suspect()
    assert not breaker.allows(failing(NoAnswer()))
    assert breaker.is_in(State.OPEN)


def test_an_open_breaker_refuses_without_probing_until_the_interval_is_over() -> None:
    breaker = CircuitBreaker()
    breaker.open()
    assert not breaker.allows(failing(AssertionError()))
    breaker._next_probe = time.monotonic() - 1
    assert not breaker.allows(failing(NoAnswer()))
    assert not breaker.allows(failing(AssertionError()))
    breaker._next_probe = time.monotonic() - 1
    assert breaker.allows(lambda: None)
    assert breaker.allows(failing(AssertionError()))


def test_a_server_that_refuses_at_once_needs_no_breaker() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    assert breaker.allows(failing(psycopg.OperationalError("connection refused")))


def test_a_caller_waits_for_the_probe_of_another_no_longer_than_it_may() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    with breaker._lock:
        assert not breaker.allows(failing(AssertionError()), seconds=0.1)


def test_others_wait_for_the_first_probe_and_are_refused_during_later_ones() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    probing, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        probing.set()
        go_on.wait(10)
        raise NoAnswer

    answers: list[bool] = []
    callers = [threading.Thread(target=lambda: answers.append(breaker.allows(slow))) for _ in range(3)]
    for caller in callers:
        caller.start()
    assert probing.wait(10)
    assert answers == []
    go_on.set()
    for caller in callers:
        caller.join(10)
    assert answers == [False] * 3
    breaker._next_probe = 0.0
    probing.clear()
    go_on.clear()
    prober = threading.Thread(target=lambda: answers.append(breaker.allows(slow)))
    prober.start()
    assert probing.wait(10)
    assert not breaker.allows(failing(AssertionError()))
    go_on.set()
    prober.join(10)


@pytest.fixture(autouse=True, scope="module")
def no_kept_connections() -> Iterator[None]:
    yield
    drop_readiness_connections()
