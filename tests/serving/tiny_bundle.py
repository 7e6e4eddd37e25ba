"""A bundle in miniature: real ONNX graphs with the names and shapes of a trained one, written in a moment, no torch,
laid out for Triton.

The generator is linear (16 x 16 pixels, 6 layers), so that the refiner's gradient can be written out: two Adam steps a
call. Good for behaviour; it says nothing about faces.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from safetensors.numpy import save_file

from export.bundles.verification import sample_tensors
from export.engines.triton import config_pbtxt
from export.graphs.tensor_spec import TensorSpec
from tests import shipped

RESOLUTION, LAYERS, CODE_SIZE, RANK, CHUNK_STEPS = 16, 6, 512, 48, 2
PIXELS, CODE = RESOLUTION * RESOLUTION * 3, LAYERS * CODE_SIZE

LABELS = {"smiling": 0.25, "male": 0.5}  # and how often pictures have them
LABEL_MOVE = 20.0  # length of the difference between codes with a label and without
IDENTITY = {"middle": 1.4, "steepness": 3.0}  # of the logistic of descriptors' distances

Weights = dict[str, np.ndarray]


def _weights(seed: int) -> Weights:
    random = np.random.Generator(np.random.PCG64(seed))
    down = random.standard_normal((CODE, RANK)) / np.sqrt(CODE)
    up = random.standard_normal((RANK, PIXELS)) / np.sqrt(RANK)
    # Half of the pseudo-inverse: the encoder points the right way and leaves something to refine.
    back_up = 0.5 * np.linalg.pinv(up)
    back_down = np.linalg.pinv(down)
    mapped = random.standard_normal((CODE_SIZE, CODE)) / np.sqrt(CODE_SIZE)
    weights = {"down": down, "up": up, "back_up": back_up, "back_down": back_down, "mapped": mapped}
    # A label moves a code along a direction of its own, on which it is read, too.
    directions, _ = np.linalg.qr(
        np.random.Generator(np.random.PCG64(seed)).standard_normal((CODE, len(LABELS)))
    )
    weights |= {"label_moves": LABEL_MOVE * directions.T, "label_reads": directions / LABEL_MOVE}
    weights["look"] = random.standard_normal((PIXELS, 8)) / np.sqrt(PIXELS)
    return {name: value.astype(np.float32) for name, value in weights.items()}


_TO_FLOAT = """
    target_float = Cast <to = 1> ({image})
    target_scaled = Div (target_float, half_range)
    target_pm1 = Sub (target_scaled, one)
"""

_ENCODER = (
    """encoder (uint8[N,16,16,3] image) => (float[N,6,512] code) {"""
    + _TO_FLOAT.format(image="image")
    + """
    flat = Reshape (target_pm1, flat_shape)
    middle = MatMul (flat, back_up)
    long = MatMul (middle, back_down)
    code = Reshape (long, code_shape)
}"""
)

_GENERATOR = """generator (float[N,6,512] code) => (uint8[N,16,16,3] image) {
    long = Reshape (code, flat_shape)
    middle = MatMul (long, down)
    flat = MatMul (middle, up)
    raised = Add (flat, one)
    scaled = Mul (raised, half_range)
    whole = Round (scaled)
    inside = Clip (whole, zero, full)
    bytes = Cast <to = 2> (inside)
    image = Reshape (bytes, image_shape)
}"""

_MAPPING = """mapping (float[N,512] z) => (float[N,6,512] code) {
    long = MatMul (z, mapped)
    code = Reshape (long, code_shape)
}"""

_LABELLED_MAPPING = """mapping (float[N,512] z, float[N,2] label) => (float[N,6,512] code) {
    plain = MatMul (z, mapped)
    moved = MatMul (label, label_moves)
    long = Add (plain, moved)
    code = Reshape (long, code_shape)
}"""

_RELABELLER = """relabeller (float[N,6,512] code, float[N,2] label) => (float[N,6,512] edited_code) {
    long = Reshape (code, flat_shape)
    read = MatMul (long, label_reads)
    held = Clip (read, zero, one)
    stays = Less (label, zero)
    wanted = Where (stays, held, label)
    change = Sub (wanted, held)
    moved = MatMul (change, label_moves)
    edited = Add (long, moved)
    edited_code = Reshape (edited, code_shape)
}"""

_IDENTITY = (
    """identity (uint8[N,16,16,3] image) => (float[N,8] descriptor) {"""
    + _TO_FLOAT.format(image="image")
    + """
    flat = Reshape (target_pm1, flat_shape)
    descriptor = MatMul (flat, look)
}"""
)

_CRITIC = """critic (float[N,6,512] code) => (float[N,1] score) {
    squared = Mul (code, code)
    flat = Reshape (squared, flat_shape)
    mean = ReduceMean <keepdims = 1> (flat, axis_one)
    negative = Sub (one, mean)
    score = Sigmoid (negative)
}"""

_ONE_STEP = """
    long_{k} = Reshape (code_{k}, flat_shape)
    middle_{k} = MatMul (long_{k}, down)
    out_{k} = MatMul (middle_{k}, up)
    gap_{k} = Sub (out_{k}, target_flat)
    seen_{k} = Mul (gap_{k}, mask_flat)
    squares_{k} = Mul (seen_{k}, seen_{k})
    pixel_{k} = ReduceMean <keepdims = 1> (squares_{k}, axis_one)
    weighted_{k} = Mul (pixel_{k}, image_weight)
    code_squares_{k} = Mul (long_{k}, long_{k})
    domain_{k} = ReduceMean <keepdims = 1> (code_squares_{k}, axis_one)
    domain_weighted_{k} = Mul (domain_{k}, domain_weight)
    loss_{k} = Add (weighted_{k}, domain_weighted_{k})
    pulled_{k} = Mul (seen_{k}, image_weight)
    back_a_{k} = MatMul (pulled_{k}, up_t)
    back_b_{k} = MatMul (back_a_{k}, down_t)
    grad_a_{k} = Mul (back_b_{k}, pixel_slope)
    grad_c_{k} = Mul (long_{k}, domain_weight)
    grad_d_{k} = Mul (grad_c_{k}, domain_slope)
    grad_long_{k} = Add (grad_a_{k}, grad_d_{k})
    grad_{k} = Reshape (grad_long_{k}, code_shape)
    m_old_{k} = Mul (m_{k}, beta_one)
    m_new_{k} = Mul (grad_{k}, one_minus_beta_one)
    m_{next} = Add (m_old_{k}, m_new_{k})
    v_old_{k} = Mul (v_{k}, beta_two)
    grad_squared_{k} = Mul (grad_{k}, grad_{k})
    v_new_{k} = Mul (grad_squared_{k}, one_minus_beta_two)
    v_{next} = Add (v_old_{k}, v_new_{k})
    step_{next} = Add (step_{k}, one)
    step_cube_{k} = Unsqueeze (step_{next}, axis_one)
    decay_one_{k} = Pow (beta_one, step_cube_{k})
    correct_one_{k} = Sub (one, decay_one_{k})
    decay_two_{k} = Pow (beta_two, step_cube_{k})
    correct_two_{k} = Sub (one, decay_two_{k})
    m_hat_{k} = Div (m_{next}, correct_one_{k})
    v_hat_{k} = Div (v_{next}, correct_two_{k})
    root_{k} = Sqrt (v_hat_{k})
    below_{k} = Add (root_{k}, epsilon)
    ratio_{k} = Div (m_hat_{k}, below_{k})
    move_{k} = Mul (ratio_{k}, rate_cube)
    code_{next} = Sub (code_{k}, move_{k})
"""

_REFINER = (
    """refiner (float[N,6,512] code, float[N,6,512] first_moment, float[N,6,512] second_moment, float[N,1] step,
    uint8[N,16,16,3] target, float[N,16,16,1] mask, float[N,1] learning_rate, float[N,1] pixel_weight,
    float[N,1] perceptual_weight, float[N,1] domain_weight)
 => (float[N,6,512] next_code, float[N,6,512] next_first_moment, float[N,6,512] next_second_moment,
    float[N,1] next_step, float[N,2] loss, float[N,6,512] best_code, float[N,1] best_loss) {
    code_0 = Identity (code)
    m_0 = Identity (first_moment)
    v_0 = Identity (second_moment)
    step_0 = Identity (step)
    image_weight = Add (pixel_weight, perceptual_weight)
    rate_cube = Unsqueeze (learning_rate, axis_one)
    mask_three = Concat <axis = 3> (mask, mask, mask)
    mask_flat = Reshape (mask_three, flat_shape)
"""
    + _TO_FLOAT.format(image="target")
    + "    target_flat = Reshape (target_pm1, flat_shape)\n"
    + "".join(_ONE_STEP.format(k=k, next=k + 1) for k in range(CHUNK_STEPS))
    + """
    next_code = Identity (code_2)
    next_first_moment = Identity (m_2)
    next_second_moment = Identity (v_2)
    next_step = Identity (step_2)
    loss = Concat <axis = 1> (loss_0, loss_1)
    better = Less (loss_1, loss_0)
    best_loss = Where (better, loss_1, loss_0)
    better_cube = Unsqueeze (better, axis_one)
    best_code = Where (better_cube, code_1, code_0)
}"""
)

_GRAPHS = {
    "encoder": _ENCODER,
    "generator": _GENERATOR,
    "mapping": _MAPPING,
    "critic": _CRITIC,
    "refiner": _REFINER,
}


def write_tiny_bundle(
    repository: Path,
    name: str = "tiny16",
    version: int = 1,
    seed: int = 7,
    *,
    faces: bool = False,
    labels: Literal["none", "sampled", "edited"] = "none",
    identity: bool = False,
) -> Path:
    """Writes the bundle into a model repository and returns the repository. Each seed makes another generator. `faces`:
    aligned by faces, with the shipped bundle's detector. `labels`: in which calls they are taken. `identity`: answers
    may have an identity score."""
    weights, texts = _weights(seed), dict(_GRAPHS)
    if labels != "none":
        texts["mapping"] = _LABELLED_MAPPING
    if labels == "edited":
        texts["relabeller"] = _RELABELLER
    if identity:
        texts["identity"] = _IDENTITY
    graphs = {
        role: _write_graph(repository, name, role, text, weights, version) for role, text in texts.items()
    }
    if faces:
        graphs["detector"] = _copy_detector(repository, name)
    directions, vectors = _directions(name)
    tensors = {
        "mean_code": np.full((LAYERS, CODE_SIZE), 0.05, np.float32),
        "code_std": np.ones((LAYERS, CODE_SIZE), np.float32),
        **vectors,
        **_samples(repository, graphs),
    }
    save_file(tensors, repository / f"{name}.safetensors")
    manifest = {
        "format": 1,
        "bundle": name,
        "resolution": RESOLUTION,
        "layers": LAYERS,
        "code_size": CODE_SIZE,
        "opset": 20,
        "graphs": graphs,
        "tensors": {"file": f"{name}.safetensors", "sha256": _sha256(repository / f"{name}.safetensors")},
        "directions": directions,
        "refine": {
            "chunk_steps": CHUNK_STEPS,
            "steps": 20,
            "learning_rate": 0.02,
            "pixel_weight": 1.0,
            "perceptual_weight": 0.5,
            "domain_weight": 0.01,
            "quality_steps": {"fast": 4, "best": 600},
        },
        "alignment": "centre-crop",
        "training": {},
        "data": "none",
        "licence": "Apache-2.0",
        "limits": "for tests only",
    }
    if faces:
        manifest |= {"alignment": "face", "face": shipped.MANIFEST["face"]}
    if identity:
        manifest["identity"] = IDENTITY
    if labels != "none":
        held_out = {"metric": "accuracy", "value": 0.9} if labels == "edited" else None
        named = [{"name": key, "frequency": share, "held_out": held_out} for key, share in LABELS.items()]
        manifest["labels"] = named
    (repository / f"{name}.json").write_text(json.dumps(manifest, indent=1))
    return repository


def _copy_detector(repository: Path, name: str) -> dict[str, Any]:
    graph, model = shipped.MANIFEST["graphs"]["detector"], f"{name}_detector"
    shutil.copytree(shipped.REPOSITORY / graph["model"], repository / model)
    config = repository / model / "config.pbtxt"
    config.write_text(config.read_text().replace(f'"{graph["model"]}"', f'"{model}"'))
    return {**graph, "model": model, "file": f"{model}/{graph['version']}/model.onnx"}


def _write_graph(
    repository: Path, bundle: str, role: str, text: str, weights: Weights, version: int
) -> dict[str, Any]:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    constants = _constants(role, weights)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, key) for key, value in constants.items() if key in used
    )
    onnx.checker.check_model(model)
    file = f"{bundle}_{role}/{version}/model.onnx"
    (repository / file).parent.mkdir(parents=True)
    onnx.save(model, repository / file)
    specs = [[_tensor_spec(value) for value in values] for values in (model.graph.input, model.graph.output)]
    config = config_pbtxt(f"{bundle}_{role}", 16, *specs)
    (repository / f"{bundle}_{role}" / "config.pbtxt").write_text(config)
    return {
        "model": f"{bundle}_{role}",
        "version": version,
        "file": file,
        "sha256": _sha256(repository / file),
        "max_batch_size": 16,
        "inputs": [_spec(value) for value in model.graph.input],
        "outputs": [_spec(value) for value in model.graph.output],
    }


def _constants(role: str, weights: Weights) -> Weights:
    def scalar(value: float) -> np.ndarray:
        return np.array(value, np.float32)

    return weights | {
        "up_t": np.ascontiguousarray(weights["up"].T),
        "down_t": np.ascontiguousarray(weights["down"].T),
        "flat_shape": np.array([0, -1], np.int64),
        "code_shape": np.array([-1, LAYERS, CODE_SIZE], np.int64),
        "image_shape": np.array([-1, RESOLUTION, RESOLUTION, 3], np.int64),
        "axis_one": np.array([1], np.int64),
        "half_range": scalar(127.5),
        "zero": scalar(0.0),
        "one": scalar(1.0),
        "full": scalar(255.0),
        "epsilon": scalar(1e-8),
        "beta_one": scalar(0.9),
        "one_minus_beta_one": scalar(0.1),
        "beta_two": scalar(0.999),
        "one_minus_beta_two": scalar(0.001),
        "pixel_slope": scalar(2.0 / PIXELS),
        "domain_slope": scalar(2.0 / CODE),
    }


def _spec(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    dtype = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}[kind.elem_type]
    shape = [size.dim_value or -1 for size in kind.shape.dim]
    return {"name": value.name, "dtype": dtype, "shape": shape}


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    spec = _spec(value)
    return TensorSpec(value.name, spec["dtype"], tuple(spec["shape"][1:]))


def _samples(repository: Path, graphs: dict[str, dict[str, Any]]) -> Weights:
    """A sample of each graph's inputs and outputs, as an export stores it."""
    random = np.random.Generator(np.random.PCG64(3))
    tensors: Weights = {}
    for role, graph in graphs.items():
        session = onnxruntime.InferenceSession(
            str(repository / graph["file"]), providers=["CPUExecutionProvider"]
        )
        inputs = {}
        for spec in graph["inputs"]:
            values = random.uniform(0.0, 1.0, (1, *spec["shape"][1:]))
            if spec["name"] == "step":
                values = np.zeros_like(values)
            inputs[spec["name"]] = (
                (values * 255).astype(np.uint8) if spec["dtype"] == "uint8" else values.astype(np.float32)
            )
        names = [spec["name"] for spec in graph["outputs"]]
        tensors |= sample_tensors(role, inputs, dict(zip(names, session.run(names, inputs), strict=True)))
    return tensors


def _directions(name: str) -> tuple[list[dict[str, object]], Weights]:
    random = np.random.Generator(np.random.PCG64(11))
    entries, vectors = [], {}
    for direction, layers in (("smile", [2, 3]), ("age", [0, 1, 4])):
        vector = np.zeros((LAYERS, CODE_SIZE), np.float32)
        vector[layers] = random.standard_normal((len(layers), CODE_SIZE))
        vectors[f"direction/{direction}"] = vector / np.linalg.norm(vector)
        entries.append(
            {
                "name": direction,
                "label": direction.title(),
                "layers": layers,
                "range": [-3.0, 3.0],
                "scale": 2.0,
                "held_out": {"metric": "r", "value": 0.8},
                "conditioned_on": [],
            }
        )
    return entries, vectors


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
