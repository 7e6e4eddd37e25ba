"""The commands of the documents do what they say: each block of shell and Python runs, in its document's order.

A comment before a block says otherwise: `<!-- slow -->` leaves it to the slow tests, `<!-- slow: FOLDER -->` also has
the gateway serve that model repository, and `<!-- not run: WHY -->` is for what no test can run here. docs/api.md is
made of examples that tests/clients/test_examples.py runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.gateway import running_gateway
from benchmarks.scale import rosinality_state
from tests.shipped import CHECKPOINT, MANIFEST, NAME, REPOSITORY, RESOLUTION, quick_repository
from training.networks.generator import Generator, GeneratorConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path.relative_to(ROOT)
    for path in [ROOT / "README.md", ROOT / "clients/python/README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.name != "api.md"
]
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>.*?) -->\n)?^(?P<indent> *)```(?P<language>sh|python)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
ROOMS = (
    "benchmarks",
    "clients",
    "deploy",
    "docs",
    "export",
    "model_repository",
    "serving",
    "tests",
    "training",
)
MARK = re.compile(r"slow(: \S+)?|not run: .{10,}", re.DOTALL)
PRELUDE = "import indomain\nclient = indomain.Client('localhost:8500')\n"  # for what stands in the middle of something


@dataclass(frozen=True)
class Block:
    """Commands of a document."""

    language: str
    text: str
    mark: str

    @property
    def run(self) -> bool:
        return not self.mark.startswith("not run")

    @property
    def slow(self) -> bool:
        return self.mark.startswith("slow")

    @property
    def repository(self) -> str:
        """Whose models the gateway serves; empty: the shipped ones."""
        return self.mark.partition(": ")[2] if self.slow else ""


def blocks(document: Path) -> Iterator[Block]:
    for found in BLOCK.finditer((ROOT / document).read_text()):
        text = re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(found["language"], text, found["mark"] or "")


RUNNABLE = [document for document in DOCUMENTS if any(block.run for block in blocks(document))]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of a gateway with the shipped models."""
    repository = quick_repository(tmp_path_factory.mktemp("shipped") / "model_repository")
    with running_gateway(repository) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def pictures(shipped: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that the documents name."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "holiday").mkdir()
    for name in ("portrait.png", "portrait.jpg"):
        shutil.copy(ROOT / "clients/python/examples/portrait.png", folder / name)
    Image.new("L", (RESOLUTION, RESOLUTION), 255).save(folder / "eyes.png")
    strokes = Image.new("RGBA", (RESOLUTION, RESOLUTION))
    strokes.paste(
        (190, 20, 40), (RESOLUTION // 3, RESOLUTION * 2 // 3, RESOLUTION * 2 // 3, RESOLUTION * 3 // 4)
    )
    strokes.save(folder / "lips.png")
    two = [Image.open(ROOT / "clients/python/examples" / name) for name in ("astronaut.jpg", "hopper.jpg")]
    two[0].save(folder / "astronaut.jpg")
    group = Image.new("RGB", (two[0].width + two[1].width, max(one.height for one in two)))
    group.paste(two[0], (0, 0))
    group.paste(two[1], (two[0].width, 0))
    group.save(folder / "group.jpg")
    for seed, name in enumerate(("other.png", "holiday/beach.png", "holiday/hills.jpg")):
        run(Block("sh", f"indomain sample --seeds {seed} -o {name}", ""), folder, shipped)
    return folder


def run(block: Block, folder: Path, addresses: tuple[str, str]) -> None:
    """A block as it is printed, but for where the gateway listens and where Python lies."""
    grpc, http = addresses[0], addresses[1].removeprefix("http://")
    text = block.text.replace("localhost:8500", grpc).replace("localhost:8080", http)
    if block.language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", text.replace(".venv/bin/", "")]
    else:
        prelude = "" if "import indomain" in text else PRELUDE.replace("localhost:8500", grpc)
        command = [sys.executable, "-c", prelude + text]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
        "INDOMAIN_SERVER": grpc,
        "INDOMAIN_URL": f"http://{http}",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def prepare(folder: Path, pictures: Path) -> None:
    """What a reader of the document has by then."""
    shutil.copytree(pictures, folder, dirs_exist_ok=True)
    shutil.copytree(CHECKPOINT, folder / CHECKPOINT.relative_to(ROOT))
    shutil.copy(ROOT / "docs/examples/edit.mts", folder)
    os.utime(shutil.copy(folder / "portrait.png", folder / "last"), (0, 0))  # older than any picture


@pytest.mark.parametrize("document", RUNNABLE, ids=str)
def test_commands_do_what_they_say(
    document: Path, tmp_path: Path, shipped: tuple[str, str], pictures: Path
) -> None:
    prepare(tmp_path, pictures)
    for block in blocks(document):
        if block.run and not block.slow:
            run(block, tmp_path, shipped)


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in RUNNABLE if any(b.slow for b in blocks(d))], ids=str)
def test_the_slow_ones_too(document: Path, tmp_path: Path, shipped: tuple[str, str], pictures: Path) -> None:
    """With a checkpoint in rosinality's layout, small and of random weights, for somebody else's."""
    prepare(tmp_path, pictures)
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(32, (16, 16, 16, 16), per_layer_code=False))
    torch.save({"g_ema": rosinality_state(generator)}, tmp_path / "their.pt")
    for block in blocks(document):
        if not block.run or ("npx" in block.text and shutil.which("npx") is None):
            continue
        if not block.repository:
            run(block, tmp_path, shipped)
            continue
        with running_gateway(tmp_path / block.repository) as addresses:
            run(block, tmp_path, addresses)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_is_not_run_says_why(document: Path) -> None:
    wrong = [block.mark for block in blocks(document) if block.mark and not MARK.fullmatch(block.mark)]
    assert not wrong


def test_what_a_tuned_bundle_shares_is_as_large_as_the_document_says() -> None:
    sizes = {role: (REPOSITORY / graph["file"]).stat().st_size for role, graph in MANIFEST["graphs"].items()}
    shared, all_graphs = (
        sum(sizes[role] for role in ("encoder", "mapping", "relabeller", "identity")),
        sum(sizes.values()),
    )
    told = f"{shared / 1e6:.0f} of the {all_graphs / 1e6:.0f} MB of `{NAME}`'s graphs"
    assert told in " ".join((ROOT / "docs/export.md").read_text(encoding="utf-8").split())


def test_links_lead_somewhere() -> None:
    """The files and headings that the documents link to exist."""
    for document in [*DOCUMENTS, Path("ARCHITECTURE.md"), Path("CHANGELOG.md")]:
        text = (ROOT / document).read_text()
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
            linked = (ROOT / document).parent / target if target else ROOT / document
            assert linked.exists(), f"{document} links to {target}"
            assert not anchor or anchor in anchors(linked), f"{document} links to {target}#{anchor}"


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_paths_of_the_repository_exist(document: Path) -> None:
    """Each path that begins with a room, and each bare name of a source file."""
    text = (ROOT / document).read_text()
    paths = {found.rstrip("./") for found in re.findall(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})/[\w./-]*", text)}
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]
    named = set(re.findall(r"`(\w+\.(?:py|js|mts|proto))`", text))
    assert named <= {file.name for room in ROOMS for file in (ROOT / room).rglob("*.*")}
