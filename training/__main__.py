"""Command line of the training: `python -m training gan | encoder | directions | factors | alignment | ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from lightning.fabric.utilities.rank_zero import rank_zero_only

from training.alignment import AlignmentConfig, measure_alignment
from training.data import DataError
from training.directions import DirectionsConfig, find_directions
from training.evaluation import EvaluationConfig, evaluate
from training.factors import FactorsConfig, find_factors
from training.gan import GanConfig, train_gan
from training.inversion import InversionConfig, train_encoder
from training.publication import PublicationConfig, publish
from training.runs import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse one command into its config and run it; bad input is one clear line and exit status 2."""
    commands = {
        "gan": (GanConfig, train_gan),
        "encoder": (InversionConfig, train_encoder),
        "directions": (DirectionsConfig, find_directions),
        "factors": (FactorsConfig, find_factors),
        "alignment": (AlignmentConfig, measure_alignment),
        "evaluate": (EvaluationConfig, evaluate),
        "publish": (PublicationConfig, publish),
    }
    config = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()}, prog="python -m training", args=arguments
    )
    run = next(function for kind, function in commands.values() if isinstance(config, kind))
    try:
        rank_zero_only(print)(run(config))
    except (DataError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
