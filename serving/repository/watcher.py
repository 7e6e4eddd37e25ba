"""Watches the model repository while the gateway runs, and serves new versions of bundles.

A new version is read, loaded and checked against its reference runs; only then do requests find it. The old version is
unloaded when the last request that uses it has ended. If anything fails before that, the old version stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from serving.backends.backend import Backend
from serving.bundle import Bundle
from serving.errors import BundleInvalid, EditingError
from serving.pipeline.bundles import ServedBundles
from serving.repository.reader import read_bundles
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class RepositoryWatcher:
    """Compares the folder `settings.model_repository` with what is served, by a fingerprint of its manifests.

    The manifests name every file with its checksum, so they change if any file does.
    """

    def __init__(
        self,
        fingerprint: str,
        backend: Backend,
        served: ServedBundles,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """`fingerprint`: of the bundles that are served now (`read_repository`)."""
        self._backend = backend
        self._served = served
        self._settings = settings
        self._metrics = metrics
        self._served_fingerprint = fingerprint
        self._refused_fingerprint = ""
        self._last_complaint = ""
        self._lock = asyncio.Lock()

    async def watch(self) -> None:
        """Reloads every `settings.repository_poll_s` seconds, until cancelled; returns at once if that is 0.

        A version that the back end has refused is not tried again while its manifest stays the same. A version that
        could not be read is tried again, as its files may still be on their way.
        """
        while self._settings.repository_poll_s:
            await asyncio.sleep(self._settings.repository_poll_s)
            await self._reload(skip=self._refused_fingerprint)

    async def reload(self) -> None:
        """Serves what the repository holds now, if it is new and valid. A log line and a metric tell the outcome.

        It raises nothing.
        """
        self._last_complaint = ""
        await self._reload(skip="")

    async def _reload(self, skip: str) -> None:
        """`skip`: a fingerprint that is not tried."""
        async with self._lock:
            try:
                current = await asyncio.to_thread(_fingerprint, self._settings)
                if current in (self._served_fingerprint, skip):
                    return
                fingerprint, bundles = await asyncio.to_thread(read_repository, self._settings)
            except Exception as error:  # of any kind: the old bundles stay
                self._complain(error)
                return
            try:
                await self._backend.add(bundles.values())
            except Exception as error:
                self._refused_fingerprint = fingerprint if isinstance(error, BundleInvalid) else ""
                self._complain(error)
                return
            self._served.exchange(bundles)
            self._served_fingerprint, self._last_complaint, self._refused_fingerprint = fingerprint, "", ""
            self._metrics.reloads.labels("done").inc()
            _log.info("new versions are served: %s", ", ".join(bundles))
            await self._served.wait_for_requests_before()
            await self._backend.keep(bundles.values())

    def _complain(self, error: Exception) -> None:
        """Logs and counts a failure once, not each time that it is found again."""
        complaint = error.message if isinstance(error, EditingError) else repr(error)
        if complaint != self._last_complaint:
            self._last_complaint = complaint
            self._metrics.reloads.labels("failed").inc()
            cause = None if isinstance(error, EditingError) and error.__cause__ is None else error
            _log.error(
                "the old bundles stay, as the new ones cannot be served: %s", complaint, exc_info=cause
            )


def read_repository(settings: Settings) -> tuple[str, dict[str, Bundle]]:
    """The fingerprint of the model repository, and its bundles by name. Raises BundleInvalid."""
    # The fingerprint comes first, so that a change during the reading is noticed later.
    fingerprint = _fingerprint(settings)
    return fingerprint, read_bundles(
        settings.model_repository, settings.bundles, verify=settings.verify_checksums
    )


def _fingerprint(settings: Settings) -> str:
    """A hash of all manifests in the model repository. Raises BundleInvalid."""
    digest = hashlib.sha256()
    try:
        for manifest in sorted(settings.model_repository.glob("*.json")):
            digest.update(manifest.name.encode() + b"\0" + manifest.read_bytes() + b"\0")
    except OSError as error:
        raise BundleInvalid("The model repository cannot be read.") from error
    return digest.hexdigest()
