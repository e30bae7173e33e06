"""Relative links and anchors in Markdown files resolve."""

from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.markdown import ROOT


@pytest.mark.parametrize("page", markdown.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for path, anchor in markdown.links(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in markdown.anchors(target.read_text())):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert broken == []


def test_anchors_match_github() -> None:
    text = "# What `migrate` does\n\n## A: b, c\n\n```sh\n# no heading\n```\n\n## Twice\n\n## Twice\n"
    assert markdown.anchors(text) == {"what-migrate-does", "a-b-c", "twice", "twice-1"}
