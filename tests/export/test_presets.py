"""`python -m export presets` on a written bundle, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export.__main__ import main
from tests.export.conftest import Exported


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.repository, tmp_path / "repository"))


def listed(tmp_path: Path, *presets: dict[str, Any]) -> Path:
    (tmp_path / "presets.json").write_text(json.dumps(presets))
    return tmp_path / "presets.json"


def manifest_of(repository: Path) -> dict[str, Any]:
    return dict(json.loads((repository / "tiny.json").read_text()))


def test_presets_join_a_bundle_replace_their_like_and_leave(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest_of(repository)
    both = [{"direction": "smile", "strength": -1}, {"direction": "age", "strength": 3, "layers": [0, 1]}]
    glum = {"name": "glum", "label": "Not amused", "edits": both}
    softer = {"name": "merry", "edits": [{"direction": "smile", "strength": 1.0}]}
    assert main(["presets", str(repository), str(listed(tmp_path, glum, softer))]) == 0
    assert "glum: smile -1, age +3" in capsys.readouterr().out
    after = manifest_of(repository)
    assert after["presets"] == [softer | {"label": "Merry"}, glum]
    assert {key: after[key] for key in before if key != "presets"} == {
        key: before[key] for key in before if key != "presets"
    }
    serving = pytest.importorskip("serving.repository.reader")
    assert list(serving.read_bundle(repository, "tiny").presets) == ["merry", "glum"]
    assert main(["presets", str(repository / "tiny.json"), "--remove", "merry"]) == 0
    assert [preset["name"] for preset in manifest_of(repository)["presets"]] == ["glum"]
    assert {path.suffix for path in repository.iterdir() if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        ({"name": "smile"}, "a name that no direction"),
        ({"strength": 3.5}, "goes from -3.0 to 3.0, not to 3.5"),
        ({"direction": "beard"}, "no direction beard; there is smile, age"),
        ({"keep": ["beard"]}, "no direction beard"),
        ({"keep": ["smile"]}, "cannot change and be kept"),
        ({"layers": [7]}, "moves layers [2, 3, 4]"),
        ({"strenght": 1.0}, "0.edits.0.strenght"),
        ({"edits": []}, "0.edits"),
    ],
)
def test_a_preset_that_cannot_be_changes_nothing(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: dict[str, Any], says: str
) -> None:
    before = (repository / "tiny.json").read_bytes()
    edit = {"direction": "smile", "strength": 1.0} | {
        k: v for k, v in preset.items() if k not in ("name", "edits")
    }
    entry = {"name": preset.get("name", "odd"), "edits": preset.get("edits", [edit])}
    assert main(["presets", str(repository), str(listed(tmp_path, entry))]) == 2
    assert says in capsys.readouterr().err
    assert (repository / "tiny.json").read_bytes() == before
    assert main(["presets", str(repository), "--remove", "odd"]) == 2
