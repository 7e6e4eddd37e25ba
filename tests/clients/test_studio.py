"""The studio in a real browser, against a real gateway with the shipped bundle.

Every page that a test opens must have said nothing on the console, broken no policy and asked no other host.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import RunningGateway, settings_for
from tests.serving.test_keys import make_key

playwright_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
expect = playwright_api.expect

ROOT = Path(__file__).resolve().parents[2]
PORTRAIT = ROOT / "clients/python/examples/portrait.png"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture
    "--use-fake-ui-for-media-stream",
]
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shipped() -> Iterator[RunningGateway]:
    """A gateway with the shipped bundle."""
    running = RunningGateway(settings_for(ROOT / "model_repository", refiner_engine="onnxruntime"))
    yield running
    running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a gateway's page; at the end it must have been quiet, `expected` console messages aside."""
    contexts = []
    faults: list[str] = []

    def open_page(url: str, *, expected: str = "", viewport: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)

        def said(message: Any) -> None:
            if message.type in ("error", "warning") and not (expected and expected in message.text):
                faults.append(f"console: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("request", lambda request: request.url.startswith((url, "blob:", "data:")) or faults.append(request.url))
        page.on("websocket", lambda socket: socket.url.startswith(url.replace("http", "ws", 1)) or faults.append(socket.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def invert(page: Any, picture: Path | dict[str, Any] = PORTRAIT) -> None:
    page.set_input_files("#file", picture)
    expect(page.locator("#picture-name")).to_have_text("portrait")
    edited(page)


def edited(page: Any) -> None:
    """Waits until what was asked for is seen."""
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#domain-text")).not_to_be_empty()
    page.wait_for_function("() => performance.getEntriesByName('indomain.edit').length > 0")
    page.evaluate("performance.clearMeasures()")


def set_slider(page: Any, name: str, strength: float) -> None:
    page.locator(f"#direction-{name}").fill(str(strength))
    page.wait_for_function("() => performance.getEntriesByName('indomain.edit').length > 0")
    page.evaluate("performance.clearMeasures()")


def seen(page: Any) -> np.ndarray:
    """What the canvas shows, float [H, W, 3]."""
    data = page.evaluate("document.getElementById('after').toDataURL('image/png').split(',')[1]")
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=float)
