"""The numbers in the documentation are those of the code.

Each sentence is written here with values of the code in place of its numbers, and has to be in the page. So a test
fails if either changes without the other. That the code keeps to its values is tested beside the code.
"""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from core import access_review, batched_deletion, deletion, metrics, tasks
from core.admin import access_reason, base, transcripts
from core.auth import known_devices, login_failures, password_hashing, pending_login, second_factor, web_sessions
from core.auth.failed_login_events import MAX_NETWORKS
from core.clients import outages
from core.clients.postgresql import circuit_breaker, connection_limit, migration_locks
from core.conversations import append
from core.jobs import execution, progress, queue, schedule, worker
from core.management.commands import migrate
from core.models import exports, fields, jobs
from core.models.second_factor import RECOVERY_CODES
from core.phi import SIZES
from health import check_runner, job_counts
from health.checks import persistent_connection, read_limit
from health.multiprocess import draining, runtime_folder, worker_states
from tests.docs.markdown import ROOT
from voiceassist import (
    cpus,
    descriptors,
    environment,
    error_reports,
    gunicorn,
    gunicorn_connections,
    gunicorn_requests,
    gunicorn_worker,
    request_buffer,
)
from voiceassist.logs import formatter, refused_requests, repeated

_WORDS = {2: "two", 3: "three", 5: "five", 7: "seven", 8: "eight", 10: "ten"}
_MINUTE, _HOUR, _MIB = 60, 3600, 1024**2
_HASHER, _LIMITS = password_hashing.PasswordHasher, login_failures.LIMITS
_HASH_MEMORY = _HASHER.memory_cost // 1024
_DATABASE = settings.DATABASES["default"]["OPTIONS"]
_RETRIES = [int((execution._RETRY_DELAY * 4**attempt).total_seconds()) for attempt in range(execution.MAX_ATTEMPTS - 1)]


def word(number: float | timedelta, unit: float = 1) -> str:
    seconds = number.total_seconds() if isinstance(number, timedelta) else number
    return _WORDS[int(seconds / unit)]


def only_if(is_true: bool, sentence: str) -> str:
    """Return a sentence without a number, or what no page contains."""
    return sentence if is_true else f"not true any more: {sentence}"


def minimum_length() -> int:
    validators: Any = settings.AUTH_PASSWORD_VALIDATORS
    [length] = [entry["OPTIONS"]["min_length"] for entry in validators if "MinimumLength" in entry["NAME"]]
    return int(length)


CLAIMS = {
    "README.md": [
        f"usable CPUs (affinity, cgroup quota), at most {cpus.MAX_WORKERS}",
        f"Seconds are at most {environment._MAX_SECONDS}, workers and threads at most {environment._MAX_COUNT}.",
    ],
    "docs/SECURITY_COMPLIANCE.md": [
        f"(short: up to {SIZES['short']} characters, medium: up to {SIZES['medium']}, long: up to {SIZES['long']:,})",
        f"a text of up to {access_reason.MAX_DETAILS_LENGTH} characters",
        f"It masks itself after {word(settings.REVEAL_MASK_AGE, _MINUTE)} minutes without input",
        f"shows its title, its context and up to {transcripts.PAGE_SIZE} messages in their order",
        f"Values longer than {transcripts.MAX_CHARACTERS:,} characters are cut",
        f"can be downloaded for {word(exports.MAX_EXPORT_AGE.days)} days",
        f"have not logged in for {access_review.UNUSED_AFTER.days} days",
        f"writes a checkpoint to `audit_checkpoints` every {schedule.SCHEDULE[0].interval.seconds} seconds",
        f"After {word(tasks._MAX_CHECKPOINT_AGE, _MINUTE)} minutes the worker logs",
        f"with fewer than {environment._MIN_KEY_LENGTH} characters or fewer than"
        f" {environment._MIN_KEY_CHARACTERS} different ones",
        f"After {settings.SESSION_COOKIE_AGE // _HOUR} hours, the longest that a login lasts",
        f"Passwords have at least {minimum_length()} characters",
        f"{_HASH_MEMORY} MiB of memory, {_HASHER.time_cost} iterations, {_HASHER.parallelism} degree of parallelism",
        f"requests wait for it, at most {password_hashing.MAX_WAIT} s",
        f"429 with `Retry-After: {password_hashing.RETRY_AFTER}`",
        f"Hashes therefore take at most {_HASH_MEMORY} MiB per worker",
        f"The limits within {settings.AXES_COOLOFF_TIME.seconds // _MINUTE} minutes",
        f"| of one account | {_LIMITS['account_at_address']} | {_LIMITS['account_in_56']} |"
        f" {_LIMITS['account_in_48']} | {_LIMITS['account']} |",
        f"| of all accounts | {_LIMITS['address']} | {_LIMITS['network_56']} | {_LIMITS['network_48']} | |",
        f"only its own failures count, at most {_LIMITS['account_on_device']}",
        f"valid for one browser and up to {known_devices.MAX_ACCOUNTS} accounts",
        f"{MAX_NETWORKS} networks are counted separately",
        f"Each step has {pending_login.MAX_STEP_AGE // _MINUTE} minutes.",
        f"{RECOVERY_CODES} recovery codes are shown once",
        only_if(second_factor.MAX_VERIFICATION_AGE == _HOUR, "when the last one is older than an hour"),
        f"A login ends {settings.SESSION_IDLE_AGE // _MINUTE} minutes after the last request and"
        f" {settings.SESSION_COOKIE_AGE // _HOUR} hours after it started",
        only_if(web_sessions.MAX_CACHE_AGE == _MINUTE, "Redis keeps an entry for a minute."),
        f"| web sessions | {settings.SESSION_COOKIE_AGE // _HOUR} hours |",
        f"and the reason | {tasks._KEEP_JOBS.days} days |",
    ],
    "docs/OBSERVABILITY.md": [
        f"more than {formatter.MAX_TEXT:,} characters in a value: truncated",
        f"more than {formatter.MAX_LINE:,} characters in a line: replaced",
        only_if(
            gunicorn_connections._WARNING_INTERVAL == _MINUTE,
            "logs each of these warnings about connections at most once a minute",
        ),
        only_if(refused_requests.INTERVAL == repeated.INTERVAL == _MINUTE, "one line per minute, kind and worker"),
        f"An exiting worker waits for at most {error_reports._FLUSH_TIMEOUT:.0f} s.",
        f"has reported within {queue.WORKER_TIMEOUT} s",
        only_if(persistent_connection.MAX_AGE == _HOUR, "try a new one every hour"),
        only_if(draining._LATE == 0.75, "in the first three quarters of `DRAIN_SECONDS`"),
        f"are finished within {gunicorn.graceful_timeout} s",
        f"gunicorn kills the worker after {gunicorn.timeout} s without a heartbeat",
        f"has not written it for {worker_states._HEARTBEAT_TIMEOUT:.0f} s + `HEALTH_TIMEOUT`",
        f"jobs that wait for a worker, at most {job_counts.MAX_COUNTED:,}",
        *(
            f"| `voiceassist_{client}_call_duration_seconds` | histogram, to {metrics._CALL_BUCKETS[-1]} s |"
            for client in ("redis", "qdrant")
        ),
    ],
    "docs/OPERATIONS.md": [
        f"| `DATABASE_TIMEOUT` | {settings.DATABASE_TIMEOUT:.0f} s |",
        f"| `HEALTH_TIMEOUT` | {settings.HEALTH_TIMEOUT:.0f} s |",
        f"| `DRAIN_SECONDS` | {settings.DRAIN_SECONDS:.0f} s |",
        f"must exceed it by {gunicorn.graceful_timeout} s",
        f"`TimeoutStopSec` more than {gunicorn.graceful_timeout} s above `DRAIN_SECONDS`",
        f"| `connect_timeout` | {_DATABASE['connect_timeout']} s,",
        f"{_DATABASE['keepalives_idle']} s, {_DATABASE['keepalives_interval']} s, {_DATABASE['keepalives_count']} |",
        f"fewer than {descriptors.MIN_CONNECTIONS + descriptors._RESERVE} descriptors plus"
        f" {descriptors._RESERVE_PER_THREAD} per thread",
        f"has `WEB_THREADS` threads, {1 + gunicorn_worker._METRICS_THREADS} for probes and"
        f" {gunicorn_worker._STATIC_THREADS} for static files",
        f"the directory has less than {runtime_folder._START_SPACE // _MIB} MiB of free space",
        f"/dev/shm has no {runtime_folder._MIN_FREE_SPACE // _MIB} MiB of free, writable space",
        f"hard limit, at most to {descriptors.MAX_LIMIT:,}.",
        f"A worker accepts {descriptors.MAX_CONNECTIONS:,} connections",
        f"finish the requests in flight within {gunicorn.graceful_timeout} s",
        f"(threads + {connection_limit._EXTRA_CONNECTIONS}) + job workers ×"
        f" {connection_limit.CONNECTIONS_OF_WORKER} + 2 + 3",
        f"at most {connection_limit.CONNECTIONS_OF_WORKER} [connections to PostgreSQL]",
        f"A user with more than {deletion.MAX_ROWS_OF_REQUEST:,} sessions and messages is deleted by a job.",
        f"| time for a request to arrive, head and body together | {gunicorn_requests._REQUEST_TIMEOUT:.0f} s |",
        f"| body | {settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 1024} kB,",
        f"| head | {request_buffer.MAX_HEAD_LENGTH // 1024} kB,"
        f" {request_buffer._MAX_CHUNK_LINE_LENGTH // 1024} kB for each line |",
        f"| time for one write of a response | {gunicorn_requests._RESPONSE_TIMEOUT:.0f} s, of a probe or an error"
        f" {gunicorn_worker._SHORT_RESPONSE_TIMEOUT:.0f} s, of a probe that waits for nothing 0 s |",
        f"| idle time between two requests of a connection | {gunicorn.keepalive} s |",
        f"| connections of a worker | {descriptors.MAX_CONNECTIONS} |",
        f"503 `NOT_READY` with `Retry-After: {outages.RETRY_AFTER}`",
        f"A migration waits at most {migration_locks.LOCK_TIMEOUT.replace('s', ' s')} for a lock",
    ],
    "docs/DATA_MODEL.md": [
        f"longer than {jobs._MAX_JSON_LENGTH} characters: `jobs_json_is_short`",
        f"JSON is nested at most {fields.MAX_JSON_DEPTH} levels deep.",
        f"Up to {deletion.MAX_ROWS_OF_REQUEST:,} sessions and messages are deleted in the request",
        f"in transactions of at most {batched_deletion.MAX_MESSAGES:,} messages",
        f"runs up to {word(append._MAX_TRIES)} times",
        f"At most {base.MAX_MATCHES:,} matches are shown",
        f"waits at most {migration_locks.LOCK_TIMEOUT.replace('s', ' s')} for a lock. After that it is rolled back and"
        f" retried {migrate.PAUSE_SECONDS[0]:.0f} to {migrate.PAUSE_SECONDS[1]:.0f} s later, {migrate.MAX_TRIES} times",
    ],
    "docs/BACKEND_ARCHITECTURE.md": [
        f"A worker takes a **lease** of {progress.LEASE.seconds} seconds and renews it every {worker._INTERVAL:.0f} s",
        f"as long as Redis holds fewer than {queue._MAX_QUEUED:,}.",
        "A job fails after five attempts without progress: {} s, {} s, {} s and {} s after".format(*_RETRIES),
        only_if(worker.MAX_TIME_WITHOUT_PROGRESS == _HOUR, "no progress for an hour ends its worker"),
        f"may take {worker.STOP_TIMEOUT:.0f} seconds and is then left to its lease",
        f"read at most {read_limit.MAX_BYTES // 10**6} MB",
        f"except one every {word(circuit_breaker.RETRY_INTERVAL)} seconds that probes again",
        f"{word(gunicorn_worker._METRICS_THREADS)} for `/metrics`, one that runs",
        f"less than {runtime_folder._MIN_FREE_SPACE // _MIB} MiB free",
        only_if(gunicorn.preload_app, "loads the application before it forks (`preload_app`)"),
        only_if(check_runner._CHECK_TIMEOUT_FRACTION == 0.9, "to nine tenths of the deadline"),
        only_if(check_runner._IN_TURN_FRACTION == 0.01, "take longer than a hundredth of the deadline"),
    ],
}


@pytest.mark.parametrize("page", CLAIMS)
def test_numbers_are_those_of_the_code(page: str) -> None:
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    assert [claim for claim in CLAIMS[page] if claim not in text] == []
