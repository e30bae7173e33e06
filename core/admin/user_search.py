"""Find users by words of their names and emails: "schwarz" finds "Prof. Dr. Eva von Schwarzenberg".

Each word of a search must be the beginning of a word of the name or the email, whatever the case and the accents.
Titles are ignored, unless the search has no other words. The function `search_words` of migration 0016 splits the
search as it splits names and emails for the index `users_words`.
"""

from collections.abc import Sequence

from django.contrib.postgres.search import SearchQueryField
from django.db import connection
from django.db.models import BooleanField, Func, QuerySet, Value
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from core.admin.base import limit_matches, link
from core.admin.search_terms import parse_uuid
from core.models import User
from core.models.users import SEARCH_WORDS

HELP_TEXT = "ID, email or any part of a name"
MAX_LINKS = 5  # to users, below a search of sessions or messages
_TITLES = {"prof", "pd", "priv", "doz", "dr", "med", "dent", "vet", "phil", "rer", "nat", "habil", "dipl", "ing"} | {
    "md", "phd", "mr", "mrs", "ms", "herr", "frau",
}  # fmt: skip


def find_users(term: str) -> QuerySet[User]:
    """Return the users that match a search, found by an index, without an order."""
    users = User.objects.order_by()
    if key := parse_uuid(term):
        return users.filter(pk=key)
    if "@" in term and (by_email := users.filter(email__startswith=term.lower())).exists():
        return by_email
    words = _words_of(term)
    words = [word for word in words if word not in _TITLES] or words
    query = " & ".join(f"'{word}':*" for word in words)  # words contain no punctuation
    return users.filter(_Match(SEARCH_WORDS, Cast(Value(query), SearchQueryField())))


class _Match(Func):
    """The operator `words @@ query`. Django's lookup would parse the query as text of a language."""

    template, arg_joiner = "%(expressions)s", " @@ "
    output_field = BooleanField()


def _words_of(term: str) -> Sequence[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT search_words(%s)", [term])
        words: Sequence[str] = cursor.fetchone()[0]
    return words


def search(request: HttpRequest, term: str) -> QuerySet[User]:
    return limit_matches(request, find_users(term), "Add another word of the name or the email.")


def add_links(request: HttpRequest, term: str, label: str, model: str, lookup: str) -> bool:
    """Add links to lists about the users that a search for other rows names. Return whether there are any.

    change_list.html shows them. A message of Django's would be stored with the emails if the response is a redirect.
    """
    if not request.user.has_perms((f"core.view_{model}", "core.view_user")):
        return False
    users = list(find_users(term).only("email")[: MAX_LINKS + 1])
    links = (
        (link(user.email, f"{model}_changelist", request=request, **{lookup: user.pk}),) for user in users[:MAX_LINKS]
    )
    more = " More users match. Add another word of the name or the email." if len(users) > MAX_LINKS else ""
    if users:
        html = format_html("{} {}.{}", label, format_html_join(", ", "{}", links), more)
        request.search_links = html  # type: ignore[attr-defined]
    return bool(users)
