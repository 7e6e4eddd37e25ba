"""The objective and the torch loop of the domain-regularised optimisation, on toy networks."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der
from torch import Tensor, nn

from training.refinement.objective import Objective, Weights, masked_mean_square, to_float
from training.refinement.optimisers import LBFGS, OPTIMISERS, Adam, OptimiserName
from training.refinement.refinement import RefinementConfig, refine
from training.refinement.refiner import Refiner
from training.refinement.searches import Search

L, SIZE, H = 2, 12, 4


class ToySynthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(L * SIZE, 3 * H * H)

    def forward(self, code: Tensor) -> Tensor:
        return self.linear(code.flatten(1)).tanh().view(-1, 3, H, H)


class ToyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * H * H, L * SIZE)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.flatten(1)).view(-1, L, SIZE)


class ToyPerceptual(nn.Module):
    def features(self, image: Tensor) -> list[Tensor]:
        return [image.diff(dim=3)]

    def between(self, a: list[Tensor], b: list[Tensor], mask: Tensor | None = None) -> Tensor:
        error = (a[0] - b[0]).square()
        return (error if mask is None else error * mask[..., 1:]).mean((1, 2, 3))


@pytest.fixture
def objective() -> Objective:
    torch.manual_seed(0)
    return Objective(ToySynthesis(), ToyEncoder(), ToyPerceptual(), 0.25).requires_grad_(False)


def chunk_inputs(code: Tensor, target: Tensor, config: RefinementConfig) -> list[Tensor]:
    n, shapes = len(code), OPTIMISERS[config.optimiser].shapes((L, SIZE))
    state = {name: torch.zeros(n, *shape) for name, shape in shapes.items()} | {"code": code}
    settings = config.settings.values()
    return [*state.values(), target, torch.ones(n, H, H, 1), *(torch.full((n, 1), s) for s in settings)]


def test_terms_and_weights(objective: Objective) -> None:
    """equation 3: pixel + perceptual + domain, the last in units of the codes' variance."""
    code, image = torch.randn(3, L, SIZE), torch.rand(3, 3, H, H)
    target = objective.target(image)
    made = objective.synthesis(code)
    pixel = (made - image).square().mean((1, 2, 3))
    domain = (code - objective.encoder(made)).square().mean((1, 2)) / 0.25
    torch.testing.assert_close(objective(code, target, Weights(1, 0, 0)), pixel)
    torch.testing.assert_close(objective(code, target, Weights(0, 0, 1)), domain)
    perceptual = objective(code, target, Weights(0, 1, 0))
    torch.testing.assert_close(
        objective(code, target, Weights(2, 3, 4)), 2 * pixel + 3 * perceptual + 4 * domain
    )


def test_identity_is_the_squared_distance_of_descriptors_of_what_is_compared() -> None:
    torch.manual_seed(0)

    class Descriptor(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.normalize(image.flatten(1))

    objective = Objective(ToySynthesis(), ToyEncoder(), ToyPerceptual(), 0.25, descriptor=Descriptor())
    code, image = torch.randn(3, L, SIZE), torch.rand(3, 3, H, H)
    made = objective.synthesis(code)
    both = [nn.functional.normalize(x.flatten(1)) for x in (made, image)]
    found = objective(code, objective.target(image), Weights(0, 0, 0, identity=2))
    torch.testing.assert_close(found, 2 * (2 - 2 * (both[0] * both[1]).sum(1)))
    mask = torch.zeros(3, 1, H, H)
    mask[..., :2] = 1
    other = torch.where(mask > 0, image, torch.rand(3, 3, H, H))
    masked = [
        objective(code, objective.target(x, mask), Weights(0, 0, 0, identity=1)) for x in (image, other)
    ]
    torch.testing.assert_close(*masked)
    # Places that count ten times, as under strokes, are shown to the descriptor as they are.
    weighed = 10 * mask + (1 - mask)
    found = objective(code, objective.target(image, weighed), Weights(0, 0, 0, identity=1))
    torch.testing.assert_close(found, objective(code, objective.target(image), Weights(0, 0, 0, identity=1)))


@pytest.mark.parametrize("known", [{"grey": True}, {"downsampling": 4}])
def test_what_is_not_known_is_not_compared(objective: Objective, known: dict[str, bool | int]) -> None:
    code, image = torch.randn(3, L, SIZE), torch.rand(3, 3, H, H)
    config = RefinementConfig(steps=10, learning_rate=0.1, domain_weight=0.0, perceptual_weight=0.0, **known)
    measure = config.measurement(image)
    found = refine(objective, code, image, config)
    torch.testing.assert_close(refine(objective, code, measure(image), config).losses, found.losses)
    error = measure(objective.synthesis(found.code)) - measure(image)
    torch.testing.assert_close(error.square().mean((1, 2, 3)), found.best_loss)
    assert (found.best_loss < 0.5 * found.losses[:, 0]).all()


def test_mask_weighs_places() -> None:
    error = torch.ones(1, 3, H, H)
    error[..., 2:] = 9
    mask = torch.ones(1, 1, H, H)
    mask[..., 2:] = 0
    torch.testing.assert_close(masked_mean_square(error, mask), torch.ones(1))
    assert masked_mean_square(error, 0 * mask).item() == 0


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_chunk_equals_the_plain_loop(objective: Objective, optimiser: OptimiserName) -> None:
    config = RefinementConfig(optimiser, steps=4, chunk_steps=4, learning_rate=0.05)
    code = torch.randn(3, L, SIZE)
    target = torch.randint(0, 256, (3, H, H, 3), dtype=torch.uint8)
    refiner = Refiner(objective, OPTIMISERS[optimiser], (L, SIZE), 4, config.settings)
    next_code, *_, losses, best_code, best_loss = refiner(*chunk_inputs(code, target, config))
    plain = refine(objective, code, to_float(target), config)
    torch.testing.assert_close(losses, plain.losses[:, :4], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(next_code, plain.last_code, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(best_loss[:, 0], losses.min(1).values)
    assert best_code.shape == code.shape


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_samples_do_not_meet(objective: Objective, optimiser: OptimiserName) -> None:
    config = RefinementConfig(optimiser, steps=8, learning_rate=0.05)
    code, image = torch.randn(3, L, SIZE), torch.rand(3, 3, H, H)
    together = refine(objective, code, image, config)
    alone = refine(objective, code[1:2], image[1:2], config)
    torch.testing.assert_close(together.losses[1:2], alone.losses, rtol=1e-4, atol=1e-6)


def test_adam_is_pytorchs(objective: Objective) -> None:
    config = RefinementConfig("adam", steps=20, learning_rate=0.03)
    code, image = torch.randn(3, L, SIZE), torch.rand(3, 3, H, H)
    variable, target, weights = code.clone().requires_grad_(), objective.target(image), Weights(1.0, 0.5, 0.5)
    reference = torch.optim.Adam([variable], 0.03, Adam.BETAS, Adam.EPSILON)
    losses = []
    for _ in range(20):
        losses.append(objective(variable, target, weights))
        (variable.grad,) = torch.autograd.grad(losses[-1].sum(), variable)
        reference.step()
    found = refine(objective, code, image, config).losses[:, :20]
    torch.testing.assert_close(found, torch.stack(losses, 1).detach(), rtol=1e-4, atol=1e-6)


class Rosenbrock(nn.Module):
    """Of ten numbers, a sample each: a bent valley, whose sides are far steeper than its floor."""

    def features(self, image: Tensor) -> list[Tensor]:
        return []

    def forward(self, code: Tensor, *_: object) -> Tensor:
        x = code.flatten(1)
        return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)

    def target(self, *_: object) -> None: ...


def test_lbfgs_finds_the_end_of_a_bent_valley() -> None:
    """As SciPy's does, and within twice its evaluations; Adam is far from there by then."""
    start = torch.tensor([[-1.2, 1.0] * 5, [0.0] * 10, [2.0] * 10])[:, None]
    wanted = [
        minimize(rosen, x.flatten(), jac=rosen_der, method="L-BFGS-B", options={"maxcor": LBFGS.HISTORY})
        for x in start.double().numpy()
    ]
    steps = 2 * max(result.nfev for result in wanted)
    objective, image = Rosenbrock().requires_grad_(False), torch.zeros(3, 3, H, H)
    found = refine(objective, Search(start), image, RefinementConfig("lbfgs", steps=steps, learning_rate=0.1))
    slow = refine(objective, Search(start), image, RefinementConfig("adam", steps=steps, learning_rate=0.1))
    assert (found.best_loss < 1e-3).all()
    assert (slow.best_loss > 1e-2).any()


def test_lbfgs_never_climbs_and_stands_still_at_a_rate_of_nothing(objective: Objective) -> None:
    """What it accepts never has a higher loss, however long the first step; and 0 freezes a sample."""
    code, image = torch.randn(4, L, SIZE), torch.rand(4, 3, H, H)
    for rate in (50.0, 0.5, 1e-6):
        result = refine(objective, code, image, RefinementConfig("lbfgs", steps=30, learning_rate=rate))
        assert result.losses.isfinite().all()
        assert (result.best_loss < result.losses[:, 0]).all()
    still = refine(objective, code, image, RefinementConfig("lbfgs", steps=5, learning_rate=0.0))
    torch.testing.assert_close(still.last_code, code, rtol=0, atol=0)


def test_never_worse_than_the_start(objective: Objective) -> None:
    """At a rate that diverges, the best iterate is the start."""
    code, image = torch.randn(4, L, SIZE), torch.rand(4, 3, H, H)
    result = refine(objective, code, image, RefinementConfig("adam", steps=6, learning_rate=50.0))
    assert (result.best_loss <= result.losses[:, 0]).all()
    target = objective.target(image)
    config = RefinementConfig()
    weights = Weights(config.pixel_weight, config.perceptual_weight, config.domain_weight)
    torch.testing.assert_close(
        objective(result.code, target, weights), result.best_loss, rtol=1e-4, atol=1e-6
    )


def test_to_float_spans_the_range() -> None:
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3)
    torch.testing.assert_close(to_float(image)[0, 0, 0], torch.tensor([-1.0, 1.0]))
