"""A generator of another project, run by that project's own code: saves it as that project does, and draws with it.

`python draw_with_original.py FORMAT WORK_TREE FOLDER` writes FOLDER/network.* and FOLDER/pictures.pt. It is a process
of its own (`test_originals.py` starts it) since those projects have modules called `training` and `models` too, and it
imports nothing of ours.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZE, CODE, Z, DEPTH = 32, 24, 24, 4
CHANNELS = {4: 20, 8: 16, 16: 12, 32: 8}
PICTURES = 10
SAMPLES = 10_000  # of the mean code
CONSTANT = ("kernel", "resample_filter")  # buffers that training never changes


@torch.no_grad()
def randomise(network: nn.Module) -> nn.Module:
    """Away from the initial values: zero biases and noise strengths would hide a mistake."""
    for name, tensor in network.state_dict().items():
        if not name.endswith(CONSTANT):
            slow = name.startswith(("mapping.", "style."))  # weights that a rate of 0.01 is multiplied to
            tensor.add_(torch.randn_like(tensor) * (30 if slow else 0.3))
    return network.eval().requires_grad_(False)


def optimiser_after_a_step(parameters: Any) -> dict[str, Any]:
    """State of an optimiser, as checkpoints carry it along."""
    parameters = [nn.Parameter(parameter.clone()) for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=0.002, betas=(0.0, 0.99))
    sum(parameter.sum() for parameter in parameters).backward()
    optimiser.step()
    return optimiser.state_dict()


def save_and_draw(file: Path, content: Any, z: Tensor, images: Tensor) -> None:
    """A checkpoint of torch.save's, and the pictures."""
    torch.save(content, file.with_suffix(".pt"))
    torch.save({"z": z, "images": images}, file.with_name("pictures.pt"))


# --- rosinality/stylegan2-pytorch -----------------------------------------------------------------------------------


def rosinality_networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    """g, d and g_ema. The import of the module would compile for a GPU, which processors do without."""
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load = lambda *_, **__: None  # type: ignore[assignment]
    from model import Discriminator, Generator  # type: ignore[import-not-found]

    class Narrow(Generator):  # type: ignore[misc]
        """Its table of widths is fixed, at 512."""

        channels = property(lambda _: CHANNELS, lambda _, __: None)

    g, g_ema = (randomise(Narrow(SIZE, CODE, DEPTH)) for _ in range(2))
    return g, Discriminator(4), g_ema


@torch.no_grad()
def rosinality_pictures(g_ema: nn.Module) -> tuple[Tensor, Tensor]:
    z = torch.randn(PICTURES, CODE)
    return z, g_ema([z], randomize_noise=False)[0]


def rosinality_trained(file: Path) -> None:
    """As `train.py` saves."""
    g, d, g_ema = rosinality_networks()
    content = {
        "g": g.state_dict(),
        "d": d.state_dict(),
        "g_ema": g_ema.state_dict(),
        "g_optim": optimiser_after_a_step(g.parameters()),
        "d_optim": torch.optim.Adam(d.parameters()).state_dict(),
        "args": argparse.Namespace(path="lmdb", size=SIZE, mixing=0.9, ckpt=None, wandb=False),
        "ada_aug_p": 0.0,
    }
    save_and_draw(file, content, *rosinality_pictures(g_ema))


def rosinality_converted(file: Path) -> None:
    """As `convert_weight.py` saves NVIDIA's older networks."""
    g, d, g_ema = rosinality_networks()
    mean = g_ema.mean_latent(SAMPLES)[0]
    content = {"g_ema": g_ema.state_dict(), "latent_avg": mean, "g": g.state_dict(), "d": d.state_dict()}
    save_and_draw(file, content, *rosinality_pictures(g_ema))


def psp(file: Path) -> None:
    """As pSp and e4e save rosinality's generator beside an encoder, of which names suffice."""
    _, _, decoder = rosinality_networks()
    both = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "decoder": decoder}
    )
    options = {"exp_dir": "runs", "device": "cuda:0", "lpips_lambda": 0.8, "start_from_latent_avg": True}
    mean = decoder.mean_latent(SAMPLES).repeat(decoder.n_latent, 1)
    content = {"state_dict": both.state_dict(), "opts": options, "latent_avg": mean}
    save_and_draw(file, content, *rosinality_pictures(decoder))


# --- NVlabs/stylegan2-ada-pytorch -----------------------------------------------------------------------------------


def nvidia(file: Path) -> None:
    """As `train.py` saves: whole networks, pickled with their source code."""
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # only its downloads need it
    import dnnlib  # type: ignore[import-not-found]

    half = {"num_fp16_res": 4, "conv_clamp": 256}
    synthesis = dnnlib.EasyDict(channel_base=256, channel_max=20, fp16_channels_last=True, **half)
    mapping = dnnlib.EasyDict(num_layers=DEPTH)
    common = {"c_dim": 0, "img_resolution": SIZE, "img_channels": 3}
    make = dnnlib.util.construct_class_by_name
    G, G_ema = (
        randomise(
            make(
                class_name="training.networks.Generator",
                z_dim=Z,
                w_dim=CODE,
                mapping_kwargs=mapping,
                synthesis_kwargs=synthesis,
                **common,
            )
        )
        for _ in range(2)
    )
    D = make(
        class_name="training.networks.Discriminator",
        channel_base=256,
        channel_max=20,
        block_kwargs=dnnlib.EasyDict(),
        epilogue_kwargs=dnnlib.EasyDict(mbstd_group_size=4),
        **half,
        **common,
    )
    augment_pipe = make(class_name="training.augment.AugmentPipe", xflip=1, rotate90=1, imgfilter=1)
    with torch.no_grad():
        G_ema.mapping.w_avg.copy_(G_ema.mapping(torch.randn(SAMPLES, Z), None)[:, 0].mean(0))
    content = {"training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "xflip": False}}
    for name, module in {"G": G, "D": D, "G_ema": G_ema, "augment_pipe": augment_pipe}.items():
        content[name] = copy.deepcopy(module).eval().requires_grad_(False).cpu()
    file.with_suffix(".pkl").write_bytes(pickle.dumps(content))
    z = torch.randn(PICTURES, Z)
    with torch.no_grad():
        images = G_ema(z, None, noise_mode="const", force_fp32=True)
    torch.save({"z": z, "images": images}, file.with_name("pictures.pt"))


# --- genforce/genforce ----------------------------------------------------------------------------------------------


def genforce(file: Path, *, repeat_w: bool = True) -> None:
    """As its runner saves."""
    from models import build_discriminator, build_generator  # type: ignore[import-not-found]

    size = {"resolution": SIZE, "fmaps_base": 256, "fmaps_max": 20}
    shape = {"z_space_dim": Z, "w_space_dim": CODE, "mapping_layers": DEPTH, "mapping_fmaps": CODE}
    networks = {
        "discriminator": build_discriminator("stylegan2", **size),
        "generator": build_generator("stylegan2", repeat_w=repeat_w, **size, **shape),
        "generator_smooth": build_generator("stylegan2", repeat_w=repeat_w, **size, **shape),
    }
    for network in networks.values():
        randomise(network)
    smooth, z = networks["generator_smooth"], torch.randn(PICTURES, Z)
    with torch.no_grad():
        smooth.truncation.w_avg.copy_(smooth.mapping(torch.randn(SAMPLES, Z))["w"].mean(0))
        images = smooth(z, randomize_noise=False)["image"]
    content = {
        "models": {name: network.state_dict() for name, network in networks.items()},
        "running_metadata": {"iter": 1, "seen_img": 32},
        "optimizers": {"generator": optimiser_after_a_step(networks["generator"].parameters())},
        "learning_rates": {"generator": {"last_epoch": 1, "base_lrs": [0.002], "warmup_type": "NO"}},
    }
    save_and_draw(file, content, z, images)


FORMATS: dict[str, Callable[[Path], None]] = {
    "rosinality, trained": rosinality_trained,
    "rosinality, converted": rosinality_converted,
    "pSp": psp,
    "NVIDIA": nvidia,
    "GenForce": genforce,
    "GenForce, w per layer": lambda file: genforce(file, repeat_w=False),
}

if __name__ == "__main__":
    chosen, work_tree, folder = sys.argv[1:]
    sys.path.insert(0, work_tree)  # before everything else, this folder's and any installed `training`
    torch.manual_seed(1)
    FORMATS[chosen](Path(folder) / "network")
