"""Fill a database with what the pages show, and print ids: `DATABASE_URL=… python -m tests.pages.data`."""

import json
import os
from datetime import datetime, timedelta
from typing import Any

import django

ADMIN = "admin@example.org"
AGENT = "agent@example.org"  # in the group Support
NEWCOMER = "newcomer@example.org"  # staff without any permission
PASSWORD = "correct horse battery staple"
CLINICIAN = "friederike.schwarzenberg@clinic.example.org"
CLINICIAN_NAME = "Prof. Dr. med. Friederike Freifrau von Schwarzenberg-Hohenlohe"
LONG_EMAIL = f"{'a.very.long.address' * 5}@{'clinic' * 3}.org"[-120:]
SAID_AT_TWO = "The potassium of bed 3 is 6.1 mmol/l. Is the sample haemolysed?"
SENTENCES = (
    "What is the creatinine of the patient in bed 3?",
    "It was 1.8 mg/dl this morning, after 1.4 mg/dl yesterday.",
    "Does that change the dose of the antibiotic?",
    "At this clearance the guideline recommends half of the dose, every twelve hours.",
    "Please put that on the list for the afternoon.",
    "It is on the list, with today's laboratory values.",
)


def yesterday_at(hour: int, minute: int) -> datetime:
    """Return a time of yesterday, UTC."""
    from django.utils import timezone

    day = timezone.now() - timedelta(days=1)
    return day.replace(hour=hour, minute=minute, second=0, microsecond=0)


def create() -> dict[str, str]:
    """Create users, a conversation of yesterday, jobs, an export and backups. Return the ids that pages need."""
    from django.contrib.auth.models import Group, Permission
    from django.core.management import call_command

    from core.models import AuditEvent, User

    User.objects.create_superuser(ADMIN, PASSWORD, full_name="Anna Admin")
    User.objects.create_user(NEWCOMER, PASSWORD, is_staff=True)
    agent = User.objects.create_user(AGENT, PASSWORD, is_staff=True)
    agent.groups.set(Group.objects.filter(name="Support"))
    user = User.objects.create_user(CLINICIAN, full_name=CLINICIAN_NAME, specialty="nephrology")
    User.objects.create_user(LONG_EMAIL, full_name="Long Address")
    call_command("seed_demo", users=3, sessions=12, messages=30, verbosity=0)
    group = Group.objects.create(name="Ward staff")
    group.permissions.set(Permission.objects.filter(codename__startswith="view_"))
    session, flagged = _conversation(user)
    event = AuditEvent.objects.filter(object_id=str(session.pk))[0]
    return {
        "user": str(user.pk),
        "session": str(session.pk),
        "message": str(flagged.pk),
        "group": str(group.pk),
        "auditevent": str(event.pk),
        **_jobs_and_backups(user),
    }


def _conversation(user: Any) -> tuple[Any, Any]:
    """Store a conversation of 80 messages, two a minute, and others before and after it.

    Return the conversation and its flagged message of 14:00.
    """
    from core.models import Message, Session

    started_at = yesterday_at(13, 40)
    for hours in (-48, -5, 3):
        Session.objects.create(user=user, created_at=started_at + timedelta(hours=hours))
    session = Session.objects.create(
        user=user, title="Ward round", mode="voice", context={"ward": "4b"}, created_at=started_at, message_count=80
    )
    messages = [
        Message(
            session=session,
            role="user" if number % 2 == 0 else "assistant",
            content=SENTENCES[number % len(SENTENCES)],
            model="" if number % 2 == 0 else "example-model-1",
            tokens=12,
            contains_phi=False,
            created_at=started_at + timedelta(seconds=30 * number),
        )
        for number in range(80)
    ]
    flagged = messages[40]
    flagged.content, flagged.contains_phi = SAID_AT_TWO, True
    messages[41].content = "The laboratory marked it as haemolysed. Please repeat it: يرجى إعادة العينة."
    messages[43].tool_calls = [{"name": "order_lab", "arguments": {"test": "potassium"}}]
    messages[43].tool_results = {"order": 17}
    Message.objects.bulk_create(messages)
    return session, flagged


def _jobs_and_backups(user: Any) -> dict[str, str]:
    from django.utils import timezone

    from core.models import Backup, Export, Job

    now = timezone.now()
    backup = Backup.objects.create(
        kind="base", name="20260101T000000Z", started_at=now - timedelta(minutes=9), finished_at=now, size=10**9,
        product_version="1.0", verified_at=now, recovery_seconds=81.5, data_age_seconds=30,
    )  # fmt: skip
    export = Export.objects.create(user_id=user.pk, recipient="age1" + "q" * 58)
    arguments = {"user_id": str(user.pk), "export_id": str(export.pk)}
    job = Job.objects.create(task="core.tasks.export_user", arguments=arguments, actor_email=ADMIN, done=40, total=100)
    failed: dict[str, Any] = {"status": "failed", "attempts": 3, "error": "OperationalError 57014", "finished_at": now}
    Job.objects.create(task="core.tasks.clear_exports", **failed)
    return {"backup": str(backup.pk), "job": str(job.pk)}


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
    django.setup()
    print(json.dumps(create()))
