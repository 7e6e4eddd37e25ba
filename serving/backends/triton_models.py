"""Loading and unloading models on one Triton server that runs with --model-control-mode=explicit.

Other gateways may use the same server: a version that they have loaded is never unloaded by accident.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.bundle import GraphKey

_LOAD_TIMEOUT_S = 600.0
_INDEX_TIMEOUT_S = 3.0
_RETRY_INTERVAL_S = 0.25


async def load_models(
    client: InferenceServerClient, absent: Iterable[GraphKey], present: Iterable[GraphKey]
) -> None:
    """Loads the versions in `absent`; those in `present` stay loaded. Raises InferenceServerException."""
    await _for_each_model(
        absent, lambda model: _load(client, model, _versions(absent, model), _versions(present, model))
    )


async def unload_models(client: InferenceServerClient, graphs: Iterable[GraphKey]) -> None:
    """Unloads these versions and keeps all others. Raises InferenceServerException."""
    await _for_each_model(graphs, lambda model: _unload(client, model, _versions(graphs, model)))


async def _for_each_model(graphs: Iterable[GraphKey], change: Callable[[str], Awaitable[None]]) -> None:
    """Changes all models at the same time, even if one fails. Then raises what the first failure raised."""
    models = sorted({key[0] for key in graphs})
    results = await asyncio.gather(
        *(_when_free(partial(change, model)) for model in models), return_exceptions=True
    )
    for result in results:
        if result is not None:
            raise result


async def _when_free(change: Callable[[], Awaitable[None]]) -> None:
    """Tries again while the server refuses the change because another gateway is changing the same model."""
    while True:
        try:
            return await change()
        except InferenceServerException as error:
            if "currently loading or unloading" not in (error.message() or ""):
                raise
        await asyncio.sleep(_RETRY_INTERVAL_S)


async def _load(client: InferenceServerClient, model: str, absent: set[int], present: set[int]) -> None:
    loaded = await _loaded_versions(client, model)
    if not loaded | present:
        # Without a configuration, Triton loads the newest version.
        await client.load_model(model, client_timeout=_LOAD_TIMEOUT_S)
        loaded = await _loaded_versions(client, model)
    if not absent <= loaded:
        await _set_versions(client, model, loaded | absent | present)


async def _unload(client: InferenceServerClient, model: str, versions: set[int]) -> None:
    loaded = await _loaded_versions(client, model)
    if not loaded & versions:
        return  # another gateway has unloaded them
    if loaded <= versions:
        await client.unload_model(model, client_timeout=_LOAD_TIMEOUT_S)
    else:
        await _set_versions(client, model, loaded - versions)


async def _loaded_versions(client: InferenceServerClient, model: str) -> set[int]:
    """The versions of a model that run or are being loaded."""
    index = await client.get_model_repository_index(client_timeout=_INDEX_TIMEOUT_S)
    states = ("READY", "LOADING")
    return {int(entry.version) for entry in index.models if entry.name == model and entry.state in states}


async def _set_versions(client: InferenceServerClient, model: str, versions: set[int]) -> None:
    """Makes exactly these versions run, without a break for those that run already, by the model's configuration."""
    answer = await client.get_model_config(model, as_json=True, client_timeout=_INDEX_TIMEOUT_S)
    config = answer["config"] | {"version_policy": {"specific": {"versions": sorted(versions)}}}
    await client.load_model(model, config=json.dumps(config), client_timeout=_LOAD_TIMEOUT_S)


def _versions(graphs: Iterable[GraphKey], model: str) -> set[int]:
    return {key[1] for key in graphs if key[0] == model}
