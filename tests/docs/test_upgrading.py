"""docs/UPGRADING.md has the same upper bounds as the requirements."""

import re

from tests.docs.markdown import ROOT

REQUIREMENTS = "\n".join(path.read_text() for path in sorted((ROOT / "requirements").glob("*.in")))
BOUND = re.compile(r"([a-z][\w.-]*(?:\[\w+\])?)(?:>=[\d.]+,)?<[\d.]+")


def test_upper_bounds_agree_with_the_requirements() -> None:
    table = (ROOT / "docs" / "UPGRADING.md").read_text()
    first_cells = "".join(re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE))
    documented = {match[0] for match in BOUND.finditer(first_cells)}
    required = {match[0] for match in BOUND.finditer(re.sub(r"#.*", "", REQUIREMENTS))}
    assert documented == required
