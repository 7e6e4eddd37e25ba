"""Changes the label of a code: IcGAN's edit in the space of codes (Perarnau et al., arXiv 1611.06355).

IcGAN encodes a picture to the pair (z, y) and edits it by changing y. Where the mapping is invertible for a known y, z
follows from the code exactly, and only y has to be read off it: E_y(w), learned from samples, whose y is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.losses.adversarial import label_loss
from training.networks.bidirectional.invertible_mapping import InvertibleMapping

STEPS, BATCH, RATE = 500, 256, 2e-3
HELD_OUT = 10_000  # sampled codes that the accuracy is measured on
MOST_NOISE = 0.5  # in deviations of sampled codes; codes of photographs are not quite native


class LabelReader(nn.Module):
    """E_y: code float [N, L, D] -> how probable each label is, float [N, K] in 0..1.

    Each layer's vector is read by itself, and the mean of their logits counts.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, w: Tensor, labels: int, width: int = 256) -> None:
        """`w`: sampled vectors float [M, D], whose statistics standardise what is read."""
        super().__init__()
        size = w.shape[1]
        self.register_buffer("mean", w.mean(0))
        self.register_buffer("deviation", w.std(0) + 1e-6)
        self.layers = nn.Sequential(
            *(nn.Linear(size, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)),
            nn.Linear(width, labels),
        )

    def logits(self, code: Tensor) -> Tensor:
        """float [N, K], high for 1."""
        return self.layers((code - self.mean) / self.deviation).mean(1)

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(code))


def fit_label_reader(mapping: InvertibleMapping, seed: int = 0) -> tuple[LabelReader, Tensor]:
    """Learn E_y from sampled (y, z) -> w, some with noise; return it with its accuracy on others, float [K]."""
    random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def sampled(count: int) -> tuple[Tensor, Tensor]:
        z, label = mapping.draw(count, random)
        return mapping.from_z(z, label), label

    w, _ = sampled(HELD_OUT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = LabelReader(w, len(mapping.labels.names) if mapping.labels else 0)
    optimiser = torch.optim.Adam(reader.parameters(), RATE)
    for _ in range(STEPS):
        w, label = sampled(BATCH)
        strength = MOST_NOISE * torch.rand(BATCH, 1, generator=random)
        w = w + strength * reader.deviation * torch.randn(w.shape, generator=random)
        loss = label_loss(reader.logits(w[:, None]), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    reader.eval().requires_grad_(False)
    w, label = sampled(HELD_OUT)
    return reader, ((reader(w[:, None]) > 0.5) == (label > 0.5)).float().mean(0)


class Relabeller(nn.Module):
    """Gives each layer's vector w_l of a code another label: f(f^-1(w_l; E_y(w)); y).

    code float [N, L + R, D], label float [N, K] in 0..1, below 0 where it stays as it is -> code, whose rows of detail
    stay as they are. Where all labels stay, so does the code.
    """

    def __init__(self, mapping: InvertibleMapping, reader: LabelReader) -> None:
        super().__init__()
        self.mapping, self.reader = mapping, reader

    def forward(self, code: Tensor, label: Tensor) -> Tensor:
        rows = code[:, : self.mapping.layers]
        held = self.reader(rows)
        wanted = torch.where(label < 0, held, label)
        z = self.mapping.inverse(rows, held[:, None])
        return torch.cat([self.mapping.from_z(z, wanted[:, None]), code[:, self.mapping.layers :]], 1)
