"""The identity score's graph gives dlib's descriptors, on each engine that a gateway may choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from export.graphs.graphs import identity_graph, to_onnx
from export.graphs.storage import save
from export.parity.sessions import open_session, run
from serving.backends.engines.sessions import openvino
from training.faces.identity import FaceDescriptor, face_chip

PORTRAIT = Path(__file__).parents[2] / "clients/python/examples/portrait.png"


def test_engines_give_the_descriptor_of_the_face(tmp_path: Path) -> None:
    file = tmp_path / "identity.onnx"
    save(to_onnx(identity_graph(64), "identity"), file)
    image = np.array(Image.open(PORTRAIT).convert("RGB").resize((64, 64)))[None]
    shown = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    wanted = FaceDescriptor()(face_chip(shown)).numpy()
    (found,) = run(open_session(file), {"image": image}).values()
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, atol=1e-4)
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(image)[0], wanted, atol=1e-4)
