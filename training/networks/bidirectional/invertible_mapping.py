"""A mapping network that can be run backwards: z -> w by couplings, and w -> z without error.

Source: Zhu et al., "LIA: Latently Invertible Autoencoder with Adversarial Learning" (arXiv 1906.08090), whose
invertible network stands where StyleGAN has its mapping. The couplings are those of RealNVP (Dinh et al., arXiv
1605.08803, equations 7 and 8).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from training.networks.layers import EqualizedLinear, before_activation, scaled_leaky_relu

RATE = 0.1  # multiplies the learning rate; couplings start at the identity, and 0.01 would hold them there


class Coupling(nn.Module):
    """Affine coupling, float [..., D] -> [..., D]: one half scales and shifts the other, and both change places.

    Scales lie within e^-0.5 .. e^0.5 and the start is the identity, so that rounding errors stay small on the way back.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = EqualizedLinear(size // 2, size, rate=RATE)
        self.affine = EqualizedLinear(size, size, rate=RATE)
        nn.init.zeros_(self.affine.weight)

    def _scale_and_shift(self, half: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.affine(scaled_leaky_relu(self.hidden(half))).chunk(2, -1)
        return torch.exp(torch.tanh(scale) / 2), shift

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, -1)
        scale, shift = self._scale_and_shift(kept)
        return torch.cat([changed * scale + shift, kept], -1)

    def inverse(self, y: Tensor) -> Tensor:
        """What `forward` made y of."""
        changed, kept = y.chunk(2, -1)
        scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (changed - shift) / scale], -1)


class InvertibleMapping(nn.Module):
    """z float32 [N, D] -> code float32 [N, L, D], which repeats one w of z's size, without truncation.

    It ends in the activation of the other mapping (`generator.Mapping`), which can be undone, too. It does not
    normalise z: the length of z would be lost.
    """

    def __init__(self, size: int, depth: int, layers: int) -> None:
        """`size`: D, even; `depth`: number of couplings; `layers`: L."""
        super().__init__()
        self.size, self.layers = size, layers
        self.couplings = nn.ModuleList(Coupling(size) for _ in range(depth))

    @property
    def last_inputs(self) -> int:
        """Number of inputs that a w is read back to: all of z."""
        return self.size

    def forward(self, z: Tensor) -> Tensor:
        x = z
        for coupling in self.couplings:
            x = coupling(x)
        return scaled_leaky_relu(x)[:, None].expand(-1, self.layers, -1)

    def inverse(self, w: Tensor) -> Tensor:
        """The z of each w: float32 [..., D] -> [..., D]. Of a code [N, L, D] it is one z for each layer's vector."""
        x = before_activation(w)
        for coupling in reversed(self.couplings):
            x = coupling.inverse(x)  # type: ignore[operator]
        return x


@torch.no_grad()
def without_parameters(mapping: InvertibleMapping) -> InvertibleMapping:
    """Make a copy that nothing trains and no checkpoint holds, as it follows from the mapping."""
    made = copy.deepcopy(mapping)
    for module in made.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
    return made
