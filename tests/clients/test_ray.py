"""Stages of Ray Data, on a local Ray: rows keep their columns, gateways take turns, a row that fails says why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indomain
import indomain.ray
from tests.clients.scripted_gateway import LAYERS, SIZE, ScriptedGateway, serving_on


def test_a_stage_without_ray(gateway: ScriptedGateway) -> None:
    """A batch is a dict of columns, and arrays are pictures too."""
    images = np.full((3, 5, 5, 3), 9, np.uint8)
    columns = indomain.ray.InvertPictures(servers=gateway.address, column="image", jobs=2)({"image": images})
    assert [columns[name].shape for name in ("image", "picture", "code")] == [(3, 5, 5, 3), (3,), (3,)]
    assert {request.picture.width for request in gateway.requests} == {5}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs indomain-client[ray]")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path, local_ray: Any) -> Any:
    """Four pictures and a file that is none."""
    for n in range(4):
        Image.new("RGB", (9, 7), "teal").save(tmp_path / f"{n}.png")
    (tmp_path / "x.png").write_bytes(b"not a picture")
    return local_ray.data.read_binary_files(str(tmp_path), include_paths=True)


@pytest.mark.slow  # Ray takes long to start
def test_invert_with_two_gateways(photos: Any, gateway: ScriptedGateway) -> None:
    with serving_on() as other:
        stage = indomain.ray.invert(photos, servers=[gateway.address, other.address], batch_size=2)
        rows = {Path(row["path"]).stem: row for row in stage.take_all()}
        assert len(gateway.requests) + len(other.requests) == 5
        assert min(len(gateway.requests), len(other.requests)) > 0
    bad = rows.pop("x")
    assert (bad["picture"], bad["code"], bad["error_reason"]) == (None, None, "invalid_picture")
    assert bad["error"] == "not a picture"
    assert np.isnan(bad["domain_score"])
    assert bad["request_id"]
    assert len(rows) == 4
    for row in rows.values():
        assert Image.open(io.BytesIO(row["picture"])).size == (SIZE, SIZE)
        assert np.load(io.BytesIO(row["code"])).shape == (LAYERS, 512)
        assert row["domain_score"] == 0.5
        assert row["error_reason"] is None
        assert row["bytes"].startswith(b"\x89PNG")


@pytest.mark.slow  # Ray takes long to start
def test_edit_goes_to_the_gateway_that_answers(
    photos: Any, gateway: ScriptedGateway, dead_address: str
) -> None:
    strong = indomain.Edit("smile", 2.0, layers=(1,))
    stage = indomain.ray.edit(photos, strong, servers=[dead_address, gateway.address], steps=3, smile=0.5)
    assert stage.count() == 5
    for request in gateway.requests:
        assert [(step.strength, list(step.layers)) for step in request.edits] == [(2.0, [1]), (0.5, [])]
        assert request.refine.steps == 3


@pytest.mark.slow  # Ray takes long to start
def test_what_is_wrong_with_every_picture_ends_the_stage(photos: Any, gateway: ScriptedGateway) -> None:
    with pytest.raises(Exception, match="it has: smile"):
        indomain.ray.edit(photos, halo=1.0, servers=gateway.address).take_all()


@pytest.mark.slow  # Ray takes long to start
def test_embedded_workers(photos: Any, tiny_repository: Path) -> None:
    connection = {"model_repository": str(tiny_repository)}
    stage = indomain.ray.edit(photos, smile=1.0, servers=":embedded:", connection=connection)
    rows = stage.take_all()
    assert sorted(row["error_reason"] or "" for row in rows) == ["", "", "", "", "invalid_picture"]
