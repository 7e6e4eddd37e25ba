"""A mapping network that can be run backwards: z -> w by couplings, and w -> z without error.

Source: Zhu et al., "LIA: Latently Invertible Autoencoder with Adversarial Learning" (arXiv 1906.08090), whose
invertible network stands where StyleGAN has its mapping. The couplings are those of RealNVP (Dinh et al., arXiv
1605.08803, equations 7 and 8); with labels y, each coupling also sees y (conditional coupling blocks, Ardizzone et al.,
arXiv 1907.02392), and is inverted for a y that is known.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from training.networks.conditional.labels import MappingNetwork
from training.networks.layers import EqualizedLinear, before_activation, scaled_leaky_relu

RATE = 0.1  # multiplies the learning rate; couplings start at the identity, and 0.01 would hold them there


class Coupling(nn.Module):
    """Affine coupling, float [..., D] -> [..., D]: one half scales and shifts the other, and both change places.

    Scales lie within e^-0.5 .. e^0.5 and the start is the identity, so that rounding errors stay small on the way back.
    """

    def __init__(self, size: int, labels: int = 0) -> None:
        super().__init__()
        self.hidden = EqualizedLinear(size // 2, size, rate=RATE)
        self.affine = EqualizedLinear(size, size, rate=RATE)
        nn.init.zeros_(self.affine.weight)
        self.label = EqualizedLinear(labels, size, rate=RATE) if labels else None

    def embedding(self, label: Tensor) -> Tensor:
        """What this coupling adds to its hidden layer for labels float [..., K] of -1..1."""
        assert self.label is not None
        embedded: Tensor = self.label(label)
        return embedded

    def _scale_and_shift(self, half: Tensor, embedded: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(half) if embedded is None else self.hidden(half) + embedded
        scale, shift = self.affine(scaled_leaky_relu(hidden)).chunk(2, -1)
        return torch.exp(torch.tanh(scale) / 2), shift

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        kept, changed = x.chunk(2, -1)
        scale, shift = self._scale_and_shift(kept, embedded)
        return torch.cat([changed * scale + shift, kept], -1)

    def inverse(self, y: Tensor, embedded: Tensor | None = None) -> Tensor:
        """What `forward` made y of."""
        changed, kept = y.chunk(2, -1)
        scale, shift = self._scale_and_shift(kept, embedded)
        return torch.cat([kept, (changed - shift) / scale], -1)


class InvertibleMapping(MappingNetwork):
    """z float32 [N, D] -> code float32 [N, L, D], which repeats one w of z's size, without truncation.

    It ends in the activation of the other mapping (`generator.Mapping`), which can be undone, too. It does not
    normalise z: the length of z would be lost. Labels y float32 [N, K] move z, and change what each coupling does.
    """

    def __init__(self, size: int, depth: int, layers: int, labels: tuple[str, ...] = ()) -> None:
        """`size`: D, even; `depth`: number of couplings; `layers`: L; `labels`: the names of K labels."""
        super().__init__(size, labels)
        self.size, self.layers = size, layers
        self.couplings = nn.ModuleList(Coupling(size, len(labels)) for _ in range(depth))
        self.offset = EqualizedLinear(len(labels), size) if labels else None

    def label_inputs(self) -> nn.Module:
        assert self.offset is not None
        return self.offset

    @property
    def last_inputs(self) -> int:
        """Number of inputs that a w is read back to: all of z."""
        return self.size

    def _embeddings(self, label: Tensor | None) -> list[Tensor | None]:
        if self.labels is None:
            return [None] * len(self.couplings)
        return [self.embedded(coupling.embedding, label) for coupling in self.couplings]  # type: ignore[arg-type]

    def from_z(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The w of each z: float32 [..., D] -> [..., D], with labels float32 [..., K]."""
        x = z if self.offset is None else z + self.embedded(self.offset, label)
        for coupling, embedded in zip(self.couplings, self._embeddings(label), strict=True):
            x = coupling(x, embedded)
        return scaled_leaky_relu(x)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.from_z(z, label)[:, None].expand(-1, self.layers, -1)

    def inverse(self, w: Tensor, label: Tensor | None = None) -> Tensor:
        """The z of each w, with labels float32 [..., K]: float32 [..., D] -> [..., D].

        Of a code [N, L, D] it is one z for each layer's vector; its labels are [N, 1, K].
        """
        x = before_activation(w)
        for coupling, embedded in reversed([*zip(self.couplings, self._embeddings(label), strict=True)]):
            x = coupling.inverse(x, embedded)  # type: ignore[operator]
        return x if self.offset is None else x - self.embedded(self.offset, label)

    def relabel(self, code: Tensor, held: Tensor, wanted: Tensor) -> Tensor:
        """What codes float [N, L, D] of the labels `held` are with those `wanted`, float [N, K]: each layer's vector by
        itself, f(f^-1(w_l; held); wanted)."""
        return self.from_z(self.inverse(code, held[:, None]), wanted[:, None])


@torch.no_grad()
def without_parameters(mapping: InvertibleMapping) -> InvertibleMapping:
    """Make a copy that nothing trains and no checkpoint holds, as it follows from the mapping."""
    made = copy.deepcopy(mapping)
    for module in made.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
    return made
