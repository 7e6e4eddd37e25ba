"""How well descriptors tell who is who, and what a distance of them says: dlib's, and the independent one beside it.

`python -m benchmarks.identity --data train.zip --attributes train.csv` prints tables: distances of pairs of one
person and of two with AUC and equal error rate, and for each descriptor the calibration of a score from its distance,
with the two numbers of its logistic. Those of dlib's are the identity score's (training/faces/identity.py).

Who is on a picture is told by the order of the files: those of one person follow one another, at most five. Where the
next person starts is not written down. But where both descriptors surely take two pictures for one person, those
between them show that person too, whatever their own descriptors say. All pairs among them count, without the pair that
was looked at. So most pairs have a picture that nothing was asked of, and one that is known well: figures are better
than on pictures taken blindly. Pictures five numbers apart or more are of different people.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.graphs import Array, markdown_table
from training.data.pictures import DataError, load_pictures
from training.faces.identity import FaceDescriptor, face_chip
from training.faces.mobile_face import MobileFace, face_square

DESCRIPTORS = {"dlib": (FaceDescriptor, face_chip), "MobileFace": (MobileFace, face_square)}
SURELY_ONE = {"dlib": 0.5, "MobileFace": 1.1}  # distances below which both are sure
MOST_PICTURES = 5  # of one person
NEAR = 30  # numbers between two people who are compared; names are sorted, so that most are of one sex
BINS = 10


@dataclass
class IdentityConfig:
    """Compare descriptors of faces on photographs of people with several pictures."""

    data: Path
    """Folder or zip of aligned pictures, numbered in the order of people: NAME_00012.webp."""
    attributes: Path
    """Their csv, with a column `source`."""
    source: str = "lfw"
    """The source whose files are ordered so."""
    side: int = 128
    """Side the pictures are read at, pixels."""
    output: Path | None = None
    """Also write the figures there, as JSON."""


def pairs(numbers: Array, descriptors: dict[str, Array]) -> tuple[Array, Array]:
    """Pairs of one person, and of two, as indices int [P, 2]; by the rule above.

    `numbers` [M], rising; descriptors float [M, D] of each of SURELY_ONE.
    """
    same: set[tuple[int, int]] = set()
    for first, last in combinations_within(numbers, 1, MOST_PICTURES - 1):
        sure = all(
            np.linalg.norm(descriptors[name][first] - descriptors[name][last]) < limit
            for name, limit in SURELY_ONE.items()
        )
        if sure:
            same |= set(combinations(range(first, last + 1), 2)) - {(first, last)}
    used = sorted({index for pair in same for index in pair})
    two = combinations_within(numbers[used], MOST_PICTURES, NEAR)
    different = [(used[a], used[b]) for a, b in two]
    return np.array(sorted(same), int).reshape(-1, 2), np.array(different, int).reshape(-1, 2)


def combinations_within(numbers: Array, least: int, most: int) -> list[tuple[int, int]]:
    """Indices of all two numbers that are from `least` to `most` apart; `numbers` rise."""
    ends = np.searchsorted(numbers, numbers + most, "right")
    return [
        (a, b) for a, end in enumerate(ends) for b in range(a + 1, end) if numbers[b] - numbers[a] >= least
    ]


def distances(descriptor: Array, chosen: Array) -> Array:
    """Euclidean distances of pairs int [P, 2] of rows of a descriptor."""
    return np.linalg.norm(descriptor[chosen[:, 0]] - descriptor[chosen[:, 1]], axis=1)


def separation(same: Array, different: Array) -> dict[str, float]:
    """How well distances of pairs of one person and of two come apart: AUC, equal error rate, where it is."""
    values = np.sort(np.concatenate([same, different]))
    missed = 1 - np.searchsorted(np.sort(same), values, "right") / len(same)
    confused = np.searchsorted(np.sort(different), values, "right") / len(different)
    equal = int(np.argmin(np.abs(missed - confused)))
    return {
        **{f"same {q:.0%}": float(np.quantile(same, q)) for q in (0.05, 0.5, 0.95)},
        **{f"different {q:.0%}": float(np.quantile(different, q)) for q in (0.05, 0.5, 0.95)},
        "auc": float(np.trapezoid(1 - missed, confused)),
        "equal_error_rate": float(missed[equal] + confused[equal]) / 2,
        "equal_at": float(values[equal]),
        "found_at_0.1%": float((same <= np.quantile(different, 0.001)).mean()),
    }


def fitted_logistic(same: Array, different: Array) -> tuple[float, float]:
    """Middle and steepness of the logistic that says how likely a distance is one person's, both kinds as frequent."""
    x, y = np.concatenate([same, different]), np.repeat([1.0, 0.0], [len(same), len(different)])
    weight = np.repeat([0.5 / len(same), 0.5 / len(different)], [len(same), len(different)])
    design = np.stack([np.ones_like(x), x - x.mean()], 1)
    theta = np.zeros(2)
    # Newton's method on the weighted likelihood.
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ theta))
        slope = design.T @ (weight * (y - p))
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design
        theta += np.linalg.solve(curvature, slope)
    return float(x.mean() - theta[0] / theta[1]), float(-theta[1])


def calibration(same: Array, different: Array, middle: float, steepness: float) -> list[dict[str, float]]:
    """For each tenth of a score, the logistic of distances: pairs, the mean score, and the share of one person's, both
    as frequent."""
    scores = [1 / (1 + np.exp(steepness * (x - middle))) for x in (same, different)]
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    rows = []
    for n in range(BINS):
        inside = [x[np.digitize(x, edges) == n] for x in scores]
        shares = [len(part) / len(x) for part, x in zip(inside, scores, strict=True)]
        sums = [part.sum() / len(x) for part, x in zip(inside, scores, strict=True)]
        if total := sum(shares):
            rows.append(
                {
                    "from": n / BINS,
                    "pairs": len(inside[0]) + len(inside[1]),
                    "score": float(sum(sums) / total),
                    "same": shares[0] / total,
                }
            )
    return rows


@torch.no_grad()
def described(config: IdentityConfig) -> tuple[Array, dict[str, Array]]:
    """Numbers of the files [M], rising, and their descriptors. Raises DataError."""
    pictures = load_pictures(config.data, config.side, config.attributes)
    sources = pictures.labels.get("source", [""] * len(pictures))
    numbered = {
        int(found[1]): index
        for index, (name, source) in enumerate(zip(pictures.names, sources, strict=True))
        if source == config.source and (found := re.search(r"_(\d+)\.\w+$", name))
    }
    if not numbered:
        raise DataError(f"{config.attributes} has no numbered pictures of the source {config.source!r}")
    numbers = np.array(sorted(numbered))
    images = pictures.images[[numbered[number] for number in numbers]]
    descriptors = {}
    for name, (network, crop) in DESCRIPTORS.items():
        describe = network().eval()
        parts = [describe(crop(part.float() / 127.5 - 1)) for part in images.split(32)]
        descriptors[name] = torch.cat(parts).numpy()
    return numbers, descriptors


def measure(config: IdentityConfig) -> dict[str, Any]:
    """All figures. Raises DataError where no person has several pictures."""
    numbers, descriptors = described(config)
    same, different = pairs(numbers, descriptors)
    if not len(same) or not len(different):
        raise DataError(f"{config.data}: no three pictures in order that show one person")
    # Logistics are fitted on the first half of the people and checked on the others.
    half = numbers[len(numbers) // 2]
    found: dict[str, Any] = {"pairs": {"same": len(same), "different": len(different)}, "descriptors": {}}
    for name, d in descriptors.items():
        one, two = distances(d, same), distances(d, different)
        first_one, first_two = (numbers[x[:, 0]] < half for x in (same, different))
        middle, steepness = fitted_logistic(one[first_one], two[first_two])
        found["descriptors"][name] = {
            **separation(one, two),
            "logistic": {"middle": middle, "steepness": steepness},
            "calibration": calibration(one[~first_one], two[~first_two], middle, steepness),
        }
    return found


def main(config: IdentityConfig) -> None:
    """Print the tables."""
    found = measure(config)
    print(f"\n{found['pairs']['same']} pairs of one person, {found['pairs']['different']} of two\n")
    header = ["descriptor", "one person: 5 %, median, 95 %", "two people: 5 %, median, 95 %", "AUC",
              "equal error rate", "at distance", "found, 0.1 % confused"]  # fmt: skip
    rows = [
        [
            name,
            " / ".join(f"{x[f'same {q}']:.2f}" for q in ("5%", "50%", "95%")),
            " / ".join(f"{x[f'different {q}']:.2f}" for q in ("5%", "50%", "95%")),
            f"{x['auc']:.4f}",
            f"{x['equal_error_rate']:.1%}",
            f"{x['equal_at']:.3f}",
            f"{x['found_at_0.1%']:.1%}",
        ]
        for name, x in found["descriptors"].items()
    ]
    print(markdown_table(header, rows))
    for name, x in found["descriptors"].items():
        print(
            "\n{}, fitted on the first half: middle {middle:.4f}, steepness {steepness:.2f}".format(
                name, **x["logistic"]
            )
        )
        print("The score on the second half, both kinds of pairs as frequent:\n")
        lines = [
            [
                f"{row['from']:.1f} to {row['from'] + 1 / BINS:.1f}",
                str(row["pairs"]),
                f"{row['score']:.2f}",
                f"{row['same']:.2f}",
            ]
            for row in x["calibration"]
        ]
        print(markdown_table(["score", "pairs", "mean score", "share of one person"], lines))
    if config.output:
        config.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(IdentityConfig))
