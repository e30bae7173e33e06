"""Pages of the admin, asked of the application in this process: middleware, templates and all."""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Protocol

from tests.benchmarks.table import Table, taking_turns

ROUNDS = 15


class Databases(Protocol):
    def choose(self, name: str) -> None: ...
    def on(self, name: str, call: Callable[[], Any]) -> Callable[[], Any]: ...


class Staff:
    """A superuser who is logged in, in one of the databases."""

    def __init__(self, databases: Databases, name: str) -> None:
        from django.test import Client

        from core.models import User

        databases.choose(name)
        self.databases, self.name, self.client = databases, name, Client(HTTP_HOST="localhost")
        self.client.force_login(User.objects.create_superuser("root@example.org"))

    def ask(self, path: str) -> Callable[[], Any]:
        """Returns what asks for a page and is sure to get it."""

        def get() -> None:
            response = self.client.get(path)
            assert response.status_code == 200, (path, response.status_code, response.headers)
            assert "e=1" not in path, path

        return self.databases.on(self.name, get)

    def pages(self) -> dict[str, str]:
        """Returns the pages by what they are. The same in every database; the objects are of about the same size."""
        from django.db.models import Count

        from core.models import AuditEvent, Message, Session, User

        self.databases.choose(self.name)
        session = Session.objects.filter(message_count=20).select_related("user")[0]
        message = Message.objects.filter(session=session, client_message_id__isnull=False)[0]
        some_users = User.objects.filter(is_superuser=False).order_by("pk")[:200]
        counted = (
            Session.objects.filter(user__in=list(some_users)).values("user").annotate(of=Count("pk")).order_by("of")
        )
        user = User.objects.get(pk=counted[len(counted) // 2]["user"])
        event = AuditEvent.objects.filter(object_id=str(session.pk))[0]
        filters = {
            "user": ("is_active__exact=1", "is_active__exact=0", "is_staff__exact=1", "is_superuser__exact=0"),
            "session": ("mode__exact=voice", "is_archived__exact=1", "is_archived__exact=0",
                        f"user__id__exact={user.pk}"),
            "message": ("role__exact=user", "role__exact=tool", "role__exact=system", "contains_phi__exact=0",
                        f"session__id__exact={session.pk}"),
            "auditevent": ("action__exact=create", "action__exact=reveal"),
        }  # fmt: skip
        searches: dict[str, dict[str, Any]] = {
            "user": {"id": user.pk, "email": user.email, "name": user.full_name},
            "session": {"id": session.pk, "user's id": user.pk, "email": user.email},
            "message": {"id": message.pk, "session's id": session.pk, "client's id": message.client_message_id},
            "auditevent": {"id": event.pk, "object's id": session.pk, "address": "192.0.2.1", "trace id": "none"},
        }
        pages: dict[str, str] = {}
        for model, row in (("user", user), ("session", session), ("message", message), ("auditevent", event)):
            root = f"/admin/core/{model}/"
            queries = times(row.created_at)
            queries |= {
                f"filter {query.split('=')[0]} {'…' if 'id' in query else query.split('=')[1]}": query
                for query in filters[model]
            }
            queries |= {f"search by {what}": f"q={term}" for what, term in searches[model].items()}
            pages |= {f"{model}s, {what}": f"{root}?{query}" for what, query in queries.items()}
            pages[f"{model}, page"] = f"{root}{row.pk}/change/"
            if model != "auditevent":
                pages[f"{model}, confirm deletion"] = f"{root}{row.pk}/delete/"
            text = self.client.get(root).content.decode()
            for words in ("Older ›", "Oldest »"):
                if found := re.search(rf'href="([^"]+)"[^>]*>\s*{words}', text):
                    pages[f"{model}s, {words}"] = root + found[1].replace("&amp;", "&")
        return pages


def times(of: datetime) -> dict[str, str]:
    """The queries that narrow a list by time, to where there are rows."""
    year = f"created_at__year={of.year}"
    month = f"{year}&created_at__month={of.month}"
    day, next_day = (f"{of + timedelta(days=days):%Y-%m-%d}T00:00Z" for days in (0, 1))
    return {
        "list": "",
        "a year": year,
        "a month": month,
        "a day": f"{month}&created_at__day={of.day}",
        "a range of time": f"created_at__gte={day}&created_at__lt={next_day}",
        "a search in vain": "q=nobody-and-nothing",
    }


def measure(table: Table, databases: Databases) -> None:
    from django.conf import settings

    settings.ROOT_URLCONF = "tests.benchmarks.usual_admin"
    large, small = Staff(databases, "large"), Staff(databases, "small")
    root = "/admin/core/message/"
    ours, bare = large.ask(root), large.ask("/bare/core/message/")
    taking_turns(ours, bare, rounds=2)
    mine, theirs = taking_turns(ours, bare, rounds=7)
    table.row("list of messages, pages/s, against a bare ModelAdmin", 1000 / mine, 1000 / theirs, 5)
    mine, theirs = taking_turns(ours, large.ask("/usual/core/message/"), rounds=5)
    table.row("the same, against a ModelAdmin as usually written", 1000 / mine, 1000 / theirs, 50)
    few = small.pages()
    for what, path in large.pages().items():
        if what not in few:
            print(f"{what}: not in both")
            continue
        calls = large.ask(path), small.ask(few[what])
        taking_turns(*calls, rounds=2)
        mine, theirs = taking_turns(*calls, rounds=ROUNDS)
        table.row(f"{what}, ms, against 100 thousand", mine, theirs, 1.5, at_most=True)
    delete_a_user(large)


def delete_a_user(staff: Staff) -> None:
    """Deletes the user of the longest session through the admin, and tells how long it took and how much memory."""
    from core.models import AuditEvent, Message, Session

    staff.databases.choose(staff.name)
    user = Session.objects.order_by("-message_count")[0].user
    count = Message.objects.filter(session__user=user).count()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before, began = _memory("VmRSS"), time.perf_counter()
    response = staff.client.post(f"/admin/core/user/{user.pk}/delete/", {"post": "yes"})
    took = time.perf_counter() - began
    assert response.status_code == 302, response.status_code
    assert not Session.objects.filter(user_id=user.pk).exists()
    assert AuditEvent.objects.filter(object_id=str(user.pk), action="delete").exists()
    print(
        f"deleting a user with {count:,} messages: {took:.1f} s, {_memory('VmHWM') - before:.0f} MiB more at the peak"
    )


def _memory(line: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(text.split()[1]) / 1024 for text in file if text.startswith(line))
