"""Runs of an encoder with a discriminator that not every run has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from training.loops.fit import checkpoint_meta
from training.loops.inversion import InversionTrainer
from training.loops.inversion_config import InversionConfig
from training.run_folders.checkpoint import read_network, save_checkpoint


def check_that_it_goes_on_exactly(config: InversionConfig, discriminator: str, folder: Path) -> None:
    """Train four steps at once, and two from a checkpoint in the middle, as rates follow how long a run is. All
    networks must be the same to the bit, that discriminator among them. The replay pool is not kept."""
    config, fabric = replace(config, code_pool=0), config.compute.fabric()
    whole, half = (InversionTrainer(config, fabric) for _ in range(2))
    for trainer, steps in ((whole, 4), (half, 2)):
        for _ in range(steps):
            trainer.train_step()
    save_checkpoint(folder, checkpoint_meta(half), half.networks(), half.optimisers())
    goes_on = InversionTrainer(replace(config, resume=folder), fabric)
    goes_on.resume(folder)
    for _ in range(2):
        goes_on.train_step()
    assert discriminator in whole.networks()
    for name, network in whole.networks().items():
        found = goes_on.networks()[name].state_dict()
        for key, wanted in network.state_dict().items():
            torch.testing.assert_close(found[key], wanted, rtol=0, atol=0, msg=f"{name}: {key}")
    kept = read_network(folder, discriminator)["logit.weight"]
    assert not torch.equal(goes_on.networks()[discriminator].state_dict()["logit.weight"], kept)
