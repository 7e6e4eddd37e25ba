"""Bundles that share graphs: a tuned run beside the one that it was tuned from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from export.__main__ import main
from export.bundles.bundle import move_into_place
from export.bundles.manifest import SharedGraphError
from tests.export.conftest import Exported

OWN, SHARED = {"generator", "critic", "refiner"}, {"encoder", "mapping"}


@pytest.fixture(scope="module")
def repository(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the bundle `tiny`, and `person`, which has another synthesis network."""
    folder = tmp_path_factory.mktemp("sharing")
    shutil.copytree(exported.repository, folder / "repository")
    shutil.copytree(exported.run, folder / "run")
    weights = folder / "run/checkpoint/generator.safetensors"
    state = load_file(weights)
    save_file(
        {key: x * 0.9 if key.startswith("synthesis.") else x for key, x in state.items()},
        weights,
    )
    arguments = ["bundle", str(folder / "run"), "--to", str(folder / "repository"), "--name", "person"]
    assert main([*arguments, "--share", "tiny", "--refine.chunk-steps", "2"]) == 0
    return folder / "repository"


def test_what_is_the_same_is_stored_once(repository: Path) -> None:
    tiny, person = (json.loads((repository / f"{name}.json").read_text()) for name in ("tiny", "person"))
    for role in SHARED:
        assert person["graphs"][role] == tiny["graphs"][role]
        assert not (repository / f"person_{role}").exists()
    for role in OWN:
        assert person["graphs"][role]["model"] == f"person_{role}"
        assert (repository / person["graphs"][role]["file"]).is_file()
    assert {p.name for p in repository.iterdir()} == {
        *(f"tiny_{role}" for role in OWN | SHARED), *(f"person_{role}" for role in OWN),
        "tiny.json", "tiny.safetensors", "person.json", "person.safetensors",
    }  # fmt: skip


def test_both_bundles_verify_and_are_read(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(repository)]) == 0
    assert "person  encoder  inputs, outputs and sample as stored" in capsys.readouterr().out
    read_bundles = pytest.importorskip("serving.repository.reader").read_bundles
    bundles = read_bundles(repository)
    keys = [{role: graph.key for role, graph in bundles[name].graphs.items()} for name in ("tiny", "person")]
    assert {role for role in keys[0] if keys[0][role] == keys[1][role]} == SHARED


def test_what_another_bundle_shares_is_not_replaced(repository: Path, tmp_path: Path) -> None:
    before = (repository / "tiny_encoder/1/model.onnx").read_bytes()

    def written(work: Path, version: int) -> Path:
        for role in ("encoder", "mapping"):
            (work / f"tiny_{role}/{version}").mkdir(parents=True)
            shutil.copyfile(
                repository / "tiny_mapping/1/model.onnx", work / f"tiny_{role}/{version}/model.onnx"
            )
            (work / f"tiny_{role}/config.pbtxt").write_text("")
        for file in ("tiny.json", "tiny.safetensors"):
            shutil.copyfile(repository / file, work / file)
        return work

    roles = ("encoder", "mapping")
    with pytest.raises(SharedGraphError, match="person shares tiny_encoder, version 1"):
        move_into_place(written(tmp_path / "one", 1), repository, "tiny", roles)
    move_into_place(written(tmp_path / "two", 2), repository, "tiny", roles, 2)
    assert (repository / "tiny_encoder/1/model.onnx").read_bytes() == before


@pytest.mark.parametrize("other", ["nobody", "person"])
def test_a_bundle_shares_with_another_one(
    repository: Path, exported: Exported, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    arguments = ["bundle", str(exported.run), "--to", str(repository), "--name", "person", "--share", other]
    assert main(arguments) == 2
    assert f"holds no other bundle '{other}'" in capsys.readouterr().err
