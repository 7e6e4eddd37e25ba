"""`python -m export verify` and `diff` on a written bundle, on broken ones, and where there is no PyTorch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from export.__main__ import main
from tests.export.conftest import Exported

WITHOUT_PYTORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch here")

sys.meta_path.insert(0, Absent())
from export.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
ROLES = ("encoder", "generator", "mapping", "critic", "refiner")


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.repository, tmp_path / "repository"))


def vouch_for(repository: Path, role: str | None = None) -> None:
    """Write the checksum of a changed file into the manifest, as somebody would who builds bundles by hand."""
    manifest = json.loads((repository / "tiny.json").read_text())
    entry = manifest["graphs"][role] if role else manifest["tensors"]
    entry["sha256"] = hashlib.sha256((repository / entry["file"]).read_bytes()).hexdigest()
    (repository / "tiny.json").write_text(json.dumps(manifest))


def other_weights(repository: Path, role: str) -> None:
    file = repository / f"tiny_{role}" / "1" / "model.onnx"
    model = onnx.load(file)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value * 3).astype(value.dtype), tensor.name))
    onnx.save(model, file)
    vouch_for(repository, role)


def test_a_written_bundle_is_found_whole_without_pytorch(repository: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PYTORCH, "verify", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["tensors", *ROLES]
    assert all("sample as stored" in line for line in lines[1:])


def truncate_graph(repository: Path) -> None:
    file = repository / "tiny_encoder" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-100])


def truncate_graph_and_vouch(repository: Path) -> None:
    truncate_graph(repository)
    vouch_for(repository, "encoder")


def remove_graph(repository: Path) -> None:
    shutil.rmtree(repository / "tiny_critic")


def change_tensors(repository: Path) -> None:
    with (repository / "tiny.safetensors").open("ab") as file:
        file.write(b"x")


def change_border(repository: Path) -> None:
    manifest = json.loads((repository / "tiny.json").read_text())
    manifest["graphs"]["mapping"]["inputs"][0]["shape"] = [-1, 7]
    (repository / "tiny.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate_graph, "encoder: model.onnx is not the file that the manifest names"),
        (truncate_graph_and_vouch, "encoder: ONNX Runtime cannot load it"),
        (remove_graph, "critic: model.onnx is missing"),
        (change_tensors, "tiny.safetensors is not the file"),
        (change_border, "mapping: its inputs are [('z', 'float32', [512])]"),
        (lambda repository: (repository / "tiny.json").write_text("{"), "cannot be read"),
        *((lambda r, role=role: other_weights(r, role), f"{role}: ") for role in ROLES),
    ],
)
def test_what_is_wrong_is_named(
    repository: Path, damage: Callable[[Path], object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(repository)
    assert main(["verify", str(repository)]) == 3
    assert complaint in capsys.readouterr().err


def test_a_repository_without_bundles_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no bundle" in capsys.readouterr().err


def test_diff_says_what_changed_and_nothing_else(
    exported: Exported, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(exported.repository), str(repository / "tiny.json")]) == 0
    assert capsys.readouterr().out.strip() == "no difference"
    other_weights(repository, "encoder")
    tensors = load_file(repository / "tiny.safetensors")
    smile = tensors["direction/smile"]
    turned = np.cos(0.1) * smile + np.sin(0.1) * np.roll(smile, 1, 1)
    save_file(tensors | {"direction/smile": turned / np.linalg.norm(turned)}, repository / "tiny.safetensors")
    manifest = json.loads((repository / "tiny.json").read_text())
    manifest["directions"][0]["range"] = [-2.0, 3.0]
    manifest["directions"].append({**manifest["directions"][1], "name": "pose"})
    manifest["limits"] = "Other people."
    (repository / "tiny.json").write_text(json.dumps(manifest))
    assert main(["diff", str(exported.repository), str(repository)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "limits",
        "graph encoder",
        "direction pose",
        *["direction smile"] * 2,
    ]
    assert "added" in lines[2]
    assert "[-3.0, 3.0] -> [-2.0, 3.0]" in lines[3]
    assert "turned by 5." in lines[4]
