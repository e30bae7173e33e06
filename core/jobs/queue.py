"""The queue in Redis: ids of jobs, delivered by Dramatiq (https://dramatiq.io).

Redis holds two UUIDs for each message: of the job, and of the message. Everything else that Dramatiq could read from
there, such as the function to call or a delay, is constant. So anyone who can write to Redis can at most start a job
that is due. No middleware is used: `core.jobs.execution` counts attempts, because it knows the state of the job.
"""

import re
import time
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import dramatiq
import redis
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from dramatiq.brokers.redis import RedisBroker

from core.clients import redis_url
from core.jobs import execution
from core.models import Job

log = structlog.stdlib.get_logger("voiceassist.jobs")

QUEUE = "jobs"
_ACTOR = "run"
NAMESPACE = f"{settings.SERVICE}:queue"  # prefix of all keys
# An id that was sent is sent again after this time if the job is still due, in case Redis lost it.
_SEND_AGAIN = timedelta(seconds=60)
# Redis gets more ids only while it holds fewer, otherwise the jobs of a long queue would be sent again and again.
_MAX_QUEUED = 1000
_MAX_SENDING_TIME = 5.0  # seconds per call, because the caller also renews leases
# A sorted set: the workers, by the time of Redis when they last reported.
_WORKERS = f"{NAMESPACE}:workers"
WORKER_TIMEOUT = 30  # seconds
# A script like Dramatiq's, so that readiness finds a server, proxy or user that lacks scripts.
_COUNT_WORKERS = """
    local now = redis.call("TIME")[1]
    return redis.call("ZCOUNT", KEYS[1], now - ARGV[1], "+inf")
"""
_worker_id = str(uuid4())
_TIMEOUT = 2.0  # seconds per call
# A process that has used the queue for the last time before this many milliseconds has ended.
_CLIENT_TIMEOUT = 3600 * 1000


class _Encoder(dramatiq.Encoder):
    """Stores a message as two ids. Decoding never fails: junk becomes a message without a job, which is ignored."""

    _FORMAT = re.compile(rb"([0-9a-f-]{36}) ([0-9a-f-]{36})")

    def encode(self, data: dict[str, Any]) -> bytes:
        return f"{data['args'][0]} {data['options']['redis_message_id']}".encode()

    def decode(self, data: bytes) -> dict[str, Any]:
        match = self._FORMAT.fullmatch(data)
        job_id, message_id = (match[1].decode(), match[2].decode()) if match else ("", "")
        return {
            "queue_name": QUEUE,
            "actor_name": _ACTOR,
            "args": [job_id],
            "kwargs": {},
            "options": {"redis_message_id": message_id},
        }


class _Broker(RedisBroker):
    def get_declared_delay_queues(self) -> set[str]:
        """Return no queue. The database knows when a job is due, and polling another queue would double the load."""
        return set()


@cache
def broker() -> RedisBroker:
    """Return the broker, which connects at its first use."""
    dramatiq.set_encoder(_Encoder())
    url = redis_url.parse(settings.REDIS_URL)
    pool = url.pool({"socket_connect_timeout": _TIMEOUT, "socket_timeout": _TIMEOUT} | url.options)
    new: RedisBroker = _Broker(  # type: ignore[no-untyped-call]
        client=redis.Redis(connection_pool=pool),
        middleware=[],
        namespace=NAMESPACE,
        maintenance_chance=0,  # it runs KEYS, which blocks Redis while it reads the keys of all web sessions
    )
    dramatiq.actor(actor_name=_ACTOR, queue_name=QUEUE, broker=new)(_run)
    return new


def send(job_id: UUID) -> None:
    """Put a job into Redis. If that fails, a worker does it when Redis is back."""
    try:
        _put(job_id)
    except redis.RedisError as error:
        log.warning(
            "A job was not put into Redis. A worker does it later.", job=str(job_id), reason=type(error).__name__
        )
        Job.objects.filter(pk=job_id).update(sent_at=None)


def send_due_jobs() -> None:
    """Put the ids of due jobs into Redis, unless that was done a short time ago. Every worker calls this regularly.

    Scheduled jobs are not sent, because they don't wait in the queue (`core.jobs.worker`).
    """
    free = _MAX_QUEUED - broker().client.llen(f"{NAMESPACE}:{QUEUE}")
    is_unsent = Q(sent_at=None) | Q(sent_at__lt=Now() - _SEND_AGAIN)
    with transaction.atomic():
        due = Job.objects.filter(execution.IS_DUE, is_unsent, is_scheduled=False).order_by("run_after")
        rows = due.select_for_update(skip_locked=True).values_list("pk", flat=True)
        keys = list(rows[: max(free, 0)])
        Job.objects.filter(pk__in=keys).update(sent_at=Now())
    sent = 0
    deadline = time.monotonic() + _MAX_SENDING_TIME
    try:
        while sent < len(keys) and time.monotonic() < deadline:
            _put(keys[sent])
            sent += 1
    finally:
        if sent < len(keys):
            Job.objects.filter(pk__in=keys[sent:]).update(sent_at=None)


def _put(job_id: UUID) -> None:
    broker().enqueue(broker().get_actor(_ACTOR).message(str(job_id)))


def report_worker() -> None:
    """Report that this worker is alive. Readiness counts the workers that did so in the last 30 seconds."""
    client = broker().client
    now = client.time()[0]
    client.zadd(_WORKERS, {_worker_id: now})
    client.zremrangebyscore(_WORKERS, 0, now - WORKER_TIMEOUT)


def count_workers(client: "redis.Redis") -> int:
    """Return how many workers reported in the last 30 seconds."""
    script = client.register_script(_COUNT_WORKERS)
    return int(script(keys=[_WORKERS], args=[WORKER_TIMEOUT]))


def remove_worker() -> None:
    """Report that this worker has stopped."""
    with suppress(redis.RedisError):
        broker().client.zrem(_WORKERS, _worker_id)


def remove_ended_clients() -> None:
    """Remove what processes that have ended left in Redis: their ids, and the messages that killed workers had fetched.

    The jobs are sent again, because the database knows that they are due. Dramatiq does this with KEYS.
    """
    client, heartbeats = broker().client, f"{NAMESPACE}:__heartbeats__"
    ended: bytes
    for ended in client.zrangebyscore(heartbeats, 0, time.time() * 1000 - _CLIENT_TIMEOUT):  # type: ignore[assignment]
        fetched = b".".join((f"{NAMESPACE}:__acks__".encode(), ended, QUEUE.encode()))
        for message_id in client.smembers(fetched):
            client.hdel(f"{NAMESPACE}:{QUEUE}.msgs", message_id)
        client.delete(fetched)
        client.zrem(heartbeats, ended)


def _run(job_id: str) -> None:
    try:
        key = UUID(job_id)
    except ValueError:
        log.warning("Redis holds a message that is not of this application. It is ignored.")
        return
    execution.run(key)
