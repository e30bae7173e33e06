"""The documentation in the admin: every page and link works, and staff can read it during an outage."""

import re
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from health.checks import CHECKS
from health.status_page import runbook
from tests.support.voiceassist_server import ROOT

NAMES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
FOLDER = "/admin/status/docs"

pytestmark = pytest.mark.django_db


def targets(html: str) -> set[str]:
    """Return the addresses of links inside the documentation."""
    article = html.split("<article")[1]
    return {target for target in re.findall(r'href="([^"]+)"', article) if "://" not in target}


def test_every_link_leads_somewhere(admin_client: Client) -> None:
    pages = {name: admin_client.get(f"{FOLDER}/{name}.md").content.decode() for name in NAMES}
    assert len(pages) > 5
    links = {(name, target) for name, html in pages.items() for target in targets(html)}
    assert len(links) > 50
    for name, target in links:
        page, _, anchor = target.partition("#")
        html = pages[page.removesuffix(".md") or name]
        assert not anchor or f' id="{anchor}"' in html, (name, target)


def test_every_problem_has_a_section(admin_client: Client) -> None:
    html = admin_client.get(f"{FOLDER}/RUNBOOK.md").content.decode()
    assert set(CHECKS) < set(runbook.SECTIONS)
    for section in runbook.SECTIONS.values():
        assert f'<h2 id="{section}">' in html


def test_markup_is_rendered_and_html_is_not(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "X.md").write_text(
        "# A *title*\n\n| a |\n| - |\n| `b` |\n\n<b>c</b> [d](../README.md) ![e](images/e.png)\n"
    )
    monkeypatch.setattr(runbook, "DOCS", tmp_path)
    html = runbook.render("X")["html"]
    assert "<td><code>b</code></td>" in html
    assert "&lt;b&gt;c&lt;/b&gt; <a>d</a> e" in html


def test_only_staff_reads_it(client: Client, admin_client: Client) -> None:
    response = Client().get(f"{FOLDER}/RUNBOOK.md")
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={FOLDER}/RUNBOOK.md")
    assert admin_client.get(f"{FOLDER}/NOTHING.md").status_code == 404
    assert admin_client.get(f"{FOLDER}/..%2fREADME.md").status_code == 404


def test_runbook_is_readable_while_the_database_is_down(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    admin_client.get("/admin/")  # sets the cookie

    def fail(request: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr("core.auth.session_expiry.middleware.get_user", fail)
    assert "VoiceAssistPostgresDown" in admin_client.get(f"{FOLDER}/RUNBOOK.md").content.decode()
