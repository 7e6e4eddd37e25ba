"""Files as people have them: each known format in another wrapping, with other channels, classes, or from TensorFlow.

Each variant has a reference of what its network draws. `import_table.py` and the tests go through all of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.export.foreign_pickles import (
    as_modules,
    on_white,
    pickled,
    stylegan1_variables,
    stylegan2_variables,
    tensorflow,
)
from tests.export.foreign_pyramid import encoder_state
from tests.export.foreign_stylegan1 import generator as stylegan1
from tests.export.foreign_stylegan2 import CODE, LAYERS, Case, Z, genforce, nvidia, rosinality

NOISE_SEED = 0  # of the noise maps that an import makes
LABELS, LABEL = 5, 3


@dataclass(frozen=True)
class Variant:
    """A foreign file, and what its import gives."""

    write: Callable[[Path], Path]
    """Writes it into a folder and returns its path."""
    reference: Callable[[Tensor], Tensor]
    """What its network draws of z float32 [N, Z]: RGB pictures float32 [N, 3, H, W]."""
    keys: str
    """Where its tensors are read."""
    says: str = "next: python -m training encoder"
    """Part of the import's output."""
    arguments: tuple[str, ...] = ()
    """Of `python -m export import`."""
    z_size: int = Z


def saved(content: Any, name: str = "network.pt") -> Callable[[Path], Path]:
    """Writes by torch.save."""

    def write(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return write


def written(content: bytes, name: str = "network.pkl") -> Callable[[Path], Path]:
    """Writes bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def without_noises() -> Variant:
    """As the project's author published 550000.pt: from before noise maps were part of the network."""
    case = rosinality()
    state = {name: value for name, value in case.state.items() if not name.startswith("noises.")}
    content = {"g": state, "g_ema": state, "d": {}, "g_optim": {}, "d_optim": {}}
    random = torch.Generator().manual_seed(NOISE_SEED)
    for name in case.state:  # the reference reads them when it draws
        if name.startswith("noises."):
            case.state[name] = torch.randn(case.state[name].shape, generator=random)
    return Variant(saved(content), case.reference, "`g_ema` without `noises.*`", "it has no noise maps")


def prefixed(prefix: str) -> Variant:
    case = rosinality()
    state = {f"{prefix}{name}": value for name, value in case.state.items()}
    where = "" if prefix in ("module.", "_orig_mod.") else f"it was read from {prefix}*"
    return Variant(saved(state), case.reference, f"`{prefix}*`", where or "32 px")


def averaged() -> Variant:
    """torch's AveragedModel over a compiled network."""
    case = genforce()
    state: dict[str, Tensor] = {"n_averaged": torch.tensor(9)}
    state |= {f"module._orig_mod.{name}": value for name, value in case.state.items()}
    return Variant(
        saved({"models": {"generator": state}}), case.reference, "`models.generator.module._orig_mod.*`"
    )


def lightning() -> Variant:
    """A LightningModule with a network, its moving average and a discriminator."""
    case, other = rosinality(), rosinality()
    state = {f"netG.{name}": value for name, value in other.state.items()}
    state |= {f"g_ema.module.{name}": value for name, value in case.state.items()}
    state |= {"netD.convs.0.0.weight": torch.ones(2, 3, 1, 1)}
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": state,
        "hyper_parameters": {"data": pathlib.PurePosixPath("/data"), "args": argparse.Namespace(lr=0.1)},
    }
    says = "it was read from state_dict.g_ema.*"
    return Variant(saved(content, "last.ckpt"), case.reference, "`state_dict.g_ema.module.*`", says)


def below_other_keys() -> Variant:
    case = nvidia()
    content = {"checkpoint": {"networks": {"state_dict": {f"G_ema.{k}": v for k, v in case.state.items()}}}}
    says = "it was read from checkpoint.networks.state_dict.G_ema.*"
    return Variant(saved(content), case.reference, "`checkpoint.networks.state_dict.G_ema.*`", says)


def dropped_encoder(options: dict[str, Any], says: str) -> Variant:
    """ReStyle's or pSp's file with an encoder that is none of ours."""
    case = rosinality()
    state = {f"decoder.{name}": value for name, value in case.state.items()}
    state |= {f"encoder.{name}": value for name, value in encoder_state().items()}
    content = {"state_dict": state, "latent_avg": torch.zeros(LAYERS, CODE), "opts": options}
    return Variant(saved(content), case.reference, "`state_dict.decoder.*`", says)


def conditional(to_file: Callable[[dict[str, Tensor]], Callable[[Path], Path]], keys: str) -> Variant:
    """A network for LABELS classes. One class is a constant input of the mapping, beside z."""
    case = nvidia()
    rows = case.state["mapping.fc0.weight"].shape[0]
    case.state["mapping.fc0.weight"] = torch.randn(rows, Z + CODE) / 0.01
    embed = {
        "mapping.embed.weight": torch.randn(CODE, LABELS),
        "mapping.embed.bias": torch.randn(CODE) / 5,
    }
    y = embed["mapping.embed.weight"][:, LABEL] / LABELS**0.5 + embed["mapping.embed.bias"]

    def reference(z: Tensor) -> Tensor:
        z, label = (x / x.square().mean(-1, keepdim=True).sqrt() for x in (z, y.expand(len(z), -1)))
        return case.reference(torch.cat([z, label], 1))

    return Variant(
        to_file(case.state | embed),
        reference,
        keys,
        f"it draws class {LABEL} of {LABELS}",
        ("--label", str(LABEL)),
    )


def as_nvidia_pickle(state: dict[str, Tensor]) -> Callable[[Path], Path]:
    network = as_modules(
        state, "raise AssertionError", bias_gain=0.01, conv_clamp=1e9, activation="lrelu", architecture="skip"
    )
    return written(pickled({"G": network, "G_ema": network, "training_set_kwargs": None}))


def grey(case: Case, content: Any) -> Variant:
    says = "it draws grey pictures"
    return Variant(
        saved(content), lambda z: case.reference(z).expand(-1, 3, -1, -1), "as of RGB, one channel", says
    )


def transparent(case: Case, content: Any) -> Variant:
    says = "pictures are served as RGB on white"
    return Variant(saved(content), lambda z: on_white(case.reference(z)), "as of RGB, four channels", says)


def tensorflow_stylegan2(state: dict[str, Tensor]) -> Callable[[Path], Path]:
    own, mapping, synthesis = stylegan2_variables(state)
    settings = {"num_channels": 3, "resolution": 32, "label_size": 0, "resample_kernel": [1, 3, 3, 1]}
    return written(tensorflow(4, own, mapping, synthesis, **settings))


def tensorflow_stylegan1(channels: tuple[int, ...]) -> Variant:
    case = stylegan1(channels, idinvert=False, repeat=True)
    own, mapping, synthesis = stylegan1_variables(case.state)
    settings = {"num_channels": 3, "resolution": 4 << len(channels) - 1, "fused_scale": "auto"}
    file = written(tensorflow(3, own, mapping, synthesis, **settings))
    return Variant(file, case.reference, "variables of `Gs` and its components")


def tensorflow_variant() -> Variant:
    case = nvidia()
    return Variant(tensorflow_stylegan2(case.state), case.reference, "variables of `Gs` and its components")


def with_case(
    make: Callable[..., Case], to_variant: Callable[[Case, Any], Variant], **options: Any
) -> Variant:
    case = make(**options)
    return to_variant(case, case.content)


def idinvert_transparent() -> Variant:
    case = stylegan1(drawn=4)
    return Variant(
        saved(case.state),
        lambda z: on_white(case.reference(z)),
        "as of RGB, four channels",
        "pictures are served as RGB on white",
    )


RESTYLE = {"encoder_type": "ProgressiveBackboneEncoder", "input_nc": 6, "n_iters_per_batch": 5}
INTO_W = {"encoder_type": "BackboneEncoderUsingLastLayerIntoW", "learn_in_w": True}
VARIANTS: dict[str, Callable[[], Variant]] = {
    "rosinality without noise maps": without_noises,
    "rosinality from DataParallel": lambda: prefixed("module."),
    "rosinality, compiled": lambda: prefixed("_orig_mod."),
    "rosinality as a part, `netG.`": lambda: prefixed("netG."),
    "GenForce, averaged and compiled": averaged,
    "Lightning": lightning,
    "NVIDIA's names below other keys": below_other_keys,
    "ReStyle, its encoder left out": lambda: dropped_encoder(RESTYLE, "is ReStyle's"),
    "pSp into W, its encoder left out": lambda: dropped_encoder(INTO_W, "into W"),
    "NVIDIA, conditional on classes": lambda: conditional(
        as_nvidia_pickle, "`G_ema`, with `mapping.embed.*`"
    ),
    "NVIDIA, grey": lambda: with_case(nvidia, grey, drawn=1),
    "NVIDIA, RGBA": lambda: with_case(nvidia, transparent, drawn=4),
    "rosinality, grey": lambda: with_case(rosinality, grey, drawn=1),
    "GenForce, RGBA": lambda: with_case(genforce, transparent, drawn=4),
    "idinvert, RGBA": idinvert_transparent,
    "StyleGAN2 of TensorFlow": tensorflow_variant,
    "StyleGAN2-ADA of TensorFlow, conditional": lambda: conditional(
        tensorflow_stylegan2, "variables of `Gs`, with `LabelEmbed`"
    ),
    "StyleGAN of TensorFlow": lambda: tensorflow_stylegan1((8, 6, 4, 4)),
}
