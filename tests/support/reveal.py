"""The reason that revealing PHI in the admin takes."""

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

REASON = {"reason": "support", "details": "ticket 4711"}
RECORDED_REASON = "Support request from the user: ticket 4711"  # as the audit trail stores it


def choose_reason(browser: Chrome) -> None:
    """Fill in the form on the page of a message or session."""
    Select(browser.find_element(By.NAME, "reason")).select_by_value(REASON["reason"])
    browser.find_element(By.NAME, "details").send_keys(REASON["details"])
