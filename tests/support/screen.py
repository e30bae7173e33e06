"""What a page is shown on: the width of the window and the theme."""

from selenium.webdriver import Chrome

LIGHT, DARK = "light", "dark"
DESKTOP, PHONE = 1440, 375  # pixels
# Otherwise links and buttons keep the colours of the other theme for a moment.
_FINISH_TRANSITIONS = """
for (const animation of document.getAnimations()) if (animation instanceof CSSTransition) animation.finish();
"""
HEIGHTS = {DESKTOP: 1000, PHONE: 800}


def show_on(browser: Chrome, width: int, theme: str = LIGHT, height: int | None = None) -> None:
    """Change the width and the theme of the open page and of those that are opened later."""
    metrics = {
        "width": width,
        "height": height or HEIGHTS.get(width, 1000),
        "deviceScaleFactor": 1,
        "mobile": width == PHONE,
    }
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_script(_FINISH_TRANSITIONS)
