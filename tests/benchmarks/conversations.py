"""Compare appends with the same SQL sent by psycopg, and reads of a large table with reads of a small one."""

import itertools
from collections.abc import Callable
from typing import Any

import psycopg

from tests.benchmarks.data import Databases
from tests.benchmarks.table import Table, interleaved_medians

MAX_DEPTH = 1000  # pages


def appending(table: Table, databases: Databases) -> None:
    """Compare append_message with psycopg: execute the same statement, then commit."""
    from django.db import connection
    from uuid_utils.compat import uuid7

    from core.clients.postgresql.time_limit import request_time_limit
    from core.conversations import append_message
    from core.models import Message, Session
    from core.phi import stored_fields

    databases.choose("large")
    session_ids = itertools.cycle(Session.objects.filter(ended_at=None).values_list("pk", flat=True)[:100])
    content = "Bed 7: swollen ankles since 8:30. What did we do last time? " * 2
    statements: list[tuple[str, Any]] = []

    def ours() -> None:
        append_message(next(session_ids), role="user", content=content, client_message_id=str(uuid7()))

    def ours_with_limit() -> None:
        with request_time_limit(15):
            ours()

    def record_statement(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record_statement):
        ours()
    [(statement, (_, *values))] = statements
    fields = [field for field in stored_fields(Message) if field.name not in ("created_at", "updated_at")]
    row = {field.attname: value for field, value in zip(fields, values, strict=True)}

    with psycopg.connect(databases.url("large")) as plain:

        def theirs() -> None:
            session = next(session_ids)
            new_row = row | {"id": uuid7(), "session_id": session, "client_message_id": str(uuid7())}
            cursor = plain.execute(statement, [session, *new_row.values()])
            assert cursor.fetchone()
            plain.commit()

        def compare(conditions: str) -> None:
            interleaved_medians(ours_with_limit, theirs, rounds=20)
            ours_ms, theirs_ms = interleaved_medians(ours_with_limit, theirs, rounds=1000)
            measure = f"append a message{conditions}, /s, against the same SQL by psycopg"
            table.row(measure, 1000 / ours_ms, 1000 / theirs_ms, 0.6)

        compare("")
        # Without waiting for the disk, which both do, and without prepared statements, which a pooler in transaction
        # mode does not allow us, the remaining difference is Django's.
        plain.prepare_threshold = None
        for session in (connection.cursor(), plain):
            session.execute("SET synchronous_commit = off")
        plain.commit()
        compare(", asynchronous commit")
        with_limit, without = interleaved_medians(ours_with_limit, ours, rounds=1000)
        table.row(
            "append a message, /s, with a request's time limit, against without", 1000 / with_limit, 1000 / without, 0.9
        )


def reading(table: Table, databases: Databases) -> None:
    from core.conversations import read_messages
    from core.models import Session

    def read_latest(name: str, longest: bool) -> Callable[[], Any]:
        databases.choose(name)
        order = "-message_count" if longest else "pk"
        full_sessions = Session.objects.filter(message_count__gt=50).order_by(order).values_list("pk", flat=True)
        keys = itertools.cycle(list(full_sessions[: 1 if longest else 50]))
        return databases.on(name, lambda: read_messages(next(keys)))

    for longest, scope in ((False, "of sessions"), (True, "of the longest session")):
        calls = read_latest("large", longest), read_latest("small", longest)
        interleaved_medians(*calls, rounds=60)
        large, small = interleaved_medians(*calls, rounds=500)
        table.row(f"latest 50 messages {scope}, ms, against 100 thousand", large, small, 1.2, at_most=True)

    databases.choose("large")
    session = Session.objects.order_by("-message_count")[0]
    depth, cursor = min(MAX_DEPTH, session.message_count // 50 - 1), None
    for _ in range(depth - 1):
        cursor = read_messages(session.pk, cursor=cursor).next_cursor
    assert len(read_messages(session.pk, cursor=cursor).messages) == 50
    deep, first = interleaved_medians(
        lambda: read_messages(session.pk, cursor=cursor), lambda: read_messages(session.pk), rounds=500
    )
    table.row(f"page {depth:,} of a session, ms, against page 1", deep, first, 1.2, at_most=True)
