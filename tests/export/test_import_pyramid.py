"""Files of pSp and e4e: their encoder, imported with its decoder, gives what a slow reference of it gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.__main__ import main
from export.bundles.checkpoint import load_pipeline
from export.graphs.decompositions import trace
from export.graphs.encoder_folding import fold_encoder
from export.importing import ImportConfig, import_checkpoint
from tests.export.foreign_pyramid import SIDE, content_of, encode, encoder_state
from tests.export.foreign_stylegan2 import CODE
from training.run_folders.checkpoint import CheckpointError, load_meta


@pytest.mark.parametrize("kind", ["GradualStyleEncoder", "Encoder4Editing"])
def test_codes_are_those_of_the_format(tmp_path: Path, kind: str) -> None:
    """Also folded for export, where its gradient is traced; the file yields a complete run."""
    torch.manual_seed(4)
    state, mean = encoder_state(), torch.randn(CODE)
    torch.save(content_of(kind, state, mean), tmp_path / "ffhq.pt")
    assert main(["import", str(tmp_path / "ffhq.pt"), "--to", str(tmp_path / "run")]) == 0
    pipeline = load_pipeline(tmp_path / "run")
    assert pipeline.latent_discriminator.view == "layer"  # its mapping repeats one w
    image = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
    wanted = encode(state, image, kind, mean)
    folded = fold_encoder(pipeline.encoder)
    for found in (pipeline.encoder(image), folded(image)):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda y: folded(y).square().sum())(x)

    class Gradient(torch.nn.Module):
        forward = staticmethod(gradient)

    torch.testing.assert_close(trace(Gradient(), (image,))(image), gradient(image), rtol=1e-3, atol=1e-2)


def test_encoders_that_are_left_out_or_do_not_fit(tmp_path: Path) -> None:
    torch.manual_seed(4)
    state = encoder_state()
    other = content_of("BackboneEncoderUsingLastLayerIntoW", state, torch.zeros(CODE))
    torch.save(other, tmp_path / "w.pt")
    import_checkpoint(ImportConfig(tmp_path / "w.pt", tmp_path / "w"))
    assert load_meta(tmp_path / "w", "gan")["name"] == "w"
    content = content_of("Encoder4Editing", state, torch.zeros(CODE))
    weights = content["state_dict"]
    for changed, says in (
        ({"latent_avg": torch.zeros(5)}, "no latent_avg"),
        ({"state_dict": weights | {"encoder.surprise": torch.ones(1)}}, r"unknown \[encoder.surprise\]"),
        ({"state_dict": weights | {"encoder.styles.99.linear.bias": torch.ones(1)}}, "more layers"),
        ({"state_dict": weights | {"encoder.latlayer1.bias": torch.ones(1)}}, "latlayer1.bias"),
        (
            {"state_dict": weights | {"encoder.body.5.res_layer.1.weight": torch.ones(11, 10, 3, 3)}},
            r"missing \[encoder.body.5.shortcut",
        ),
    ):
        torch.save(content | changed, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=says):
            import_checkpoint(ImportConfig(tmp_path / "a.pt", tmp_path / "a"))
    assert not (tmp_path / "a").exists()
