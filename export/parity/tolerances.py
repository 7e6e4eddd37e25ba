"""How far a graph may be from its network, on how many samples that is looked at, and the error if it is farther."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_BATCH = 8
BATCH_PIXELS = 1 << 18  # of one batch: the activations of a refinement's backward pass must fit into memory


def sample_count(resolution: int) -> int:
    """How many samples to check with: the largest batch; fewer where pictures are large; at least two."""
    return max(2, min(LARGEST_BATCH, BATCH_PIXELS // resolution**2))


def batches(count: int) -> list[int]:
    """Sizes of the batches that `count` samples are checked in: one alone, some, all."""
    return sorted({1, (count + 1) // 3, count})


@dataclass(frozen=True)
class Tolerances:
    """How far a graph may be from its network."""

    relative: float = 1e-3
    """Codes and scores: largest difference, relative to the largest value."""
    picture_share: float = 0.999
    """Pictures: share of values within one level of 255."""
    gradient: float = 1.5e-4
    """First gradient of a refinement: length of its difference to float64's, relative to the gradient's, the lower
    quartile's; where PyTorch's float32 is farther from float64, half as much again as that. An epsilon that an exporter
    left out made 2e-4."""
    kink: float = 5e-2
    """The same, the worst sample's. Where an activation is zero but for rounding, its leaky ReLU may have either slope:
    such a sample is far from float64 in PyTorch or in ONNX Runtime, and neither is wrong. A trained bundle had 1.2e-2.
    A wrong rule for a derivative is wrong for every sample."""
    loss: float = 1e-3
    """Losses of a chunk's first steps, relative, the median sample's."""
    loss_worst: float = 5e-2
    """All losses of a chunk, the worst sample's, also in a batch against alone: after a kink L-BFGS goes another way.
    With a generator at 128 pixels PyTorch's float32 differed from its own float64 by 3e-4 after three steps and by up
    to 2e-2 after five. If a sample depended on another one it would be wrong by far more."""
    displacement: float = 2.5e-1
    """Codes after a chunk: length of the difference relative to the distance moved, the median sample's. Adam divides
    by the gradient's own size, so entries whose gradient is rounding noise may go either way. float32 differed from
    float64 by .13 there."""
    displacement_worst: float = 1.0
    """The same, the worst sample's: it may have met a kink on its way; .66 there."""
    batch: float = 1e-4
    """A sample in a batch against the sample alone, relative."""
    rounding: float = 5e-3
    """Codes of stored weights against the checkpoint's own, relative."""
    rounding_of_score: float = 5e-2
    """The same of scores. They are percentiles: the closer the logits of inversions lie together, the more a small
    change of a logit changes the score."""
    psnr_db: float = 40.0
    """Pictures of a graph that computes in 16 bits against those of float32: PSNR over all sampled codes."""


TOLERANCES = Tolerances()


class ParityError(ValueError):
    """A graph does not do what its network does; the message says which, where and by how much."""


def require(condition: bool, graph: str, what: str) -> None:
    """Raise ParityError about a graph unless `condition` holds. A comparison with NaN never holds."""
    if not condition:
        raise ParityError(f"parity: {graph}: {what}; nothing was written")
