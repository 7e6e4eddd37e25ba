"""`python -m training directions`: finds semantic directions in code space from labelled pictures.

After InterFaceGAN (Shen et al., arXiv 1907.10786): a linear boundary for each attribute, here among codes of real
pictures. A direction is the most native step across its boundary that moves along those of the attributes to keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from torch import nn

from training.data.labels import is_binary, known
from training.data.pictures import DataError, Pictures, load_pictures
from training.directions.attributes import AttributeReader
from training.faces.mobile_face import IdentityDescriptor
from training.measures.domain_score import calibration_count, domain_scores, invert_samples
from training.networks.generator import Generator, sample_codes
from training.run_folders.json_files import write_json
from training.run_folders.trained_inversion import TrainedInversion, load_inversion

LARGEST_STRENGTH = 2.0
DOMAIN_FLOOR = 0.02  # a direction's range ends where the median domain score of edited codes is lower
IDENTITY = "identity"  # what --keep and --condition name beside attributes
DESCRIBED = 8_000  # pictures that it is learnt on, the first ones
READ = 200  # pictures that are edited to find a range
SAMPLES = 4_000  # sampled codes that a direction's scale is measured on
TENSORS = {"direction": "vector", "boundary": "boundary", "across": "across"}  # name in files -> field
INVERSIONS = 500  # of them are inverted, as what domain scores are among; fewer above 128 pixels


@dataclass
class DirectionsConfig:
    """Find directions for the attributes of a csv, and write them into an encoder's run folder."""

    run: Path
    """Run folder of an encoder."""
    data: Path
    """Folder or zip of pictures."""
    attributes: Path
    """Csv: `file` and one column an attribute."""
    names: tuple[str, ...] = ()
    """Attributes to find directions for; none named means all."""
    keep: tuple[str, ...] = ()
    """Attributes that every direction keeps while it moves its own: of those to find, and of those that the run folder
    has directions for already, which stay as they are; and `identity`, for pictures of faces."""
    condition: tuple[str, ...] = ()
    """`age:male,smile` keeps male and smile, instead of --keep, while age is moved; one entry a direction."""
    identity_components: int = 16
    """Keeping `identity` keeps so many principal components of MobileFace's descriptors. The first ones also tell sex
    and age, so that directions of these should not keep it."""
    layers: tuple[str, ...] = ()
    """`yaw:0-3` lets yaw touch layers 0 to 3 only; one entry a direction, all layers by default."""
    penalty: float = 3e3
    """Ridge penalty on standardised codes (continuous attributes); its inverse is the logistic regression's C."""
    held_out: float = 0.1
    """Share of the pictures kept for the figure written beside each direction."""
    domain_floor: float = DOMAIN_FLOOR
    """A direction's range ends where the median domain score of edited codes falls below this."""
    largest: float = LARGEST_STRENGTH
    """No range goes beyond this strength, at least 1. No score tells how far edits look right."""
    right_way: float = 0.95
    """It ends earlier where fewer than this share of pictures change as asked, as read by a regressor that is trained
    on the pictures: a picture without colour, say, cannot lose any. 0 leaves this out."""


def find_directions(config: DirectionsConfig) -> Path:
    """Find directions and add them to the run folder; return the path of directions.json.

    Raises DataError, CheckpointError.
    """
    run = load_inversion(config.run)
    shape, deviation = run.generator.config, run.latent_discriminator.deviation
    pictures = load_pictures(config.data, shape.resolution, config.attributes)
    names = list(config.names or pictures.attributes)
    if config.identity_components < 1:
        raise DataError(f"--identity-components is 1 or more, not {config.identity_components}")
    unknown = sorted(set(names) - pictures.attributes.keys())
    if unknown:
        raise DataError(
            f"{config.attributes} has no column {', '.join(unknown)}; it has {', '.join(pictures.attributes)}"
        )
    # The run folder's own boundaries are normals among codes; those that are fitted are among standardised ones.
    normals = {
        name: (boundary * deviation).flatten().double().numpy()
        for name, boundary in stored_boundaries(config.run).items()
    }
    layers, conditions = _layers(config, shape.layers, names), _conditions(config, names, {*names, *normals})
    codes = encode(run.encoder, pictures)
    standard = run.latent_discriminator.standardise(codes).flatten(1).numpy()  # [M, L * 512]
    figures = {}
    for name in names:
        normals[name], figures[name] = fit_boundary(
            standard, pictures.attributes[name], config.penalty, config.held_out
        )

    kept = {name: [normal] for name, normal in normals.items()}
    if IDENTITY not in kept and any(IDENTITY in others for others in conditions.values()):
        kept[IDENTITY] = identity_boundaries(
            pictures.first(DESCRIBED), standard[:DESCRIBED], config.identity_components, config.penalty
        )

    def as_step(standardised: np.ndarray) -> torch.Tensor:
        """A step among standardised codes [L * 512] as one among codes [L, 512]."""
        return torch.from_numpy(standardised).reshape(deviation.shape) * deviation

    space, edits = CodeSpace(run), None
    if config.right_way > 0:
        edits = Edits(AttributeReader.train(pictures, names), run.generator, codes[:READ])
    found = []
    for name in names:
        step = native_step(
            standard, normals[name], [normal for other in conditions[name] for normal in kept[other]]
        )
        direction = space.direction(
            name, as_step(step), layers[name], codes[:READ], config.domain_floor, config.largest
        )
        ends = direction.range
        if edits:
            step_of_code = direction.scale * direction.vector
            low, high = (edits.honest_end(name, step_of_code, end, config.right_way) for end in ends)
            ends = (low, high)
        across = as_step(native_step(standard, normals[name], []))
        boundary = torch.from_numpy(normals[name]).reshape(deviation.shape) / deviation
        found.append(
            replace(
                direction,
                range=ends,
                held_out=figures[name],
                conditioned_on=conditions[name],
                boundary=(boundary / boundary.norm()).float(),
                across=(across / across.norm()).float(),
            )
        )
        print(
            f"{name}: held-out {figures[name]['metric']} {figures[name]['value']:.3f}, "
            f"range {ends[0]} to {ends[1]}, layers {layers[name]}"
        )
    return add_directions(config.run, found)


@dataclass(frozen=True)
class Direction:
    """A semantic edit as a run folder holds it: `code + strength * scale * vector`."""

    name: str
    vector: torch.Tensor
    """float32 [L, 512], of length 1, zero outside `layers`"""
    scale: float
    """Length of a step of strength 1: the standard deviation of sampled codes along it, or what a walk's label says."""
    layers: list[int]
    range: tuple[float, float]
    """Strengths within which edited codes stay native."""
    held_out: dict[str, object] | None = None
    """Figure of its boundary on held-out pictures, or of a walk on held-out codes; None where nothing was held out."""
    conditioned_on: list[str] = field(default_factory=list)
    boundary: torch.Tensor | None = None
    """The normal of its boundary, float32 [L, 512] of length 1. Its inner product with a change of code says how far
    the change goes across the boundary; edits that keep the attribute have 0. None where no labels made it."""
    across: torch.Tensor | None = None
    """The most native step across the boundary that keeps no other attribute, float32 [L, 512] of length 1."""
    label: str = ""
    """What people read; its name in words by default."""


def add_directions(run: Path, found: Iterable[Direction]) -> Path:
    """Write directions into a run folder, replacing those of the same names; return the path of directions.json."""
    listing, tensors = run / "directions.json", run / "directions.safetensors"
    entries = {entry["name"]: entry for entry in json.loads(listing.read_text())} if listing.is_file() else {}
    vectors = load_file(tensors) if entries else {}
    for direction in found:
        label = direction.label or direction.name.replace("_", " ").replace("-", " ").capitalize()
        for kind, key in TENSORS.items():
            vectors.pop(f"{kind}/{direction.name}", None)
            if (tensor := getattr(direction, key)) is not None:
                vectors[f"{kind}/{direction.name}"] = tensor.numpy()
        entry = {key: value for key, value in vars(direction).items() if key not in TENSORS.values()}
        entries[direction.name] = entry | {"label": label}
    save_file(vectors, tensors)
    write_json(listing, list(entries.values()))
    return listing


def stored_boundaries(run: Path) -> dict[str, torch.Tensor]:
    """Boundaries of a run folder's directions: float32 [L, 512] each, by name; none where it has no directions."""
    file, prefix = run / "directions.safetensors", "boundary/"
    stored = load_file(file) if file.is_file() else {}
    return {
        key.removeprefix(prefix): torch.from_numpy(tensor)
        for key, tensor in stored.items()
        if key.startswith(prefix)
    }


@torch.no_grad()
def encode(encoder: nn.Module, pictures: Pictures) -> torch.Tensor:
    """Codes of all pictures: float32 [M, L, 512]."""
    return torch.cat(
        [encoder(pictures.batch(index, mirror=False)) for index in torch.arange(len(pictures)).split(64)]
    )


def fit_boundary(
    codes: np.ndarray, labels: np.ndarray, penalty: float, held_out: float
) -> tuple[np.ndarray, dict[str, object]]:
    """Fit a boundary to standardised codes float [M, L * 512] and labels [M]; those without a label, NaN, are left out.

    Returns its normal float64 [L * 512], and its figure on a share `held_out` of them.
    """
    codes, labels = codes[known(labels)], labels[known(labels)]
    kept, left, y_kept, y_left = train_test_split(codes, labels, test_size=held_out, random_state=0)
    if is_binary(labels):
        logistic = LogisticRegression(C=1 / penalty, max_iter=500).fit(kept, y_kept)
        return logistic.coef_[0].astype(np.float64), {
            "metric": "accuracy",
            "value": round(float(logistic.score(left, y_left)), 4),
        }
    ridge = Ridge(alpha=penalty).fit(kept, (y_kept - y_kept.mean()) / y_kept.std())
    r = float(np.corrcoef(ridge.predict(left), y_left)[0, 1])
    return ridge.coef_.astype(np.float64), {"metric": "r", "value": round(r, 4)}


@torch.no_grad()
def identity_boundaries(
    pictures: Pictures, codes: np.ndarray, components: int, penalty: float
) -> list[np.ndarray]:
    """Boundaries of who it is: what the principal components of descriptors depend on among standardised codes.

    Aligned pictures of faces and their codes float [M, L * 512] -> that many normals float64 [L * 512], by ridge
    regression, as those of attributes. MobileFace describes, so that dlib's descriptor can judge.
    """
    describe = IdentityDescriptor(pictures.images.shape[-1]).eval()
    found = torch.cat(
        [describe(pictures.batch(part, mirror=False)) for part in torch.arange(len(pictures)).split(64)]
    )
    scores = PCA(min(components, *found.shape), random_state=0).fit_transform(found.double().numpy())
    fitted = Ridge(alpha=penalty).fit(codes, scores / scores.std(0))
    return list(fitted.coef_.astype(np.float64))


def native_step(codes: np.ndarray, normal: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """The most native step across a boundary: float64 [D], for standardised codes [M, D] and normals [D].

    InterFaceGAN steps along the normal itself; but a normal in so many dimensions mostly consists of entries in which
    codes hardly vary. Of all steps d with normal . d = 1, and other . d = 0 for the boundaries to keep, this is the one
    of least Mahalanobis length under the codes' covariance S: d = S N (N' S N)^-1 e_1, N = [normal, others].
    """
    centred = codes - codes.mean(0)
    boundaries = np.stack([normal, *others], 1)  # [D, k]
    moved = centred.T @ (centred @ boundaries) / len(codes)  # S N
    return moved @ np.linalg.solve(boundaries.T @ moved, np.eye(len(others) + 1)[0])


def unit_direction(
    step: torch.Tensor, layers: Iterable[int], sampled: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """The unit vector float32 [L, 512] along a step in code space [L, 512], zero outside `layers`, and its scale.

    The scale is the standard deviation of sampled codes [M, L, 512] along the vector.
    """
    vector, chosen = torch.zeros(step.shape), list(layers)
    vector[chosen] = step[chosen].float()
    vector /= vector.norm()
    return vector, float((sampled.flatten(1) @ vector.flatten()).std(correction=0))


class CodeSpace:
    """Sampled codes, and inversions of their pictures: directions are measured against these."""

    def __init__(self, run: TrainedInversion, inversions: int = INVERSIONS) -> None:
        """`inversions`: most sampled codes that are inverted; above 128 pixels it is fewer."""
        self.discriminator = run.latent_discriminator
        self.sampled = sample_codes(run.generator, SAMPLES)
        few = self.sampled[: calibration_count(inversions, run.generator.config.resolution)]
        self.inversions = invert_samples(few, run.generator.synthesis, run.encoder)

    def direction(
        self,
        name: str,
        step: torch.Tensor,
        layers: list[int],
        codes: torch.Tensor,
        floor: float,
        largest: float = LARGEST_STRENGTH,
    ) -> Direction:
        """Make a direction of a step float [L, 512] on `layers`; its range is measured on codes float32 [N, L, 512]."""
        vector, scale = unit_direction(step, layers, self.sampled)
        ends = self.meaningful_range(codes, scale * vector, floor, largest)
        return Direction(name, vector, scale, layers, ends)

    def meaningful_range(
        self, codes: torch.Tensor, step: torch.Tensor, floor: float, largest: float
    ) -> tuple[float, float]:
        """The lowest and the highest strength at which edited codes still have a median domain score of `floor`.

        Both are between 1 and `largest` in size. codes float32 [N, L, 512]; step [L, 512], that of a strength of 1.
        """
        ends = []
        for sign in (-1, 1):
            reached = 1.0
            for strength in np.arange(1.25, largest + 0.01, 0.25):
                edited = codes + sign * float(strength) * step.to(codes)
                if np.median(domain_scores(self.discriminator, edited, self.inversions)) < floor:
                    break
                reached = float(strength)
            ends.append(sign * reached)
        return ends[0], ends[1]


class Edits:
    """Edits of some codes float [N, L, 512], judged by the attributes that are read off their pictures."""

    def __init__(self, reader: AttributeReader, generator: Generator, codes: torch.Tensor) -> None:
        self.reader, self.generator, self.codes = reader, generator, codes
        self.before = self._read(codes)

    @torch.no_grad()
    def _read(self, codes: torch.Tensor) -> dict[str, np.ndarray]:
        images = [self.generator.synthesis(part).clamp(-1, 1) for part in codes.split(32)]
        return self.reader.read(torch.cat(images))

    def right_way(self, name: str, step: torch.Tensor, strength: float) -> float:
        """Share of pictures whose attribute changes in the direction of the strength's sign; step float [L, 512]."""
        after = self._read(self.codes + strength * step)
        return float(((after[name] - self.before[name]) * np.sign(strength) > 0).mean())

    def honest_end(self, name: str, step: torch.Tensor, end: float, wanted: float) -> float:
        """The strength nearest to `end` at which a share `wanted` of the pictures changes the right way.

        It is looked for in steps of a quarter, down to a half. Where no strength reaches that share, the one with the
        highest share is returned.
        """
        shares: dict[float, float] = {}
        for size in np.arange(abs(end), 0.49, -0.25):
            strength = float(np.copysign(size, end))
            shares[strength] = self.right_way(name, step, strength)
            if shares[strength] >= wanted:
                return strength
        return max(shares, key=lambda strength: shares[strength])


def _options(entries: tuple[str, ...], names: list[str], option: str) -> dict[str, str]:
    split = (entry.partition(":") for entry in entries)
    parsed = {name: value for name, _, value in split}
    unknown = sorted(set(parsed) - set(names))
    if unknown:
        raise DataError(f"--{option} names {', '.join(unknown)}, for which no direction is asked")
    return parsed


def _conditions(config: DirectionsConfig, names: list[str], bounded: set[str]) -> dict[str, list[str]]:
    given = _options(config.condition, names, "condition")
    conditions = {
        name: [
            other
            for other in (given[name].split(",") if name in given else config.keep)
            if other not in ("", name)
        ]
        for name in names
    }
    unknown = sorted({o for others in conditions.values() for o in others} - bounded - {IDENTITY})
    if unknown:
        raise DataError(
            f"--keep or --condition wants {', '.join(unknown)} kept, for which no direction is asked, "
            f"nor has {config.run} one that labels made"
        )
    return conditions


def _layers(config: DirectionsConfig, count: int, names: list[str]) -> dict[str, list[int]]:
    given = _options(config.layers, names, "layers")
    return {name: parse_layers(given.get(name, f"0-{count - 1}"), count) for name in names}


def parse_layers(text: str, count: int) -> list[int]:
    """`2-4` -> [2, 3, 4], `2` -> [2]. Raises DataError where that is not within a code of `count` layers."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise DataError(f"{text!r} are no layers; write `2-4`, or `2`")
    chosen = list(range(int(first), int(last or first) + 1))
    if not chosen or chosen[-1] >= count:
        raise DataError(f"layers {text} are not within 0-{count - 1}")
    return chosen
