"""Command line of the training: `python -m training gan | encoder | directions | recipe | ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from training.data.pictures import DataError
from training.directions.assessors import AnalyzeConfig, AssessorError, analyze
from training.directions.directions import DirectionsConfig, find_directions
from training.directions.factors import FactorsConfig, find_factors
from training.directions.walks import SteerConfig, steer
from training.evaluation.evaluation import evaluate
from training.evaluation.judge import EvaluationConfig
from training.faces.alignment import AlignmentConfig, measure_alignment
from training.faces.expression import LabelConfig, label_expressions
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.encoder import EncoderShapeError
from training.networks.image_discriminators import UnknownDiscriminator
from training.recipe import RecipeConfig, RecipeError, run_recipe
from training.refinement.detail_basis import DetailBasisConfig, fit_detail
from training.refinement.noise_maps import NoiseMapsConfig, fit_noise
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.publication import PublicationConfig, publish
from training.tuning.mapping_run import MappingConfig, fit_run
from training.tuning.tuned_run import TuneConfig, tune_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse one command into its config and run it; bad input is one clear line and exit status 2."""
    commands = {
        "gan": (GanConfig, train_gan),
        "encoder": (InversionConfig, train_encoder),
        "label": (LabelConfig, label_expressions),
        "directions": (DirectionsConfig, find_directions),
        "factors": (FactorsConfig, find_factors),
        "steer": (SteerConfig, steer),
        "analyze": (AnalyzeConfig, analyze),
        "detail": (DetailBasisConfig, fit_detail),
        "noise": (NoiseMapsConfig, fit_noise),
        "alignment": (AlignmentConfig, measure_alignment),
        "evaluate": (EvaluationConfig, evaluate),
        "publish": (PublicationConfig, publish),
        "mapping": (MappingConfig, fit_run),
        "tune": (TuneConfig, tune_run),
        "recipe": (RecipeConfig, run_recipe),
    }
    config = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()}, prog="python -m training", args=arguments
    )
    run = next(function for kind, function in commands.values() if isinstance(config, kind))
    try:
        rank_zero_only(print)(run(config))
    except (
        DataError,
        CheckpointError,
        AssessorError,
        EncoderShapeError,
        UnknownDiscriminator,
        RecipeError,
        FileNotFoundError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        # Its threads would otherwise be ended with the process, which aborts where one still works.
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
