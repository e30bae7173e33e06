"""Time pages of the admin, requested in this process through all middleware and templates."""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.benchmarks import step_up
from tests.benchmarks.data import Databases
from tests.benchmarks.table import Table, interleaved_medians

ROUNDS = 15


class Staff:
    """A logged-in superuser of one of the databases."""

    def __init__(self, databases: Databases, name: str) -> None:
        from django.test import Client

        from core.models import User

        databases.choose(name)
        self.databases, self.name, self.client = databases, name, Client(HTTP_HOST="localhost")
        self.client.force_login(User.objects.create_superuser("root@example.org"))

    def page_request(self, path: str) -> Callable[[], Any]:
        """Return a function that requests a page and checks that it succeeded."""

        def get() -> None:
            response = self.client.get(path)
            assert response.status_code == 200, (path, response.status_code, response.headers)
            assert "e=1" not in path, path

        return self.databases.on(self.name, get)

    def pages(self) -> dict[str, str]:
        """Return `addresses`, with the results of a search instead of the search."""
        return {title: self.results_of(path) for title, path in self.addresses().items()}

    def addresses(self) -> dict[str, str]:
        """Return the paths of pages by title, the same titles for each database and objects of about the same size."""
        from django.db.models import Count

        from core.models import AuditEvent, Message, Session, User

        self.databases.choose(self.name)
        session = Session.objects.filter(message_count=20).select_related("user")[0]
        message = Message.objects.filter(session=session, client_message_id__isnull=False)[0]
        some_users = User.objects.filter(is_superuser=False).order_by("pk")[:200]
        counted = (
            Session.objects.filter(user__in=list(some_users))
            .values("user")
            .annotate(count=Count("pk"))
            .order_by("count")
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
            queries = time_queries(row.created_at)
            queries |= {
                f"filter {query.split('=')[0]} {'…' if 'id' in query else query.split('=')[1]}": query
                for query in filters[model]
            }
            queries |= {f"search by {key}": f"q={term}" for key, term in searches[model].items()}
            pages |= {f"{model}s, {title}": f"{root}?{query}" for title, query in queries.items()}
            pages[f"{model}, page"] = f"{root}{row.pk}/change/"
            if model != "auditevent":
                pages[f"{model}, confirm deletion"] = f"{root}{row.pk}/delete/"
            text = self.client.get(root).content.decode()
            for label in ("Older ›", "Oldest »"):
                if match := re.search(rf'href="([^"]+)"[^>]*>\s*{label}', text):
                    pages[f"{model}s, {label}"] = root + match[1].replace("&amp;", "&")
        return pages

    def results_of(self, path: str) -> str:
        """Return the path of the results, if the path is a search. Otherwise return it unchanged."""
        response = self.client.get(path) if "?q=" in path else None
        return str(response["Location"]) if response and response.status_code == 302 else path


def time_queries(created_at: datetime) -> dict[str, str]:
    """Return queries that filter a list by periods that contain `created_at`."""
    year = f"created_at__year={created_at.year}"
    month = f"{year}&created_at__month={created_at.month}"
    day, next_day = (f"{created_at + timedelta(days=days):%Y-%m-%d}T00:00Z" for days in (0, 1))
    return {
        "list": "",
        "a year": year,
        "a month": month,
        "a day": f"{month}&created_at__day={created_at.day}",
        "a range of time": f"created_at__gte={day}&created_at__lt={next_day}",
        "a search without results": "q=nobody-and-nothing",
    }


def measure(table: Table, databases: Databases) -> None:
    from django.conf import settings

    settings.ROOT_URLCONF = "tests.benchmarks.usual_admin"
    large, small = Staff(databases, "large"), Staff(databases, "small")
    root = "/admin/core/message/"
    ours, bare = large.page_request(root), large.page_request("/bare/core/message/")
    interleaved_medians(ours, bare, rounds=2)
    ours_ms, bare_ms = interleaved_medians(ours, bare, rounds=7)
    table.row("list of messages, pages/s, against a bare ModelAdmin", 1000 / ours_ms, 1000 / bare_ms, 5)
    ours_ms, typical_ms = interleaved_medians(ours, large.page_request("/typical/core/message/"), rounds=5)
    table.row("the same, against a typical ModelAdmin", 1000 / ours_ms, 1000 / typical_ms, 50)
    small_pages = small.pages()
    for title, path in large.pages().items():
        if title not in small_pages:
            print(f"{title}: missing in one database")
            continue
        calls = large.page_request(path), small.page_request(small_pages[title])
        interleaved_medians(*calls, rounds=2)
        large_ms, small_ms = interleaved_medians(*calls, rounds=ROUNDS)
        table.row(f"{title}, ms, against 100 thousand", large_ms, small_ms, 1.5, at_most=True)
    step_up.measure(table, large)
    delete_a_user(large)


def delete_a_user(staff: Staff) -> None:
    """Delete the user of the longest session as the admin and a worker do, and print the time and the memory."""
    from core.jobs import execution
    from core.models import AuditEvent, Job, Message, Session

    staff.databases.choose(staff.name)
    user = Session.objects.order_by("-message_count")[0].user
    count = Message.objects.filter(session__user=user).count()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset VmHWM, the peak of memory
    before, started_at = _memory("VmRSS"), time.perf_counter()
    response = staff.client.post(f"/admin/core/user/{user.pk}/delete/", {"post": "yes"})
    for job in Job.objects.filter(is_scheduled=False):
        execution.run(job.pk)
    seconds = time.perf_counter() - started_at
    assert response.status_code == 302, response.status_code
    assert not Session.objects.filter(user_id=user.pk).exists()
    assert AuditEvent.objects.filter(object_id=str(user.pk), action="delete").exists()
    added = _memory("VmHWM") - before
    print(f"deleting a user with {count:,} messages: {seconds:.1f} s, {added:.0f} MiB more at the peak")


def _memory(line: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(text.split()[1]) / 1024 for text in file if text.startswith(line))
