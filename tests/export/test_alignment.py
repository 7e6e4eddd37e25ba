"""`python -m export align`: a bundle is aligned by faces, or not, and nothing else of it changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.__main__ import main
from export.bundles.verification import VerifyConfig, verify
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from tests import shipped


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.REPOSITORY, tmp_path / "repository"))


def test_the_detector_comes_and_goes_and_the_rest_stays(repository: Path) -> None:
    before = json.loads(shipped.manifest_in(repository).read_text())
    assert main(["align", str(repository), "--alignment", "centre-crop"]) == 0
    cropped = read_bundle(repository, shipped.NAME)
    assert (cropped.alignment, cropped.face, "detector" in cropped.graphs) == ("centre-crop", None, False)
    assert not (repository / shipped.model_of("detector")).exists()

    assert main(["align", str(repository), "--run", str(shipped.CHECKPOINT)]) == 0
    verify(VerifyConfig(repository))
    after = json.loads(shipped.manifest_in(repository).read_text())
    unchanged = {role: graph for role, graph in before["graphs"].items() if role != "detector"}
    assert {role: graph for role, graph in after["graphs"].items() if role != "detector"} == unchanged
    assert after["face"] == json.loads((shipped.CHECKPOINT / "alignment.json").read_text())
    bundle = read_bundle(repository, shipped.NAME)
    assert bundle.alignment == "face"
    assert set(bundle.references) == set(bundle.graphs)
    differs = {key for key in before if before[key] != after[key]}
    # Another processor may round the detector's figures otherwise.
    assert differs <= {"tensors", "parity", "graphs"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [([], "--run"), (["--run", "nowhere"], "alignment.json"), (["--bundle", "other"], "hold one bundle")],
)
def test_what_is_missing_is_said(
    repository: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shipped.manifest_in(repository).read_text()
    assert main(["align", str(repository), *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert shipped.manifest_in(repository).read_text() == before


def test_a_bundle_that_does_not_say_where_faces_are_wanted_is_not_served(repository: Path) -> None:
    manifest = json.loads(shipped.manifest_in(repository).read_text())
    shipped.manifest_in(repository).write_text(json.dumps(manifest | {"face": None}))
    with pytest.raises(BundleInvalid, match="python -m export align"):
        read_bundle(repository, shipped.NAME)
