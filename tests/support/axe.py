"""axe-core in a browser: finds violations of accessibility rules on the open page.

The driver runs the script in the page, where the Content-Security-Policy does not apply to it.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from selenium.webdriver import Chrome

COLOUR_RULES = ("color-contrast", "link-in-text-block")  # the rules whose result depends on the theme
_RUN = """
const [rules, done] = arguments;
const options = { resultTypes: ["violations"], preload: false, iframes: false };
if (rules.length) options.runOnly = { type: "rule", values: rules };
const describe = (rule, { impact, target, html, any, all, none }) => ({
  rule, impact, selector: target.join(" "), html: html.slice(0, 200), help: [...any, ...all, ...none][0].message,
});
axe.run(document, options).then(
  ({ violations }) => done(violations.flatMap(({ id, nodes }) => nodes.map((node) => describe(id, node)))),
  (error) => done(String(error)),
);
"""


@dataclass(frozen=True)
class Violation:
    rule: str
    impact: str  # minor, moderate, serious or critical
    selector: str
    html: str  # the beginning of the element
    help: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.impact}) {self.selector}: {self.help}\n    {self.html}"


@cache
def _script() -> str:
    # The package's own module drives another browser, so only this file of it is used.
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def find_violations(browser: Chrome, *rules: str) -> list[Violation]:
    """Return the violations of all rules, or of `rules` only, on the open page."""
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(_script())
    result = browser.execute_async_script(_RUN, rules)
    assert isinstance(result, list), result
    return [Violation(**violation) for violation in result]


def is_inside(browser: Chrome, violation: Violation, selector: str) -> bool:
    """Return whether the element of a violation matches `selector` or is inside of an element that does."""
    script = "return Boolean(document.querySelector(arguments[0])?.closest(arguments[1]))"
    return bool(browser.execute_script(script, violation.selector, selector))
