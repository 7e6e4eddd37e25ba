"""Names of methods, and the tables of an evaluation as Markdown."""

from __future__ import annotations

from typing import Any

from training.loops.inversion_config import InversionConfig
from training.networks.latent_discriminator import default_view


def method_name(meta: dict[str, Any]) -> str:
    """Name the method that checkpoint.json describes, and how its settings differ from the usual ones."""
    if "tuned" in meta:
        return f"{method_name({k: v for k, v in meta.items() if k != 'tuned'})}, tuned"
    if "imported_encoder" in meta:
        return str(meta["imported_encoder"]["family"])
    usual = InversionConfig
    weights, latent = meta["loss_weights"], meta["latent_discriminator"]
    code, cycle = weights["code_weight"], weights["code_cycle_weight"]
    view, rate = meta["latent_discriminator_view"], latent["latent_discriminator_rate"]
    # Older runs do not have these.
    identity, joint, prior, residual = (
        weights.get(f"{name}_weight", 0.0) for name in ("identity", "joint", "prior", "residual")
    )
    # Its latent discriminator is another one, and was not there when the encoder was trained.
    fitted = "mapping_pictures" in meta
    end = {
        f"identity weight {identity:g}": identity > 0,
        f"joint discriminator {joint:g}": joint > 0,
        f"prior discriminator {prior:g}": prior > 0,
        f"residual weight {residual:g}": residual > 0,
        "linear end": not meta["encoder"].get("activation", False),
        "fitted mapping": fitted,
    }
    if weights["pixel_weight"] == 0:
        return joined("traditional", end)
    if code == 0:
        return joined("in-domain", {"with code cycle": cycle > 0} | end)
    changed = {
        f"code weight {code:g}": code != usual.code_weight,
        f"code cycle {cycle:g}" if cycle > 0 else "no code cycle": cycle != usual.code_cycle_weight,
        f"{view} discriminator": not fitted and view != default_view(meta["generator"]["per_layer_code"]),
        f"discriminator rate {rate:g}": rate != usual.latent_discriminator_rate,
        f"R1 {latent['r1_gamma']:g}": latent["r1_gamma"] != usual.r1_gamma,
        f"replay pool {latent['code_pool']}": latent["code_pool"] != usual.code_pool,
    }
    return joined("force-in-domain", changed | end)


def joined(method: str, changed: dict[str, bool]) -> str:
    """A method's name and every change to it that is true."""
    return ", ".join([method, *(name for name, is_so in changed.items() if is_so)])


def preference(method: str) -> int:
    """Order in which an encoder is chosen to show refinement and domain score with: the usual method comes first."""
    return 0 if method == "force-in-domain" else 1 if method.startswith("force-in-domain") else 2


ENCODER_COLUMNS = {
    "mse": "MSE", "psnr": "PSNR dB", "lpips_sq": "LPIPS-sq", "fd_efflite0": "FD-EffLite0", "fid": "FID",
    "swd": "SWD",
    "identity_distance": "identity distance", "refined_mse": "refined: MSE", "refined_lpips_sq": "refined: LPIPS-sq",
    "refined_identity_distance": "refined: identity distance",
    "code_fd": "code FD, joint", "code_fd_layer": "code FD, a layer",
    "auc": "two-sample AUC", "style_distance": "style distance",
    "precision": "precision", "recall": "recall", "boundary_ap": "boundary AP",
    "edit_success": "edits right way", "edit_moved": "moved sd", "edit_drift": "drift sd",
    "edit_drift_ratio": "drift / moved",
    "edit_identity_distance": "identity distance of edits", "seconds": "s a picture",
}  # fmt: skip
INVERSION_COLUMNS = {
    "steps": "steps", "mse": "MSE", "psnr": "PSNR dB", "lpips_sq": "LPIPS-sq", "identity_distance": "identity distance",
    "domain_score": "domain score", "steps_to_equal_loss": "steps to the loss of ours, median",
    "reached_equal_loss": "share that reaches it", "seconds": "s a picture",
}  # fmt: skip


def as_markdown(results: dict[str, Any]) -> str:
    """The tables of evaluation.json's content. Encoders: mean +- standard deviation where there are several seeds."""
    methods: dict[str, dict[str, tuple[float, float]]] = results["methods"]
    seeds = {name: sum(e["method"] == name for e in results["encoders"]) for name in methods}
    columns = {
        key: title for key, title in ENCODER_COLUMNS.items() if any(key in m for m in methods.values())
    }
    rows = [
        [f"{name} ({seeds[name]})", *(_plus_minus(found[key]) if key in found else "" for key in columns)]
        for name, found in methods.items()
    ]
    some = next(iter(methods.values()))
    floor = {key: f"{some[f'floor_{key}'][0]:.3g}" for key in columns if f"floor_{key}" in some}
    rows.append(["sampled codes (floor)", *(floor.get(key, "") for key in columns)])
    lines = [f"Encoders on {results['pictures']} held-out pictures; in brackets the number of runs.", ""]
    lines += _table(["encoder", *columns.values()], rows)
    optimised = results["inversions"]
    rows = [
        [name, *(f"{found[key]:.3g}" if key in found else "" for key in INVERSION_COLUMNS)]
        for name, found in optimised.items()
    ]
    lines += ["", f"Inversions of {results['config']['optimised']} of them.", ""]
    lines += _table(["inversion", *INVERSION_COLUMNS.values()], rows)
    lines += ["", "Mean domain score.", ""]
    lines += _table(["codes of", "score"], [[k, f"{v:.2f}"] for k, v in results["domain_score"].items()])
    if results["generator"]:
        lines += ["", "Generator: Frechet distances to the training pictures.", ""]
        lines += _table(["figure", "value"], [[k, f"{v:.4g}"] for k, v in results["generator"].items()])
    return "\n".join(lines) + "\n"


def _plus_minus(figure: tuple[float, float]) -> str:
    mean, spread = figure
    return f"{mean:.3g} +- {spread:.2g}" if spread else f"{mean:.3g}"


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
