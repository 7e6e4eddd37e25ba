"""`make photographs`: photographs found, aligned, edited and pasted back, on one sheet.

Ten people, in the public domain (clients/python/examples/SOURCE.md): portraits, half figures, scenes. Then two of them
turned, scaled, cut off, side by side, small on a large ground, lying on a side, and as an old print.
Writes the sheet, and prints what was found on each and how long it took.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image, ImageDraw, ImageEnhance

import indomain

EXAMPLES = Path(__file__).parents[1] / "clients/python/examples"
GROUND = (96, 112, 136)
CELL = 300  # pixels of a picture on the sheet, both sides
FRAMED = 2.2  # crops' sides: what the two right columns show around a face


@dataclass
class PhotographsConfig:
    """Edit photographs and show what became of them."""

    to: Path = Path("docs/pictures/photographs.webp")
    """Sheet to write: each photograph with the crop's outline, the face on it, and edited and pasted back."""
    server: str = ":embedded:"
    """Gateway to ask."""


@dataclass(frozen=True)
class Taken:
    """A photograph and what is done to it."""

    name: str
    picture: Image.Image
    edits: dict[str, float]
    face: int | None = None


def photographs() -> list[Taken]:
    """Ten people, then other framings of two of them."""
    return [*people(), *framings()]


def people() -> list[Taken]:
    """Ten, as they were photographed."""
    edits = {
        "astronaut": {"smile": -1.0},
        "hopper": {"smile": 1.0},
        "people/ochoa": {"age": 1.0},
        "people/jemison": {"smile": -1.0},
        "people/ride": {"smile": -1.0},
        "people/johnson": {"age": 1.0},
        "people/curie": {"smile": 1.0},
        "people/mcclintock": {"smile": 1.0},
        "people/wu": {"smile": 1.0},
        "people/ball": {"smile": 1.0},
    }
    return [Taken(Path(name).name, opened(name), strengths) for name, strengths in edits.items()]


def opened(name: str) -> Image.Image:
    """An example."""
    return Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")


def framings() -> list[Taken]:
    """What becomes of photographs."""
    astronaut, hopper = opened("astronaut"), opened("hopper")
    group = Image.new("RGB", (1100, 700), GROUND)
    group.paste(astronaut, (30, 180))
    group.paste(hopper, (570, 60))
    large = Image.new("RGB", (4000, 3000), GROUND)
    large.paste(astronaut, (3300, 2300))
    print_ = ImageEnhance.Brightness(hopper.convert("L").convert("RGB").resize((256, 300))).enhance(0.6)
    return [
        Taken("turned by 27 degrees", _turned(astronaut.resize((800, 800)), 27), {"smile": 1.0}),
        Taken("turned by -35 degrees", _turned(hopper, -35), {"age": -1.0}),
        Taken("the larger of two", group, {"smile": -1.0}),
        Taken("the smaller of two", group, {"smile": -1.0}, face=1),
        Taken("cut off at the border", hopper.crop((190, 0, 512, 600)), {"smile": 1.0}),
        Taken("small on 12 megapixels", large, {"age": 1.0}),
        Taken("lying on its side", hopper.transpose(Image.Transpose.ROTATE_90), {"smile": 1.0}),
        Taken("a small dark print", print_, {"brightness": 1.0, "smile": 1.0}),
    ]


def _turned(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=GROUND)


def row(client: indomain.Client, taken: Taken) -> Image.Image:
    """The photograph with the crop's outline; the face on it; the same edited and pasted back."""
    data = io.BytesIO()
    taken.picture.save(data, "JPEG", quality=95)
    edits = [indomain.Edit(direction, strength) for direction, strength in taken.edits.items()]
    align = indomain.Align(face=taken.face)
    edited = client.edit(data.getvalue(), *edits, include_pasted=True, align=align)
    placement, pasted = edited.placement, edited.pasted
    assert placement is not None
    assert pasted is not None
    seconds = edited.stage_seconds
    print(
        f"{taken.name:<24}{taken.picture.width:>5} x{taken.picture.height:>5}"
        f"  face {placement.face} of {placement.faces}"
        f"  side {_side(placement):6.0f} px  roll {placement.roll_degrees:7.1f}  domain score {edited.domain_score:.2f}"
        f"  align {1000 * seconds['align']:5.0f} ms  image {1000 * seconds['image']:5.0f} ms"
    )
    outlined = taken.picture.copy()
    ImageDraw.Draw(outlined).polygon(
        list(placement.corners), outline=(255, 220, 0), width=max(2, outlined.width // 200)
    )
    cells = [outlined, _around(taken.picture, placement), _around(pasted, placement)]
    sheet = Image.new("RGB", (3 * CELL, CELL), "white")
    for column, cell in enumerate(cells):
        cell.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        sheet.paste(cell, (column * CELL + (CELL - cell.width) // 2, (CELL - cell.height) // 2))
    return sheet


def _side(placement: indomain.Placement) -> float:
    (left, top), (right, bottom) = placement.corners[:2]
    return float(((right - left) ** 2 + (bottom - top) ** 2) ** 0.5)


def _around(picture: Image.Image, placement: indomain.Placement) -> Image.Image:
    """What lies around the face, as large as it is."""
    x, y = (sum(corner[axis] for corner in placement.corners) / 4 for axis in (0, 1))
    half = _side(placement) * FRAMED / 2
    left, top = max(0, round(x - half)), max(0, round(y - half))
    part = picture.crop(
        (left, top, min(picture.width, round(x + half)), min(picture.height, round(y + half)))
    )
    scale = CELL / max(part.size)
    return part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.LANCZOS)


def show(config: PhotographsConfig) -> None:
    """Edit all of them, write the sheet."""
    with indomain.Client(config.server) as client:
        rows = [row(client, taken) for taken in photographs()]
    half = (len(rows) + 1) // 2
    sheet = Image.new("RGB", (6 * CELL, half * CELL), "white")
    for n, picture in enumerate(rows):
        sheet.paste(picture, (n // half * 3 * CELL, n % half * CELL))
    config.to.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(config.to, quality=80, method=6)
    print(f"{config.to}: {config.to.stat().st_size // 1000} kB")


if __name__ == "__main__":
    show(tyro.cli(PhotographsConfig))
