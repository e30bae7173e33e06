"""The pages of `docs/` as HTML, so that the runbook can be read when only this server works.

They are served below the path of the status page, so that its access cookie opens them while the database is down.
"""

import re
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    from markdown_it.token import Token

DOCS = settings.BASE_DIR / "docs"
# The section of RUNBOOK.md about a dependency that is down, and about other problems that the status page shows.
SECTIONS = {
    "postgres": "voiceassistpostgresdown",
    "redis": "voiceassistredisdown",
    "qdrant": "voiceassistqdrantdown",
    "migrations": "voiceassistmigrationspending",
    "queue": "voiceassistnoworker",
    "worker": "voiceassistserverdown",
    "warning": "voiceassistdatabasewarning",
}
_PAGE = re.compile(r"(https?://|#|[A-Z_]+\.md(#|$))")


def render(name: str) -> dict[str, Any]:
    """Return the title and the HTML of a page. Raises KeyError if there is none of this name."""
    from markdown_it import MarkdownIt  # here, because a server rarely needs it

    pages = {page.stem: page for page in DOCS.glob("*.md")}
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(pages[name].read_text())
    title = next((after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.tag == "h1"), name)
    for token, after in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open":
            token.attrSet("id", anchor(after.content))
        for child in token.children or ():
            _remove_dead_link(child)
    return {"title": title, "html": markdown.renderer.render(tokens, markdown.options, {})}


def anchor(heading: str) -> str:
    """Return the id that GitHub gives to a heading, which links in the pages use."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _remove_dead_link(token: "Token") -> None:
    """Make text of links to files that the server does not serve, such as `../README.md`, and of pictures."""
    if token.type == "link_open" and not _PAGE.match(str(token.attrs["href"])):
        token.attrs = {}
    elif token.type == "image":
        token.type = "text"
