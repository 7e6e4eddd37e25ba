"""The studio in a real browser, against a real gateway with the shipped bundle.

Every page that a test opens must have said nothing on the console, broken no policy and asked no other host.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.access.keys import make_key
from tests.serving.pictures import photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.shipped import DIRECTIONS, quick_repository

playwright_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
expect = playwright_api.expect
# A picture is waited for however busy the machine is; only a page that never shows it fails.
TIMEOUT_MS = 60_000
expect.set_options(timeout=TIMEOUT_MS)

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "clients/web"
LAYERS = ("ui", "state", "gateway", "sources", "editor")
EXAMPLES = ROOT / "clients/python/examples"
PORTRAIT = EXAMPLES / "portrait.png"
MOUTH = DIRECTIONS["mouth_open"]["label"]
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SLIDER_STEP = 0.05
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Chromium whose camera sees a face."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    film = tmp_path_factory.mktemp("camera") / "portrait.mjpeg"  # pictures in JPEG, one after another
    with Image.open(PORTRAIT) as portrait:
        portrait.convert("RGB").save(film, "JPEG")
    camera = f"--use-file-for-fake-video-capture={film}"
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*ARGUMENTS, camera])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with the shipped bundle."""
    repository = quick_repository(tmp_path_factory.mktemp("shipped") / "model_repository")
    running = RunningGateway(settings_for(repository, engine="onnxruntime"))
    yield running
    running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a gateway's page; at the end it must have been quiet, `expected` console messages aside."""
    contexts = []
    faults: list[str] = []

    def open_page(
        url: str,
        *,
        expected: tuple[str, ...] = (),
        viewport: dict[str, int] = DESKTOP,
        prepare: Callable[[Any], None] = lambda page: None,
        **options: Any,
    ) -> Any:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)

        def said(message: Any) -> None:
            if message.type in ("error", "warning") and not any(text in message.text for text in expected):
                faults.append(f"console: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith((url, "blob:", "data:")) or faults.append(request.url),
        )
        page.on(
            "websocket",
            lambda socket: socket.url.startswith(url.replace("http", "ws", 1)) or faults.append(socket.url),
        )
        prepare(page)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def by_faces(running: RunningGateway) -> bool:
    return running.http.get("/v1/bundles").json()["bundles"][0]["alignment"] == "face"


def two_people() -> bytes:
    """A photograph of two people, JPEG."""
    people = [Image.open(EXAMPLES / name).convert("RGB") for name in ("astronaut.jpg", "hopper.jpg")]
    height = min(person.height for person in people)
    people = [person.resize((round(person.width * height / person.height), height)) for person in people]
    both = Image.new("RGB", (sum(person.width for person in people), height))
    both.paste(people[0], (0, 0))
    both.paste(people[1], (people[0].width, 0))
    data = io.BytesIO()
    both.save(data, "JPEG", quality=92)
    return data.getvalue()


def invert(page: Any, picture: Path | dict[str, Any] = PORTRAIT, face: str = "") -> None:
    page.set_input_files("#file", picture)
    if face:
        page.get_by_role("dialog").get_by_role("button", name=face).click()
    expect(page.locator("#picture-name")).to_have_text("portrait")
    edited(page)


def edited(page: Any) -> None:
    """Waits until what was asked for is seen; of a drag its end, as pictures of its way may come first."""
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#domain-text")).not_to_be_empty()
    page.wait_for_function(
        "() => performance.getEntriesByName('indomain.edit')"
        ".some((shown) => shown.startTime >= (globalThis.lastInput ?? 0))"
    )
    nothing_more_comes(page)


def nothing_more_comes(page: Any) -> None:
    """Waits for the last picture that was asked for: a slider asks while it moves, and once more when it is let go."""
    expect(page.locator("#frame")).to_have_attribute("aria-busy", "false")
    page.evaluate("performance.clearMeasures()")


def smile(share: float) -> float:
    """A strength: this share of the shipped bundle's range, as a slider can stand at it."""
    steps = round(share * DIRECTIONS["smile"]["range"][1] / SLIDER_STEP)
    return round(steps * SLIDER_STEP, 2)


def set_slider(page: Any, name: str, strength: float) -> None:
    page.locator(f"#direction-{name}").fill(str(strength))
    page.wait_for_function("() => performance.getEntriesByName('indomain.edit').length > 0")
    nothing_more_comes(page)


def seen(page: Any) -> np.ndarray:
    """What the canvas shows, float [H, W, 3]."""
    data = page.evaluate("document.getElementById('after').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=float)


def seen_once(page: Any, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
    """What the canvas shows, as soon as it is as wanted; after TIMEOUT_MS whatever it shows then."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not wanted(picture := seen(page)) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    return picture


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def downloaded(page: Any, button: str) -> bytes:
    page.click("#download")
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


# --- modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_modules_import_from_their_own_layer_and_those_below(layer: str) -> None:
    below = LAYERS[: LAYERS.index(layer)]
    for module in (WEB / layer).glob("*.js"):
        imported = re.findall(r'^import .* from "([^"]+)"', module.read_text(), flags=re.MULTILINE)
        folders = {name.split("/")[1] for name in imported if name.startswith("../")}
        assert folders <= set(below), module.name


# --- editing -----------------------------------------------------------------------------------------


def test_a_picture_is_edited_compared_undone_and_downloaded(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    page = open_page(shipped.url)
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(PORTRAIT)
    expect(page.locator("#progress-text")).to_contain_text("Refining")
    edited(page)
    unedited = seen(page)

    thumb = page.locator("#direction-smile").bounding_box()
    middle = thumb["y"] + thumb["height"] / 2
    page.evaluate(
        "() => addEventListener('input', (event) => { globalThis.lastInput = event.timeStamp; }, true)"
    )
    page.mouse.move(thumb["x"] + thumb["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(thumb["x"] + thumb["width"] * 0.9, middle, steps=8)
    page.mouse.up()
    edited(page)
    strength = float(page.locator("#direction-smile").input_value())
    assert smile(0.6) <= strength <= smile(1.0)
    expect(page.locator("output[for=direction-smile]")).to_have_text(f"+{strength:.2f}")
    smiling = seen(page)
    assert difference(unedited, smiling) > 3.0

    page.click("#compare")
    frame = page.locator("#frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 40)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.25, frame["y"] + 40, steps=4)
    page.mouse.up()
    expect(page.locator("#wipe")).to_have_attribute("aria-valuenow", "25")

    page.click("#keep")
    expect(page.locator("#strip li")).to_have_count(1)
    page.click("#undo")
    edited(page)
    expect(page.locator("output[for=direction-smile]")).to_have_text("0")
    assert difference(seen(page), unedited) < 0.5
    page.click("#redo")
    edited(page)
    assert difference(seen(page), smiling) < 0.5
    page.click("#reset-all")
    edited(page)
    page.click("#strip .variant")
    edited(page)
    assert difference(seen(page), smiling) < 0.5

    picture = downloaded(page, "#download-picture")
    edit = downloaded(page, "#download-edit")
    as_sent = httpx.post(
        f"{shipped.url}/v1/edit",
        content=edit,
        headers={"accept": "image/png", "content-type": "application/json"},
        timeout=60.0,
    )
    assert as_sent.content == picture, "the file is the body of the request that gives the picture"

    again = open_page(shipped.url)
    again.set_input_files(
        "#file", {"name": "portrait.edit.json", "mimeType": "application/json", "buffer": edit}
    )
    edited(again)
    expect(again.locator("#picture-name")).to_have_text("portrait")
    assert difference(seen(again), smiling) < 0.5


@pytest.mark.slow
def test_pictures_come_by_drop_by_paste_and_from_the_camera(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    data = base64.b64encode(PORTRAIT.read_bytes()).decode()
    give = """([event, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "portrait.png", {type: "image/png"}));
        const options = {bubbles: true, cancelable: true, dataTransfer: carried, clipboardData: carried};
        const kind = event === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new kind(event, options));
    }"""
    page = open_page(shipped.url)
    for event in ("drop", "paste"):
        page.evaluate(give, [event, data])
        edited(page)
        expect(page.locator("#picture-name")).to_have_text("portrait")
        page.click("#new")
    page.click("#camera")
    page.click("#camera-take")
    expect(page.locator("#picture-name")).to_have_text("Camera")
    edited(page)


def test_generated_faces_are_edited_and_two_pictures_blended(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    page = open_page(shipped.url)
    page.locator("#samples button").first.click()
    edited(page)
    first = seen(page)
    page.get_by_role("tab", name="Blend").click()
    page.get_by_role("button", name="A generated face").click()
    use = page.get_by_role("button", name="Edit this one")
    # It is enabled by the first picture between the two.
    expect(use).to_be_enabled()
    nothing_more_comes(page)
    place = page.get_by_label("From the first to the second")
    place.fill("0")
    assert difference(seen_once(page, lambda picture: difference(picture, first) < 1.0), first) < 1.0
    place.fill("12")
    second = seen_once(page, lambda picture: difference(picture, first) > 5.0)
    assert difference(second, first) > 5.0

    with page.expect_request(lambda request: '"path":"geodesic"' in (request.post_data or "")):
        page.get_by_label("In steps that change least").check()
    page.get_by_role("radio", name="Style").check()
    page.get_by_label("Pose and shape").check()
    page.get_by_label("Features").check()
    all_layers = seen_once(page, lambda picture: difference(picture, second) < 1.0)
    assert difference(all_layers, second) < 1.0, "all layers of the second are the second"
    page.get_by_role("radio", name="Surroundings").check()
    expect(page.get_by_text("The first face, in what is around the second.")).to_be_visible()
    diffused = seen_once(page, lambda picture: difference(picture, second) > 1.0)
    assert difference(diffused, first) > 1.0
    assert difference(diffused, second) > 1.0
    use.click()
    edited(page)
    expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history li")).to_have_count(2)
    page.locator("#history button").first.click()
    edited(page)
    assert difference(seen(page), first) < 1.0


def test_what_is_kept_and_where_go_with_the_edit(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    page = open_page(shipped.url)
    invert(page)
    set_slider(page, "smile", smile(0.75))
    smiling = seen(page)
    page.get_by_role("button", name=f"Keep {MOUTH} as it is").click()
    edited(page)
    assert difference(seen(page), smiling) > 0.5
    page.get_by_role("combobox", name="Change").select_option("Lower third")
    edited(page)
    edit = json.loads(downloaded(page, "#download-edit"))
    assert edit["edits"] == [{"direction": "smile", "strength": smile(0.75), "keep": ["mouth_open"]}]
    assert edit["region"] == {"left": 0, "top": 0.64, "right": 1, "bottom": 1}
    page.click("#undo")
    edited(page)
    page.click("#undo")
    edited(page)
    assert difference(seen(page), smiling) < 0.5
    expect(page.get_by_role("button", name=f"Keep {MOUTH} as it is")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_what_is_drawn_is_where_the_picture_changes(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    page = open_page(shipped.url)
    invert(page)
    unedited = seen(page)
    page.get_by_role("combobox", name="Change").select_option("Brush")
    page.get_by_label("Size", exact=True).fill("30")
    page.evaluate("scrollTo(0, 0)")
    frame = page.locator("#frame").bounding_box()
    low = frame["y"] + 0.85 * frame["height"]
    page.mouse.move(frame["x"] + 0.1 * frame["width"], low)
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.9 * frame["width"], low, steps=5)
    page.mouse.up()
    edited(page)
    set_slider(page, "brightness", DIRECTIONS["brightness"]["range"][1])
    held = seen(page)
    edit = json.loads(downloaded(page, "#download-edit"))
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(edit["mask"]["data"]))).convert("L"))
    assert (mask[:160].max(), mask[218, 128]) == (0, 255)

    page.get_by_role("combobox", name="Change").select_option("Everywhere")
    edited(page)
    bright = seen(page)
    top, bottom = (slice(0, len(bright) // 2), slice(len(bright) * 3 // 4, None))
    top_freely, bottom_freely = (difference(bright[part], unedited[part]) for part in (top, bottom))
    top_held, bottom_held = (difference(held[part], unedited[part]) for part in (top, bottom))
    assert top_held < 0.6 * top_freely, "above the area little changes"
    assert bottom_held / top_held > 1.5 * bottom_freely / top_freely
    page.get_by_role("radio", name="Colours").check()
    page.get_by_label("Colour", exact=True).fill("#2030a0")
    drawing = page.locator("#drawing")
    drawing.focus()
    page.evaluate("performance.clearMeasures()")
    for key in (*["ArrowUp"] * 3, "Space"):  # by keyboard: a dot above the middle
        page.keyboard.press(key)
    edited(page)
    edit = json.loads(downloaded(page, "#download-edit"))
    strokes = np.asarray(Image.open(io.BytesIO(base64.b64decode(edit["strokes"]["data"]))))
    assert tuple(strokes[113, 128]) == (0x20, 0x30, 0xA0, 255)
    assert strokes[10, 10, 3] == 0
    assert difference(seen(page), bright) > 0.2
    page.click("#undo")
    edited(page)
    assert "strokes" not in json.loads(downloaded(page, "#download-edit"))


def test_a_face_is_chosen_edited_and_seen_in_its_photograph(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    if not by_faces(shipped):
        pytest.skip("the shipped bundle is not aligned by faces")
    page = open_page(shipped.url)
    invert(page, {"name": "portrait.jpg", "mimeType": "image/jpeg", "buffer": two_people()}, face="Face 2")
    set_slider(page, "smile", smile(0.75))
    page.get_by_role("radio", name="Whole photograph").check()
    edited(page)
    ratio = page.evaluate("(({width, height}) => width / height)(document.getElementById('after'))")
    with Image.open(io.BytesIO(two_people())) as taken:
        assert ratio == pytest.approx(taken.width / taken.height, rel=0.02)
        pasted = downloaded(page, "#download-photograph")
        with Image.open(io.BytesIO(pasted)) as edited_photograph:
            assert edited_photograph.size == taken.size
            change = np.abs(np.asarray(edited_photograph, float) - np.asarray(taken, float)).mean(axis=(0, 2))
    changed = np.flatnonzero(change > 0.5)
    assert changed.size > 0
    assert changed.max() < 0.6 * change.size, "the smaller face, on the left, and that one alone"

    everybody = downloaded(page, "#download-everybody")
    with (
        Image.open(io.BytesIO(everybody)) as edited_photograph,
        Image.open(io.BytesIO(two_people())) as taken,
    ):
        change = np.abs(np.asarray(edited_photograph, float) - np.asarray(taken, float)).mean(axis=(0, 2))
    changed = np.flatnonzero(change > 0.5)
    assert changed.min() < 0.4 * change.size
    assert changed.max() > 0.6 * change.size


# --- what goes wrong ---------------------------------------------------------------------------------


def test_what_is_no_picture_is_said_and_does_no_harm(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    page = open_page(shipped.url)
    invert(page)
    alert = page.get_by_role("alert")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(alert).to_contain_text("not a picture that this browser can read")
    page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": b"{}"})
    expect(alert).to_contain_text("not an edit that was saved here")
    expect(page.locator("#picture-name")).to_have_text("portrait")
    set_slider(page, "smile", smile(0.5))
    expect(alert).to_have_count(1)


def test_a_picture_without_a_face_is_said_and_its_middle_can_be_taken(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    if not by_faces(shipped):
        pytest.skip("the shipped bundle is not aligned by faces")
    page = open_page(shipped.url, expected=("422",))
    picture = io.BytesIO()
    Image.fromarray(photograph(width=320, height=240)).save(picture, "PNG")
    page.set_input_files(
        "#file", {"name": "portrait.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    )
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No face was found")
    expect(page.locator("#start")).to_be_visible()
    alert.get_by_role("button", name="Use its middle").click()
    edited(page)


def test_a_picture_chosen_before_the_gateway_has_answered_waits(
    open_page: Callable[..., Any], shipped: RunningGateway
) -> None:
    waiting: list[Any] = []
    page = open_page(
        shipped.url, prepare=lambda page: page.route("**/v1/bundles", lambda route: waiting.append(route))
    )
    page.set_input_files("#file", PORTRAIT)
    expect(page.locator("#start")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    (first,) = waiting
    first.continue_()
    edited(page)


def test_the_gateway_goes_and_comes_back_and_nothing_is_lost(
    open_page: Callable[..., Any], tiny_repository: Path
) -> None:
    first = RunningGateway(settings_for(tiny_repository))
    port = first.gateway.http_port
    try:
        page = open_page(first.url, expected=("net::ERR_", "503"))
        page.set_input_files("#file", PORTRAIT)
        edited(page)
        name = page.locator("input[id^=direction-]").first.get_attribute("id").removeprefix("direction-")
        set_slider(page, name, 0.5)
    finally:
        first.close()
    banner = page.get_by_text("The gateway does not answer")
    expect(banner).to_be_visible()
    expect(page.locator("#connection")).to_contain_text("gone")
    before = seen(page)
    page.locator(f"#direction-{name}").fill("1")  # asked for while nobody is there
    page.set_input_files("#file", PORTRAIT)
    expect(page.locator("#progress-text")).to_contain_text("Waiting for the gateway")
    page.click("#progress-cancel")
    expect(page.locator(f"output[for=direction-{name}]")).to_have_text("+1.00")

    second = RunningGateway(settings_for(tiny_repository, http_port=port))
    try:
        edited(page)
        expect(banner).to_be_hidden()
        assert difference(seen(page), before) > 0.0
        assert second.metric("indomain_requests_total", method="WatchInvert", code="OK") == 0, "by its code"
    finally:
        second.close()


@pytest.mark.slow
def test_presets_set_their_sliders(
    open_page: Callable[..., Any], tiny_repository: Path, tmp_path: Path
) -> None:
    repository = shutil.copytree(tiny_repository, tmp_path / "repository")
    (file,) = repository.glob("*.json")
    manifest = json.loads(file.read_text(encoding="utf-8"))
    first, second = (direction["name"] for direction in manifest["directions"][:2])
    edits = [{"direction": first, "strength": 0.5, "keep": [second]}]
    manifest["presets"] = [{"name": "holiday", "label": "Holiday", "edits": edits}]
    file.write_text(json.dumps(manifest), encoding="utf-8")
    running = RunningGateway(settings_for(repository))
    try:
        page = open_page(running.url)
        page.locator("#samples button").first.click()
        edited(page)
        page.get_by_role("button", name="Holiday").click()
        edited(page)
        assert page.locator(f"#direction-{first}").input_value() == "0.5"
        assert json.loads(downloaded(page, "#download-edit"))["edits"] == edits
    finally:
        running.close()


@pytest.mark.slow
def test_it_says_whether_it_is_the_same_person(open_page: Callable[..., Any], tmp_path: Path) -> None:
    running = RunningGateway(settings_for(write_tiny_bundle(tmp_path / "repository", identity=True)))
    try:
        page = open_page(running.url)
        told = page.locator("#identity-text")
        invert(page)
        expect(told).to_have_text(re.compile(r"on the photograph: \d+ % likely"))
        page.locator("#direction-smile").fill("1")
        expect(told).to_have_text(re.compile(r"before the edits: \d+ % likely"))
        page.click("#undo")
        expect(told).to_have_text(re.compile("on the photograph"))
        # A page whose gateway has gone says so on the console.
        page.close()
    finally:
        running.close()


def test_a_gateway_with_keys_asks_for_one(
    open_page: Callable[..., Any], tiny_repository: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "keys.toml", "visitor")
    running = RunningGateway(settings_for(tiny_repository, keys_file=tmp_path / "keys.toml"))
    try:
        page = open_page(running.url, expected=("401",))
        field = page.get_by_role("textbox", name="API key")
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#key-reason")).to_contain_text("did not take the last one")
        field.fill(key)
        field.press("Enter")
        page.locator("#samples button").first.click()
        edited(page)
        page.reload()
        expect(page.locator("#samples button")).to_have_count(8)
    finally:
        running.close()


# --- for everybody -----------------------------------------------------------------------------------


def test_all_of_it_works_by_keyboard(open_page: Callable[..., Any], shipped: RunningGateway) -> None:
    page = open_page(shipped.url)
    expect(page.locator("#samples button")).to_have_count(8)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached by the tabulator key")

    tab_to(".sample")
    page.keyboard.press("Enter")
    edited(page)
    tab_to("#compare")
    page.keyboard.press("Enter")
    page.keyboard.down("Shift")
    tab_to("#wipe")
    page.keyboard.up("Shift")
    for press in ("Home", "ArrowRight", "PageUp"):
        page.keyboard.press(press)
    expect(page.locator("#wipe")).to_have_attribute("aria-valuenow", "12")
    tab_to("[role=tab]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Blend")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    tab_to("#direction-smile")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    edited(page)
    expect(page.locator("output[for=direction-smile]")).to_have_text("+0.50")
    page.keyboard.press("Control+z")
    edited(page)
    expect(page.locator("output[for=direction-smile]")).to_have_text("+0.45")
    page.keyboard.press("Control+Shift+z")
    edited(page)
    expect(page.locator("output[for=direction-smile]")).to_have_text("+0.50")
    tab_to("#reset-all")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_fits_a_phone(open_page: Callable[..., Any], shipped: RunningGateway) -> None:
    page = open_page(shipped.url, viewport=PHONE, has_touch=True, is_mobile=True)
    expect(page.locator("#samples img")).to_have_count(8)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        small = page.evaluate(
            """[...document.querySelectorAll("main button, main input[type=range]")]
                .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.disabled)
                .map((e) => [e.id || e.className, e.getBoundingClientRect()])
                .filter(([, {width, height}]) => width < 24 || height < 24).map(([name]) => name)"""
        )
        assert not small, "WCAG 2.2 wants targets of 24 pixels"
        if page.locator("#start").is_visible():
            invert(page)
    page.locator("#direction-smile").scroll_into_view_if_needed()
    frame, slider = (page.locator(f"#{name}").bounding_box() for name in ("frame", "direction-smile"))
    assert frame["y"] >= 0, "the picture stays in sight"
    assert frame["y"] + frame["height"] < slider["y"] < PHONE["height"]


@pytest.mark.parametrize("colours", ["dark", pytest.param("light", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(
    open_page: Callable[..., Any], shipped: RunningGateway, colours: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe here").Axe()
    page = open_page(shipped.url, color_scheme=colours, reduced_motion="reduce")
    expect(page.locator("#samples img")).to_have_count(8)

    def check(what: str) -> None:
        found = axe.run(page).response["violations"]
        serious = [
            (each["id"], node["html"], node["failureSummary"])
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert not serious, what

    check("start")
    invert(page)
    set_slider(page, "smile", smile(0.5))
    page.click("#keep")
    page.click("#compare")
    check("editor")
    page.get_by_role("radio", name="Colours").check()
    check("brush")
    page.get_by_role("tab", name="Blend").click()
    page.get_by_role("button", name="A generated face").click()
    expect(page.get_by_role("button", name="Edit this one")).to_be_enabled()
    check("blend")
    page.get_by_role("radio", name="Style").check()
    check("style")
    page.get_by_role("tab", name="History").click()
    check("history")
    page.click("#download")
    check("download")
    page.keyboard.press("Escape")
    page.set_input_files("#file", {"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(page.get_by_role("alert")).to_be_visible()
    check("error")


def test_the_colours_can_be_chosen(open_page: Callable[..., Any], shipped: RunningGateway) -> None:
    page = open_page(shipped.url, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    as_system = page.evaluate(paper)
    button = page.locator("#theme-button")
    button.click()
    assert page.evaluate(paper) == as_system
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    dark = page.evaluate(paper)
    assert dark != as_system
    page.reload()
    assert page.evaluate(paper) == dark
