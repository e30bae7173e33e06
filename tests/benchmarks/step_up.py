"""Time a reveal of PHI with a fresh code of the second factor, and with the step-up that an old code takes."""

from typing import TYPE_CHECKING

from tests.benchmarks.table import Table, interleaved_medians
from tests.support.reveal import REASON

if TYPE_CHECKING:
    from tests.benchmarks.pages import Staff

ROUNDS = 7  # there are ten recovery codes


def measure(table: Table, staff: "Staff") -> None:
    """Compare three more requests, which are redirect, page and code, with only the reveal."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from core.auth.second_factor import MAX_VERIFICATION_AGE, VERIFIED_AT_KEY
    from core.models import Authenticator, Message, RecoveryCodes, User
    from core.models.second_factor import encrypt, new_secret

    staff.databases.choose(staff.name)
    user = User.objects.get(email="root@example.org")
    path = f"/admin/core/message/{Message.objects.order_by('created_at', 'id')[0].pk}/reveal/"

    def reveal() -> None:
        assert staff.client.post(path, REASON).status_code == 200

    def count_queries() -> int:
        with CaptureQueriesContext(connection) as queries:
            reveal()
        return len(queries)

    def set_age(seconds: int) -> None:
        session = staff.client.session
        session[VERIFIED_AT_KEY] = session["began"] - seconds
        session.save()

    def reveal_with_step_up() -> None:
        set_age(MAX_VERIFICATION_AGE)
        verify = staff.client.post(path).headers["Location"]
        staff.client.get(verify)
        assert staff.client.post(verify, {"code": codes.pop()}).headers["Location"] == path
        reveal()

    without = count_queries()
    Authenticator.new(user, encrypt(new_secret(), user.pk)).save()
    codes = RecoveryCodes.issue(user)
    set_age(0)
    print(f"queries of a reveal: {without} without second factor, {count_queries()} with a fresh code")
    step_up_ms, reveal_ms = interleaved_medians(reveal_with_step_up, reveal, rounds=ROUNDS)
    table.row("reveal with step-up, ms, against a fresh code", step_up_ms, reveal_ms, 8, at_most=True)
