"""Take the screenshots in docs/images again, of a server that `make run` and `seed_demo` have prepared.

    python -m tests.docs.screenshots http://127.0.0.1:8000

Logs in with the password in var/admin-password. Needs Debian's chromium and chromium-driver.
"""

import shutil
import sys
import tempfile
import time

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.docs.markdown import ROOT

IMAGES = ROOT / "docs" / "images"
EMAIL = "admin@localhost.localdomain"  # of create_admin
# File name, path and height of the window, in which the whole status page fits.
PAGES = (("admin.png", "/admin/core/session/", 760), ("status-page.png", "/admin/status/", 1290))
WIDTH = 1400
SETTLE_TIME = 30  # seconds, in which the status page collects some latencies


def take_screenshots(url: str) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "install Debian's chromium and chromium-driver"
    options = ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for argument in ("--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(argument)
        browser = Chrome(options=options, service=Service(driver))
        try:
            browser.get(f"{url}/admin/")
            browser.find_element(By.NAME, "username").send_keys(EMAIL)
            browser.find_element(By.NAME, "password").send_keys((ROOT / "var" / "admin-password").read_text().strip())
            browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
            WebDriverWait(browser, 10).until(lambda page: page.find_elements(By.ID, "logout-form"))
            IMAGES.mkdir(exist_ok=True)
            for name, path, height in PAGES:
                browser.set_window_size(WIDTH, height)
                browser.get(f"{url}{path}")
                time.sleep(SETTLE_TIME)
                browser.save_screenshot(str(IMAGES / name))
        finally:
            browser.quit()


if __name__ == "__main__":
    take_screenshots(sys.argv[1])
