"""Latent codes in files: those of this package and those of other projects.

Read are results of `save` (.npz), arrays (.npy), `latents.pt` of e4e and pSp, `projected_w.npz` of NVIDIA's projector
and the `.pt` of rosinality's projector: one w [512], or w of each layer [L, 512]. Nothing in a file is executed.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from indomain.calls.generating import sample
from indomain.clients.client import Client
from indomain.exceptions import InvalidFileError, OtherCodeSpaceError, UnknownBundleError
from indomain.results.bundles import Bundle
from indomain.results.files import saved_code
from indomain.unpickling.files import read_checkpoint
from indomain.unpickling.values import Array
from indomain.wire.codes import CodeArray, code_from_wire

# Names under which other projects keep codes, the most telling first.
_NAMES: Final = ("w", "ws", "w_plus", "latent", "latents", "code", "codes", "projected_w")
_DEEPEST: Final = 3
_SAMPLES: Final = 64
# Of codes of another generator the mean over its layers has no more in common with the bundle's mean code than chance,
# which is a correlation of 0.04 on 512 numbers. Codes of the bundle's own keep most of what samples have in common with
# it, after refinement and edits too.
_OWN_CORRELATION: Final = 0.3
_FOREIGN_SHARE: Final = 0.35
# Where the mean code says too little: root mean square of standard deviations from it. Samples have 1.
_FOREIGN_DEVIATIONS: Final = 4.0


class ForeignCodeWarning(UserWarning):
    """A code looks like one of another generator than the bundle's: its picture will mean nothing."""


@dataclass(frozen=True)
class Code:
    """A latent code from a file, for `Client.edit`, `mix`, `interpolate` and `decode`.

    Attributes:
        code: float32 [L, 512]; [512] where the file has one w and no bundle was asked how many layers it has.
        bundle, code_space: whose code it is, where the file says so; otherwise empty.
    """

    code: CodeArray = field(repr=False)
    bundle: str = ""
    code_space: str = ""


def load_code(file: str | os.PathLike[str], client: Client | None = None, *, bundle: str = "") -> Code:
    """Reads the latent code in a file of this package or of another project.

    Example:
        >>> client.invert("portrait.png").save("portrait.npz")
        >>> code = indomain.load_code("portrait.npz", client)
        >>> client.edit(code, smile=1.0).image.save("smile.png")

    Args:
        file: saved by a result, or `.npy`, `.npz`, `.pt` or `.pkl` of another project, with one w [512] or w of each
            layer [L, 512].
        client: asked for the bundle's layers: one w becomes that of each layer, and a code that does not fit is
            refused. A code that does not say whose it is is compared with samples of the bundle. None: neither is done.
        bundle: the bundle that the code is for; empty: the default.

    Warns:
        ForeignCodeWarning: the code looks like one of another generator.

    Raises:
        OSError: the file cannot be read.
        InvalidFileError: it holds no code, or several, or anything but data.
        OtherCodeSpaceError: the code is of another shape than the bundle's, or says that it is of another bundle.
        UnknownBundleError: no such bundle.
    """
    return _only(Path(file)) if client is None else CodeReader(client, bundle).read(Path(file))


def load_codes(file: str | os.PathLike[str]) -> list[Code]:
    """Reads all latent codes in a file, e.g. those of all pictures that e4e wrote into one `latents.pt`.

    Raises OSError, InvalidFileError.
    """
    file = Path(file)
    if (saved := saved_code(file)) is not None:
        return [Code(*saved)]
    content = read_checkpoint(file)
    codes = [Code(code) for array in _arrays_in(content, 0) for code in _codes_in(array)]
    if not codes:
        raise _invalid(
            file, "it holds no latent code: none of [512], [L, 512] or [N, L, 512] in floating point"
        )
    return codes


class CodeReader:
    """Reads codes for one bundle of a gateway, which it asks once. May be used from several threads.

    Args:
        client: of the gateway.
        bundle: its name; empty: the default.
        on_foreign: is told, in words, of a code that looks like one of another generator; None: a ForeignCodeWarning.
    """

    def __init__(
        self, client: Client, bundle: str = "", on_foreign: Callable[[str], None] | None = None
    ) -> None:
        self._client = client
        self._name = bundle
        self._on_foreign = on_foreign or _warn
        # Guards the two that are asked for.
        self._asking = threading.Lock()
        self._bundle: Bundle | None = None
        self._samples: npt.NDArray[np.float32] | None = None

    def read(self, file: Path) -> Code:
        """The code in a file, for the bundle. Raises what `load_code` raises."""
        code = _only(file)
        if code.code_space:
            # The gateway compares it with the space of its own.
            return code
        bundle = self._asked_bundle()
        shape = (bundle.layers, bundle.code_size)
        if code.code.shape == shape[1:]:
            code = replace(code, code=np.repeat(code.code[None], bundle.layers, axis=0))
        whole = (bundle.code_rows, bundle.code_size)
        if code.code.shape not in (shape, whole):
            raise OtherCodeSpaceError(
                f"{file} has a code {list(code.code.shape)}, and {bundle.name} has codes {list(shape)}: it is of "
                "another generator, or no code",
                reason="other_code_space",
            )
        if why := self._foreign(code.code[: bundle.layers], bundle):
            self._on_foreign(f"{file} looks like a code of another generator than {bundle.name}'s: {why}")
        return code

    def _asked_bundle(self) -> Bundle:
        with self._asking:
            if self._bundle is None:
                bundles = {found.name: found for found in self._client.bundles()}
                self._bundle = bundles.get(self._name) if self._name else next(iter(bundles.values()), None)
            if self._bundle is None:
                served = ", ".join(bundles) or "none"
                raise UnknownBundleError(f"The gateway serves no bundle {self._name}; it has: {served}")
            return self._bundle

    def _foreign(self, code: CodeArray, bundle: Bundle) -> str:
        """Why a code looks like one of another generator; empty where it does not."""
        with self._asking:
            if self._samples is None:
                call = sample(range(_SAMPLES), 1.0, bundle=bundle.name)
                # A picture of each would cost far more than the codes.
                call.request.output.omit_image = True
                self._samples = self._client._answer(
                    call,
                    lambda answer: np.stack([code_from_wire(code)[: bundle.layers] for code in answer.codes]),
                )
        return differs(code, self._samples)


def differs(code: CodeArray, samples: npt.NDArray[np.float32]) -> str:
    """In which way a code [L, 512] is none like samples [N, L, 512]; empty where it may be one.

    A code of the generator, also one of W+ from an encoder or a refinement, is near the mean code in most of its
    numbers. A code of another generator is as near to it as to any other vector.
    """
    mean, deviation = samples.mean(0), samples.std(0) + 1e-6
    own = float(np.median([_correlation(sample.mean(0), mean.mean(0)) for sample in samples]))
    if own >= _OWN_CORRELATION:
        found = _correlation(code.mean(0), mean.mean(0))
        if found < _FOREIGN_SHARE * own:
            return f"its correlation with the mean code is {found:.2f}, that of samples {own:.2f}"
        return ""
    deviations = float(np.sqrt(np.mean(((code - mean) / deviation) ** 2)))
    if deviations > _FOREIGN_DEVIATIONS:
        return f"it lies {deviations:.1f} standard deviations from the mean code, samples lie 1 from it"
    return ""


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) + 1e-12))


def _only(file: Path) -> Code:
    """The code in a file that has one. Raises InvalidFileError."""
    codes = load_codes(file)
    if len(codes) > 1:
        raise _invalid(file, f"it holds {len(codes)} codes; take one of indomain.load_codes({str(file)!r})")
    return codes[0]


def _arrays_in(content: Any, depth: int) -> Iterator[npt.NDArray[Any]]:
    """The arrays of codes in what a file holds: the array itself, or those under names that stand for codes.

    A dict without such a name is one of pictures' names, as rosinality and pSp write it.
    """
    content = content.value if isinstance(content, Array) else content
    if isinstance(content, np.ndarray):
        yield content
    elif depth < _DEEPEST and isinstance(content, Mapping):
        named = [content[name] for name in _NAMES if name in content]
        for part in named[:1] or content.values():
            yield from _arrays_in(part, depth + 1)
    elif depth < _DEEPEST and isinstance(content, (list, tuple)):
        for part in content:
            yield from _arrays_in(part, depth + 1)


def _codes_in(array: npt.NDArray[Any]) -> list[CodeArray]:
    """The codes [512] or [L, 512] in an array of one, or of N codes [N, L, 512]; none where it is no array of codes."""
    if not np.issubdtype(array.dtype, np.floating) or not 1 <= array.ndim <= 4 or 0 in array.shape:
        return []
    array = array.astype(np.float32)
    # [1, 512] is one w; [N, 1, 512] are several.
    if array.ndim > 1 and array.shape[-2] == 1:
        array = array[..., 0, :]
        return list(array.reshape(-1, array.shape[-1]))
    return [array] if array.ndim < 3 else list(array.reshape(-1, *array.shape[-2:]))


def _invalid(file: Path, why: str) -> InvalidFileError:
    return InvalidFileError(f"{file}: {why}", reason="invalid_file")


def _warn(text: str) -> None:
    warnings.warn(text, ForeignCodeWarning, stacklevel=4)
