"""Command line of the export: `python -m export import | bundle | align | presets | verify | diff | ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from export.bundles.presets import PresetError, PresetsConfig, write_presets
from export.bundles.verification import DiffConfig, VerificationError, VerifyConfig, diff, verify
from export.engines.tensorrt import TensorRTConfig, accelerate
from export.engines.triton import OpenVinoConfig, TritonError, run_by_openvino

Command = tuple[type, Callable[[Any], str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse one command into its config and run it; return the exit status.

    Bad input is one clear line and status 2. Status 3: a graph does not do what its network does, or a bundle is not
    what its manifest says.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Command] = {
        "presets": (PresetsConfig, write_presets),
        "verify": (VerifyConfig, verify),
        "diff": (DiffConfig, diff),
        "tensorrt": (TensorRTConfig, accelerate),
        "openvino": (OpenVinoConfig, run_by_openvino),
    }
    bad_input: tuple[type[Exception], ...] = (FileNotFoundError, TritonError, PresetError)
    not_as_promised: tuple[type[Exception], ...] = (VerificationError,)
    # The commands above run where there is no PyTorch.
    if not arguments or arguments[0] not in commands:
        from export.bundles.alignment import AlignConfig, align
        from export.bundles.building import BundleConfig
        from export.bundles.bundle import write_bundle
        from export.bundles.manifest import SharedGraphError
        from export.importing import ImportConfig, import_checkpoint
        from export.parity.tolerances import ParityError
        from training.run_folders.checkpoint import CheckpointError

        commands |= {
            "import": (ImportConfig, import_checkpoint),
            "bundle": (BundleConfig, write_bundle),
            "align": (AlignConfig, align),
        }
        bad_input, not_as_promised = (
            (*bad_input, CheckpointError, SharedGraphError),
            (*not_as_promised, ParityError),
        )
    config = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()}, prog="python -m export", args=arguments
    )
    run = next(function for kind, function in commands.values() if isinstance(config, kind))
    try:
        print(run(config))
    except (*bad_input, *not_as_promised) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, not_as_promised) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
