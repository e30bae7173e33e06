"""Write a picture of every page, light and dark, on a desktop and on a phone: `python -m tests.pages.gallery FOLDER`.

For reviewers, who can then look at the whole product at once. Needs Debian's packages chromium and chromium-driver.
"""

import base64
import os
import re
import sys
import tempfile
from itertools import product
from pathlib import Path

import django
from selenium.webdriver import Chrome

from tests.support.plugin import Servers, remove_project_variables
from tests.support.screen import DARK, DESKTOP, LIGHT, PHONE, show_on


def write_gallery(folder: Path) -> None:
    from tests.pages.site import running_site
    from tests.pages.walk import walk
    from tests.support.browser import start_browser

    folder.mkdir(parents=True, exist_ok=True)
    servers = Servers()
    try:
        servers.start()
        with (
            tempfile.TemporaryDirectory() as temporary,
            running_site(servers, Path(temporary), "gallery") as site,
            start_browser(Path(temporary)) as browser,
        ):
            for number, page in enumerate(walk(browser, site), 1):
                name = f"{number:02} {re.sub('[^a-z0-9]+', '-', page.lower())}"
                for width, theme in product((DESKTOP, PHONE), (DARK, LIGHT)):
                    show_on(browser, width, theme)
                    (folder / f"{name} {width} {theme}.png").write_bytes(whole_page(browser))
                print(name, flush=True)
    finally:
        servers.stop()


def whole_page(browser: Chrome) -> bytes:
    """Return a picture of the page with what is below the window."""
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    return base64.b64decode(picture["data"])


if __name__ == "__main__":
    remove_project_variables()
    os.environ["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
    django.setup()
    write_gallery(Path(sys.argv[1]))
