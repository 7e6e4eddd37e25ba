"""A generator of another project, run by that project's own code: saves it as that project does, and draws with it.

`python draw_with_original.py FORMAT WORK_TREE FOLDER` writes FOLDER/network.* and FOLDER/pictures.pt, for an encoder
in a file of its own FOLDER/encoder.pth too. It is a process of its own (`test_originals.py` starts it) since those
projects have modules called `training` and `models` too. It imports nothing of ours but what writes foreign pickles.
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
CHANNELS = {4: 20, 8: 16, 16: 12, 32: 8, 64: 8, 128: 8, 256: 8}
LABELS, LABEL = 5, 3
PICTURES = 10
SAMPLES = 10_000  # of the mean code
# Parts of names of tensors that training never changes.
CONSTANT = ("kernel", "resample_filter", "lod", "truncation", "num_batches_tracked")


@torch.no_grad()
def randomise(network: nn.Module) -> nn.Module:
    """Away from the initial values: zero biases and noise strengths would hide a mistake."""
    for name, tensor in network.state_dict().items():
        if not name.endswith(CONSTANT):
            slow = name.startswith(("mapping.", "style."))  # weights that a rate of 0.01 is multiplied to
            tensor.add_(torch.randn_like(tensor) * (30 if slow else 0.3))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.1)
    return network.eval().requires_grad_(False)


def optimiser_after_a_step(parameters: Any) -> dict[str, Any]:
    """State of an optimiser, as checkpoints carry it along."""
    parameters = [nn.Parameter(parameter.clone()) for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=0.002, betas=(0.0, 0.99))
    sum(parameter.sum() for parameter in parameters).backward()
    optimiser.step()
    return optimiser.state_dict()


def save_and_draw(file: Path, content: Any, z: Tensor, images: Tensor, codes: Tensor | None = None) -> None:
    """A checkpoint of torch.save's, the pictures, and the codes that the original's encoder gives for them."""
    torch.save(content, file.with_suffix(".pt"))
    torch.save({"z": z, "images": images, "codes": codes}, file.with_name("pictures.pt"))


# --- rosinality/stylegan2-pytorch -----------------------------------------------------------------------------------


def rosinality_networks(size: int = SIZE, code: int = CODE) -> tuple[nn.Module, nn.Module, nn.Module]:
    """g, d and g_ema. The import of the module would compile for a GPU, which processors do without."""
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load = lambda *_, **__: None  # type: ignore[assignment]
    from model import Discriminator, Generator  # type: ignore[import-not-found]

    class Narrow(Generator):  # type: ignore[misc]
        """Its table of widths is fixed, at 512."""

        channels = property(lambda _: CHANNELS, lambda _, __: None)

    g, g_ema = (randomise(Narrow(size, code, DEPTH)) for _ in range(2))
    return g, Discriminator(4), g_ema


@torch.no_grad()
def rosinality_pictures(g_ema: nn.Module) -> tuple[Tensor, Tensor]:
    z = torch.randn(PICTURES, g_ema.style_dim)
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


@torch.no_grad()
def rosinality_without_noises(file: Path) -> None:
    """As its first version saved: without noise maps. Drawn with those that our import makes."""
    _, _, g_ema = rosinality_networks()
    state = {name: value for name, value in g_ema.state_dict().items() if not name.startswith("noises.")}
    random = torch.Generator().manual_seed(0)
    sides = [4] + [side for side in (8, 16, 32) for _ in range(2)]
    noise = [torch.randn(1, 1, side, side, generator=random) for side in sides]
    z = torch.randn(PICTURES, g_ema.style_dim)
    save_and_draw(file, {"g_ema": state}, z, g_ema([z], noise=noise)[0])


def rosinality_converted(file: Path) -> None:
    """As `convert_weight.py` saves NVIDIA's older networks."""
    g, d, g_ema = rosinality_networks()
    mean = g_ema.mean_latent(SAMPLES)[0]
    content = {"g_ema": g_ema.state_dict(), "latent_avg": mean, "g": g.state_dict(), "d": d.state_dict()}
    save_and_draw(file, content, *rosinality_pictures(g_ema))


def psp(file: Path) -> None:
    """As pSp and e4e save rosinality's generator beside an encoder of another type than the two below."""
    _, _, decoder = rosinality_networks()
    both = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "decoder": decoder}
    )
    options = {"exp_dir": "runs", "device": "cuda:0", "lpips_lambda": 0.8, "start_from_latent_avg": True}
    mean = decoder.mean_latent(SAMPLES).repeat(decoder.n_latent, 1)
    content = {"state_dict": both.state_dict(), "opts": options, "latent_avg": mean}
    save_and_draw(file, content, *rosinality_pictures(decoder))


# --- eladrich/pixel2style2pixel, omertov/encoder4editing: beside rosinality's work tree ------------------------------


@torch.no_grad()
def pyramid(file: Path, kind: str) -> None:
    """As they save; encoders of the published size, for pictures of 256 pixels."""
    sys.path.insert(1, str(Path(sys.path[0]).with_name("stylegan2-pytorch")))
    _, _, decoder = rosinality_networks(256, 512)
    from models.encoders import psp_encoders  # type: ignore[import-not-found]

    options = {"encoder_type": kind, "n_styles": 14, "input_nc": 3, "stylegan_size": 256}
    encoder = getattr(psp_encoders, kind)(50, "ir_se", argparse.Namespace(**options)).eval()
    for name, tensor in encoder.state_dict().items():
        if name.endswith(("bias", "running_mean", "running_var")):  # larger weights would drown everything
            tensor.add_(torch.rand_like(tensor))
    z, images = rosinality_pictures(decoder)
    mean = decoder.mean_latent(SAMPLES).repeat(decoder.n_latent, 1)
    codes = torch.cat([encoder(image[None]) for image in images.clamp(-1, 1)]) + mean
    content = {
        "state_dict": nn.ModuleDict({"encoder": encoder, "decoder": decoder}).state_dict(),
        "opts": options | {"start_from_latent_avg": True},
        "latent_avg": mean,
    }
    save_and_draw(file, content, z, images, codes)


# --- NVlabs/stylegan2-ada-pytorch -----------------------------------------------------------------------------------


def nvidia_networks(labels: int, channels: int) -> dict[str, nn.Module]:
    """G, D, G_ema and the augmentation, of G_ema the weights are random and the mean code is its own."""
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # only its downloads need it
    import dnnlib  # type: ignore[import-not-found]

    half = {"num_fp16_res": 4, "conv_clamp": 256}
    synthesis = dnnlib.EasyDict(channel_base=256, channel_max=20, fp16_channels_last=True, **half)
    mapping = dnnlib.EasyDict(num_layers=DEPTH)
    common = {"c_dim": labels, "img_resolution": SIZE, "img_channels": channels}
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
        mapping_kwargs=dnnlib.EasyDict(),
        **half,
        **common,
    )
    augment_pipe = make(class_name="training.augment.AugmentPipe", xflip=1, rotate90=1, imgfilter=1)
    with torch.no_grad():
        c = one_hot(SAMPLES, labels)
        G_ema.mapping.w_avg.copy_(G_ema.mapping(torch.randn(SAMPLES, Z), c)[:, 0].mean(0))
    return {"G": G, "D": D, "G_ema": G_ema, "augment_pipe": augment_pipe}


def one_hot(count: int, labels: int) -> Tensor | None:
    """The label LABEL for each of some pictures; None where there are no classes."""
    return torch.eye(labels)[LABEL].expand(count, -1) if labels else None


def on_white(pictures: Tensor) -> Tensor:
    """RGB pictures as they are, grey ones three times, and RGBA ones on white."""
    if pictures.shape[1] < 4:
        return pictures.expand(-1, 3, -1, -1)
    opacity = (pictures[:, 3:] / 2 + 0.5).clamp(0, 1)
    return pictures[:, :3] * opacity + (1 - opacity)


@torch.no_grad()
def nvidia_pictures(file: Path, generator: nn.Module, labels: int) -> None:
    """Writes pictures of random z by NVIDIA's own generator."""
    z = torch.randn(PICTURES, Z)
    images = generator(z, one_hot(PICTURES, labels), noise_mode="const", force_fp32=True)
    torch.save({"z": z, "images": on_white(images)}, file.with_name("pictures.pt"))


def nvidia(file: Path, labels: int = 0, channels: int = 3) -> None:
    """As `train.py` saves: whole networks, pickled with their source code."""
    content: dict[str, Any] = {"training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset"}}
    networks = nvidia_networks(labels, channels)
    for name, module in networks.items():
        content[name] = copy.deepcopy(module).eval().requires_grad_(False).cpu()
    file.with_suffix(".pkl").write_bytes(pickle.dumps(content))
    nvidia_pictures(file, networks["G_ema"], labels)


def tensorflow_stylegan2(file: Path, labels: int = 0) -> None:
    """A pickle of TensorFlow's code, and the network that NVIDIA's own converter makes of it."""
    from tests.export.foreign_pickles import stylegan2_variables, tensorflow

    variables = stylegan2_variables(nvidia_networks(labels, 3)["G_ema"].state_dict())
    shape = {"latent_size": Z, "dlatent_size": CODE, "mapping_fmaps": CODE, "mapping_layers": DEPTH}
    widths = {"resolution": SIZE, "num_channels": 3, "label_size": labels, "fmap_base": 128, "fmap_max": 20}
    file.with_suffix(".pkl").write_bytes(tensorflow(4, *variables, **shape, **widths))
    import legacy  # type: ignore[import-not-found]

    with file.with_suffix(".pkl").open("rb") as stream:
        _, _, smooth = legacy._LegacyUnpickler(stream).load()
    nvidia_pictures(file, legacy.convert_tf_generator(smooth), labels)


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


@torch.no_grad()
def genforce_stylegan1(file: Path, size: int, fmaps_max: int) -> None:
    """As its runner saves."""
    from models import build_generator  # type: ignore[import-not-found]

    generator = randomise(build_generator("stylegan", resolution=size, fmaps_max=fmaps_max))
    z = torch.randn(PICTURES, 512)
    generator.truncation.w_avg.copy_(generator.mapping(torch.randn(SAMPLES, 512))["w"].mean(0))
    images = torch.cat([generator(one[None])["image"] for one in z])
    save_and_draw(file, {"models": {"generator_smooth": generator.state_dict()}}, z, images)


@torch.no_grad()
def tensorflow_stylegan1(file: Path, size: int) -> None:
    """A pickle of TensorFlow's code with the variables that GenForce names for its own network."""
    from models import build_generator

    from tests.export.foreign_pickles import tensorflow

    generator = randomise(build_generator("stylegan", resolution=size, fmaps_max=32))
    z = torch.randn(PICTURES, 512)
    generator.truncation.w_avg.copy_(generator.mapping(torch.randn(SAMPLES, 512))["w"].mean(0))
    variables: dict[str, dict[str, Any]] = {"truncation": {}, "mapping": {}, "synthesis": {}}
    state = generator.state_dict()
    for ours, theirs in generator.pth_to_tf_var_mapping.items():
        value = state[ours].numpy()
        if value.ndim == 4 and theirs.endswith("weight"):
            value = value.transpose(2, 3, 1, 0)
        variables[ours.split(".")[0]][theirs] = value.T if value.ndim == 2 else value
    file.with_suffix(".pkl").write_bytes(tensorflow(3, *variables.values(), resolution=size))
    images = torch.cat([generator(one[None])["image"] for one in z])
    torch.save({"z": z, "images": images}, file.with_name("pictures.pt"))


# --- genforce/idinvert_pytorch --------------------------------------------------------------------------------------


@torch.no_grad()
def idinvert(file: Path, size: int, fmaps_max: int, encoder_max: int) -> None:
    """State dicts as published: the generator's without the coefficients of its truncation."""
    from models.stylegan_encoder_network import StyleGANEncoderNet  # type: ignore[import-not-found]
    from models.stylegan_generator_network import StyleGANGeneratorNet  # type: ignore[import-not-found]

    settings = {"repeat_w": False, "final_tanh": True, "truncation_psi": 1.0, "fmaps_max": fmaps_max}
    generator = randomise(
        StyleGANGeneratorNet(size, w_space_dim=fmaps_max, z_space_dim=fmaps_max, **settings)
    )
    encoder = StyleGANEncoderNet(
        size, w_space_dim=fmaps_max, encoder_channels_max=encoder_max, use_bn=True
    ).eval()
    for name, tensor in encoder.state_dict().items():
        if not name.endswith((*CONSTANT, "conv.weight", "conv1.weight", "conv2.weight")):
            tensor.add_(torch.rand_like(tensor))
    z = torch.randn(PICTURES, fmaps_max)
    images = torch.cat([generator(one[None]) for one in z])
    codes = torch.cat([encoder(one[None]) for one in images]).view(PICTURES, -1, fmaps_max)
    state = {key: value for key, value in generator.state_dict().items() if key != "truncation.truncation"}
    torch.save(encoder.state_dict(), file.with_name("encoder.pth"))
    save_and_draw(file, state, z, images, codes)


FORMATS: dict[str, Callable[[Path], None]] = {
    "rosinality, trained": rosinality_trained,
    "rosinality, converted": rosinality_converted,
    "rosinality without noise maps": rosinality_without_noises,
    "pSp": psp,
    "NVIDIA": nvidia,
    "NVIDIA, conditional on classes": lambda file: nvidia(file, labels=LABELS),
    "NVIDIA, grey": lambda file: nvidia(file, channels=1),
    "NVIDIA, RGBA": lambda file: nvidia(file, channels=4),
    "StyleGAN2 of TensorFlow": tensorflow_stylegan2,
    "StyleGAN2-ADA of TensorFlow, conditional": lambda file: tensorflow_stylegan2(file, labels=LABELS),
    "StyleGAN of TensorFlow": lambda file: tensorflow_stylegan1(file, 32),
    "StyleGAN of TensorFlow, 128 pixels": lambda file: tensorflow_stylegan1(file, 128),
    "GenForce": genforce,
    "GenForce, w per layer": lambda file: genforce(file, repeat_w=False),
    "GenForce StyleGAN1": lambda file: genforce_stylegan1(file, 128, 32),
    "GenForce StyleGAN1, 256 pixels": lambda file: genforce_stylegan1(file, 256, 512),
    "idinvert": lambda file: idinvert(file, 128, 32, 64),
    "idinvert, as published": lambda file: idinvert(file, 256, 512, 1024),
    "pSp with its encoder": lambda file: pyramid(file, "GradualStyleEncoder"),
    "e4e with its encoder": lambda file: pyramid(file, "Encoder4Editing"),
}

if __name__ == "__main__":
    chosen, work_tree, folder = sys.argv[1:]
    sys.path.insert(0, work_tree)  # before everything else, this folder's and any installed `training`
    sys.path.append(str(Path(__file__).parents[2]))  # for tests.export
    torch.manual_seed(1)
    FORMATS[chosen](Path(folder) / "network")
