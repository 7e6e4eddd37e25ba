"""The client that waits for its answers. Its calls are declared in calls/; async_client.py is its twin."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from PIL import Image

from indomain.calls import combining, editing, generating, inverting
from indomain.calls.call import Call
from indomain.clients.base import BaseClient
from indomain.clients.connect import connector
from indomain.clients.connections import Connection, check_process
from indomain.clients.session import EditSession
from indomain.exceptions import IndomainError
from indomain.results import answers
from indomain.results.bundles import Bundle, GatewayInfo
from indomain.results.inversion import Inversion
from indomain.results.measures import FoundFaces
from indomain.results.pictures import (
    Diffused,
    Edited,
    InterpolationFrame,
    InvertProgress,
    Mean,
    Mixed,
    Sample,
)
from indomain.signatures import arguments_of
from indomain.transports.credentials import Credentials
from indomain.v1 import editing_pb2

_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


class Client(BaseClient[Connection]):
    """A connection to a gateway. May be used from many threads at once, and in children of a fork, which get
    connections of their own; close it or use it in a `with`.

    Example:
        >>> with indomain.Client("localhost:8500") as client:
        ...     client.edit("portrait.png", smile=1).image.save("smiling.png")

    Args:
        address: host and port of the gateway's gRPC, `"localhost:8500"`; a URL, `"http://localhost:8080"` or
            `"https://..."`, for the same over HTTP (extra `http`); or `":embedded:"` for the pipeline in this process
            (needs the application installed).
        timeout_s: seconds for each call with its retries, unless the call says otherwise.
        max_retries: further tries of a call that the gateway refuses for now.
        picture_format: how pictures are answered. `"raw"` costs no coding and is best on one host; `"jpeg"` and
            `"webp"` are smaller and lossy.
        api_key: where the gateway requires one; None: `INDOMAIN_API_KEY` of the environment, if set.
        tls: encrypt, and check the gateway's certificate. Without it a key can be read on the way.
        root_certificates: PEM file of the authorities to check it against; None: the usual ones. Implies `tls`.
        client_certificate: PEM files of a certificate and its key, for a gateway that requires one. Implies `tls`.
        model_repository: with `":embedded:"`, the folder of its bundles; None: `INDOMAIN_MODEL_REPOSITORY` of the
            environment, otherwise `model_repository`.

    Raises OSError where a certificate's file cannot be read, ValueError where the key cannot be one, NotInstalledError
    where the address needs a package that is not installed, ServerError where an embedded gateway cannot start.

    Every call raises an `IndomainError`: `GatewayUnreachableError` where nothing answers, `MismatchedAnswerError` where
    the answer is to another request, `DeadlineExceededError` when its time ran out, `OverloadedError` when the gateway
    is full, and what its own docstring names. A call that the gateway refuses for now (`IndomainError.retryable`: it is
    full, starting or stopping) is tried again after the wait that the gateway asks for, as long as the call's time
    allows. Nothing else is tried again; a broken connection is not either.
    """

    @staticmethod
    def _connect(
        address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
    ) -> Connection:
        return Connection(connector(address, credentials, model_repository))

    @arguments_of(generating.info)
    def info(self, *args: Any, **options: Any) -> GatewayInfo:
        return self._answer(generating.info(*args, **options), answers.gateway_info)

    def bundles(self, *, timeout_s: float | None = None) -> tuple[Bundle, ...]:
        """Asks for the bundles with their directions; the default bundle is the first.

        Example:
            >>> bundle = client.bundles()[0]
            >>> bundle.directions["smile"].range
            (-..., ...)
        """
        return self.info(timeout_s=timeout_s).bundles

    @arguments_of(inverting.find_faces)
    def find_faces(self, *args: Any, **options: Any) -> FoundFaces:
        return self._answer(inverting.find_faces(*args, **options), answers.found_faces)

    @arguments_of(inverting.invert)
    def invert(self, *args: Any, **options: Any) -> Inversion:
        return self._answer(inverting.invert(*args, **options), self._inversion)

    @arguments_of(inverting.watch_invert)
    def watch_invert(self, *args: Any, **options: Any) -> Generator[InvertProgress | Inversion, None, None]:
        read = partial(answers.inversion_event, read=self._inversion)
        return self._answers(inverting.watch_invert(*args, **options), read)

    @arguments_of(editing.edit)
    def edit(self, *args: Any, **options: Any) -> Edited:
        return self._answer(editing.edit(*args, **options), answers.edited)

    @arguments_of(editing.session)
    def session(self, *args: Any, **options: Any) -> EditSession:
        call = editing.session(*args, **options)
        self._fill_in_format(call.request)
        request_id = self._policy.new_request_id()
        conversation = self._connection.get().session(request_id, call.timeout_s)
        return EditSession(conversation, call.request, request_id, self._policy.address)

    @arguments_of(combining.interpolate)
    def interpolate(self, *args: Any, **options: Any) -> Generator[InterpolationFrame, None, None]:
        return self._answers(combining.interpolate(*args, **options), answers.interpolation_frame)

    @arguments_of(combining.mix)
    def mix(self, *args: Any, **options: Any) -> Mixed:
        return self._answer(combining.mix(*args, **options), answers.mixed)

    @arguments_of(combining.mean)
    def mean(self, *args: Any, **options: Any) -> Mean:
        return self._answer(combining.mean(*args, **options), answers.mean)

    @arguments_of(combining.diffuse)
    def diffuse(self, *args: Any, **options: Any) -> Diffused:
        return self._answer(combining.diffuse(*args, **options), answers.diffused)

    @arguments_of(generating.decode)
    def decode(self, *args: Any, **options: Any) -> list[Image.Image]:
        return self._answer(generating.decode(*args, **options), answers.pictures)

    @arguments_of(generating.sample)
    def sample(self, *args: Any, **options: Any) -> list[Sample]:
        call = generating.sample(*args, **options)
        return self._answer(call, partial(answers.samples, call.request.seeds))

    def close(self) -> None:
        """Closes the connection; calls that are under way fail with `RequestCancelledError`."""
        self._policy.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inversion(self, answer: editing_pb2.InvertResponse) -> Inversion:
        return answers.inversion(answer, Inversion, self.edit)

    def _answer(self, call: Call[_Response], read: Callable[[_Response], _Result]) -> _Result:
        """Makes a call with one answer, which `read` turns into the result."""
        attempts = self._attempts(call)
        while True:
            try:
                answer: Any = self._connection.get().call(call.method, *attempts.next())
                attempts.check(answer)
                return read(answer)
            except IndomainError as error:
                wait_s = attempts.wait_after_s(error)
            time.sleep(wait_s)

    def _answers(
        self, call: Call[_Response], read: Callable[[_Response], _Result]
    ) -> Generator[_Result, None, None]:
        """Makes a call with many answers; tries again only before the first. Closing the generator cancels the call."""
        attempts = self._attempts(call)
        process = os.getpid()
        while True:
            answered = False
            try:
                with closing(self._connection.get().stream(call.method, *attempts.next())) as stream:
                    answer: Any
                    for answer in stream:
                        answered = True
                        attempts.check(answer)
                        yield read(answer)
                        check_process(process, stream)
                return
            except IndomainError as error:
                wait_s = attempts.wait_after_s(error, answered=answered)
            time.sleep(wait_s)
