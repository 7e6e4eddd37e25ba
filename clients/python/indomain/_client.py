"""The client that waits for its answers. What the messages hold is in _calls.py, what may be retried in _retry.py."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy.typing as npt
from google.protobuf.message import Message
from PIL import Image

from indomain import _calls
from indomain._constants import (
    CHANNEL_OPTIONS,
    DEFAULT_ADDRESS,
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_S,
    REQUEST_ID_KEY,
)
from indomain._credentials import Credentials
from indomain._exceptions import DeadlineExceededError, error_from_rpc
from indomain._pictures import PictureFormat, PictureLike
from indomain._results import Bundle, Edit, Edited, GatewayInfo, Inversion, Refine, Sample
from indomain._retry import _retry_wait_s, _should_retry
from indomain.v1 import editing_pb2, editing_pb2_grpc

_Answer = TypeVar("_Answer", bound=Message)


class Client:
    """A connection to a gateway. May be used from many threads at once; close it or use it in a `with`.

    Args:
        address: host and port of the gateway's gRPC, e.g. `"localhost:8500"`.
        timeout_s: seconds for each call with its retries, unless the call says otherwise.
        max_retries: further tries of a call that the gateway refuses for now.
        picture_format: how pictures travel back. `"raw"` costs no coding and is best on one host; `"jpeg"` and
            `"webp"` are smaller and lossy.
        api_key: where the gateway wants one; None: `INDOMAIN_API_KEY` of the environment, if set.
        tls: encrypt, and check the gateway's certificate. Without it a key can be read on the way.
        root_certificates: PEM file of the authorities to check it against; None: the usual ones. Implies `tls`.
        client_certificate: PEM files of a certificate and its key, for a gateway that wants one. Implies `tls`.

    Raises OSError where a certificate's file cannot be read, ValueError where the key is none.

    Every call raises an `IndomainError`: `GatewayUnreachableError` where nothing answers, `DeadlineExceededError`
    when its time ran out, `OverloadedError` when the gateway is full, and what its own docstring names.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        picture_format: PictureFormat = "png",
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        credentials = Credentials.of(
            api_key, tls=tls, root_certificates=root_certificates, client_certificate=client_certificate
        )
        self._metadata = credentials.metadata
        self._address = address
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._picture_format: PictureFormat = picture_format
        self._channel = (
            grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            if credentials.channel is None
            else grpc.secure_channel(address, credentials.channel, options=CHANNEL_OPTIONS)
        )
        self._stub = editing_pb2_grpc.EditingStub(self._channel)

    def info(self, *, timeout_s: float | None = None) -> GatewayInfo:
        """What the gateway serves: bundles, limits, version."""
        answer = self._call(self._stub.ListBundles, editing_pb2.ListBundlesRequest(), timeout_s)
        return _calls.gateway_info(answer)

    def bundles(self, *, timeout_s: float | None = None) -> tuple[Bundle, ...]:
        """The bundles with their directions; the default one first."""
        return self.info(timeout_s=timeout_s).bundles

    def invert(
        self,
        image: PictureLike,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> Inversion:
        """Finds the latent code of a picture: align, encode, refine, decode.

        Args:
            image: path, bytes of a PNG, JPEG or WebP file, PIL picture, or uint8 [H, W, 3].
            bundle: its name; empty: the gateway's default.
            steps: refinement steps, 0 for the encoder's code as it is; None: the bundle's default.
            quality: in place of steps, "fast", "balanced" or "best" (`Bundle.quality_steps`).
            refine: the other refinement options.
            include_aligned: also answer the picture as the encoder saw it, cropped and resized.
            include_start: also answer the picture of the encoder's code, before refinement.
            timeout_s: seconds for the call; refinement stops in time to answer with the best code found so far.

        Raises:
            OSError, TypeError, ValueError: `image` cannot be read or is no picture.
            InvalidPictureError: the gateway cannot read it, or it is over its limits.
            InvalidOptionError: a refinement option out of its range.
            UnknownBundleError: no such bundle.
        """
        request = _calls.invert_request(
            image,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        result = _calls.inversion(self._call(self._stub.Invert, request, timeout_s))
        return replace(result, _edit=self.edit)

    def edit(
        self,
        source: _calls.EditSource,
        *edits: Edit,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
        **strengths: float,
    ) -> Edited:
        """Moves a picture's code along directions: `client.edit("me.jpg", smile=2.0, age=-1.0)`.

        Args:
            source: a picture, which is inverted first; or a code float32 [L, 512], or a result of `invert` or `edit`.
            edits: for directions that need layers, or whose names are no Python names. Edits add up.
            strengths: direction = strength, in standard deviations of sampled codes.
            bundle, steps, quality, refine, include_aligned, include_start, timeout_s: as in `invert`; the refinement
                and the pictures count only where the source is a picture.

        Raises:
            OSError, TypeError, ValueError: `source` cannot be read or is neither picture nor code.
            UnknownDirectionError, UnknownBundleError: no such direction, no such bundle.
            InvalidPictureError, InvalidCodeError, InvalidOptionError: the gateway refuses the source or an option.
        """
        request = _calls.edit_request(
            source,
            edits,
            strengths,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return _calls.edited(self._call(self._stub.Edit, request, timeout_s))

    def decode(
        self, codes: npt.ArrayLike, *, bundle: str = "", timeout_s: float | None = None
    ) -> list[Image.Image]:
        """The pictures of codes.

        Args:
            codes: float32 [L, 512], [N, L, 512], or a sequence of such.

        Raises:
            InvalidCodeError: a wrong shape, or values that are not finite.
            UnknownBundleError: no such bundle.
        """
        output = _calls.output_options(self._picture_format)
        request = _calls.decode_request(codes, bundle=bundle, output=output)
        return _calls.decoded(self._call(self._stub.Decode, request, timeout_s))

    def sample(
        self,
        seeds: int | Iterable[int] = 0,
        truncation: float | None = None,
        *,
        bundle: str = "",
        timeout_s: float | None = None,
    ) -> list[Sample]:
        """Pictures that the generator makes up; a seed gives the same one on any machine.

        Args:
            seeds: one or several, each 0..2^64 - 1.
            truncation: 0 gives the mean picture, 1 the variety of the training data; None: the gateway's default.

        Raises:
            InvalidOptionError: too many seeds, or a truncation out of its range.
            UnknownBundleError: no such bundle.
        """
        wanted = [seeds] if isinstance(seeds, int) else list(seeds)
        output = _calls.output_options(self._picture_format)
        request = _calls.sample_request(wanted, truncation, bundle=bundle, output=output)
        return _calls.samples(wanted, self._call(self._stub.Sample, request, timeout_s))

    def close(self) -> None:
        """Closes the connection; calls that are under way fail with `RequestCancelledError`."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Any, _Answer], request: Message, timeout_s: float | None
    ) -> _Answer:
        """One call with its retries, all under one deadline and one request id."""
        deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        request_id = uuid.uuid4().hex
        retries_done = 0
        while True:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise DeadlineExceededError(
                    f"No time was left to ask the gateway at {self._address}",
                    reason="deadline_exceeded",
                    code="DEADLINE_EXCEEDED",
                    request_id=request_id,
                )
            try:
                metadata = ((REQUEST_ID_KEY, request_id), *self._metadata)
                return method(request, timeout=remaining_s, metadata=metadata)
            except grpc.RpcError as failure:
                error = error_from_rpc(failure, request_id=request_id, address=self._address)
                wait_s = _retry_wait_s(error, retries_done=retries_done)
                if not _should_retry(
                    error,
                    retries_done=retries_done,
                    max_retries=self._max_retries,
                    wait_s=wait_s,
                    remaining_s=deadline_s - time.monotonic(),
                ):
                    raise error from failure
            time.sleep(wait_s)
            retries_done += 1
