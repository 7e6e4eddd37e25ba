"""Whole networks as NVIDIA's projects pickle them: PyTorch modules with source code, and TensorFlow's Network objects.

The classes that such pickles name exist only while they are written. Reading them must not need any.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.export.foreign_stylegan2 import State

Variables = dict[str, np.ndarray]


class Module:
    """Pickles as NVIDIA's networks do: its fields, and source code to be executed by whoever loads it."""

    def __init__(self, source: str, **fields: Any) -> None:
        self.source, self.state = source, {"_parameters": {}, "_buffers": {}, "_modules": {}} | fields

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": "Net",
            "state": self.state,
        }
        return function, (meta,)


def as_modules(state: State, source: str, **fields: Any) -> Module:
    """A tree of modules from a state dict; `fields` go to every module."""
    root = Module(source, **fields)
    for name, value in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            module = module.state["_modules"].setdefault(part, Module(source, **fields))
        module.state["_parameters"][leaf] = torch.nn.Parameter(value)
    return root


class Network:
    """Pickles as `dnnlib.tflib.Network` does."""

    def __init__(
        self, version: int, variables: Variables, settings: dict[str, Any], components: dict[str, Any]
    ) -> None:
        self.state = {
            "version": version,
            "name": "G",
            "static_kwargs": settings,
            "components": components,
            "build_module_src": "raise AssertionError('nothing of the file may be executed')",
            "build_func_name": "G_main",
            "variables": list(variables.items()),
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def called(*_: Any) -> None:
    raise AssertionError("nothing of the file's may be called")


@contextmanager
def their_packages() -> Iterator[None]:
    """The packages that the pickles name, as far as a pickle is written with them."""
    persistence, network = (
        types.ModuleType("torch_utils.persistence"),
        types.ModuleType("dnnlib.tflib.network"),
    )
    function = types.FunctionType(called.__code__, {}, "_reconstruct_persistent_obj")
    function.__module__, function.__qualname__ = persistence.__name__, function.__name__
    persistence._reconstruct_persistent_obj = function  # type: ignore[attr-defined]
    network.Network = Network  # type: ignore[attr-defined]
    packages = {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib", "dnnlib.tflib")}
    packages |= {persistence.__name__: persistence, network.__name__: network}
    before, own = sys.modules.copy(), Network.__module__
    sys.modules.update(packages)
    Network.__module__ = network.__name__
    try:
        yield
    finally:
        Network.__module__ = own
        for name in packages:
            del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]


def pickled(content: Any) -> bytes:
    """A pickle of a content with such networks."""
    with their_packages():
        return pickle.dumps(content)


def tensorflow(
    version: int, own: Variables, mapping: Variables, synthesis: Variables, **settings: Any
) -> bytes:
    """A file (G, D, Gs) of NVIDIA's TensorFlow code, in which only Gs has these variables."""
    components = {
        "synthesis": Network(version, synthesis, settings, {}),
        "mapping": Network(version, mapping, settings | {"dlatent_broadcast": 8}, {}),
    }
    other = Network(version, {"lod": np.float32(0)}, {}, {})
    return pickled((other, other, Network(version, own, settings | {"truncation_psi": 0.5}, components)))


def stylegan2_variables(state: State) -> tuple[Variables, Variables, Variables]:
    """Variables of TensorFlow's StyleGAN2 from the state dict that NVIDIA's PyTorch code has for the same network.

    Its weights are [in, out] and [h, w, in, out]; kernels of up-convolutions are flipped, and styles have 1 added.
    """
    own: Variables = {"lod": np.float32(0), "dlatent_avg": state["mapping.w_avg"].numpy()}
    mapping: Variables = {}
    synthesis: Variables = {"lod": np.float32(0)}
    modules = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB"}
    for name, tensor in state.items():
        room, module, *rest = name.split(".")
        value = tensor.numpy()
        if room == "mapping" and module.startswith("fc"):
            mapping[f"Dense{module[2:]}/{rest[0]}"] = value.T
        elif room == "mapping" and module == "embed":
            mapping[f"LabelEmbed/{rest[0]}"] = value.T
        elif rest[:1] == ["const"]:
            synthesis["4x4/Const/const"] = value[None]
        elif room == "synthesis" and len(rest) > 1 and rest[-1] != "resample_filter":
            side, part = int(module[1:]), ".".join(rest[1:])
            scope = f"{side}x{side}/{'Conv' if side == 4 and rest[0] == 'conv1' else modules[rest[0]]}"
            if part == "noise_const":
                number = 0 if side == 4 else 2 * (side.bit_length() - 4) + (1 if rest[0] == "conv0" else 2)
                synthesis[f"noise{number}"] = value[None, None]
            elif part == "weight":
                value = np.transpose(value, (2, 3, 1, 0))
                synthesis[f"{scope}/weight"] = value[::-1, ::-1] if rest[0] == "conv0" else value
            elif part == "affine.weight":
                synthesis[f"{scope}/mod_weight"] = value.T
            elif part == "affine.bias":
                synthesis[f"{scope}/mod_bias"] = value - 1
            else:
                synthesis[f"{scope}/{part}"] = value
    return own, mapping, synthesis


def stylegan1_variables(state: State) -> tuple[Variables, Variables, Variables]:
    """Variables of TensorFlow's StyleGAN from the state dict that GenForce has for the same network."""
    own: Variables = {"lod": np.float32(0), "dlatent_avg": state["truncation.w_avg"].numpy()}
    mapping: Variables = {}
    synthesis: Variables = {"lod": np.float32(0)}
    outputs = sum(name.startswith("synthesis.output") for name in state) // 2
    for name, tensor in state.items():
        room, module, *rest = name.split(".")
        part, value = ".".join(rest), tensor.numpy()
        if room == "mapping":
            mapping[f"Dense{module.removeprefix('dense')}/{part}"] = value.T
        elif module.startswith("output"):
            lod = outputs - 1 - int(module.removeprefix("output"))
            synthesis[f"ToRGB_lod{lod}/{part}"] = kernel(value)
        elif module.startswith("layer") and part != "blur.kernel":
            number = int(module.removeprefix("layer"))
            side, names = 4 << number // 2, ("Const", "Conv") if number < 2 else ("Conv0_up", "Conv1")
            scope = f"{side}x{side}/{names[number % 2]}"
            if part == "apply_noise.noise":
                synthesis[f"noise{number}"] = value
            elif part == "style.weight":
                synthesis[f"{scope}/StyleMod/weight"] = value.T
            else:
                part = part.replace("style.", "StyleMod/").replace("apply_noise.", "Noise/")
                synthesis[f"{scope}/{part}"] = kernel(value) if part == "weight" else value
    return own, mapping, synthesis


def kernel(value: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; a bias stays."""
    return np.transpose(value, (2, 3, 1, 0)) if value.ndim == 4 else value


def on_white(pictures: Tensor) -> Tensor:
    """RGBA [N, 4, H, W] in [-1, 1] on white, with alpha limited to what a picture can hold."""
    alpha = ((pictures[:, 3:] + 1) / 2).clip(0, 1)
    return pictures[:, :3] * alpha + 1 - alpha
