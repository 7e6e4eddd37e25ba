"""The latent discriminator D_w of force-in-domain inversion: codes float [N, L, 512] -> logits, high for "native".

Native codes are those that the mapping network gives. Codes of an encoder are what it tells them from.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.adversarial import Discriminator, r1_penalty
from training.networks.bidirectional.invertible_mapping import InvertibleMapping, without_parameters
from training.networks.generator import Mapping
from training.networks.layers import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    EqualizedLinear,
    before_activation,
    scaled_leaky_relu,
)


class NativeCoordinates(nn.Module):
    """A code seen through the inverse of the mapping's last layer: float [N, L, 512] -> [N, I + L].

    The first I coordinates are the inputs of that layer which explain the code best, standardised. For a native code
    they are what the layer was really given (z itself where the mapping has one layer). An invertible mapping is
    inverted as a whole: there they are the z of the nearest native code, which repeats the mean of the vectors.

    The other L say how far each layer's vector is from any that the mapping can give: log(1 + (r / 0.1)^2) / 2, with
    the distance r in units of the native codes' spread; 0 for native codes. It is a logarithm, and starts at a tenth,
    because a discriminator that sees the distance itself is certain at once, and then teaches nothing.
    """

    NEAR = 0.1
    offset: Tensor
    spread: Tensor
    basis: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layers: int, code_size: int, inputs: int) -> None:
        super().__init__()
        self.layers = layers
        entries = layers * code_size
        for name, shape in {
            # mean and spread of what the leaky ReLU is given
            "offset": (entries,), "spread": (entries,),
            # orthonormal columns that span what the layer can give, standardised
            "basis": (entries, inputs),
            # lengths along these -> standardised inputs
            "weight": (inputs, inputs), "bias": (inputs,),
        }.items():  # fmt: skip
            initial = torch.ones(shape) if name == "spread" else torch.zeros(shape)
            # All of it follows from the mapping: checkpoints leave it out, and `fit` makes it again.
            self.register_buffer(name, initial, persistent=False)
        self.exact: InvertibleMapping | None = None

    @torch.no_grad()
    def fit(self, mapping: Mapping | InvertibleMapping, samples: int = 10_000) -> NativeCoordinates:
        """Invert the last layer of `mapping`, or all of an invertible one, with statistics over that many sampled
        codes; return self. Raises ValueError for an invertible mapping with labels, as y is not known of a code."""
        if isinstance(mapping, InvertibleMapping):
            return self._fit_exactly(mapping, samples)
        (*_, last) = mapping.layers
        assert isinstance(last, EqualizedLinear)
        repeats = 1 if mapping.config.per_layer_code else self.layers
        weight = (last.weight * last.weight_scale).repeat(repeats, 1)  # [L * 512, I]
        self.offset.copy_((last.bias * last.bias_scale).repeat(repeats))
        random = torch.Generator().manual_seed(0)
        drawn = [latent.to(weight.device) for latent in mapping.draw(samples, random)]
        # What the leaky ReLU is given is linear in these, so that its statistics follow from theirs.
        given = mapping.before_last(*drawn).double()
        covariance = torch.cov(given.T)
        weight = weight.double()
        self.spread.copy_(((weight @ covariance) * weight).sum(1).sqrt() + 1e-6)
        weight = weight / self.spread[:, None]
        # The singular values by way of the I x I products, which is many times faster. Inputs that hardly move a code
        # cannot be read off it: singular values below 1e-4 of the largest are cut off.
        squares, vectors = torch.linalg.eigh(weight.T @ weight)
        vectors, values = (
            vectors[:, squares > 1e-8 * squares[-1]],
            squares[squares > 1e-8 * squares[-1]].sqrt(),
        )
        basis, inverse = weight @ vectors / values, vectors / values
        inputs = given @ (weight.T @ basis) @ inverse.T
        mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6
        kept = len(values)
        self.basis.zero_()[:, :kept] = basis.float()
        self.weight.zero_()[:, :kept] = (inverse / deviation[:, None]).float()
        self.bias.copy_(-mean / deviation)
        return self

    def _fit_exactly(self, mapping: InvertibleMapping, samples: int) -> NativeCoordinates:
        if mapping.labels is not None:
            raise ValueError(
                "an invertible mapping with labels leads no code back without them; give --latent-discriminator-view "
                "layer, and no weight of prior or residual"
            )
        self.exact = without_parameters(mapping)
        self.offset.zero_()
        self.spread.fill_(1)
        z = torch.randn(samples, mapping.size, generator=torch.Generator().manual_seed(0))
        self.spread.copy_(self.preceding(mapping(z.to(self.spread.device))).std(0) + 1e-6)
        return self

    def preceding(self, code: Tensor) -> Tensor:
        """The standardised input of the mapping's last leaky ReLU, for a code: float [N, L * 512]."""
        return (before_activation(code.flatten(1)) - self.offset) / self.spread

    def forward(self, code: Tensor) -> Tensor:
        inputs, residual = self.split(code)
        squared = residual.unflatten(1, (self.layers, -1)).square().mean(2)
        return torch.cat([inputs, torch.log(1 + squared / self.NEAR**2) / 2], 1)

    def split(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Split a code into the inputs float [N, I] of the native code nearest to it and its residual float
        [N, L * 512]: what it has beyond that native code, in standard deviations, before the last leaky ReLU."""
        x = self.preceding(code)
        if self.exact is not None:
            rows = x.unflatten(1, (self.layers, -1))
            # All rows have one spread, so that the mean is the nearest vector to them.
            nearest = rows.mean(1)
            inputs = self.exact.inverse(scaled_leaky_relu(nearest * self.spread[: self.exact.size]))
            return inputs, (rows - nearest[:, None]).flatten(1)
        lengths = x @ self.basis
        return F.linear(lengths, self.weight, self.bias), x - F.linear(lengths, self.basis)

    def with_residual(self, code: Tensor, share: Tensor | float) -> Tensor:
        """The code float [N, L, 512] with that share of its residual: at 0 it is native, at 1 it is unchanged."""
        _, residual = self.split(code)
        x = self.preceding(code) - residual * (1 - share)
        return scaled_leaky_relu(x * self.spread + self.offset).view_as(code)


LatentDiscriminatorView = Literal["joint", "layer", "native"]


class LatentDiscriminator(Discriminator):
    """D_w: tells mapping(z), z ~ N(0, I), from E(x). Code float [N, L, 512] -> logits [N, 1] or [N, L].

    Four linear layers of 512 with leaky ReLU (e4e, arXiv 2102.02766); non-saturating loss and R1. The view says what
    it sees of a code:

    - `joint`: all layers' vectors at once. Right where W+ is native.
    - `layer`: one layer's vector at a time, for generators that repeat one w. Gives a logit a layer.
    - `native`: the code through the inverse of the mapping's last layer, or of an invertible mapping, which has
      `inputs` inputs. Its
      `NativeCoordinates` must be fitted to that mapping.

    Codes are standardised with the mean and deviation of sampled codes float [L, 512], so that every entry weighs
    alike.
    """

    regularised = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        mean: Tensor,
        deviation: Tensor,
        view: LatentDiscriminatorView = "joint",
        width: int = 512,
        inputs: int = 512,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())  # [L, 512]
        self.register_buffer("deviation", deviation.clone())
        self.view = view
        if view == "native":
            self.native = NativeCoordinates(mean.shape[0], mean.shape[1], inputs)
        seen = {"joint": mean.numel(), "layer": mean.shape[1], "native": inputs + len(mean)}[view]
        widths = [seen, width, width, width]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [EqualizedLinear(a, b), nn.LeakyReLU(LEAKY_SLOPE), Scale(ACTIVATION_GAIN)]
        logit = EqualizedLinear(width, 1)
        # It starts without an opinion: a random one would first drive the encoder away.
        nn.init.zeros_(logit.weight)
        self.layers = nn.Sequential(*layers, logit)

    def standardise(self, code: Tensor) -> Tensor:
        """Codes float [N, L, 512] in units of the sampled codes' spread, around their mean."""
        return (code - self.mean) / self.deviation

    def coordinates(self, code: Tensor) -> Tensor:
        """What the discriminator sees of codes: float [N, D], or [N, L, 512] for the view `layer`."""
        if self.view == "native":
            return self.native(code)
        x = self.standardise(code)
        return x if self.view == "layer" else x.flatten(1)

    def judge(self, x: Tensor) -> Tensor:
        """Logits of coordinates."""
        return self.layers(x).squeeze(2) if self.view == "layer" else self.layers(x)

    def forward(self, code: Tensor) -> Tensor:
        return self.judge(self.coordinates(code))

    def compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        logits = self(torch.cat([real, fake]))
        return logits[: len(real)], logits[len(real) :]

    def regulariser(self, real: Tensor) -> Tensor:
        """R1 on native codes, in standardised coordinates, so that gamma means the same for every generator."""
        return r1_penalty(self.judge, self.coordinates(real))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def default_view(per_layer_code: bool) -> LatentDiscriminatorView:
    """The view to train with where none is asked for.

    Where the mapping repeats one w, judging all layers together would press the codes of W+ into W.
    """
    return "native" if per_layer_code else "layer"
