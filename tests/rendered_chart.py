"""The Helm chart, rendered by Helm's own engine: what its tests have in common.

The engine is a Go runtime. It runs in a process of its own: among the threads of a test process it has aborted, and
all other tests there with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).resolve().parents[1] / "deploy/helm"

BASE: dict[str, Any] = {"modelRepository": {"claim": "models"}, "keys": {"secret": "keys"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": BASE,
    "embedded": BASE | {"gateway": {"backend": "embedded", "settings": {"INDOMAIN_MAX_BATCH_SIZE": 4}}},
    "mtls": {
        "modelRepository": {"claim": "models", "subPath": "bundles"},
        "tls": {"secret": "certificate", "clientAuthoritiesSecret": "authorities"},
        "traceEndpoint": "http://collector:4317",
    },
    "fixed": {
        "modelRepository": {"claim": "models"},
        "keys": {"insecure": True},
        "networkPolicy": {"enabled": False},
        "gateway": {"autoscaling": {"enabled": False}, "replicas": 3},
        "triton": {
            "autoscaling": {"enabled": False},
            "replicas": 2,
            "gpus": 0,
            "tls": {"secret": "triton-certificate"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        },
    },
}


class ChartError(Exception):
    """Helm refuses the chart or its values; the message is Helm's, after its error's class."""


def asked_of_helm(operation: str, values: dict[str, Any] | None = None) -> Any:
    """What Helm answers: "lint", "render" or "validate" (which gives None). Raises ChartError."""
    command = [sys.executable, "-m", "tests.rendered_chart", operation]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ChartError(answer["error"])
    return answer["answer"]


def answer_of_helm(operation: str, values: dict[str, Any]) -> dict[str, Any]:
    """The same in this process: {"answer": ...}, or {"error": "CLASS: MESSAGE"}."""
    try:
        if operation == "lint":
            return {"answer": helm.lint(str(CHART))}
        with helm.Chart.load(str(CHART)) as chart:
            if operation == "validate":
                chart.validate_schema(values)
                return {"answer": None}
            return {"answer": chart.render(values, name="demo", namespace="faces")}
    except helm.HelmError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of the chart with `values` beside its own, for the release "demo" in the namespace "faces". Raises
    ChartError."""
    files: dict[str, str] = asked_of_helm("render", values)
    documents = [
        document
        for name, rendered in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(rendered)
        if document
    ]
    assert documents
    return documents


def of_kind(documents: list[dict[str, Any]], kind: str, component: str = "") -> dict[str, Any]:
    """The one object of a kind whose name ends with `component`."""
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(component)]
    return found


def pods(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The templates of all pods."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["spec"]["template"]


def environment(documents: list[dict[str, Any]]) -> dict[str, str]:
    """The gateway's environment variables."""
    (container,) = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


if __name__ == "__main__":
    print(json.dumps(answer_of_helm(sys.argv[1], json.load(sys.stdin))))
