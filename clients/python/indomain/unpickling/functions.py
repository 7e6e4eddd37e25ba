"""The functions that a pickle may name: ours, which make tensors, arrays and plain containers.

`FUNCTIONS` lists them by the names of those that they stand for. Classes of other projects and of modules that only
describe things, which options are made of, stay inert (`is_inert`). Whatever else a pickle names is refused.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from indomain.exceptions import InvalidFileError
from indomain.unpickling.values import Array, Dtype, Name, Record, Storage, expect, put_items, simple, sizes

STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}

MakeTensor = Callable[[np.ndarray[Any, Any], str], Any]
"""Makes a tensor of a view of a storage's numbers, and of their dtype's name; for bfloat16 the view holds its bits."""


def as_array(view: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """A tensor as numpy's array; bfloat16 becomes float32, of which it is the upper half."""
    return (view.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else view


def view_of(storage: Any, offset: Any, size: Any, stride: Any) -> tuple[np.ndarray[Any, Any], str]:
    """A tensor's numbers as a view of its storage, and their dtype's name.

    Raises InvalidFileError for one that leaves the storage, or has more elements (it would be a bomb).
    """
    storage = expect(storage, Storage, "a storage")
    size, stride, (offset,) = sizes(size), sizes(stride), sizes((offset,))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    room = storage.values.size
    if math.prod(size) > room or (math.prod(size) and last >= room) or offset > room:
        raise InvalidFileError(f"it has a tensor of shape {size} that does not lie on its {room} numbers")
    strides = [step * storage.values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.values[offset:], size, strides), storage.dtype


def make_dict(items: Any = ()) -> dict[Any, Any]:
    """A dict, in place of any kind of dict."""
    filled: dict[Any, Any] = {}
    put_items(filled, [value for pair in items for value in expect(pair, list | tuple, "a pair")])
    return filled


def make_set(items: Any = ()) -> set[Any]:
    """A set, in place of any kind of set."""
    return {simple(item) for item in items}


def make_scalar(dtype: Any, content: Any) -> Any:
    """A number of numpy's as one of Python's."""
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(expect(content, bytes, "a number's bytes"), expect(dtype, Dtype, "dtype").numpy())[
        0
    ].item()


def make_array(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array as protocol 5 writes it."""
    array = Array()
    array.fill((1, shape, dtype, order == "F", content))
    return array


def make_bytes(text: Any, encoding: Any) -> bytes:
    """Bytes that an old protocol wrote as text."""
    if encoding not in ("latin1", "latin-1"):
        raise InvalidFileError(f"it has bytes encoded as {str(encoding)[:40]!r}")
    return str(expect(text, str, "text")).encode("latin-1")


def make_object(kind: Any, *_: Any) -> Any:
    """An object as the oldest protocols write it: a stand-in for one of that class."""
    return Record(expect(kind, Name, "a class").full)


def make_persistent(meta: Any) -> Record:
    """NVIDIA's persistent object: its class's name and state. The source code that came with it is dropped."""
    return Record(
        str(expect(meta, dict, "an object")["class_name"]), dict(expect(meta["state"], dict, "a state"))
    )


def is_inert(full: str) -> bool:
    """Whether a name becomes a stand-in: of another project or package, or of a module that only describes things.

    Names of Python's library, torch and numpy do not: files have no reason to call these, and attacks do.
    """
    known = full.split(".")[0] in sys.stdlib_module_names | LIBRARIES
    return not known or full.startswith(DESCRIBING)


LIBRARIES = {"torch", "numpy", "__builtin__", "copy_reg"}
DESCRIBING = (
    "argparse.Namespace", "datetime.", "decimal.Decimal", "fractions.Fraction", "functools.partial",
    "logging.getLogger", "logging.Logger", "pathlib.", "torch.nn.", "torch.optim.", "types.SimpleNamespace",
    "typing.", "uuid.UUID",
)  # fmt: skip


def functions_with(make: MakeTensor) -> dict[str, Callable[..., Any]]:
    """The table of functions, where `make` makes the tensors."""

    def make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        return make(*view_of(storage, offset, size, stride))

    def make_subclass(rebuild: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
        """A tensor of a subclass, or with attributes, as a plain one. Raises InvalidFileError."""
        if expect(rebuild, Name, "a function's name").full not in tensors:
            raise InvalidFileError(f"it calls {rebuild.full!r}")
        return tensors[rebuild.full](*expect(arguments, tuple, "arguments"))

    tensors: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": make_tensor,
        "torch._utils._rebuild_tensor_v2": make_tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    }
    return FUNCTIONS | tensors | {"torch._tensor._rebuild_from_type_v2": make_subclass}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": make_dict,
    "dnnlib.EasyDict": make_dict,
    "dnnlib.util.EasyDict": make_dict,
    "collections.Counter": lambda counts=(): dict(expect(counts, dict, "counts") if counts else {}),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda items=(), *_: list(expect(items, list | tuple, "items")),
    "copyreg._reconstructor": make_object,
    "copy_reg._reconstructor": make_object,
    "builtins.frozenset": make_set,
    "__builtin__.frozenset": make_set,
    "builtins.set": make_set,
    "__builtin__.set": make_set,
    "argparse.Namespace": lambda: Record("Namespace"),
    "torch.Size": tuple,
    "torch.device": lambda *_: "device",
    "numpy.dtype": lambda code, *_: Dtype(str(code)),
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.numeric._frombuffer": make_array,
    "numpy._core.numeric._frombuffer": make_array,
    "numpy.core.multiarray.scalar": make_scalar,
    "numpy._core.multiarray.scalar": make_scalar,
    "_codecs.encode": make_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": make_persistent,
}
TYPES = ["bool", "bytes", "complex", "dict", "float", "int", "list", "long", "object", "str", "tuple", "type"]
NUMBERS = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bfloat16"]
MENTIONED = frozenset(
    {*STORAGES, "numpy.ndarray"}
    | {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in TYPES}
    | {f"{module}.{name}" for module in ("torch", "numpy") for name in NUMBERS}
)
"""Names that a pickle may mention and not call."""
