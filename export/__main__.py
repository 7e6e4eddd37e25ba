"""Command line of the export: `python -m export bundle | import`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from export.bundle import BundleConfig, write_bundle
from export.importers import ImportConfig, import_checkpoint
from export.parity import ParityError
from training.runs import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse one command into its config and run it; bad input is one clear line and exit status 2, a graph that does
    not do what its network does 3."""
    config = tyro.extras.subcommand_cli_from_dict(
        {"bundle": BundleConfig, "import": ImportConfig}, prog="python -m export", args=arguments
    )
    try:
        print(import_checkpoint(config) if isinstance(config, ImportConfig) else write_bundle(config))
    except (CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ParityError as error:
        print(f"error: parity: {error}; nothing was written", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
