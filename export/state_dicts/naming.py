"""How tensors of a foreign network become ours: rules from name to name, and errors where they do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from training.networks.encoder import EncoderConfig
from training.networks.generator import GeneratorConfig
from training.run_folders.checkpoint import CheckpointError

# Maps that a network draws -> what is said about the import.
PICTURES = {
    1: "it draws grey pictures; they are served as RGB with three equal channels",
    3: "",
    4: "it draws RGB and alpha; pictures are served as RGB on white",
}
MOST_LISTED = 40  # names in an error message
MOST_LAYERS = 32  # of one kind
MOST_CHANNELS = 4096
MOST_BLOCKS = 8  # above 4 pixels: 1024

Config = TypeVar("Config", bound=GeneratorConfig | EncoderConfig)
Network = TypeVar("Network", bound=nn.Module)


def same(tensor: Tensor) -> Tensor:
    """Leave a tensor as it is."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """Where one of our tensors comes from: the foreign tensor's name, and how it is changed."""

    name: str
    change: Callable[[Tensor], Tensor] = same


@dataclass(frozen=True)
class Foreign(Generic[Config]):
    """A generator or an encoder in a foreign file, and how to read it."""

    family: str
    """Name of the family, for messages: "rosinality StyleGAN2"."""
    state: Mapping[str, Tensor]
    """The file's tensors, by their names there."""
    config: Config
    rules: Mapping[str, Rule]
    """Our tensor's name -> where it comes from."""
    filters: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of a foreign constant -> the resampling filter of ours that it must equal, float [k, k]."""
    unused: frozenset[str] = frozenset()
    """Tensors that the file may have and that the network does not need."""
    mean_code: Tensor | None = None
    """Mean of sampled codes by the file's own account, float [512] or [L, 512]."""
    clamp: float | None = None
    """Limit at which the original clamps activations; ours does not clamp."""
    made: Mapping[str, Tensor] = field(default_factory=dict)
    """Our tensor's name -> a tensor that the file lacks and that is made for it."""
    notes: tuple[str, ...] = ()
    """What people should know about the import: what was left out, or made."""
    labels: int = 0
    """Classes that the network is conditional on; then `at_label` gives the network for one of them."""
    at_label: Callable[[int], Foreign[Config]] | None = None


def translate(foreign: Foreign[Config], build: Callable[[Config], Network]) -> Network:
    """Make our network with the file's weights, frozen and in evaluation mode.

    Raises CheckpointError that lists what is unknown, missing or of another shape.
    """
    state, name = foreign.state, f"as the {foreign.family} it does not fit"
    wanted = {rule.name for rule in foreign.rules.values()}
    missing = sorted(wanted - state.keys())
    unknown = sorted(state.keys() - wanted - foreign.filters.keys() - foreign.unused)
    if missing or unknown:
        raise CheckpointError(f"{name}: missing {listed(missing)}, unknown {listed(unknown)}")
    filters = sorted(key for key, ours in foreign.filters.items() if not is_our_filter(state.get(key), ours))
    if filters:
        raise CheckpointError(f"{name}: resampling filters other than StyleGAN's: {listed(filters)}")
    # Shapes come first, as a file may pretend to be larger than it is.
    with torch.device("meta"):
        ours = build(foreign.config).state_dict()
    found, unfit = {}, []
    for key, rule in foreign.rules.items():
        try:
            found[key] = rule.change(state[rule.name].float())
        except (RuntimeError, IndexError):
            # It has another number of axes; reported below.
            found[key] = state[rule.name]
        if found[key].shape != ours[key].shape:
            unfit.append(f"{rule.name} {tuple(state[rule.name].shape)}")
    found |= foreign.made
    if unfit:
        raise CheckpointError(f"{name}: other shapes than {foreign.config} has: {listed(unfit)}")
    network = build(foreign.config)
    # Batch norms count batches; files may leave these counts out, and they start at 0.
    network.load_state_dict(found)
    return network.eval().requires_grad_(False)


def is_our_filter(kernel: Tensor | None, ours: Tensor) -> bool:
    """Whether a constant is that filter, for one channel or for each. Files may leave constants out (None)."""
    if kernel is None:
        return True
    if kernel.shape[-2:] != ours.shape:
        return False
    return torch.allclose(kernel.float(), ours.expand(kernel.shape), atol=1e-5)


def listed(names: list[str]) -> str:
    """Names for an error message, at most MOST_LISTED of them."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"[{', '.join(names[:MOST_LISTED])}{more}]"


def tensors_of(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict."""
    return {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }


def shape_of(state: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that says how large a generator is. Raises CheckpointError where it is missing."""
    if name not in state or state[name].ndim != axes:
        raise CheckpointError(f"it has no {name} of {axes} axes, which a generator of its family has")
    return tuple(state[name].shape)


def drawn_channels(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Number of maps that a network draws, from the outputs of its last layer's weight: grey, RGB, or RGB and alpha.

    Raises CheckpointError for any other number.
    """
    weight = state.get(name)
    channels = weight.shape[axis] if weight is not None and weight.ndim >= -axis else 3
    if channels not in PICTURES:
        raise CheckpointError(
            f"its {name} draws {channels} maps; grey, RGB, and RGB with alpha can be imported"
        )
    return channels


def as_rgb(channels: int, change: Callable[[Tensor], Tensor] = same) -> Callable[[Tensor], Tensor]:
    """How a weight or a bias of a layer that draws becomes ours: that of grey is repeated for RGB."""
    return (lambda tensor: change(tensor).repeat_interleave(3, 0)) if channels == 1 else change


def notes_on(channels: int) -> tuple[str, ...]:
    """What to say about a network that draws that number of maps."""
    return (PICTURES[channels],) if PICTURES[channels] else ()


def batch_norm(theirs: str, ours: str) -> dict[str, Rule]:
    """Rules for a batch norm, without its count of batches."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{ours}.{part}": Rule(f"{theirs}.{part}") for part in parts}


def batch_counts(state: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of batch norms' counts of batches, which nothing depends on."""
    return frozenset(name for name in state if name.endswith(".num_batches_tracked"))


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the group of `pattern` finds at the start of a name; 0 if none.

    Raises CheckpointError for a number that no StyleGAN has.
    """
    matches = (re.match(pattern, name) for name in state)
    highest = max((int(match[1][:4]) + 1 for match in matches if match), default=0)
    if highest > MOST_LAYERS:
        raise CheckpointError(f"it has more layers of one kind ({highest}) than any StyleGAN")
    return highest


def make_config(
    state: Mapping[str, Tensor],
    constant: tuple[int, ...],
    widths: list[str],
    mapping: list[str],
    style: str,
    drawn: int,
) -> GeneratorConfig:
    """Read a generator's config off its tensors' shapes. Raises CheckpointError.

    `constant`: shape of the 4 x 4 input, channels at axis -3. `widths`: names of a weight each for 8, 16, ... pixels,
    with the outputs at axis -4. `mapping`: names of the mapping's weights. `style`: name of a weight that takes a
    code's vector. `drawn`: maps that it draws.
    """
    code_size = shape_of(state, style, 2)[1]
    if not mapping or not 0 < len(widths) <= MOST_BLOCKS:
        raise CheckpointError("it has no mapping network, or no blocks for 8 to 1024 pixels")
    last, first = shape_of(state, mapping[-1], 2), shape_of(state, mapping[0], 2)
    missing = [name for name in widths if name not in state or state[name].ndim < 4]
    if missing:
        raise CheckpointError(f"as a generator, it misses {listed(missing)}")
    channels = tuple(state[name].shape[-4] for name in widths)
    if max(*channels, constant[-3], code_size, first[1]) > MOST_CHANNELS:
        raise CheckpointError(f"it has layers wider than {MOST_CHANNELS}, as no StyleGAN has")
    return GeneratorConfig(
        resolution=4 << len(widths),
        channels=(constant[-3], *channels),
        z_size=first[1],
        code_size=code_size,
        mapping_depth=len(mapping),
        per_layer_code=last[0] != code_size,
        transparency=drawn == 4,
    )
