"""The expression network is the original's: what the package's own code gives for the portrait."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.__main__ import main
from training.faces.expression import EXPRESSIONS, SIDE, ExpressionReader, face_crop

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"

# Logarithms of what the package's graph gives in tfjs (cpu) on the same 64 x 64 pixels, in the order of EXPRESSIONS.
REFERENCE = (-12.693, -23.519, -14.961, -0.000, -15.797, -14.550, -12.705)


def portrait(side: int) -> Image.Image:
    picture = Image.open(EXAMPLES / "portrait.png").convert("RGB")
    return picture.resize((side, side), Image.Resampling.BILINEAR)


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_it_reads_what_the_original_does() -> None:
    read = ExpressionReader()(as_tensor(portrait(SIDE))).log_softmax(1)[0]
    # The weights are kept as float16.
    np.testing.assert_allclose(read.numpy(), REFERENCE, atol=0.05)


def test_labels_are_log_odds_of_the_cropped_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, table = tmp_path / "faces", tmp_path / "labels.csv"
    data.mkdir()
    portrait(128).save(data / "a.png")
    portrait(128).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "b.png")
    assert main(["label", str(data), "--to", str(table)]) == 0
    assert "2 pictures" in capsys.readouterr().out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "b.png"]
    odds = np.array([[float(row[name]) for name in EXPRESSIONS] for row in rows])
    share = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-3)
    read = ExpressionReader()(face_crop(as_tensor(portrait(128)))).softmax(1)[0]
    np.testing.assert_allclose(share[0], read.numpy(), atol=1e-3)
    # A face that looks the other way has the same expression.
    assert odds[0].argmax() == odds[1].argmax()


def test_data_without_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", str(tmp_path), "--to", str(tmp_path / "labels.csv")]) == 2
    assert "no pictures" in capsys.readouterr().err
