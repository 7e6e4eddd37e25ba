"""Calls that need no picture: what the gateway serves, pictures of codes, pictures of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from indomain.calls.call import Call
from indomain.calls.options import output_options
from indomain.calls.sources import Codes, codes_to_wire
from indomain.v1 import editing_pb2


def info(*, timeout_s: float | None = None) -> Call[editing_pb2.ListBundlesResponse]:
    """Asks the gateway for its bundles, limits and version.

    Example:
        >>> client.info().limits.max_picture_bytes
        20971520
    """
    return Call("ListBundles", editing_pb2.ListBundlesRequest(), timeout_s)


def decode(
    codes: Codes, *, bundle: str = "", timeout_s: float | None = None
) -> Call[editing_pb2.DecodeResponse]:
    """Gives the pictures of codes.

    Example:
        >>> one, other = client.sample([1, 2])
        >>> [halfway] = client.decode((one.code + other.code) / 2)

    Args:
        codes: float32 [L, 512], [N, L, 512], what has one (a result, or what `indomain.load_code` read), or a sequence
            of such.

    Raises:
        TypeError: what is no code.
        InvalidCodeError: a wrong shape, or values that are not finite.
        UnknownBundleError: no such bundle.
    """
    request = editing_pb2.DecodeRequest(bundle=bundle, codes=codes_to_wire(codes), output=output_options())
    return Call("Decode", request, timeout_s)


def sample(
    seeds: int | Iterable[int] = 0,
    truncation: float | None = None,
    *,
    label: Mapping[str, float] | None = None,
    bundle: str = "",
    timeout_s: float | None = None,
) -> Call[editing_pb2.SampleResponse]:
    """Generates pictures from seeds; a seed gives the same picture on any machine.

    Example:
        >>> for sample in client.sample(range(4), truncation=0.7):
        ...     sample.image.save(f"sample{sample.seed}.png")

    Args:
        seeds: one or several, each 0..2^64 - 1.
        truncation: 0 gives the mean picture, 1 the variety of the training data; None: the gateway's default.
        label: labels that the pictures are to have, of a bundle whose generator was trained with some
            (`Bundle.labels`), each 0..1: `{"smiling": 1}`. Those that are not named are drawn for each seed.

    Raises:
        InvalidOptionError: too many seeds, a truncation out of its range, or a label that the bundle does not have.
        UnknownBundleError: no such bundle.
    """
    request = editing_pb2.SampleRequest(
        bundle=bundle,
        seeds=[seeds] if isinstance(seeds, int) else list(seeds),
        truncation=truncation,
        label=label,
        output=output_options(),
    )
    return Call("Sample", request, timeout_s)
