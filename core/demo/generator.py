"""Generate the rows of demo data, consistent with what `core.conversations` writes.

One message in a hundred belongs to one long session. The same arguments generate the same rows, including keys and
times: users are dated 2024, conversations 2025. Only the audit events, which triggers add, have the real time.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import accumulate, islice
from random import Random
from typing import Any

from core.demo import vocabulary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND, _DAY = 10**6, 86400 * 10**6  # all times in this module are microseconds since 1970
_USERS_START, _SESSIONS_START, _SESSIONS_END = (
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * _SECOND for year in (2024, 2025, 2026)
)
_BATCH_SIZE = 1000  # sessions per COPY
_PROGRESS_STEP = 1000  # rows between two progress reports
_SPECIALTIES = tuple(vocabulary.SPECIALTIES)
_MODES = ("text", "voice", "case_workspace")

USERS = "id, created_at, updated_at, password, email, full_name, specialty, is_active, is_staff, is_superuser"
SESSIONS = "id, created_at, updated_at, user_id, title, mode, is_archived, context, message_count, ended_at"
MESSAGES = (
    "id, created_at, updated_at, session_id, audio_url, client_message_id, metadata,"
    " role, content, model, tokens, tool_calls, tool_results, contains_phi"
)


@dataclass(frozen=True, slots=True)
class Conversation:
    key: str
    started_at: int
    interval: int  # average, between two messages
    message_count: int
    specialty: str
    mode: str
    row: tuple[Any, ...]


def write(cursor: Any, *, users: int, sessions: int, messages: int, seed: int) -> Generator[int]:
    """Write the rows by COPY, in the caller's transaction, and yield the numbers of rows added.

    Raises IntegrityError if users of this seed exist.
    """
    random = Random(seed)
    # Otherwise the commit would check the foreign keys, which doubles the time and reports no progress.
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    yield from _copy(cursor, f"users ({USERS})", (_user(seed, number) for number in range(users)))
    turns = {specialty: vocabulary.turns(specialty, random) for specialty in _SPECIALTIES}
    conversations = (_conversation(random, seed, *planned) for planned in _plan(random, users, sessions, messages))
    while batch := list(islice(conversations, _BATCH_SIZE)):
        yield from _copy(cursor, f"sessions ({SESSIONS})", (conversation.row for conversation in batch))
        rows = (row for conversation in batch for row in _messages(random, conversation, turns[conversation.specialty]))
        yield from _copy(cursor, f"messages ({MESSAGES})", rows)


def _copy(cursor: Any, target: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[int]:
    number = 0
    with cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for number, row in enumerate(rows, 1):
            copy.write_row(row)
            if number % _PROGRESS_STEP == 0:
                yield _PROGRESS_STEP
    yield number % _PROGRESS_STEP


def _timestamp(time: int) -> str:
    return (_EPOCH + timedelta(microseconds=time)).isoformat(" ")


def _uuid7(time: int, bits: int) -> str:
    """Return the UUIDv7 of a time and 74 bits (RFC 9562, section 5.7)."""
    return f"{time // 1000:012x}7{bits >> 62:03x}{1 << 63 | bits & (1 << 62) - 1:016x}"


def _user_key(seed: int, number: int, time: int) -> str:
    """Return a key derived from seed and number, so that sessions need no list of users."""
    return _uuid7(time, int.from_bytes(blake2b(f"{seed} {number}".encode(), digest_size=10).digest()) >> 6)


def _user_time(number: int) -> int:
    return _USERS_START + number * 60 * _SECOND % (365 * _DAY)


def _user(seed: int, number: int) -> tuple[Any, ...]:
    time = _user_time(number)
    given_name, initial, family_name = vocabulary.name(number)
    full_name = f"{given_name} {initial}. {family_name}"
    email = f"{given_name}.{family_name}.{number}@demo{seed}.example.org".lower()
    specialty = _SPECIALTIES[number % len(_SPECIALTIES)]
    key, created_at = _user_key(seed, number, time), _timestamp(time)
    unusable_password = "!" + key
    return key, created_at, created_at, unusable_password, email, full_name, specialty, True, False, False


def _plan(random: Random, users: int, sessions: int, messages: int) -> Iterator[tuple[int, int, int]]:
    """Yield the user, start and message count of each session. Most are short.

    messages    | long session: 1 % | one per session | rest            |
    rest        | batch 1 | batch 2 | batch 3 | …          equal shares |
    batch       |s1|    s2    |s3|       s4       |s5| …  random shares |
    """
    if not sessions:
        return
    long_session = messages // 100
    minimum = min((messages - long_session) // sessions, 1)
    rest = messages - long_session - minimum * sessions
    for first in range(0, sessions, _BATCH_SIZE):
        batch_size = min(_BATCH_SIZE, sessions - first)
        batch_start, batch_end = (number * rest // sessions for number in (first, first + batch_size))
        weights = list(accumulate((random.expovariate(1) ** 2 for _ in range(batch_size)), initial=0.0))
        cuts = [int((batch_end - batch_start) * weight / weights[-1]) for weight in weights]
        for index in range(batch_size):
            number = first + index
            started_at = _SESSIONS_START + int((number + random.random()) * 364 * _DAY / sessions)
            message_count = minimum + cuts[index + 1] - cuts[index] + (long_session if number == 0 else 0)
            yield random.randrange(users), started_at, message_count


def _conversation(random: Random, seed: int, user: int, started_at: int, message_count: int) -> Conversation:
    time_left = _SESSIONS_END - _DAY // 2 - started_at
    interval = min(random.randint(5, 60) * _SECOND, time_left // max(message_count, 1))
    key = _uuid7(started_at, random.getrandbits(74))
    specialty = _SPECIALTIES[user % len(_SPECIALTIES)]
    mode = random.choice(_MODES)
    title = f"{random.choice(vocabulary.SPECIALTIES[specialty].topics)}, bed {random.randint(1, 30)}"
    last_message_at = started_at + message_count * interval
    ended_at = last_message_at + random.randint(1, 600) * _SECOND if random.random() < 0.9 else None
    row = (
        key,
        _timestamp(started_at),
        _timestamp(ended_at or last_message_at),
        _user_key(seed, user, _user_time(user)),
        title,
        mode,
        random.random() < 0.1,
        f'{{"demo": true, "specialty": "{specialty}"}}',
        message_count,
        ended_at and _timestamp(ended_at),
    )
    return Conversation(key, started_at, interval, message_count, specialty, mode, row)


def _messages(
    random: Random, conversation: Conversation, turns: list[list[vocabulary.MessageContent]]
) -> Iterator[tuple[Any, ...]]:
    is_voice, count = conversation.mode == "voice", conversation.message_count
    metadata = f'{{"demo": true, "device": "{"headset" if is_voice else "workstation"}"}}'
    number = 0
    while True:
        for content in random.choice(turns):
            number += 1
            if number > count:
                return
            # The last message has the time of the session's updated_at.
            earlier = int(random.random() * conversation.interval) if number < count else 0
            time = conversation.started_at + number * conversation.interval - earlier
            key, created_at = _uuid7(time, random.getrandbits(74)), _timestamp(time)
            is_from_client = content[0] == "user"
            audio_url = f"https://audio.example.org/{key}.opus" if is_from_client and is_voice else ""
            client_message_id = key[12:] if is_from_client else None
            yield key, created_at, created_at, conversation.key, audio_url, client_message_id, metadata, *content
