"""A headless Chromium for the tests of pages. Without one they are skipped, but never in CI."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="no chromium and chromedriver here; CI has them"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A browser with an empty profile, 1280 pixels wide. It reaches loopback only, and talks to nobody by itself."""
    assert CHROMIUM and DRIVER, "install Debian's chromium and chromium-driver"
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # `get_log("browser")`: CSP violations, errors
    for argument in (
        "--headless",
        "--no-sandbox",  # as root there is none
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        "--window-size=1280,1000",
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
