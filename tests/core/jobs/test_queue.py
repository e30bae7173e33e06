"""What is in Redis: ids only, and nothing that somebody puts there has an effect."""

import pickle
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from core import audit
from core.jobs import queue
from core.models import Job, Session, User
from tests.core.jobs.conftest import Servers
from tests.support.jobs import tasks
from tests.support.polling import succeeds_within

Ends = Callable[..., bool]
LIST, MESSAGES = "voiceassist:queue:jobs", "voiceassist:queue:jobs.msgs"


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_planted_messages_run_nothing(jobs: Servers, user: User, ends: Ends, tmp_path_factory: object) -> None:
    trap = jobs.postgres.folder / "trap"
    finished = tasks.add_session.enqueue(user.pk)
    with jobs.worker() as worker:
        assert ends(finished.id)
        client = jobs.redis_client()
        message = b'{"queue_name":"%s","actor_name":"%s","args":%s,"kwargs":{},"options":%s,"message_id":"1"}'
        planted = [
            pickle.dumps(Planted(str(trap))),
            message % (b"other", b"run", b'["%s"]' % finished.id.encode(), b'{"redis_message_id":"6"}'),
            message % (b"jobs", b"os.system", b'["touch trap"]', b'{"eta":99999999999999}'),
            b"",
            b"\xff" * 1000,
            b"x" * 10_000_000,
            f"{finished.id} {uuid4()}".encode(),  # of a finished job
            f"{uuid4()} {uuid4()}".encode(),  # of no job
            f"{'-' * 36} {uuid4()}".encode(),  # no UUID
        ]
        for number, data in enumerate(planted):
            client.hset(MESSAGES, str(number), data)
            client.rpush(LIST, str(number))
        client.rpush(LIST, "without a message")
        # More than the worker has threads, which must all be alive, and more than it fetches ahead.
        for job in [tasks.add_session.enqueue(user.pk) for _ in range(12)]:
            assert ends(job.id)
        assert succeeds_within(10, lambda: not client.llen(LIST))
        assert worker.events("not of this application")
        assert len(worker.events("job started")) == 13
    assert not trap.exists()
    assert Session.objects.filter(user=user).count() == 13


def test_wrong_type_of_a_key_stops_nothing_forever(jobs: Servers, user: User, ends: Ends) -> None:
    with jobs.worker() as worker:
        jobs.redis_client().set(LIST, "junk")
        job = tasks.add_session.enqueue(user.pk)
        assert Job.objects.get(pk=job.id).sent_at is None
        assert worker.logs("The worker can't put jobs into Redis")
        jobs.redis_client().delete(LIST)
        assert ends(job.id)


def test_redis_has_only_ids(jobs: Servers, user: User, ends: Ends) -> None:
    """Neither the data files nor any command contain who asked, why, which arguments or an exception."""
    canary = "canary-personal"
    origin = audit.Origin(user.pk, f"{canary}@example.org", "192.0.2.99", "canary-trace", f"{canary} reason")
    client = jobs.redis_client()
    with audit.attributed_to(origin):
        job = tasks.fail_in_batch.enqueue(user.pk)
        other = tasks.add_session.enqueue(user.pk)
    with client.monitor() as monitor, jobs.worker() as worker:  # type: ignore[no-untyped-call]
        assert ends(other.id)
        assert ends(job.id, Job.Status.FAILED)
        client.save()
        client.echo("the end")
        commands = []
        for command in monitor.listen():
            commands.append(command["command"])
            if "the end" in command["command"]:
                break
        log = worker.log()
    assert any("lpop" in command for command in commands)
    files = b"".join(path.read_bytes() for path in jobs.redis.folder.rglob("*") if path.is_file())
    assert job.id.encode() in files
    for text in (canary, "canary-trace", "192.0.2.99", str(user.pk), tasks.TEXT, "fail_in_batch"):
        assert text.encode() not in files, text
        assert not any(text in command for command in commands), text
    assert tasks.TEXT not in log
    assert canary not in log
    row = Job.objects.get(pk=job.id)
    assert tasks.TEXT not in str(vars(row))
    assert (row.actor_email, row.reason) == (f"{canary}@example.org", f"{canary} reason")
    with jobs.superuser() as superuser:
        query = (
            "SELECT actor_email, host(address), trace_id FROM audit_events WHERE actor_id = %s AND action = 'create'"
        )
        events = superuser.execute(query, (user.pk,)).fetchall()
    assert events == [(f"{canary}@example.org", "192.0.2.99", "canary-trace")] * 3  # two jobs and the session


def test_ids_are_sent_again_only_while_the_queue_is_short(jobs: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a queue of an hour would hold each id sixty times."""
    monkeypatch.setattr(queue, "_MAX_QUEUED", 10)
    for _ in range(15):
        tasks.sleep.enqueue(1)
    Job.objects.update(sent_at=None)
    client = jobs.redis_client()
    queue.send_due_jobs()
    assert client.llen(LIST) == 15
    client.delete(LIST)
    queue.send_due_jobs()
    assert client.llen(LIST) == 10
    assert Job.objects.filter(sent_at=None).count() == 5
    client.delete(LIST)
    monkeypatch.setattr(queue, "_MAX_SENDING_TIME", 0)  # as if Redis were slow
    Job.objects.update(sent_at=None)
    queue.send_due_jobs()
    assert client.llen(LIST) == Job.objects.exclude(sent_at=None).count() == 0


def test_leftovers_of_ended_processes_are_removed(jobs: Servers) -> None:
    job = tasks.sleep.enqueue(1)  # this process has a heartbeat
    client = jobs.redis_client()
    old, new = b"voiceassist:queue:__acks__.\xff.jobs", b"voiceassist:queue:__acks__.new.jobs"
    for key, name, age in ((old, b"\xff", 7200), (new, b"new", 60)):
        client.sadd(key, name)
        client.hset(MESSAGES, name, "message")
        client.zadd("voiceassist:queue:__heartbeats__", {name: (time.time() - age) * 1000})
    before = client.hlen(MESSAGES)
    queue.remove_ended_clients()
    assert (client.exists(old), client.exists(new), client.hlen(MESSAGES)) == (0, 1, before - 1)
    assert client.zcard("voiceassist:queue:__heartbeats__") == 2
    assert job.id
