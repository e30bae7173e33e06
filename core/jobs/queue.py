"""The queue in Redis: ids of jobs, delivered by Dramatiq (https://dramatiq.io).

Dramatiq sends JSON, and calls only the function that is declared here, so that whoever can write to Redis can at most
make a job that is due run. No middleware is used: `core.jobs.execution` counts attempts and limits time, because it
knows the state of the job.
"""

from contextlib import suppress
from datetime import timedelta
from functools import cache
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
# An id that was sent is sent again after this time if the job is still due, in case Redis lost it.
_SEND_AGAIN = timedelta(seconds=60)
_MAX_SENT = 100  # ids per call
# A sorted set: the workers, by the time of Redis when they last reported.
_WORKERS = f"{settings.SERVICE}:queue:workers"
WORKER_TIMEOUT = 30  # seconds
# A script like Dramatiq's, so that readiness finds a server, proxy or user that lacks scripts.
_COUNT_WORKERS = """
    local now = redis.call("TIME")[1]
    return redis.call("ZCOUNT", KEYS[1], now - ARGV[1], "+inf")
"""
_worker_id = str(uuid4())
_TIMEOUT = 2.0  # seconds per call


@cache
def broker() -> RedisBroker:
    """Return the broker, which connects at its first use."""
    url = redis_url.parse(settings.REDIS_URL)
    pool = url.pool({"socket_connect_timeout": _TIMEOUT, "socket_timeout": _TIMEOUT} | url.options)
    new: RedisBroker = RedisBroker(  # type: ignore[no-untyped-call]
        client=redis.Redis(connection_pool=pool), middleware=[], namespace=f"{settings.SERVICE}:queue"
    )
    dramatiq.actor(actor_name="run", queue_name=QUEUE, broker=new)(_run)
    return new


def send(job_id: UUID) -> bool:
    """Put a job into Redis. Return whether that worked. Otherwise a worker does it when Redis is back."""
    try:
        broker().enqueue(broker().get_actor("run").message(str(job_id)))
    except redis.RedisError as error:
        log.warning(
            "A job was not put into Redis. A worker does it later.", job=str(job_id), reason=type(error).__name__
        )
        return False
    return True


def send_due_jobs() -> None:
    """Put the ids of due jobs into Redis, unless that was done a short time ago. Every worker calls this regularly."""
    is_unsent = Q(sent_at=None) | Q(sent_at__lt=Now() - _SEND_AGAIN)
    with transaction.atomic():
        rows = Job.objects.select_for_update(skip_locked=True).filter(execution.IS_DUE, is_unsent).order_by("run_after")
        keys = list(rows.values_list("pk", flat=True)[:_MAX_SENT])
        Job.objects.filter(pk__in=keys).update(sent_at=Now())
    for key in keys:
        if not send(key):
            break


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


def _run(job_id: str) -> None:
    try:
        key = UUID(job_id)
    except (ValueError, AttributeError, TypeError):
        log.warning("Redis holds a job id that is not a UUID. It is ignored.")
        return
    execution.run(key)
