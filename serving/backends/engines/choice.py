"""Which engine runs a graph, and in batches of how many: each is tried, what it answers is looked at, and the fastest
that is right is taken.

OpenVINO has given wrong results without an error before. So every engine's answers are compared with those of ONNX
Runtime on the processor first, within a tolerance of what it computes in.

Large batches pay for small graphs only, whose runs are short beside what is done around them. The generator at 128
pixels needs as long a picture in batches of 2 as of 8, and 25 MB more for each picture in a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.backends.backend import Tensors
from serving.backends.engines.choice_cache import Choice, ChoiceCache
from serving.backends.engines.gpu import CUDA, DeviceSession, has_provider, tensorrt
from serving.backends.engines.sessions import (
    EngineName,
    EngineUnfit,
    InHalves,
    OnnxRuntimeSession,
    OpenVinoSession,
    Session,
    has_bfloat16,
    has_openvino,
)
from serving.bundle import Bundle, GraphSpec, Precision, Role, first_inputs

_log = logging.getLogger(__name__)

LOSS_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 0.02}
"""How far a refiner's first losses may be from ONNX Runtime's, relative. bfloat16 has 8 significant bits."""
TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}
"""How far a code, score or face may be, relative to the largest value."""
PICTURE_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 0.01}
"""How far a picture may be: root mean square of the differences, relative to 255. 0.01 is 40 dB."""
# What a refiner runs in each step.
_PARTS: tuple[Role, ...] = ("encoder", "generator")
# A graph is timed for so long, or so many times.
_TRIAL_S, _MOST_TRIALS = 0.25, 5
# An engine that takes so many times as long is not timed again.
_CLEARLY_SLOWER = 2.0
# Engines are compared on one sample, and on a batch of so many.
_BATCH = 4
# A refinement's batches are long: two samples say as much.
_REFINER_BATCH = 2
# Another engine, or a batch of twice the size, is taken where a sample then takes at most this share of its time.
_WORTH = 0.95


@dataclass(frozen=True)
class Chosen:
    """The session of a graph, the engine that it is of, and the largest batch that pays; None: none was tried."""

    session: Session
    engine: EngineName
    batch: int | None = None


def open_graph(
    bundle: Bundle, role: Role, threads: int, wanted: EngineName | None, cache: ChoiceCache | None
) -> Chosen:
    """Opens a graph on the engine that is wanted; None stands for the fastest that is right, in batches that pay.

    Raises EngineUnfit if the engine that is wanted is not there or answers wrongly, and what ONNX Runtime raises where
    it cannot read the graph.
    """

    def opened(engine: EngineName) -> Session:
        return _open(engine, bundle, role, threads, cache)

    if wanted == "onnxruntime":
        return Chosen(opened("onnxruntime"), "onnxruntime")
    if wanted is not None:
        session = opened(wanted)
        feeds, precision = probe(bundle, role), _precision(wanted, bundle.graphs[role])
        right = _answers(opened("onnxruntime"), feeds)
        if error := _complaint(_answers(session, feeds), right, wanted, precision):
            raise EngineUnfit(error)
        return Chosen(session, wanted)
    known = cache.get(bundle.graphs[role], threads) if cache else None
    if known is None or known.engine not in candidates():
        engines = candidates()
        if role == "refiner" and cache:
            engines = _likely(engines, [cache.get(bundle.graphs[part], threads) for part in _PARTS])
        known = _tried(bundle, role, engines, opened)
        if cache:
            cache.put(bundle.graphs[role], threads, known)
    # Opened afresh: a session keeps the memory of the largest batch that it has run.
    return Chosen(opened(known.engine), known.engine, known.batch)


def candidates() -> tuple[EngineName, ...]:
    """The engines that are tried here. The first one is what the others are compared with.

    TensorRT is not among them: to build its engines takes minutes for each graph and size of batch.
    """
    found: list[EngineName] = ["onnxruntime"]
    if has_bfloat16():
        found.append("openvino-bfloat16")
    if has_openvino():
        found.append("openvino")
    if has_provider(CUDA):
        found.append("onnxruntime-cuda")
    return tuple(found)


def _likely(engines: Sequence[EngineName], parts: Sequence[Choice | None]) -> tuple[EngineName, ...]:
    """The engines that may be the fastest for a refiner, which runs the encoder and the generator over and over: to
    compile one takes OpenVINO 8 seconds. parts: what was found for those two."""
    found = [part.milliseconds for part in parts if part]

    def loses(engine: EngineName) -> bool:
        known = len(found) == len(parts) and all(engine in each for each in found)
        return known and sum(each[engine] - each["onnxruntime"] for each in found) >= 0

    return tuple(engine for engine in engines if engine == "onnxruntime" or not loses(engine))


def _open(engine: EngineName, bundle: Bundle, role: Role, threads: int, cache: ChoiceCache | None) -> Session:
    """Opens a graph on an engine. What OpenVINO compiles and TensorRT builds is kept in the cache's folder.

    Raises EngineUnfit where the engine is not there, and what the runtime raises where it cannot read the graph.
    """
    file, graph = bundle.graph_file(role), bundle.graphs[role]
    kept = cache.compiled_model(graph, threads, engine) if cache else None
    if engine == "onnxruntime":
        # A refiner's batches run as two halves where there are the threads.
        halves = role == "refiner" and threads > 1
        return InHalves(file, threads, kept) if halves else OnnxRuntimeSession(file, threads)
    if engine == "onnxruntime-cuda":
        return DeviceSession(file, graph, CUDA)
    if engine == "tensorrt":
        return DeviceSession(file, graph, tensorrt(graph, cache.folder / "tensorrt" if cache else None))
    if not has_openvino():
        raise EngineUnfit("OpenVINO is not installed; run pip install openvino, or set INDOMAIN_ENGINE=auto.")
    bfloat16 = engine == "openvino-bfloat16"
    if bfloat16 and not has_bfloat16():
        raise EngineUnfit("This processor does not compute in bfloat16; set INDOMAIN_ENGINE=auto.")
    return OpenVinoSession(file, graph, threads, bfloat16=bfloat16, kept=kept)


def _precision(engine: EngineName, graph: GraphSpec) -> Precision:
    """What a graph is computed in on an engine."""
    return "bfloat16" if engine == "openvino-bfloat16" else graph.precision


def _tried(
    bundle: Bundle, role: Role, engines: Sequence[EngineName], opened: Callable[[EngineName], Session]
) -> Choice:
    """The fastest engine that is right, the batch that pays on it, and milliseconds a sample of each that is right.

    engines: ONNX Runtime, and the others to try.
    """
    model = bundle.graphs[role].model
    reference = opened("onnxruntime")
    chosen = Chosen(reference, "onnxruntime")
    feeds = probe(bundle, role)
    right = _answers(reference, feeds)
    best_s = sample_seconds(reference, feeds)
    milliseconds: dict[EngineName, float] = {"onnxruntime": round(1e3 * best_s, 2)}
    for engine in engines[1:]:
        if engine == "openvino" and chosen.engine == "openvino-bfloat16":
            # The same in more bits takes longer, and compiling a refiner takes 8 seconds.
            continue
        try:
            session = opened(engine)
            precision = _precision(engine, bundle.graphs[role])
            error = _complaint(_answers(session, feeds), right, engine, precision)
        except EngineUnfit as failure:
            error = str(failure)
        except Exception as failure:
            error = f"{engine} cannot run it ({type(failure).__name__})"
        if error:
            _log.warning("%s: %s", model, error)
            continue
        seconds = sample_seconds(session, feeds)
        if seconds < _CLEARLY_SLOWER * best_s:
            # One of them may have been disturbed: both once more, in turn.
            best_s = min(best_s, sample_seconds(chosen.session, feeds))
            seconds = min(seconds, sample_seconds(session, feeds))
            milliseconds[chosen.engine] = round(1e3 * best_s, 2)
        milliseconds[engine] = round(1e3 * seconds, 2)
        if seconds < _WORTH * best_s:
            chosen, best_s = Chosen(session, engine), seconds
    batch = largest_batch(chosen.session, feeds, bundle.graphs[role].max_batch_size)
    told = ", ".join(f"{engine} {found:g}" for engine, found in milliseconds.items())
    _log.info(
        "%s runs on %s in batches of up to %d; milliseconds a picture: %s", model, chosen.engine, batch, told
    )
    return Choice(chosen.engine, batch, milliseconds)


def largest_batch(session: Session, feeds: Tensors, most: int) -> int:
    """The size from which larger batches gain nothing: a power of two, at most `most`."""
    if getattr(session, "one_by_one", False):
        return 1
    batch, best_s = 1, _best_seconds(session, _first(feeds))
    while 2 * batch <= most:
        repeated = {name: np.repeat(value, 2 * batch, 0) for name, value in _first(feeds).items()}
        try:
            seconds = _best_seconds(session, repeated) / (2 * batch)
        except EngineUnfit:
            # There is no memory for more.
            break
        if seconds > _WORTH * best_s:
            break
        batch, best_s = 2 * batch, seconds
    return batch


def _answers(session: Session, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
    """What a session answers to the first sample; of a refiner its first two losses."""
    feeds = _first(feeds)
    found = session.run(feeds)
    if "loss" not in session.outputs:
        return dict(found)
    losses = found["loss"]
    if losses.shape[1] == 1:
        onward = {name: found.get(f"next_{name}", value) for name, value in feeds.items()}
        losses = np.concatenate([losses, session.run(onward)["loss"]], 1)
    # The second loss depends on the first gradient. Later ones say less: an optimiser amplifies rounding errors.
    return {"loss": losses[:, :2]}


def _complaint(found: Tensors, right: Tensors, engine: EngineName, precision: Precision) -> str:
    """What is wrong with an engine's answers; empty where they are right."""
    if "loss" in right:
        apart = np.abs(found["loss"] - right["loss"]) / np.abs(right["loss"])
        off, allowed = float(np.nan_to_num(apart, nan=np.inf).max()), LOSS_TOLERANCE[precision]
    else:
        pictures = any(value.dtype == np.uint8 for value in right.values())
        allowed = (PICTURE_TOLERANCE if pictures else TOLERANCE)[precision]
        off = max(_difference(found[name], right[name]) for name in right)
    return (
        f"the answers of {engine} are off by {off:.2g}, at most {allowed:g} allowed" if off > allowed else ""
    )


def _difference(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    if wanted.dtype == np.uint8:
        return float(np.sqrt((apart**2).mean()) / 255)
    return float(np.nan_to_num(apart, nan=np.inf).max() / max(np.abs(wanted).max(), 1e-6))


def probe(bundle: Bundle, role: Role) -> dict[str, npt.NDArray[Any]]:
    """Inputs to try a graph with, a small batch: the sample that is stored in the bundle, several times over, or random
    numbers where none is stored, as in bundles of older exports."""
    count = _REFINER_BATCH if role == "refiner" else _BATCH
    if role in bundle.references:
        return {
            name: np.repeat(value[:1], count, 0) for name, value in bundle.references[role].inputs.items()
        }
    random = np.random.default_rng(0)
    noise = random.standard_normal((count, *bundle.code_std.shape), dtype=np.float32)
    codes = bundle.mean_code + 0.5 * bundle.code_std * noise
    if role == "refiner":
        grey = np.full((count, bundle.resolution, bundle.resolution, 3), 128, np.uint8)
        return first_inputs(bundle, codes, grey, bundle.refine)
    return {
        spec.name: codes
        if spec.name == "code"
        else random.uniform(0, 256 if spec.dtype == "uint8" else 1, (count, *spec.shape[1:])).astype(
            spec.dtype
        )
        for spec in bundle.graphs[role].inputs
    }


def sample_seconds(session: Session, feeds: Tensors) -> float:
    """Seconds a sample, alone and in a batch on average: each the best of a few trials."""
    alone_s = _best_seconds(session, _first(feeds))
    if getattr(session, "one_by_one", False):
        return alone_s
    count = len(next(iter(feeds.values())))
    return (alone_s + _best_seconds(session, feeds) / count) / 2


def _best_seconds(session: Session, feeds: Tensors) -> float:
    if isinstance(session, DeviceSession):
        # The first batch of a size opens it.
        session.run(feeds)
    found: list[float] = []
    while len(found) < _MOST_TRIALS and sum(found) < _TRIAL_S:
        begun_s = time.perf_counter()
        session.run(feeds)
        found.append(time.perf_counter() - begun_s)
    return min(found)


def _first(feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {name: value[:1] for name, value in feeds.items()}
