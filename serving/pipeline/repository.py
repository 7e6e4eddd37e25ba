"""The model repository while the gateway runs: what lies in it, and how that takes the place of what is served.

A new version is read, loaded, checked on its samples, and only then found by requests; the old one goes when the last
request that began with it has ended. Whatever goes wrong before that leaves the old one as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from serving.backends import Backend
from serving.bundle import Bundle, read_bundles
from serving.errors import BundleInvalid, EditingError
from serving.pipeline.pipeline import Pipeline
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class Repository:
    """The folder `settings.model_repository`, by its manifests: they name every file with its checksum."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._served = ""
        self._refused = ""
        self._complaint = ""
        self._turn = asyncio.Lock()

    async def read(self) -> dict[str, Bundle]:
        """The bundles to begin with. Raises BundleInvalid."""
        self._served, bundles = await asyncio.to_thread(self._read)
        return bundles

    async def watch(self, backend: Backend, pipeline: Pipeline) -> None:
        """Reloads by itself, every `settings.repository_poll_s`. What a back end has loaded and found wrong is not
        tried again as long as its manifest is the same; what could not be read yet may be on its way."""
        while self._settings.repository_poll_s:
            await asyncio.sleep(self._settings.repository_poll_s)
            await self._reload(backend, pipeline, but=self._refused)

    async def reload(self, backend: Backend, pipeline: Pipeline) -> None:
        """Serves what lies there now, if it is anything new and right; says in the log and in a metric what became
        of it. Raises nothing."""
        self._complaint = ""
        await self._reload(backend, pipeline, but="")

    async def _reload(self, backend: Backend, pipeline: Pipeline, but: str) -> None:
        async with self._turn:
            try:
                if await asyncio.to_thread(self._fingerprint) in (self._served, but):
                    return
                fingerprint, bundles = await asyncio.to_thread(self._read)
            except Exception as error:  # whatever it is, the old bundles go on
                self._complain(error)
                return
            try:
                await backend.add(bundles.values())
            except Exception as error:
                self._refused = fingerprint if isinstance(error, BundleInvalid) else ""
                self._complain(error)
                return
            pipeline.exchange(bundles)
            self._served, self._complaint, self._refused = fingerprint, "", ""
            self._metrics.reloads.labels("done").inc()
            _log.info("new versions are served: %s", ", ".join(bundles))
            await pipeline.until_exchanged()
            await backend.keep(bundles.values())

    def _complain(self, error: Exception) -> None:
        """Once, not at every look at the same thing."""
        told = error.message if isinstance(error, EditingError) else repr(error)
        if told != self._complaint:
            self._complaint = told
            self._metrics.reloads.labels("failed").inc()
            cause = None if isinstance(error, EditingError) and error.__cause__ is None else error
            _log.error("the old bundles stay, as the new ones cannot be served: %s", told, exc_info=cause)

    def _read(self) -> tuple[str, dict[str, Bundle]]:
        settings = self._settings
        fingerprint = self._fingerprint()  # before, so that what changes meanwhile is seen as new
        return fingerprint, read_bundles(
            settings.model_repository, settings.bundles, verify=settings.verify_checksums
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        try:
            for manifest in sorted(self._settings.model_repository.glob("*.json")):
                digest.update(manifest.name.encode() + b"\0" + manifest.read_bytes() + b"\0")
        except OSError as error:
            raise BundleInvalid("The model repository cannot be read.") from error
        return digest.hexdigest()
