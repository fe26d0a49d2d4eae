"""The system's Chromium, driven by Playwright, and what of a page can be measured in it."""

import io
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium():
    """Yield the browser; skip the test, with the reason, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = os.environ.get("JAXIQA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(NAMES)} is installed, and JAXIQA_CHROMIUM names none")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, path, *, width=1280, scheme="light", script=True):
    """Return the page, and lists of its messages and errors and of the addresses that it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script)
    page.set_default_timeout(120_000)  # milliseconds; the usual 30,000 are too few beside other tests
    problems, asked = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.absolute().as_uri())
    return page, problems, asked


def picture(page, *, selector=None):
    """Return a screenshot of the whole page, or of one element, as ``h w 3`` in [0, 1]."""
    shot = page.locator(selector).first.screenshot() if selector else page.screenshot(full_page=True)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.float32) / 255


def boxes(page):
    """Return left, top, width and height of every visible element, in the order of the document."""
    found = page.evaluate(
        """() => [...document.body.querySelectorAll("*")].map(e => e.getBoundingClientRect())
           .map(r => [r.x, r.y + scrollY, r.width, r.height])"""
    )
    return np.array(found)


def edges(image):
    """Return where an image has edges: whether neighbours, across or down, differ clearly; ``h w``."""
    grey = image.mean(-1)
    across, down = np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1]
    return np.maximum(across, down) > 0.15
