"""The rows of demo data, as `core.conversations` would have left them.

A session counts its messages, their times rise, it was touched when its last message came or when it ended. One message
in a hundred is of one long session. The same numbers and the same seed make the same rows, keys and times included:
users of 2024, conversations of 2025. What the database's triggers add to the audit trail has the time at which it
really happened.
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
_SECOND, _DAY = 10**6, 86400 * 10**6  # all times below are in microseconds since 1970
_USERS_FROM, _FROM, _UNTIL = (
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * _SECOND for year in (2024, 2025, 2026)
)
_BATCH = 1000  # sessions that one COPY writes
_STEP = 1000  # rows between two signs of life
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
    begins: int
    gap: int  # its messages come about so far apart
    size: int
    specialty: str
    mode: str
    row: tuple[Any, ...]

    def time(self, number: int) -> int:
        """The latest time that its message of this number, from 1, may have."""
        return self.begins + number * self.gap


def write(cursor: Any, *, users: int, sessions: int, messages: int, seed: int) -> Generator[int]:
    """Writes them by COPY, and yields again and again how many rows were added. Belongs into one transaction.

    Raises IntegrityError if a user of this seed is there already.
    """
    random = Random(seed)
    # The foreign keys are deferred to the commit: it would be as long as all the rest, without a sign of life.
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    yield from _copy(cursor, f"users ({USERS})", (_user(seed, number) for number in range(users)))
    turns = {specialty: vocabulary.turns(specialty, random) for specialty in _SPECIALTIES}
    every = (_conversation(random, seed, *each) for each in _plan(random, users, sessions, messages))
    while batch := list(islice(every, _BATCH)):
        yield from _copy(cursor, f"sessions ({SESSIONS})", (conversation.row for conversation in batch))
        said = (row for conversation in batch for row in _messages(random, conversation, turns[conversation.specialty]))
        yield from _copy(cursor, f"messages ({MESSAGES})", said)


def _copy(cursor: Any, into: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[int]:
    number = 0
    with cursor.copy(f"COPY {into} FROM STDIN") as copy:
        for number, row in enumerate(rows, 1):
            copy.write_row(row)
            if number % _STEP == 0:
                yield _STEP
    yield number % _STEP


def _at(time: int) -> str:
    return (_EPOCH + timedelta(microseconds=time)).isoformat(" ")


def _uuid7(time: int, bits: int) -> str:
    """Returns the UUIDv7 of a time, with 74 bits that tell it from others of the same millisecond."""
    return f"{time // 1000:012x}7{bits >> 62:03x}{1 << 63 | bits & (1 << 62) - 1:016x}"


def _user_key(seed: int, number: int, time: int) -> str:
    """Made from the number, so that sessions need no list of users."""
    return _uuid7(time, int.from_bytes(blake2b(f"{seed} {number}".encode(), digest_size=10).digest()) >> 6)


def _user_time(number: int) -> int:
    return _USERS_FROM + number * 60 * _SECOND % (365 * _DAY)


def _user(seed: int, number: int) -> tuple[Any, ...]:
    time = _user_time(number)
    given, middle, family = vocabulary.name(number)
    email = f"{given}.{family}.{number}@demo{seed}.example.org".lower()
    specialty = _SPECIALTIES[number % len(_SPECIALTIES)]
    nobody_logs_in = "!" + _user_key(seed, number, time)
    key, at = _user_key(seed, number, time), _at(time)
    return key, at, at, nobody_logs_in, email, f"{given} {middle}. {family}", specialty, True, False, False


def _plan(random: Random, users: int, sessions: int, messages: int) -> Iterator[tuple[int, int, int]]:
    """Yields for each session its user, when it begins, and how many messages it has: most have few."""
    if not sessions:
        return
    long = messages // 100
    each = min((messages - long) // sessions, 1)
    rest = messages - long - each * sessions
    for first in range(0, sessions, _BATCH):
        number = min(_BATCH, sessions - first)
        before, after = (done * rest // sessions for done in (first, first + number))
        weights = list(accumulate((random.expovariate(1) ** 2 for _ in range(number)), initial=0.0))
        cuts = [int((after - before) * weight / weights[-1]) for weight in weights]
        for index in range(number):
            at = first + index
            begins = _FROM + int((at + random.random()) * 364 * _DAY / sessions)
            size = each + cuts[index + 1] - cuts[index] + (long if at == 0 else 0)
            yield random.randrange(users), begins, size


def _conversation(random: Random, seed: int, user: int, begins: int, size: int) -> Conversation:
    gap = min(random.randint(5, 60) * _SECOND, (_UNTIL - _DAY // 2 - begins) // max(size, 1))
    key = _uuid7(begins, random.getrandbits(74))
    specialty = _SPECIALTIES[user % len(_SPECIALTIES)]
    mode = random.choice(_MODES)
    title = f"{random.choice(vocabulary.SPECIALTIES[specialty].topics)}, bed {random.randint(1, 30)}"
    touched = begins + size * gap
    ended = touched + random.randint(1, 600) * _SECOND if random.random() < 0.9 else None
    row = (
        key, _at(begins), _at(ended or touched), _user_key(seed, user, _user_time(user)), title, mode,
        random.random() < 0.1, f'{{"demo": true, "specialty": "{specialty}"}}', size, ended and _at(ended),
    )  # fmt: skip
    return Conversation(key, begins, gap, size, specialty, mode, row)


def _messages(
    random: Random, of: Conversation, turns: list[list[vocabulary.MessageContent]]
) -> Iterator[tuple[Any, ...]]:
    metadata = f'{{"demo": true, "device": "{"headset" if of.mode == "voice" else "workstation"}"}}'
    number = 0
    while True:
        for said in random.choice(turns):
            number += 1
            if number > of.size:
                return
            time = of.begins + number * of.gap - (int(random.random() * of.gap) if number < of.size else 0)
            key, at = _uuid7(time, random.getrandbits(74)), _at(time)
            from_client = said[0] == "user"
            audio = f"https://audio.example.org/{key}.opus" if from_client and of.mode == "voice" else ""
            yield key, at, at, of.key, audio, key[12:] if from_client else None, metadata, *said
