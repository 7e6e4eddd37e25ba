"""Labels of a conditional generator: binary attributes y in {0, 1}^K, or probabilities, beside z.

Sources: Odena et al., "Conditional Image Synthesis with Auxiliary Classifier GANs" (AC-GAN, arXiv 1610.09585); Perarnau
et al., "Invertible Conditional GANs for image editing" (IcGAN, arXiv 1611.06355).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Labels(nn.Module):
    """The names of K labels, and which share of the training pictures has each: the distribution that y is drawn from.

    Labels are drawn independently of each other.
    """

    frequency: Tensor

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.register_buffer("frequency", torch.full((len(names),), 0.5))  # [K]

    def draw(self, count: int, random: torch.Generator | None = None) -> Tensor:
        """Draw labels float32 [count, K] of 0 and 1, on the CPU."""
        chance = torch.rand(count, len(self.names), generator=random)
        return (chance < self.frequency.cpu()).float()

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take the frequencies from the labels of pictures, float32 [M, K], NaN where one is not known."""
        self.frequency.copy_(rows.nanmean(0).nan_to_num(0.5))


def signed(label: Tensor) -> Tensor:
    """Labels float [..., K] of 0..1 as inputs of a network: -1..1."""
    return 2 * label - 1


class MappingNetwork(nn.Module):
    """What mapping networks of both kinds take: z float32 [N, z_size], and in a conditional generator y float32 [N, K].

    `labels` is None in a generator without labels.
    """

    def __init__(self, z_size: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.z_size = z_size
        self.labels = Labels(names) if names else None

    def draw(self, count: int, random: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw the inputs for `count` samples, on the CPU: (z,) or (z, y)."""
        z = torch.randn(count, self.z_size, generator=random)
        return (z,) if self.labels is None else (z, self.labels.draw(count, random))

    def label_inputs(self) -> nn.Module:
        """The layer through which labels come in beside z."""
        raise NotImplementedError

    def begin_without_labels(self) -> None:
        """Let labels mean nothing until they are learned.

        Otherwise z hardly counts beside them at first, and a generator that has found one picture for each label stays
        with them (Shahbazi et al., "Collapse by Conditioning", arXiv 2201.06578).
        """
        for weight in self.label_inputs().parameters():
            nn.init.zeros_(weight)

    def embedded(self, embedding: nn.Module, label: Tensor | None) -> Tensor:
        """What `embedding` makes of labels float [..., K]. Raises ValueError where there are none."""
        if label is None:
            assert self.labels is not None
            raise ValueError(f"the generator has labels ({', '.join(self.labels.names)}) and takes z and y")
        return embedding(signed(label))
