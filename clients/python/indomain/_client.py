"""The client that waits for its answers. What is sent and how answers are read is in _calls.py, what may be retried in
_retry.py, how it travels in _transports.py; its twin for coroutines is _async_client.py."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import numpy.typing as npt
from PIL import Image

from indomain import _calls
from indomain._constants import DEFAULT_ADDRESS, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S
from indomain._credentials import Credentials
from indomain._exceptions import IndomainError
from indomain._pictures import PictureFormat, PictureLike
from indomain._results import (
    Between,
    Bundle,
    Diffused,
    Edit,
    Edited,
    GatewayInfo,
    Inversion,
    InvertProgress,
    Mixed,
    Refine,
    Sample,
)
from indomain._retry import Terms
from indomain._session import EditSession
from indomain._transports import connect

_Answer = TypeVar("_Answer")


class Client:
    """A connection to a gateway. May be used from many threads at once; close it or use it in a `with`.

    Example:
        >>> with indomain.Client("localhost:8500") as client:
        ...     client.edit("portrait.png", smile=1.5).image.save("smiling.png")

    Args:
        address: host and port of the gateway's gRPC, `"localhost:8500"`; a URL, `"http://localhost:8080"` or
            `"https://..."`, for the same over HTTP (extra `http`); or `":embedded:"` for the pipeline in this process
            (needs the application installed).
        timeout_s: seconds for each call with its retries, unless the call says otherwise.
        max_retries: further tries of a call that the gateway refuses for now.
        picture_format: how pictures travel back. `"raw"` costs no coding and is best on one host; `"jpeg"` and
            `"webp"` are smaller and lossy.
        api_key: where the gateway wants one; None: `INDOMAIN_API_KEY` of the environment, if set.
        tls: encrypt, and check the gateway's certificate. Without it a key can be read on the way.
        root_certificates: PEM file of the authorities to check it against; None: the usual ones. Implies `tls`.
        client_certificate: PEM files of a certificate and its key, for a gateway that wants one. Implies `tls`.
        model_repository: with `":embedded:"`, the folder of its bundles; None: `INDOMAIN_MODEL_REPOSITORY` of the
            environment, otherwise `model_repository`.

    Raises OSError where a certificate's file cannot be read, ValueError where the key is none, NotInstalledError where
    the address asks for what is not installed, ServerError where an embedded gateway cannot start.

    Every call raises an `IndomainError`: `GatewayUnreachableError` where nothing answers, `DeadlineExceededError`
    when its time ran out, `OverloadedError` when the gateway is full, and what its own docstring names. A call that
    the gateway refuses for now (`IndomainError.retryable`: it is full, starting or stopping) is tried again after the
    wait that it asks for, as long as the call's time allows; nothing else is, a broken connection neither.
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
        model_repository: str | os.PathLike[str] | None = None,
    ) -> None:
        credentials = Credentials.of(
            api_key, tls=tls, root_certificates=root_certificates, client_certificate=client_certificate
        )
        self._transport = connect(address, credentials, model_repository)
        self._terms = Terms(self._transport.address, timeout_s, max_retries)
        self._picture_format: PictureFormat = picture_format

    def info(self, *, timeout_s: float | None = None) -> GatewayInfo:
        """What the gateway serves: bundles, limits, version.

        Example:
            >>> client.info().limits.max_picture_bytes
            20971520
        """
        return self._answer(_calls.info(), timeout_s)

    def bundles(self, *, timeout_s: float | None = None) -> tuple[Bundle, ...]:
        """The bundles with their directions; the default one first.

        Example:
            >>> bundle = client.bundles()[0]
            >>> bundle.directions["smile"].range
            (-..., ...)
        """
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

        Example:
            >>> inversion = client.invert("portrait.png")
            >>> inversion.losses.pixel_mse_after < inversion.losses.pixel_mse_before
            True
            >>> inversion.edit(smile=2.0).image.save("smile.png")
            >>> inversion.save("portrait.npz")
            >>> indomain.Inversion.load("portrait.npz", client).edit(smile=-1.0).image.save("frown.png")

        Args:
            image: path, bytes of a PNG, JPEG or WebP file, file opened in binary, PIL picture, or uint8 [H, W, 3].
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
        call = _calls.invert(
            image,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return self._answer(call.then(self._bound), timeout_s)

    def watch_invert(
        self,
        image: PictureLike,
        *,
        interval_s: float | None = None,
        previews: bool = True,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> Generator[InvertProgress | Inversion, None, None]:
        """The same with progress: reports while it refines, and at the end the `Inversion`.

        Example:
            >>> for event in client.watch_invert("portrait.png", interval_s=0.5):
            ...     if isinstance(event, indomain.InvertProgress):
            ...         event.preview.save("preview.png")
            >>> event.edit(smile=2.0).image.save("smile.png")

        Args:
            interval_s: seconds between two reports, at least; 0: as often as there is news; None: a quarter.
            previews: whether reports have a picture and a domain score, which cost a decoding each.
            image, bundle, steps, quality, refine, include_aligned, include_start, timeout_s: as in `invert`.

        Raises:
            what `invert` raises, when the first report is asked for. Leaving the iteration early stops the refinement.
        """
        call = _calls.watch_invert(
            image,
            interval_s=interval_s,
            previews=previews,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )

        def bound(event: InvertProgress | Inversion) -> InvertProgress | Inversion:
            return self._bound(event) if isinstance(event, Inversion) else event

        return self._answers(call.then(bound), timeout_s)

    def edit(
        self,
        source: _calls.EditSource,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
        mask: PictureLike | None = None,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
        **strengths: float,
    ) -> Edited:
        """Moves a picture's code along directions.

        Example:
            >>> younger = client.edit("portrait.png", smile=2.0, age=-1.0)
            >>> older = client.edit("portrait.png", age=1.0, keep=["smile"])
            >>> smiling = client.edit("portrait.png", smile=2.0, region=(0.2, 0.6, 0.8, 0.95))
            >>> back = client.edit(younger, indomain.Edit("age", 1.0, layers=(0, 1)))

        Args:
            source: a picture, which is inverted first; or a code float32 [L, 512], or a result of `invert` or `edit`.
            edits: for directions that need layers, or whose names are no Python names. Edits add up.
            strengths: direction = strength, in standard deviations of sampled codes; or preset = how much of it.
            keep: directions whose meaning no edit may change.
            region: left, top, right, bottom in parts of the picture's sides, once it is brought into place: only there
                it changes. The code is refined for that.
            mask: in place of it, a picture that is white where it changes.
            bundle, steps, quality, refine, include_aligned, include_start, timeout_s: as in `invert`; the refinement
                and the pictures count only where the source is a picture, the refinement also with an area.

        Raises:
            OSError, TypeError, ValueError: `source` or `mask` cannot be read or is neither picture nor code.
            UnknownDirectionError, UnknownBundleError: no such direction, no such bundle.
            InvalidPictureError, InvalidCodeError, InvalidOptionError: the gateway refuses the source or an option.
        """
        call = _calls.edit(
            source,
            _calls.edit_steps(edits, strengths, keep),
            region,
            mask,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return self._answer(call, timeout_s)

    def session(
        self,
        source: _calls.EditSource,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        picture_format: PictureFormat | None = None,
        picture_quality: int | None = None,
        timeout_s: float | None = None,
    ) -> EditSession:
        """A session in which one source is edited again and again, as somebody drags a slider. The source is inverted
        once; nothing is tried again.

        Example:
            >>> with client.session("portrait.png", picture_format="jpeg") as session:
            ...     for strength in (0.5, 1.0, 1.5):
            ...         picture = session.edit(smile=strength)

        Args:
            source, bundle, steps, quality, refine: as in `edit`.
            picture_format, picture_quality: of the answers, in place of the client's; quality 1..100 for JPEG and WebP.
            timeout_s: seconds for the whole session; None: as long as it is used.

        Raises:
            OSError, TypeError, ValueError: `source` cannot be read or is neither picture nor code.
        """
        output = _calls.output_options(
            picture_format or self._picture_format, codes=False, quality=picture_quality
        )
        opening = _calls.session_opening(
            source, bundle=bundle, refine=_calls.refine_options(steps, quality, refine), output=output
        )
        conversation = self._transport.session(self._terms.new_request_id(), timeout_s)
        return EditSession(conversation, opening, self._transport.address)

    def interpolate(
        self,
        start: _calls.EditSource,
        end: _calls.EditSource,
        count: int = 8,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        timeout_s: float | None = None,
    ) -> Generator[Between, None, None]:
        """The pictures on the straight way from one code to another, in order, each as soon as it is there.

        Example:
            >>> for picture in client.interpolate("portrait.png", "other.png", 3):
            ...     picture.image.save(f"way{picture.index}.png")

        Args:
            start, end: pictures, codes float32 [L, 512], or results, as in `edit`.
            count: pictures, with both ends; from 2 to `Limits.max_interpolated_pictures`.
            bundle, steps, quality, refine, timeout_s: as in `edit`.

        Raises:
            what `edit` raises, when the first picture is asked for.
        """
        call = _calls.interpolate(
            start,
            end,
            count,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format),
        )
        return self._answers(call, timeout_s)

    def mix(
        self,
        base: _calls.EditSource,
        style: _calls.EditSource,
        layers: Iterable[int],
        strength: float | None = None,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        timeout_s: float | None = None,
    ) -> Mixed:
        """Puts layers of one code into another.

        Example:
            >>> coloured = client.mix("portrait.png", "other.png", layers=[4, 5])

        Args:
            base, style: pictures, codes float32 [L, 512], or results, as in `edit`.
            layers: taken from the style; low ones hold pose and shape, high ones colours and texture.
            strength: how much of them, 0..1; None: all.
            bundle, steps, quality, refine, timeout_s: as in `edit`.

        Raises:
            what `edit` raises; InvalidOptionError: layers that the bundle has not, a strength out of its range.
        """
        call = _calls.mix(
            base,
            style,
            layers,
            strength,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format),
        )
        return self._answer(call, timeout_s)

    def diffuse(
        self,
        target: PictureLike,
        context: PictureLike,
        *,
        region: tuple[float, float, float, float] | None = None,
        mask: PictureLike | None = None,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> Diffused:
        """Semantic diffusion: pastes a region of a target into a context and refines the code where the target is, so
        that the rest follows.

        Example:
            >>> moved = client.diffuse("portrait.png", "other.png", region=(0.25, 0.3, 0.75, 0.8))

        Args:
            target, context: pictures, as in `invert`.
            region: left, top, right, bottom in parts of the picture's sides, once it is brought into place; None, with
                no mask either: the middle of a face.
            mask: in place of it, a picture that is white where the target counts.
            include_aligned: also answer the target pasted into the context.
            bundle, steps, quality, refine, include_start, timeout_s: as in `invert`.

        Raises:
            what `invert` raises; InvalidOptionError also: a region or a mask that holds nothing.
        """
        call = _calls.diffuse(
            target,
            context,
            region,
            mask,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return self._answer(call, timeout_s)

    def decode(
        self, codes: npt.ArrayLike, *, bundle: str = "", timeout_s: float | None = None
    ) -> list[Image.Image]:
        """The pictures of codes.

        Example:
            >>> one, other = client.sample([1, 2])
            >>> [halfway] = client.decode((one.code + other.code) / 2)

        Args:
            codes: float32 [L, 512], [N, L, 512], or a sequence of such.

        Raises:
            InvalidCodeError: a wrong shape, or values that are not finite.
            UnknownBundleError: no such bundle.
        """
        output = _calls.output_options(self._picture_format)
        return self._answer(_calls.decode(codes, bundle=bundle, output=output), timeout_s)

    def sample(
        self,
        seeds: int | Iterable[int] = 0,
        truncation: float | None = None,
        *,
        bundle: str = "",
        timeout_s: float | None = None,
    ) -> list[Sample]:
        """Pictures that the generator makes up; a seed gives the same one on any machine.

        Example:
            >>> for sample in client.sample(range(4), truncation=0.7):
            ...     sample.image.save(f"sample{sample.seed}.png")

        Args:
            seeds: one or several, each 0..2^64 - 1.
            truncation: 0 gives the mean picture, 1 the variety of the training data; None: the gateway's default.

        Raises:
            InvalidOptionError: too many seeds, or a truncation out of its range.
            UnknownBundleError: no such bundle.
        """
        output = _calls.output_options(self._picture_format)
        return self._answer(_calls.sample(seeds, truncation, bundle=bundle, output=output), timeout_s)

    def close(self) -> None:
        """Closes the connection; calls that are under way fail with `RequestCancelledError`."""
        self._terms.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bound(self, inversion: Inversion) -> Inversion:
        return replace(inversion, _edit=self.edit)

    def _answer(self, call: _calls.Call[_Answer], timeout_s: float | None) -> _Answer:
        """One call with its retries."""
        tries = self._terms.tries(call.request, timeout_s)
        while True:
            try:
                return call.read(self._transport.call(call.method, *tries.next()))
            except IndomainError as error:
                wait_s = tries.wait_after_s(error)
            time.sleep(wait_s)

    def _answers(self, call: _calls.Call[_Answer], timeout_s: float | None) -> Generator[_Answer, None, None]:
        """The same for a call of many answers, tried again until the first. Leaving it early cancels it."""
        tries = self._terms.tries(call.request, timeout_s)
        while True:
            answered = False
            try:
                with closing(self._transport.stream(call.method, *tries.next())) as answers:
                    for answer in answers:
                        answered = True
                        yield call.read(answer)
                return
            except IndomainError as error:
                wait_s = tries.wait_after_s(error, answered=answered)
            time.sleep(wait_s)
