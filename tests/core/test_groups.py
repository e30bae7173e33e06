"""The groups that migration core.0017 adds."""

from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import connection

from core.models import AuditEvent

MIGRATION = import_module("core.migrations.0017_labels_and_groups")
PERMISSIONS = {
    "On call": {"view_backup", "view_job"},
    "Privacy officer": {"view_auditevent", "view_job", "view_message", "view_session", "view_user"},
    "Support": {"view_message", "view_phi", "view_session", "view_user"},
}

pytestmark = pytest.mark.django_db


def permissions() -> dict[str, set[str]]:
    return {group.name: {p.codename for p in group.permissions.all()} for group in Group.objects.all()}


def add_groups() -> None:
    with connection.schema_editor() as editor:
        MIGRATION.add_groups(apps, editor)


def test_groups_are_added() -> None:
    Group.objects.all().delete()
    add_groups()
    assert permissions() == PERMISSIONS


def test_existing_groups_are_left_alone() -> None:
    Group.objects.all().delete()
    Group.objects.create(name="Support")
    add_groups()
    add_groups()
    assert permissions() == {**PERMISSIONS, "Support": set()}


def test_audit_events_name_the_migration() -> None:
    Group.objects.all().delete()
    before = set(AuditEvent.objects.values_list("pk", flat=True))
    add_groups()
    origins = AuditEvent.objects.exclude(pk__in=before).values_list("actor_email", "trace_id").distinct()
    assert list(origins.order_by()) == [("", MIGRATION.TRACE_ID)]
