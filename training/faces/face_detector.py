"""Finds faces on a picture, and their eyes, noses and mouths: YuNet, frozen.

It aligns photographs for encoders that were trained on aligned faces; nothing is trained against it. Source: `yunet_n`
of ShiqiYu/libfacedetection.train (Apache-2.0; Wu, Peng, Yu, "YuNet: A tiny millisecond-level face detector", Machine
Intelligence Research 20, 2023); see weights/SOURCE.md. `python -m training.faces.face_detector
weights/yunet_n.pth` writes the weights again from that project's checkpoint.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parents[1] / "weights" / "face_detector.safetensors"
STRIDES = (8, 16, 32)  # pixels between two places that are judged; large strides find large faces
CHANNELS = 64
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left and right of the picture
VALUES = 1 + 4 + 2 * len(LANDMARKS)  # a place's: score; left, top, right, bottom; x and y of each landmark


class Separable(nn.Sequential):
    """A 1 x 1 convolution and a depthwise 3 x 3 one, without an activation between them."""

    def __init__(self, inputs: int, outputs: int, activation: bool = True) -> None:
        convolutions = (
            nn.Conv2d(inputs, outputs, 1),
            nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs),
        )
        super().__init__(*convolutions, *([nn.ReLU()] if activation else []))


class Stem(nn.Sequential):
    """The first layers, which halve the picture's sides."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2, padding=1), nn.ReLU(), Separable(16, 16))


class Head(nn.Module):
    """Predicts class, objectness, box and landmarks for each place of one stride."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Separable(CHANNELS, CHANNELS)
        self.face = Separable(CHANNELS, 1, activation=False)
        self.object = Separable(CHANNELS, 1, activation=False)
        self.box = Separable(CHANNELS, 4, activation=False)
        self.landmarks = Separable(CHANNELS, 2 * len(LANDMARKS), activation=False)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """Features float [N, 64, H, W] -> float [N, H * W, 15], in the picture's pixels."""
        x = self.shared(x)
        y_place = torch.arange(x.shape[2], dtype=x.dtype)[:, None].expand(x.shape[2], x.shape[3])
        x_place = torch.arange(x.shape[3], dtype=x.dtype)[None, :].expand(x.shape[2], x.shape[3])
        place = torch.stack([x_place, y_place])  # [2, H, W], in strides
        score = (self.face(x).sigmoid() * self.object(x).sigmoid()).sqrt()
        box = self.box(x)
        centre, half = box[:, :2] + place, box[:, 2:].exp() / 2
        points = self.landmarks(x) + place.repeat(len(LANDMARKS), 1, 1)
        values = torch.cat([score / stride, centre - half, centre + half, points], 1) * stride
        return values.flatten(2).transpose(1, 2)


class FaceDetector(nn.Module):
    """Frozen detector: float [N, 3, H, W], RGB in [-1, 1], sides divisible by 32 -> float [N, P, 15].

    There is a row for each of P places: (H / 8) (W / 8) of the first stride, and so on. It holds a score in 0..1; left,
    top, right, bottom; x, y of both eyes, the nose's tip and both corners of the mouth, in pixels. Most places have no
    face, and several may find the same one: whoever reads the rows keeps the highest scores and drops what overlaps.
    """

    pretrained = True  # checkpoints leave it out

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        channels = (16, 64, 64, 64, 64, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(Separable(inputs, inputs), Separable(inputs, outputs))
            for inputs, outputs in pairwise(channels)
        )
        self.lateral = nn.ModuleList(Separable(CHANNELS, CHANNELS) for _ in STRIDES)
        self.heads = nn.ModuleList(Head() for _ in STRIDES)
        self.load_state_dict(load_file(WEIGHTS))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        # It was trained on BGR in 0..255.
        x = F.max_pool2d(self.stem(((image + 1) * 127.5).flip(1)), 2)
        x = self.stages[1](self.stages[0](x))
        features = []
        for stage in self.stages[2:]:
            x = stage(F.max_pool2d(x, 2))
            features.append(x)
        rows: list[Tensor] = []
        above: Tensor | None = None
        for x, lateral, head, stride in reversed(
            list(zip(features, self.lateral, self.heads, STRIDES, strict=True))
        ):
            x = x if above is None else x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = lateral(x)
            rows.insert(0, head(above, stride))
        return torch.cat(rows, 1)


# --- weights ------------------------------------------------------------------------------------------------


def folded_state(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make FaceDetector's state of the original checkpoint's: each batch norm is folded into its convolution."""
    state = {}

    def convolution(name: str, to: str, norm: str = "") -> None:
        weight, bias = stored[f"{name}.weight"], stored[f"{name}.bias"]
        if norm:
            gain = stored[f"{norm}.weight"] / (stored[f"{norm}.running_var"] + 1e-5).sqrt()
            weight = weight * gain[:, None, None, None]
            bias = (bias - stored[f"{norm}.running_mean"]) * gain + stored[f"{norm}.bias"]
        state[f"{to}.weight"], state[f"{to}.bias"] = weight.contiguous(), bias.contiguous()

    def separable(name: str, to: str, norm: bool = True) -> None:
        convolution(f"{name}.conv1", f"{to}.0")
        convolution(f"{name}.conv2", f"{to}.1", f"{name}.bn" if norm else "")

    convolution("backbone.model0.conv1", "stem.0", "backbone.model0.bn1")
    separable("backbone.model0.conv2", "stem.2")
    for n in range(5):
        separable(f"backbone.model{n + 1}.conv1", f"stages.{n}.0")
        separable(f"backbone.model{n + 1}.conv2", f"stages.{n}.1")
    for n in range(len(STRIDES)):
        separable(f"neck.lateral_convs.{n}", f"lateral.{n}")
        separable(f"bbox_head.multi_level_share_convs.{n}.0", f"heads.{n}.shared")
        for theirs, ours in (("cls", "face"), ("obj", "object"), ("bbox", "box"), ("kps", "landmarks")):
            separable(f"bbox_head.multi_level_{theirs}.{n}", f"heads.{n}.{ours}", norm=False)
    return state


def write_weights(checkpoint: tyro.conf.Positional[Path], output: Path = WEIGHTS) -> None:
    """Write the weights file from `weights/yunet_n.pth` of the original project."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    save_file(folded_state(stored["state_dict"]), output)


if __name__ == "__main__":
    tyro.cli(write_weights)
