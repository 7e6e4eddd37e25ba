"""Perceptual distances between pictures: LPIPS-sq (default) and VGG16 features (when the user names a weights file).

Both have `features`, which a refinement computes once for its target, and `between`, the distance of two feature lists.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
NORM_EPSILON = 1e-8


class CaffeInput(nn.Module):
    """RGB float [N, 3, H, W] in [-1, 1] -> BGR in 0..255 with the ImageNet mean subtracted."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A buffer, as a constant that is made in the step could not be captured in a CUDA graph.
        self.register_buffer("mean", torch.tensor(CAFFE_MEAN_BGR)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image.flip(1) + 1) * 127.5 - self.mean.to(image.dtype)


class Fire(nn.Module):
    """SqueezeNet's fire module."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        s = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(s)), F.relu(self.expand3(s))], 1)


class LPIPSSq(nn.Module):
    """LPIPS (Zhang et al., arXiv 1801.03924) on SqueezeNet 1.1, frozen; weights/SOURCE.md explains the name "sq".

    Pictures float [N, 3, H, W] in [-1, 1], H at least 32; distance float [N].
    """

    pretrained = True  # checkpoints leave it out

    def __init__(self) -> None:
        super().__init__()
        self.input = CaffeInput()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        widths = {
            2: (64, 16, 64),
            3: (128, 16, 64),
            4: (128, 32, 128),
            5: (256, 32, 128),
            6: (256, 48, 192),
            7: (384, 48, 192),
            8: (384, 64, 256),
            9: (512, 64, 256),
        }
        for i, (a, b, c) in widths.items():
            self.add_module(f"fire{i}", Fire(a, b, c))
        for i, c in enumerate((64, 128, 256, 384, 384, 512, 512)):
            self.register_buffer(f"head{i}", torch.zeros(c))
        self.load_state_dict(load_file(Path(__file__).parents[1] / "weights" / "lpips_squeeze.safetensors"))
        # With the root of the heads on the features, the weighted distance becomes a plain one.
        for i in range(7):
            self.get_buffer(f"head{i}").sqrt_()
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Features at seven depths of the network, normalised over channels and weighted."""
        taps = []
        x = F.relu(self.conv1(self.input(image)))
        taps.append(x)
        for i in range(2, 10):
            if i in (2, 4, 6):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self.get_submodule(f"fire{i}")(x)
            if i not in (2, 4):
                taps.append(x)
        return [
            x
            * torch.rsqrt(x.square().sum(1, keepdim=True) + NORM_EPSILON)
            * self.get_buffer(f"head{i}")[:, None, None]
            for i, x in enumerate(taps)
        ]

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Distance float [N] of two feature lists. `mask` float [N, 1, H, W], resized to each depth, weighs places."""
        total: Tensor | float = 0.0
        for x, y in zip(a, b, strict=True):
            error = (x - y).square().sum(1, keepdim=True)
            if mask is None:
                total = total + error.mean((1, 2, 3))
            else:
                weight = (
                    F.adaptive_avg_pool2d(mask, (x.shape[2], x.shape[3]))
                    if x.shape[2:] != mask.shape[2:]
                    else mask
                )
                total = total + (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) + 1e-6)
        assert isinstance(total, Tensor)
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.between(self.features(a), self.features(b))


class VGG16Conv43(nn.Module):
    """Mean squared difference of VGG16's conv4_3 features times 5e-5: the in-domain paper's perceptual term.

    `weights`: a safetensors file, or a .pth of plain tensors, with torchvision's names (`features.0.weight` ...).
    Raises ValueError where it lacks some.
    """

    pretrained = True
    SCALE = 5e-5

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.input = CaffeInput()
        state = (
            load_file(weights)
            if weights.suffix == ".safetensors"
            else torch.load(weights, map_location="cpu", weights_only=True)
        )
        layers: list[nn.Module] = []
        inputs = 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512):
            layers += [nn.MaxPool2d(2)] if width == 0 else [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width or inputs
        self.layers = nn.Sequential(*layers)
        own = {f"features.{k}": v for k, v in self.layers.state_dict().items()}
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ValueError(f"{weights} is no VGG16: it lacks {', '.join(missing)}")
        self.layers.load_state_dict({k.removeprefix("features."): state[k] for k in own})
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """The features of conv4_3 after its ReLU."""
        return [self.layers(self.input(image))]

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Distance float [N] of two feature lists. `mask` float [N, 1, H, W] weighs places."""
        error = (a[0] - b[0]).square().mean(1, keepdim=True)
        if mask is None:
            return self.SCALE * error.mean((1, 2, 3))
        weight = F.adaptive_avg_pool2d(mask, (error.shape[2], error.shape[3]))
        return self.SCALE * (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) + 1e-6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.between(self.features(a), self.features(b))
