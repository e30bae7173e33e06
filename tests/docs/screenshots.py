"""Take the screenshots in docs/images again: `python -m tests.docs.screenshots`.

Starts its own servers, with the data of `tests.pages.data`. Needs Debian's packages chromium and chromium-driver.
"""

import os
import tempfile
import time
from pathlib import Path

import django
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.docs.markdown import ROOT
from tests.support.plugin import Servers, remove_project_variables
from tests.support.screen import DARK, LIGHT, show_on

IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1100, 900
SETTLE_TIME = 40  # seconds, in which the status page collects some latencies


def take_screenshots(folder: Path, servers: Servers) -> None:
    from tests.pages.data import ADMIN, PASSWORD
    from tests.pages.site import Site, running_site
    from tests.support.browser import start_browser
    from tests.support.second_factor import log_in

    def conversation(browser: Chrome, site: Site) -> None:
        browser.get(site.url + site.change("message"))
        Select(browser.find_element(By.NAME, "reason")).select_by_value("support")
        browser.find_element(By.CSS_SELECTOR, "button[formaction*='/read/']").click()
        browser.find_element(By.CLASS_NAME, "transcript")

    def status_page(browser: Chrome, site: Site) -> None:
        browser.get(f"{site.url}/admin/status/")
        time.sleep(SETTLE_TIME)

    with running_site(servers, folder, "voiceassist") as site, start_browser(folder) as browser:
        browser.implicitly_wait(20)  # for the page after a click
        log_in(browser, f"{site.url}/admin/", ADMIN, PASSWORD)
        for name, theme, open_page in (("admin", LIGHT, conversation), ("status-page", DARK, status_page)):
            open_page(browser, site)
            show_on(browser, WIDTH, theme, HEIGHT)
            browser.save_screenshot(str(IMAGES / f"{name}.png"))


if __name__ == "__main__":
    remove_project_variables()
    os.environ["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
    django.setup()
    servers = Servers()
    try:
        servers.start()
        with tempfile.TemporaryDirectory() as temporary:
            take_screenshots(Path(temporary), servers)
    finally:
        servers.stop()
