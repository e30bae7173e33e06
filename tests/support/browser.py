"""A headless Chromium. Tests that need it are skipped without one, but not in CI."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_django import Settings
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.forked_python import die_with_parent

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="Chromium and ChromeDriver not found"
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Yield the browser that all tests share. Use it with `empty_profile` only."""
    with start_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chrome, settings: Settings) -> Iterator[Chrome]:
    """Yield a browser with an empty profile.

    The live server of the test requires the second factor, as production does (`tests.support.second_factor.log_in`).
    """
    settings.ADMIN_MFA = "required"
    with empty_profile(chromium) as browser:
        yield browser


@contextmanager
def empty_profile(browser: Chrome) -> Iterator[Chrome]:
    """Use a window without cookies, cache, storage and emulation. To start another browser would take 1.3 s longer.

    Tabs that `switch_to.new_window` opens have another profile.
    """
    first = browser.current_window_handle
    profile = browser.browser.create_user_context()
    browser.switch_to.window(browser.browsing_context.create(type="tab", user_context=profile))
    browser.implicitly_wait(0)
    browser.get_log("browser")  # type: ignore[no-untyped-call]  # removes what earlier tests have logged
    try:
        yield browser
    finally:
        browser.switch_to.window(first)
        browser.browser.remove_user_context(profile)


@contextmanager
def start_browser(folder: Path) -> Iterator[Chrome]:
    """Start a browser with an empty profile and a width of 1280 pixels. It can only reach loopback addresses."""
    assert CHROMIUM and DRIVER, "Chromium not found. Install Debian's packages chromium and chromium-driver."
    options = ChromeOptions()
    options.enable_bidi = True  # for `empty_profile`
    options.binary_location = _program_that_ends_with_its_parent(CHROMIUM, folder / "start-chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # `get_log("browser")`: CSP violations, errors
    for argument in (
        "--headless",
        "--no-sandbox",  # the sandbox does not work for root
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        "--window-size=1280,1000",
        f"--user-data-dir={folder / 'chromium'}",
    ):
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(DRIVER, popen_kw={"preexec_fn": die_with_parent}))
    try:
        yield driver
    finally:
        driver.quit()


def _program_that_ends_with_its_parent(program: str, path: Path) -> str:
    """Return a program that starts Chromium. Without it, Chromium survives a ChromeDriver that was killed."""
    setpriv = shutil.which("setpriv")
    if not setpriv:
        return program
    path.write_text(f'#!/bin/sh\nexec {setpriv} --pdeathsig KILL {program} "$@"\n')
    path.chmod(0o755)
    return str(path)


def wait_until_gone(browser: Chrome, element: WebElement) -> None:
    """Wait for the page that follows a click on an element."""
    # While the page changes, ChromeDriver also raises exceptions of other kinds than the one for a stale element.
    wait = WebDriverWait(browser, 20, ignored_exceptions=(WebDriverException,))
    wait.until(staleness_of(element))
