"""A generator's own pictures as a data set."""

from __future__ import annotations

import torch
from torch import Tensor

from training.networks.generator import Generator


class Samples:
    """Pictures of a generator as a data set without end: every index has its z, and labels if the generator has any."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.device = next(generator.parameters()).device

    def __len__(self) -> int:
        return 1 << 31

    @torch.no_grad()
    def batch(self, index: Tensor, *, mirror: bool | Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1] of the z at `index` [N], mirrored where a bool [N] says so."""
        mapping = self.generator.mapping
        drawn = zip(*(mapping.draw(1, torch.Generator().manual_seed(int(i))) for i in index), strict=True)
        codes = mapping(*(torch.cat(latents).to(self.device) for latents in drawn))
        images = torch.cat([self.generator.synthesis(part).clamp(-1, 1) for part in codes.split(16)]).float()
        flip = mirror if isinstance(mirror, Tensor) else torch.full((len(index),), mirror)
        images[flip.to(self.device)] = images[flip.to(self.device)].flip(3)
        return images.contiguous(memory_format=torch.channels_last)
