"""The bundles that are served now: requests find them by name, and a new set of bundles replaces them at run time.

A request keeps the bundle that it has found, also while a new version takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from serving.backends.backend import Backend
from serving.bundle import Bundle, GraphKey
from serving.errors import UnknownBundle
from serving.pipeline.refinement import Refiner, StopRule
from serving.settings import Settings


class ServedBundles:
    """Some bundles, the default one first, each with its Refiner."""

    def __init__(self, bundles: Mapping[str, Bundle], backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._bundles: dict[str, Bundle] = {}
        self._refiners: dict[GraphKey, Refiner] = {}
        self._requests: WeakSet[asyncio.Task[Any]] = WeakSet()  # tasks that have found one of the bundles
        self._requests_before: WeakSet[asyncio.Task[Any]] = WeakSet()  # the same, before the last exchange
        self.exchange(bundles)

    @property
    def by_name(self) -> Mapping[str, Bundle]:
        return self._bundles

    def find(self, name: str) -> Bundle:
        """The bundle of a name, the default bundle if the name is empty. Raises UnknownBundle.

        Its graphs stay loaded until the current task ends.
        """
        request = asyncio.current_task()
        if request is not None:
            self._requests.add(request)
        if not name:
            return next(iter(self._bundles.values()))
        if name not in self._bundles:
            raise UnknownBundle(
                f"No bundle {name[:80]!r} is served here; there is {', '.join(self._bundles)}."
            )
        return self._bundles[name]

    def refiner(self, bundle: Bundle) -> Refiner:
        """The Refiner of a bundle that `find` has returned."""
        return self._refiners[bundle.graphs["refiner"].key]

    def exchange(self, bundles: Mapping[str, Bundle]) -> None:
        """From now on `find` returns these bundles."""
        settings = self._settings
        rule = StopRule(settings.refine_window_steps, settings.refine_min_improvement_ratio)
        self._bundles = dict(bundles)
        self._refiners |= {
            bundle.graphs["refiner"].key: Refiner(
                bundle, self._backend, rule, settings.max_refinements_at_full_steps
            )
            for bundle in bundles.values()
        }
        self._requests_before, self._requests = self._requests, WeakSet()

    async def wait_for_requests_before(self) -> None:
        """Waits for all requests that have found a bundle of before the last exchange; then forgets those bundles.

        No request takes longer than the setting max_deadline_s.
        """
        if running := [task for task in self._requests_before if not task.done()]:
            await asyncio.wait(running, timeout=self._settings.max_deadline_s)
        current = {bundle.graphs["refiner"].key for bundle in self._bundles.values()}
        self._refiners = {key: refiner for key, refiner in self._refiners.items() if key in current}
