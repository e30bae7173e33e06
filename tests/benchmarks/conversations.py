"""Writing and reading conversations, against the same SQL without Django, and against a small table."""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import psycopg

from tests.benchmarks.table import Table, taking_turns

DEEP = 1000  # pages


class Databases(Protocol):
    def url(self, name: str) -> str: ...
    def choose(self, name: str) -> None: ...
    def on(self, name: str, call: Callable[[], Any]) -> Callable[[], Any]: ...


def appending(table: Table, databases: Databases) -> None:
    """append_message, against the statement that it sends by psycopg as its documentation has it: execute, commit."""
    from django.db import connection
    from uuid_utils.compat import uuid7

    from core.clients.postgresql.time_limit import request_time_limit
    from core.conversations import append_message
    from core.models import Message, Session

    databases.choose("large")
    turns = itertools.cycle(Session.objects.filter(ended_at=None).values_list("pk", flat=True)[:100])
    content = "Bed 7: swollen ankles since 8:30. What did we do the last time? " * 2
    sent: list[tuple[str, Any]] = []

    def ours() -> None:
        append_message(next(turns), role="user", content=content, client_message_id=str(uuid7()))

    def limited() -> None:
        with request_time_limit(15):
            ours()

    def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(listen):
        ours()
    [(statement, (_, *values))] = sent
    fields = [field for field in Message._meta.concrete_fields if field.name not in ("created_at", "updated_at")]
    same = {field.attname: value for field, value in zip(fields, values, strict=True)}

    with psycopg.connect(databases.url("large")) as plain:

        def theirs() -> None:
            session = next(turns)
            row = same | {"id": uuid7(), "session_id": session, "client_message_id": str(uuid7())}
            cursor = plain.execute(statement, [session, *row.values()])
            assert cursor.fetchone()
            plain.commit()

        def compare(what: str) -> None:
            taking_turns(limited, theirs, rounds=20)
            mine, other = taking_turns(limited, theirs, rounds=1000)
            table.row(f"append a message{what}, /s, against the same SQL by psycopg", 1000 / mine, 1000 / other, 0.6)

        compare("")
        # Without what both wait for, and without what a pooler in transaction mode forbids us: the rest is Django's.
        plain.prepare_threshold = None
        for own in (connection.cursor(), plain):
            own.execute("SET synchronous_commit = off")
        plain.commit()
        compare(", disk not waited for")
        with_limit, without = taking_turns(limited, ours, rounds=1000)
        table.row(
            "append a message, /s, with a request's time limit against without", 1000 / with_limit, 1000 / without, 0.9
        )


def reading(table: Table, databases: Databases) -> None:
    from core.conversations import read_messages
    from core.models import Session

    def latest(name: str, longest: bool) -> Callable[[], Any]:
        databases.choose(name)
        order = "-message_count" if longest else "pk"
        enough = Session.objects.filter(message_count__gt=50).order_by(order).values_list("pk", flat=True)
        keys = itertools.cycle(list(enough[: 1 if longest else 50]))
        return databases.on(name, lambda: read_messages(next(keys)))

    for longest, of in ((False, "of sessions"), (True, "of the longest session")):
        calls = latest("large", longest), latest("small", longest)
        taking_turns(*calls, rounds=60)
        large, small = taking_turns(*calls, rounds=500)
        table.row(f"latest 50 messages {of}, ms, against 100 thousand", large, small, 1.2, at_most=True)

    databases.choose("large")
    session = Session.objects.order_by("-message_count")[0]
    depth, cursor = min(DEEP, session.message_count // 50 - 1), None
    for _ in range(depth - 1):
        cursor = read_messages(session.pk, cursor=cursor).next_cursor
    assert len(read_messages(session.pk, cursor=cursor).messages) == 50
    deep, first = taking_turns(
        lambda: read_messages(session.pk, cursor=cursor), lambda: read_messages(session.pk), rounds=500
    )
    table.row(f"page {depth:,} of a session, ms, against page 1", deep, first, 1.2, at_most=True)
