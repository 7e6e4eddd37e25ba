"""A bundle that is not as its manifest says is refused at start-up, with a message that names the part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving.backends.embedded import EmbeddedBackend
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle, read_bundles
from serving.telemetry.metrics import Metrics
from tests.serving.running_gateway import settings_for


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


def rewrite(repository: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((repository / "tiny16.json").read_text())
    change(manifest)
    (repository / "tiny16.json").write_text(json.dumps(manifest))


DETAIL = {"side": 4, "maps": 1, "layer": 2, "fade": 2.0}
NOISE = {"layers": [5, 6], "sides": [32, 32], "fade": 2.0}


def preset(name: str, **edit: Any) -> dict[str, Any]:
    return {"name": name, "edits": [{"direction": "smile", "strength": 1.0, **edit}]}


def test_reads_everything(tiny_repository: Path) -> None:
    bundle = read_bundle(tiny_repository, "tiny16")
    assert (bundle.resolution, bundle.layers, bundle.code_size) == (16, 6, 512)
    assert list(bundle.directions) == ["smile", "age"]
    smile = bundle.directions["smile"]
    assert np.linalg.norm(smile.vector) == pytest.approx(1.0, abs=1e-5)
    assert smile.held_out is not None
    assert smile.held_out.value == 0.8
    assert bundle.refine.chunk_steps == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m.update(bundle="other"), "other"),
        (lambda m: m["graphs"].pop("critic"), "critic"),
        (lambda m: m["graphs"]["encoder"]["inputs"].pop(), "encoder"),
        (lambda m: m["graphs"]["generator"]["outputs"][0].update(shape=[-1, 8, 8, 3]), "generator.image"),
        (lambda m: m["graphs"]["critic"].update(sha256="0" * 64), "sha256"),
        (lambda m: m["graphs"]["critic"].update(file="../outside.onnx"), "outside"),
        (lambda m: m["graphs"]["critic"].update(file="gone.onnx"), "gone.onnx"),
        (lambda m: m["refine"].pop("steps"), "refine.steps"),
        (lambda m: m["refine"].update(learning_rate=-1), "refine.learning_rate"),
        (lambda m: m["refine"].update(detail=True), "has refine.detail and no detail"),
        (lambda m: m["refine"].update(detail=False), "has refine.detail and no detail"),
        (lambda m: m.update(detail=DETAIL), "has detail and no refine.detail"),
        (lambda m: m["refine"].update(noise=True), "has refine.noise and no noise"),
        (lambda m: m.update(noise=NOISE), "has noise and no refine.noise"),
        (lambda m: m.update(noise=NOISE | {"sides": [32]}), "as many sides as layers"),
        (lambda m: m["directions"][0].update(layers=[1]), "smile"),
        (lambda m: m["directions"][0].update(range=[3, -3]), "smile"),
        (lambda m: m["directions"][0].update(name="grin"), "grin"),
        (lambda m: m.update(layers=10), "code"),
        (lambda m: m.update(presets=[preset("smile")]), "'smile' names more than one"),
        (lambda m: m.update(presets=[preset("merry"), preset("merry")]), "'merry' names more than one"),
        (lambda m: m.update(presets=[preset("merry", direction="grin")]), "merry.*'grin'"),
        (lambda m: m.update(presets=[preset("merry", keep=["grin"])]), "merry.*'grin'"),
        (lambda m: m.update(presets=[preset("merry", layers=[0])]), "merry.*none of its layers"),
        (lambda m: m.update(presets=[{"name": "merry", "edits": []}]), "presets.0.edits"),
    ],
)
def test_broken_manifest(change: Callable[[dict[str, Any]], None], message: str, repository: Path) -> None:
    rewrite(repository, change)
    with pytest.raises(BundleInvalid, match=message) as raised:
        read_bundle(repository, "tiny16")
    assert str(repository) not in raised.value.message


def test_not_json(repository: Path) -> None:
    (repository / "tiny16.json").write_text("{")
    with pytest.raises(BundleInvalid, match="not JSON"):
        read_bundle(repository, "tiny16")


def test_tensors_must_be_finite(repository: Path) -> None:
    tensors = load_file(repository / "tiny16.safetensors")
    tensors["mean_code"] = np.full_like(tensors["mean_code"], np.nan)
    save_file(tensors, repository / "tiny16.safetensors")
    with pytest.raises(BundleInvalid, match="sha256"):
        read_bundle(repository, "tiny16")
    with pytest.raises(BundleInvalid, match="mean_code"):
        read_bundle(repository, "tiny16", verify=False)


def test_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="no bundle"):
        read_bundles(tmp_path)
    with pytest.raises(BundleInvalid, match="INDOMAIN_MODEL_REPOSITORY"):
        read_bundles(tmp_path / "gone")
    with pytest.raises(BundleInvalid, match="faces9"):
        read_bundles(tmp_path, ("faces9",))


async def test_graph_that_cannot_be_loaded(repository: Path) -> None:
    (repository / "tiny16_critic/1/model.onnx").write_bytes(b"nothing")
    bundle = read_bundle(repository, "tiny16", verify=False)
    backend = EmbeddedBackend([bundle], settings_for(repository), Metrics())
    with pytest.raises(BundleInvalid, match="tiny16_critic"):
        await backend.load()
    assert not await backend.healthy()
