"""Changes the label of a code: IcGAN's edit in the space of codes (Perarnau et al., arXiv 1611.06355).

IcGAN encodes a picture to the pair (z, y) and edits it by changing y. Where the mapping is invertible for a known y, z
follows from the code exactly; where it has one layer, z and y add up before its activation, and z need not be known.
Only y has to be read off the code: E_y(w), learned from samples, whose y is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.losses.adversarial import label_loss
from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.generator import Mapping

STEPS, BATCH, RATE = 500, 256, 2e-3
HELD_OUT = 10_000  # sampled codes that the accuracy is measured on
MOST_NOISE = 0.5  # in deviations of sampled codes; codes of photographs are not quite native


class LabelReader(nn.Module):
    """E_y: code float [N, L, D] -> how probable each label is, float [N, K] in 0..1.

    Where the mapping repeats one w, each layer's vector is read by itself, and the mean of their logits counts. Where
    it gives each layer its own, all are read at once, by a logistic regression: before the activation, which is nearly
    linear, such codes are a Gaussian about the mean of their labels.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, codes: Tensor, labels: int, width: int = 256) -> None:
        """`codes`: sampled ones float [M, L, D], whose statistics standardise what is read."""
        super().__init__()
        self.repeats = bool((codes == codes[:, :1]).all())
        self.register_buffer("mean", codes.mean(0))
        self.register_buffer("deviation", codes.std(0) + 1e-6)
        size = codes.shape[2]
        self.layers = (
            nn.Sequential(
                *(nn.Linear(size, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)),
                nn.Linear(width, labels),
            )
            if self.repeats
            else nn.Linear(codes[0].numel(), labels)
        )

    def logits(self, code: Tensor) -> Tensor:
        """float [N, K], high for 1."""
        x = (code - self.mean) / self.deviation
        logits: Tensor = self.layers(x).mean(1) if self.repeats else self.layers(x.flatten(1))
        return logits

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(code))


def fit_label_reader(mapping: Mapping | InvertibleMapping, seed: int = 0) -> tuple[LabelReader, Tensor]:
    """Learn E_y from sampled (y, z) -> w, some with noise; return it with its accuracy on others, float [K]."""
    random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def sampled(count: int) -> tuple[Tensor, Tensor]:
        z, label = mapping.draw(count, random)
        return mapping(z, label), label

    codes, _ = sampled(HELD_OUT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = LabelReader(codes, len(mapping.labels.names) if mapping.labels else 0)
    optimiser = torch.optim.Adam(reader.parameters(), RATE)
    for _ in range(STEPS):
        code, label = sampled(BATCH)
        strength = MOST_NOISE * torch.rand(BATCH, 1, 1, generator=random)
        # Of one w that is repeated the noise is repeated, too.
        rows = 1 if reader.repeats else code.shape[1]
        noise = torch.randn(BATCH, rows, code.shape[2], generator=random)
        loss = label_loss(reader.logits(code + strength * reader.deviation * noise), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    reader.eval().requires_grad_(False)
    code, label = sampled(HELD_OUT)
    return reader, ((reader(code) > 0.5) == (label > 0.5)).float().mean(0)


class Relabeller(nn.Module):
    """Gives the layers' vectors of a code another label, by the mapping that they are of, and E_y.

    code float [N, L + R, D], label float [N, K] in 0..1, below 0 where it stays as it is -> code, whose rows of detail
    stay as they are. Where all labels stay, so does the code.
    """

    def __init__(self, mapping: Mapping | InvertibleMapping, reader: LabelReader) -> None:
        super().__init__()
        self.mapping, self.reader = mapping, reader
        self.rows = len(reader.mean)

    def forward(self, code: Tensor, label: Tensor) -> Tensor:
        rows = code[:, : self.rows]
        held = self.reader(rows)
        wanted = torch.where(label < 0, held, label)
        return torch.cat([self.mapping.relabel(rows, held, wanted), code[:, self.rows :]], 1)
