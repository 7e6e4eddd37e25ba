"""StyleGAN and StyleGAN2 as NVIDIA's TensorFlow code pickles them (.pkl): their variables, without TensorFlow.

The file is a tuple (G, D, Gs) of `dnnlib.tflib.network.Network`, each with its variables, components and source code.
Only variables and settings of Gs, the moving average, are read. StyleGAN2's are given the names and layouts of NVIDIA's
PyTorch version (kernels [h, w, in, out] become [out, in, h, w], those of up-convolutions are flipped), StyleGAN's those
of GenForce's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.importers import nvidia, stylegan1
from export.state_dicts.naming import Foreign
from export.state_dicts.wrapping import fields_of
from indomain.unpickling.values import Array, Record
from training.networks.generator import GeneratorConfig
from training.run_folders.checkpoint import CheckpointError

NETWORK = "dnnlib.tflib.network.Network"
DEEPEST = 3  # networks within networks
STYLEGAN2_MARK, STYLEGAN1_MARK = "synthesis/4x4/Conv/mod_weight", "synthesis/4x4/Const/StyleMod/weight"
# Settings of networks that ours has: any other value is refused. The defaults of their code.
COMMON = {
    "mapping_nonlinearity": "lrelu",
    "nonlinearity": "lrelu",
    "normalize_latents": True,
    "use_noise": True,
}
STYLEGAN2 = COMMON | {"architecture": "skip", "resample_kernel": [1, 3, 3, 1]}
STYLEGAN1 = COMMON | {
    "blur_filter": [1, 2, 1], "const_input_layer": True, "fused_scale": "auto", "mapping_lrmul": 0.01,
    "use_instance_norm": True, "use_pixel_norm": False, "use_styles": True, "use_wscale": True,
}  # fmt: skip
LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
PARTS = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}


def find(content: Any) -> Foreign[GeneratorConfig] | None:
    """The generator's moving average in a file of this family. Raises CheckpointError."""
    networks = list(content) if isinstance(content, tuple | list) else [content]
    if not networks or not all(isinstance(part, Record) and part.kind == NETWORK for part in networks):
        return None
    if len(networks) == 4:
        raise CheckpointError("it is idinvert's TensorFlow file; its PyTorch files (.pth) can be imported")
    variables = variables_of(networks[-1], 0)
    settings = settings_of(networks[-1], 0)
    if STYLEGAN2_MARK in variables:
        refuse_settings(settings, STYLEGAN2)
        rate = settings.get("mapping_lrmul", nvidia.OUR_RATE)
        clamp = settings.get("conv_clamp")
        if not isinstance(rate, int | float) or not isinstance(clamp, int | float | None):
            raise CheckpointError("its settings mapping_lrmul and conv_clamp are not numbers")
        found = nvidia.rules_for(stylegan2_state(variables), rate, clamp)
        return with_family(found, "NVIDIA StyleGAN2 generator (TensorFlow)")
    if STYLEGAN1_MARK in variables:
        refuse_settings(settings, STYLEGAN1)
        found = stylegan1.read(stylegan1_state(variables), stylegan1.GENFORCE)
        return with_family(found, "NVIDIA StyleGAN generator (TensorFlow)")
    raise CheckpointError(
        "its TensorFlow network is neither StyleGAN's nor StyleGAN2's with styles; its variables start with "
        f"{sorted(variables)[:5]}"
    )


def with_family(found: Foreign[GeneratorConfig], family: str) -> Foreign[GeneratorConfig]:
    """The same under the family's name, for each label too."""
    at_label = found.at_label
    if at_label is None:
        return replace(found, family=family)
    return replace(found, family=family, at_label=lambda label: replace(at_label(label), family=family))


def variables_of(network: Record, depth: int) -> dict[str, Tensor]:
    """A network's variables and those of its components, by their full names. Raises CheckpointError."""
    found: dict[str, Tensor] = {}
    for entry in network.fields.get("variables") or ():
        if isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str):
            value = entry[1].value if isinstance(entry[1], Array) else entry[1]
            if isinstance(value, np.ndarray | int | float):
                found[entry[0]] = torch.from_numpy(np.array(value, np.float32))
    for name, part in fields_of(network.fields.get("components")).items():
        if isinstance(part, Record):
            if depth >= DEEPEST:
                raise CheckpointError("it has networks within networks without end")
            found |= {f"{name}/{key}": value for key, value in variables_of(part, depth + 1).items()}
    return found


def settings_of(network: Record, depth: int) -> dict[str, Any]:
    """A network's settings and those of its components, lists as lists."""
    found: dict[str, Any] = {}
    for part in fields_of(network.fields.get("components")).values():
        if isinstance(part, Record) and depth < DEEPEST:
            found |= settings_of(part, depth + 1)
    for name, value in fields_of(network.fields.get("static_kwargs")).items():
        plain = (
            value.value.tolist()
            if isinstance(value, Array) and isinstance(value.value, np.ndarray)
            else value
        )
        found[str(name)] = list(plain) if isinstance(plain, tuple) else plain
    return found


def refuse_settings(settings: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise CheckpointError that lists settings of another value than our networks have."""
    other = [
        f"{name}={settings[name]!r:.40}" for name in ours if settings.get(name, ours[name]) != ours[name]
    ]
    if other:
        raise CheckpointError(f"its settings are other than our networks have: {', '.join(other)}")


def stylegan2_state(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """StyleGAN2's variables under the names, and in the layout, of NVIDIA's PyTorch version.

    What has no counterpart keeps its name, and is listed as unknown. Raises CheckpointError.
    """
    if "mapping/LabelConcat/weight" in variables:
        raise CheckpointError(
            "it is conditional on classes as TensorFlow's StyleGAN2 is: z and the label are normalised together, which "
            "no bias can stand for; convert it to StyleGAN2-ADA's mapping, or import a network of that"
        )
    state = {}
    for name, value in variables.items():
        dense = re.fullmatch(r"mapping/(Dense(\d+)|LabelEmbed)/(weight|bias)", name)
        layer = re.fullmatch(r"synthesis/(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", name)
        noise = re.fullmatch(r"synthesis/noise(\d{1,3})", name)
        if name in ("lod", "synthesis/lod"):
            continue
        if name == "dlatent_avg":
            state["mapping.w_avg"] = value
        elif name == "synthesis/4x4/Const/const":
            state["synthesis.b4.const"] = value[0]
        elif dense:
            module = "embed" if dense[2] is None else f"fc{dense[2]}"
            state[f"mapping.{module}.{dense[3]}"] = value.t() if value.ndim == 2 else value
        elif noise:
            index = int(noise[1])
            module = f"b{4 << (index + 1) // 2}.conv{'0' if index % 2 else '1'}"
            state[f"synthesis.{module}.noise_const"] = value.reshape(value.shape[-2:])
        elif layer:
            side, module, part = layer.groups()
            if part == "weight":
                value = value.permute(3, 2, 0, 1)
                value = value.flip(2, 3) if module == "Conv0_up" else value
            elif part == "mod_weight":
                value = value.t()
            elif part == "mod_bias":
                value = value + 1
            state[f"synthesis.b{side}.{LAYERS[module]}.{PARTS.get(part, part)}"] = value
        else:
            state[name] = value
    return state


def stylegan1_state(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """StyleGAN's variables under the names, and in the layout, of GenForce. Raises CheckpointError."""
    if "mapping/LabelConcat/weight" in variables:
        raise CheckpointError("it is conditional on classes, with z and the label normalised together")
    # The output at 4 x 4 pixels has the highest number there, and 0 with GenForce.
    outputs = [match for name in variables if (match := re.match(r"synthesis/ToRGB_lod(\d+)/", name))]
    coarsest = max((int(match[1]) for match in outputs), default=0)
    state = {}
    for name, value in variables.items():
        dense = re.fullmatch(r"mapping/Dense(\d+)/(weight|bias)", name)
        layer = re.fullmatch(r"synthesis/(\d{1,4})x\1/(Const|Conv|Conv0_up|Conv1)/([\w/]+)", name)
        noise = re.fullmatch(r"synthesis/noise(\d+)", name)
        output = re.fullmatch(r"synthesis/ToRGB_lod(\d+)/(weight|bias)", name)
        if name == "lod":
            continue
        if name == "dlatent_avg":
            state["truncation.w_avg"] = value
        elif name == "synthesis/lod":
            state["synthesis.lod"] = value
        elif dense:
            state[f"mapping.dense{dense[1]}.{dense[2]}"] = value.t() if value.ndim == 2 else value
        elif noise:
            state[f"synthesis.layer{noise[1]}.apply_noise.noise"] = value
        elif output:
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value
            state[f"synthesis.output{coarsest - int(output[1])}.{output[2]}"] = value
        elif layer:
            side, module, part = layer.groups()
            index = 2 * (int(side).bit_length() - 3) + (module in ("Conv", "Conv1"))
            if part == "weight":
                value = value.permute(3, 2, 0, 1)
            elif part == "StyleMod/weight":
                value = value.t()
            part = part.replace("StyleMod/", "style.").replace("Noise/", "apply_noise.")
            state[f"synthesis.layer{index}.{part}"] = value
        else:
            state[name] = value
    return state
