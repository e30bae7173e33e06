"""axe-core finds no violation on any page, light and dark, on a desktop and on a phone, except those listed here."""

from collections import defaultdict
from pathlib import Path

from selenium.webdriver import Chrome

from tests.pages.site import running_site
from tests.pages.walk import walk
from tests.support.axe import COLOUR_RULES, Violation, find_violations, is_inside
from tests.support.browser import empty_profile, needs_chromium
from tests.support.plugin import Servers
from tests.support.screen import DARK, DESKTOP, LIGHT, PHONE, show_on

pytestmark = needs_chromium

# Elements that others wrote, by rule and selector of the element or of an element around it, with the reason.
ACCEPTED = {
    ("aria-prohibited-attr", ".selector"): "Django's picker of permissions and groups names the icon of its filter",
    ("color-contrast", "#swagger-ui"): "Swagger UI shows versions, hints and examples in pale colours",
    ("nested-interactive", "#swagger-ui"): "Swagger UI puts a copy button into the button of each operation",
    ("select-name", "#swagger-ui"): "Swagger UI does not name the choice of a media type",
    ("scrollable-region-focusable", "#swagger-ui"): "Swagger UI does not let the keyboard scroll an example",
}


def violations_of(browser: Chrome) -> list[tuple[str, Violation]]:
    """Return the violations of the open page, each with the screen. Rules without colours ignore the theme."""
    found = []
    for width in (DESKTOP, PHONE):
        for theme, rules in ((DARK, COLOUR_RULES), (LIGHT, ())):
            show_on(browser, width, theme)
            found += [(f"{theme}, {width} px", violation) for violation in find_violations(browser, *rules)]
    return found


def describe(failures: dict[tuple[str, str, str], list[Violation]]) -> str:
    """Return a line for each page, screen and rule, with the first of the elements."""
    return "\n".join(
        f"{page} ({screen}), {len(violations)} elements: {violations[0]}"
        for (page, screen, _), violations in failures.items()
    )


def test_no_page_violates_accessibility_rules(tmp_path: Path, servers: Servers, chromium: Chrome) -> None:
    failures: dict[tuple[str, str, str], list[Violation]] = defaultdict(list)  # by page, screen and rule
    occurred = set()
    with running_site(servers, tmp_path, "accessibility") as site, empty_profile(chromium) as browser:
        for page in walk(browser, site):
            for screen, violation in violations_of(browser):
                accepted = [
                    key for key in ACCEPTED if key[0] == violation.rule and is_inside(browser, violation, key[1])
                ]
                occurred |= set(accepted)
                if not accepted and violation.impact in ("serious", "critical"):
                    failures[page, screen, violation.rule].append(violation)
    assert not failures, describe(failures)
    assert occurred == set(ACCEPTED), "These no longer occur. Remove them from the list."
