"""Edits and inversions as stages of Ray Data, for more pictures than one machine can do. Needs `indomain-client[ray]`.

    photos = ray.data.read_binary_files("s3://holiday/", include_paths=True)
    edited = indomain.ray.edit(photos, smile=1.0, servers=["gpu-1:8500", "gpu-2:8500"], workers=4)
    edited.write_parquet("s3://smiling/")

A picture that fails does not stop the others: its row says why. An error that every picture would have (an unknown
direction, a wrong key) ends the stage.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from indomain.calls.options import Edit
from indomain.clients.client import Client
from indomain.clients.outages import OutageTooLongError, OutageWaiter
from indomain.constants import DEFAULT_ADDRESS
from indomain.exceptions import (
    IndomainError,
    InvalidOptionError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from indomain.results.inversion import Inversion
from indomain.results.pictures import Edited

if TYPE_CHECKING:
    from ray.data import Dataset

# A batch: each column's array, with one entry for each row.
_Rows = dict[str, Any]
_Result = Inversion | Edited

_FATAL_ERRORS = (
    OutageTooLongError,
    NotFoundError,
    InvalidOptionError,
    PermissionDeniedError,
    UnauthenticatedError,
)


def edit(
    dataset: Dataset,
    *edits: Edit,
    servers: str | Sequence[str] = DEFAULT_ADDRESS,
    column: str = "bytes",
    workers: int = 1,
    jobs: int = 8,
    batch_size: int = 64,
    wait_s: float = 300.0,
    connection: Mapping[str, Any] = MappingProxyType({}),
    **arguments: Any,
) -> Dataset:
    """Edits the pictures of a dataset: `indomain.ray.edit(dataset, smile=1.0, quality="fast")`.

    Args:
        dataset: its rows have the pictures.
        edits: as in `Client.edit`.
        servers: one gateway or several. Rows go to them in turn; where one does not answer, to the next.
            `":embedded:"` runs the pipeline in each worker, where the application is installed.
        column: of the pictures: bytes of files (`ray.data.read_binary_files`), uint8 [H, W, 3] (`read_images`, which
            calls it `"image"`), or paths that every worker can read.
        workers: processes of Ray that call the gateways.
        jobs: pictures that each worker sends at once; the gateways batch them.
        batch_size: rows that a worker is given at a time.
        wait_s: how long a picture may wait while all gateways are away or full.
        connection: how to connect, as in `Client`: `{"timeout_s": 120, "tls": True}`. Put a key into the environment of
            the workers.
        arguments: strengths and options, as in `Client.edit`.

    Returns:
        the rows with `picture` (bytes of a PNG; None where it failed), `domain_score` (0..1; NaN where it failed),
        `request_id`, and `error_reason` and `error` (None where it did not fail).
    """
    options: dict[str, Any] = {"servers": servers, "column": column, "jobs": jobs, "wait_s": wait_s}
    options |= {"connection": dict(connection), **arguments}
    return dataset.map_batches(
        EditPictures,
        fn_constructor_args=edits,
        fn_constructor_kwargs=options,
        batch_size=batch_size,
        concurrency=workers,
    )


def invert(
    dataset: Dataset,
    *,
    servers: str | Sequence[str] = DEFAULT_ADDRESS,
    column: str = "bytes",
    workers: int = 1,
    jobs: int = 8,
    batch_size: int = 64,
    wait_s: float = 300.0,
    connection: Mapping[str, Any] = MappingProxyType({}),
    **arguments: Any,
) -> Dataset:
    """Inverts the pictures of a dataset. As `edit`, with a further column `code` (bytes of an .npy file, float32
    [L, 512]; None where it failed). `arguments` are options, as in `Client.invert`."""
    options: dict[str, Any] = {"servers": servers, "column": column, "jobs": jobs, "wait_s": wait_s}
    options |= {"connection": dict(connection), **arguments}
    return dataset.map_batches(
        InvertPictures, fn_constructor_kwargs=options, batch_size=batch_size, concurrency=workers
    )


class _Stage:
    """A worker: its connections, and the method of `Client` that it calls for each row, with the arguments given."""

    _method: Callable[..., _Result]

    def __init__(
        self,
        *edits: Edit,
        servers: str | Sequence[str] = DEFAULT_ADDRESS,
        column: str = "bytes",
        jobs: int = 8,
        wait_s: float = 300.0,
        connection: Mapping[str, Any] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        self._edits = edits
        self._arguments = arguments
        self._column = column
        self._jobs = jobs
        addresses = [servers] if isinstance(servers, str) else list(servers)
        self._clients = [Client(address, **connection) for address in addresses]
        self._waiter = OutageWaiter(self._clients, wait_s)
        # Rows so far.
        self._asked = 0

    def __call__(self, rows: _Rows) -> _Rows:
        sources = rows[self._column]
        first, self._asked = self._asked, self._asked + len(sources)
        with ThreadPoolExecutor(self._jobs) as pool:
            results = list(pool.map(self._result, range(first, self._asked), sources))
        return rows | self._columns(results)

    def _result(self, index: int, source: Any) -> _Result | IndomainError | OSError | TypeError | ValueError:
        try:
            return self._waiter.call(partial(self._ask, index, source))
        except _FATAL_ERRORS:
            raise
        except (IndomainError, OSError, TypeError, ValueError) as error:
            return error

    def _ask(self, index: int, source: Any) -> _Result:
        """Calls the gateway whose turn it is, or the next one that answers."""
        turn = index % len(self._clients)
        *others, last = [*self._clients[turn:], *self._clients[:turn]]
        for client in others:
            try:
                return self._call(client, source)
            except (UnavailableError, OverloadedError):
                continue
        return self._call(last, source)

    def _call(self, client: Client, source: Any) -> _Result:
        return type(self)._method(client, source, *self._edits, **self._arguments)

    def _columns(self, results: Sequence[_Result | Exception]) -> _Rows:
        done = [result if isinstance(result, _Result) else None for result in results]
        failed = [result if isinstance(result, Exception) else None for result in results]
        return {
            "picture": _objects([result and _png(result) for result in done]),
            "domain_score": np.array(
                [result.domain_score if result else np.nan for result in done], np.float32
            ),
            "request_id": _objects([getattr(result, "request_id", None) for result in results]),
            "error_reason": _objects(
                [error and getattr(error, "reason", "unreadable_file") for error in failed]
            ),
            "error": _objects([error and getattr(error, "message", str(error)) for error in failed]),
        }


class EditPictures(_Stage):
    """The worker of `edit`, for `dataset.map_batches(EditPictures, fn_constructor_kwargs={"smile": 2.0}, ...)` with
    resources of one's own. Takes what `edit` takes; a batch is a dict of columns."""

    _method = Client.edit


class InvertPictures(_Stage):
    """The worker of `invert`."""

    _method = Client.invert

    def _columns(self, results: Sequence[_Result | Exception]) -> _Rows:
        codes = [_npy(result) if isinstance(result, _Result) else None for result in results]
        return super()._columns(results) | {"code": _objects(codes)}


def _png(result: _Result) -> bytes:
    buffer = io.BytesIO()
    result.image.save(buffer, "PNG")
    return buffer.getvalue()


def _npy(result: _Result) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, result.code)
    return buffer.getvalue()


def _objects(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    """An array [N] of values that may be None."""
    return np.array(values, object)
