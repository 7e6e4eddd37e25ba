"""How soon a slider's picture is seen: from the input event to the painted frame, in a real browser on loopback.

`make bench-studio`. Gateway and browser are processes of their own on this machine and share its processors. The page
measures itself (`performance.measure`), with the gateway's own stages beside.
"""

from __future__ import annotations

import io
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.gateway import running_gateway
from benchmarks.graphs import markdown_table

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_PORTRAIT = Path(__file__).resolve().parents[1] / "clients/python/examples/portrait.png"
_FRAME_MS = 1000 / 60
_SLIDER_STEP = 0.05
_FIGURES = """() => {
    const entries = performance.getEntriesByName("indomain.edit");
    performance.clearMeasures();
    return entries.map(({duration, detail}) => [duration, detail.serverMs]);
}"""


@dataclass
class StudioConfig:
    """Move a slider of the studio, in steps and in one go."""

    repository: Path = Path("model_repository")
    """Model repository."""
    photograph: Path = _PORTRAIT
    """What is edited."""
    direction: str = "smile"
    """Whose slider is moved."""
    steps: int = 200
    """Moves, each after the picture of the one before; and pointer moves while dragging, one a frame."""
    pictures: Path | None = None
    """Measure nothing, and write pictures of the page into this folder."""


@contextmanager
def browsing(
    url: str, width: int = 1280, height: int = 860, colours: str = "light", scale: int = 1
) -> Iterator[Page]:
    """The page in a headless Chromium of this system. Raises RuntimeError where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise RuntimeError("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if colours == "dark" else "light",
            device_scale_factor=scale,
        )
        page.goto(url)
        page.locator("#samples img").nth(7).wait_for()
        yield page
        browser.close()


def bring(page: Page, photograph: Path) -> None:
    """Edits a photograph, and waits until its inversion is done and its picture seen."""
    page.set_input_files("#file", photograph)
    page.wait_for_function("() => performance.getEntriesByName('indomain.edit').length > 0")
    page.evaluate(_FIGURES)


def moved_in_steps(page: Page, direction: str, steps: int) -> list[tuple[float, float]]:
    """(milliseconds to the picture, of these in the gateway's stages), of arrow keys pressed one after the other."""
    page.focus(f"#direction-{direction}")
    figures: list[tuple[float, float]] = []
    for step in range(steps):
        page.keyboard.press("ArrowRight" if step // 10 % 2 == 0 else "ArrowLeft")
        page.wait_for_function("() => performance.getEntriesByName('indomain.edit').length > 0")
        figures += page.evaluate(_FIGURES)
    return figures


def dragged(page: Page, direction: str, steps: int) -> list[tuple[float, float]]:
    """The same for a slider that is dragged to and fro without a rest, as fast as frames come: of the pictures that
    were seen. Those that a newer one overtook were not asked for by anybody who still looks."""
    box = page.locator(f"#direction-{direction}").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for step in range(steps):
        share = abs((step % 80) - 40) / 40  # from one end to the other and back
        page.mouse.move(box["x"] + 12 + share * (box["width"] - 24), middle)
        page.wait_for_timeout(_FRAME_MS)
    page.mouse.up()
    page.wait_for_timeout(500)
    return [(total, own) for total, own in page.evaluate(_FIGURES)]


def draw(url: str, photograph: Path, folder: Path) -> None:
    """Pictures of the page, light and dark, on a desktop and (the editor alone) on a phone, as WebP."""
    shapes = {"desktop": (1280, 860, 1), "phone": (390, 844, 2)}
    for shape, (width, height, scale) in shapes.items():
        for colours in ("light", "dark"):
            with browsing(url, width, height, colours, scale) as page:
                if shape == "desktop":
                    _write(page, folder / f"studio-start-{colours}.webp")
                bring(page, photograph)
                slider = page.locator("#direction-smile")
                for end, share in (("min", 0.5), ("max", 0.75)):
                    strength = share * float(slider.get_attribute(end) or 0)
                    slider.fill(f"{round(strength / _SLIDER_STEP) * _SLIDER_STEP:.2f}")
                    page.wait_for_timeout(500)
                    page.click("#keep")
                page.click("#compare")
                page.evaluate("scrollTo(0, 0)")
                page.mouse.move(0, 0)
                _write(page, folder / f"studio-{shape}-{colours}.webp")


def _write(page: Page, file: Path) -> None:
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(file, quality=85, method=6)


def _row(name: str, figures: list[tuple[float, float]], steps: int, bar: str = "") -> list[str]:
    total, own = ([figure[column] for figure in figures] for column in (0, 1))
    cuts = statistics.quantiles(total, n=20)
    return [
        name,
        f"{statistics.median(total):.0f} ms",
        f"{cuts[-1]:.0f} ms",
        f"{statistics.median(own):.0f} ms",
        f"{statistics.quantiles(own, n=20)[-1]:.0f} ms",
        f"{len(figures)} of {steps}",
        bar,
    ]


def main(config: StudioConfig) -> None:
    with running_gateway(config.repository) as (_, url):
        if config.pictures is not None:
            config.pictures.mkdir(parents=True, exist_ok=True)
            draw(url, config.photograph, config.pictures)
        else:
            print(measured(url, config))


def measured(url: str, config: StudioConfig) -> str:
    """A table of how long pictures take."""
    with browsing(url) as page:
        bring(page, config.photograph)
        moved_in_steps(page, config.direction, 20)  # warm
        stepped = moved_in_steps(page, config.direction, config.steps)
        dragging = dragged(page, config.direction, config.steps)
    header = ["slider", "to the picture, p50", "p95", "gateway's stages, p50", "p95", "pictures seen", "bar"]
    rows = [
        _row("step by step", stepped, config.steps, "p50 <= 50 ms"),
        _row("dragged", dragging, config.steps),
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main(tyro.cli(StudioConfig, prog="python -m benchmarks.studio"))
