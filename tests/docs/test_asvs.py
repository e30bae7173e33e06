"""The checklist in SECURITY_COMPLIANCE.md has a row for each requirement of OWASP ASVS 5.0.0, levels 1 and 2."""

import re

from tests.docs.markdown import ROOT

# The number of the last requirement of each section at these levels. In every section they are numbered from 1.
# https://github.com/OWASP/ASVS/blob/v5.0.0/5.0/docs_en/OWASP_Application_Security_Verification_Standard_5.0.0_en.csv
LAST = {
    "1.1": 2, "1.2": 9, "1.3": 11, "1.4": 3, "1.5": 2, "2.1": 3, "2.2": 3, "2.3": 4, "2.4": 1, "3.2": 2, "3.3": 4,
    "3.4": 6, "3.5": 5, "3.7": 2, "4.1": 3, "4.2": 1, "4.3": 2, "4.4": 4, "5.1": 1, "5.2": 3, "5.3": 2, "5.4": 3,
    "6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5, "6.6": 3, "6.8": 4, "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5,
    "7.5": 2, "7.6": 2, "8.1": 2, "8.2": 3, "8.3": 1, "8.4": 1, "9.1": 3, "9.2": 4, "10.1": 2, "10.2": 2, "10.3": 4,
    "10.4": 11, "10.5": 5, "10.6": 2, "10.7": 3, "11.1": 2, "11.2": 3, "11.3": 3, "11.4": 4, "11.5": 1, "11.6": 1,
    "12.1": 3, "12.2": 2, "12.3": 4, "13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5, "14.1": 2, "14.2": 4, "14.3": 3,
    "15.1": 3, "15.2": 3, "15.3": 7, "16.1": 1, "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 3, "17.1": 1, "17.2": 4,
    "17.3": 2,
}  # fmt: skip
_STATES = {"met", "met with the operator", "operator", "open", "n/a"}


def test_every_requirement_has_one_row_with_a_known_state() -> None:
    page = (ROOT / "docs" / "SECURITY_COMPLIANCE.md").read_text()
    checklist = page[page.index("## Checklist: OWASP ASVS 5.0, level 2") :]
    found = []
    for numbers, state in re.findall(r"^\| (\d+\.\d+\.\d+\b[^|]*) \| ([^|]+) \|", checklist, re.MULTILINE):
        assert state in _STATES
        found += re.findall(r"\b\d+\.\d+\.\d+\b", numbers)
    expected = [f"{section}.{number}" for section, last in LAST.items() for number in range(1, last + 1)]
    assert sorted(found) == sorted(expected)
