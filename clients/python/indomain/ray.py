"""Edits and inversions as stages of Ray Data, for folders that outgrow one machine. Needs `indomain-client[ray]`.

    photos = ray.data.read_binary_files("s3://holiday/", include_paths=True)
    edited = indomain.ray.edit(photos, smile=2.0, servers=["gpu-1:8500", "gpu-2:8500"], workers=4)
    edited.write_parquet("s3://smiling/")

A picture that fails does not stop the others: its row says why. What would fail with every picture (a direction that
the bundle has not, a key that the gateway does not know) ends the stage with the typed error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from indomain._client import Client
from indomain._constants import DEFAULT_ADDRESS
from indomain._exceptions import (
    IndomainError,
    InvalidOptionError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from indomain._patience import OutOfPatienceError, Patience
from indomain._results import Edit, Edited, Inversion

if TYPE_CHECKING:
    from ray.data import Dataset

_Rows = dict[str, Any]  # column: an array with an entry a row
_Result = Inversion | Edited

_OF_THE_STAGE = (
    OutOfPatienceError,
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
    """The dataset with its pictures edited, `indomain.ray.edit(dataset, smile=2.0, quality="fast")`.

    Args:
        dataset: has the pictures.
        edits: as in `Client.edit`.
        servers: one gateway or several; rows go to them in turn, and to another where one does not answer.
            `":embedded:"` runs the pipeline in each worker, where the application is installed.
        column: of the pictures: bytes of files (`ray.data.read_binary_files`), uint8 [H, W, 3] (`read_images`, which
            calls it `"image"`), or paths that every worker can read.
        workers: processes of Ray that ask.
        jobs: pictures that each of them has under way; the gateways batch them.
        batch_size: rows that a worker is given at a time.
        wait_s: how long a picture may wait for gateways that are all away or full.
        connection: how to connect, as in `Client`: `{"timeout_s": 120, "tls": True}`. A key is best in the environment
            of the workers.
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
    """The dataset with its pictures inverted: as `edit`, with the column `code` beside (bytes of an .npy file, float32
    [L, 512]; None where it failed). `arguments` are options, as in `Client.invert`."""
    options: dict[str, Any] = {"servers": servers, "column": column, "jobs": jobs, "wait_s": wait_s}
    options |= {"connection": dict(connection), **arguments}
    return dataset.map_batches(
        InvertPictures, fn_constructor_kwargs=options, batch_size=batch_size, concurrency=workers
    )


class _Stage:
    """A worker's connections, and what they are asked for."""

    def __init__(
        self,
        call: Callable[[Client, Any], _Result],
        servers: str | Sequence[str],
        column: str,
        jobs: int,
        wait_s: float,
        connection: Mapping[str, Any],
    ) -> None:
        self._call = call
        self._column = column
        self._jobs = jobs
        addresses = [servers] if isinstance(servers, str) else list(servers)
        self._clients = [Client(address, **connection) for address in addresses]
        self._patience = Patience(self._clients, wait_s)
        self._asked = 0  # rows so far

    def __call__(self, rows: _Rows) -> _Rows:
        sources = rows[self._column]
        first, self._asked = self._asked, self._asked + len(sources)
        with ThreadPoolExecutor(self._jobs) as pool:
            results = list(pool.map(self._result, range(first, self._asked), sources))
        return rows | self._columns(results)

    def _result(self, index: int, source: Any) -> _Result | IndomainError | OSError | TypeError | ValueError:
        try:
            return self._patience.call(partial(self._ask, index, source))
        except _OF_THE_STAGE:
            raise
        except (IndomainError, OSError, TypeError, ValueError) as error:
            return error

    def _ask(self, index: int, source: Any) -> _Result:
        """Of the gateway whose turn it is, or of the next that answers."""
        turn = index % len(self._clients)
        *others, last = [*self._clients[turn:], *self._clients[:turn]]
        for client in others:
            try:
                return self._call(client, source)
            except (UnavailableError, OverloadedError):
                continue
        return self._call(last, source)

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
    """What `edit` maps with, for `dataset.map_batches(EditPictures, fn_constructor_kwargs={"smile": 2.0}, ...)` with
    resources of one's own. Takes what `edit` takes; a batch is a dict of columns."""

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
        super().__init__(
            lambda client, source: client.edit(source, *edits, **arguments),
            servers,
            column,
            jobs,
            wait_s,
            connection,
        )


class InvertPictures(_Stage):
    """The same for `invert`."""

    def __init__(
        self,
        *,
        servers: str | Sequence[str] = DEFAULT_ADDRESS,
        column: str = "bytes",
        jobs: int = 8,
        wait_s: float = 300.0,
        connection: Mapping[str, Any] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        super().__init__(
            lambda client, source: client.invert(source, **arguments),
            servers,
            column,
            jobs,
            wait_s,
            connection,
        )

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
