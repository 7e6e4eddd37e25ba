"""The image, the compose files and the Helm chart: hardened, wired together, and valid by their tools' own schemas."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.settings import Settings
from tests.rendered_chart import (
    BASE,
    CHART,
    VARIANTS,
    ChartError,
    asked_of_helm,
    environment,
    of_kind,
    pods,
    render,
)

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ("1.27", "1.33")  # the oldest that the chart names, and a recent one


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def known_to_the_gateway(variable: str) -> bool:
    return variable.removeprefix("INDOMAIN_").lower() in Settings.model_fields


# --- image -------------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_in_particular_and_sends_nothing_home() -> None:
    *_, build, final = re.split(r"^FROM ", text("Dockerfile"), flags=re.MULTILINE)
    assert "pip" in build
    assert re.search(r"^USER (?!0|root)", final, flags=re.MULTILINE)
    assert "ORT_DISABLE_TELEMETRY=1" in final
    assert "HEALTHCHECK" in final
    for left_behind in ("pip", "training", "COPY .", "apt-get"):
        assert left_behind not in final
    for variable in re.findall(r"INDOMAIN_\w+", " ".join(re.findall(r"INDOMAIN_\w+=", final))):
        assert known_to_the_gateway(variable), variable


def test_the_image_is_not_open_to_all_by_itself() -> None:
    """It listens on all addresses, so that a start without keys must be somebody's explicit wish."""
    assert "INDOMAIN_HOST=0.0.0.0" in text("Dockerfile")
    assert "INDOMAIN_INSECURE=" not in text("Dockerfile")


def test_the_image_gets_no_data_and_no_environments() -> None:
    lines = text(".dockerignore").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    locks = {"requirements.lock", "requirements-build.lock"}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "clients", "serving"} | locks


def test_the_image_has_the_studio(tmp_path: Path) -> None:
    """Built from nothing but what the Dockerfile copies."""
    for what in re.findall(r"^COPY (?!--from)(.+) \S+$", text("Dockerfile"), flags=re.MULTILINE):
        for name in what.split():
            source, target = ROOT / name, tmp_path / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
            else:
                shutil.copy(source, target)
    build = "import setuptools.build_meta as build; build.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("clients/")}
    web = ROOT / "clients/web"
    assert packed == {str(file.relative_to(ROOT)) for file in web.rglob("*") if file.is_file()}


# --- compose -----------------------------------------------------------------------------------------

COMPOSE = yaml.safe_load(text("docker-compose.yml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def docker_has_compose() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not docker_has_compose(), reason="no docker compose here")
@pytest.mark.parametrize("files", [("docker-compose.yml",), ("docker-compose.yml", "docker-compose.gpu.yml")])
def test_docker_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    named = [part for file in files for part in ("-f", file)]
    done = subprocess.run(
        ["docker", "compose", *named, "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"pids_limit", "mem_limit", "restart"} <= set(service)
    assert "privileged" not in service
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not re.search(r":latest\b", service["image"])
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        if isinstance(volume, dict):
            assert volume["read_only"] is True
        elif volume.startswith("."):
            assert volume.endswith(":ro")
            assert (ROOT / volume.split(":")[0]).exists()


def test_triton_and_the_operations_port_are_published_to_nobody() -> None:
    assert "ports" not in SERVICES["triton"]
    assert SERVICES["triton"]["networks"] == ["back"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert not any("8081" in port for port in SERVICES["gateway"]["ports"])


def test_the_gateway_finds_its_models_its_keys_and_its_back_end() -> None:
    environment = SERVICES["gateway"]["environment"]
    assert all(known_to_the_gateway(variable) for variable in environment)
    volume, engines = SERVICES["gateway"]["volumes"]
    name, folder = engines.split(":")
    assert name in COMPOSE["volumes"]
    assert f"INDOMAIN_ENGINE_CACHE={folder}/" in text("Dockerfile")
    assert volume["target"] == environment["INDOMAIN_MODEL_REPOSITORY"]
    assert f"--model-repository={volume['target']}" in SERVICES["triton"]["command"]
    assert SERVICES["triton"]["volumes"] == [volume]
    assert environment["INDOMAIN_TRITON_ADDRESSES"].split(":")[0] in SERVICES
    assert SERVICES["gateway"]["secrets"] == list(COMPOSE["secrets"])
    assert "/run/secrets/keys" in environment["INDOMAIN_KEYS_FILE"]
    placeholder = re.fullmatch(r"\$\{INDOMAIN_KEYS:-(.*)\}", COMPOSE["secrets"]["keys"]["file"])
    assert placeholder
    assert tomllib.loads((ROOT / placeholder[1]).read_text(encoding="utf-8")) == {}


def test_prometheus_scrapes_services_that_are_there() -> None:
    configuration = yaml.safe_load(text("deploy/prometheus/prometheus.yml"))
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in configuration["scrape_configs"]}
    assert jobs == {"gateway": ["gateway:8081"], "triton": ["triton:8002"]}
    assert "INDOMAIN_OPERATIONS_PORT=8081" in text("Dockerfile")
    for name in jobs:
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
    source = yaml.safe_load(text("deploy/grafana/provisioning/datasources/prometheus.yml"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    provider = yaml.safe_load(text("deploy/grafana/provisioning/dashboards/indomain.yml"))["providers"][0]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    assert (ROOT / mounted[provider["options"]["path"]] / "indomain.json").exists()


def test_the_gpu_file_adds_to_services_that_are_there() -> None:
    override = yaml.safe_load(text("docker-compose.gpu.yml"))["services"]
    assert set(override) <= set(SERVICES)
    (device,) = override["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


# --- Helm chart --------------------------------------------------------------------------------------


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    findings = asked_of_helm("lint")
    assert not findings["errors"]
    assert all(message["severity"] <= 1 for message in findings["messages"]), findings


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_renders_to_what_kubernetes_knows(variant: str, version: str) -> None:
    for document in render(VARIANTS[variant]):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_hardened_and_probed(variant: str) -> None:
    documents = render(VARIANTS[variant])
    for pod in pods(documents):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        assert "memory" in container["resources"]["limits"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
        assert all(mounts[name]["readOnly"] for name in set(mounts) - {"tmp", "shared", "engines"})
        assert "latest" not in container["image"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_selectors_pick_the_pods_that_they_are_for(variant: str) -> None:
    documents = render(VARIANTS[variant])
    labels = [pod["metadata"]["labels"] for pod in pods(documents)]
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", selector)
        if document["kind"] in (
            "Service",
            "PodDisruptionBudget",
            "NetworkPolicy",
            "Deployment",
            "StatefulSet",
        ):
            assert sum(wanted.items() <= each.items() for each in labels) == 1, document["metadata"]["name"]
    for scaler in (d for d in documents if d["kind"] == "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = of_kind(documents, target["kind"], target["name"])
        assert "replicas" not in scaled["spec"], "the autoscaler decides"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gateway_is_given_settings_that_it_has(variant: str) -> None:
    given = environment(render(VARIANTS[variant]))
    assert all(known_to_the_gateway(name) for name in given)
    mounts = of_kind(render(VARIANTS[variant]), "Deployment")["spec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    folders = tuple(mount["mountPath"] for mount in mounts)
    for name in ("INDOMAIN_KEYS_FILE", "INDOMAIN_TLS_CERTIFICATE", "INDOMAIN_TLS_KEY"):
        if name in given:
            assert given[name].startswith(folders)


def test_scaling_goes_by_the_time_that_requests_wait() -> None:
    default, embedded = render(VARIANTS["default"]), render(VARIANTS["embedded"])
    metrics = {
        of_kind(default, "HorizontalPodAutoscaler", "triton")["spec"]["metrics"][0]["pods"]["metric"]["name"],
        of_kind(embedded, "HorizontalPodAutoscaler", "gateway")["spec"]["metrics"][0]["pods"]["metric"][
            "name"
        ],
    }
    rules = yaml.safe_load(text("deploy/prometheus/adapter.yml"))["rules"]["custom"]
    assert metrics == {rule["name"]["as"] for rule in rules}


def test_the_gateway_knows_an_address_for_every_server_that_may_come_to_be() -> None:
    documents = render(VARIANTS["default"])
    most = of_kind(documents, "HorizontalPodAutoscaler", "triton")["spec"]["maxReplicas"]
    addresses = environment(documents)["INDOMAIN_TRITON_ADDRESSES"].split(",")
    service = of_kind(documents, "Service", "triton")
    assert service["spec"]["clusterIP"] == "None"
    name = of_kind(documents, "StatefulSet")["metadata"]["name"]
    assert addresses == [f"{name}-{n}.{service['metadata']['name']}.faces.svc:8001" for n in range(most)]
    assert len(environment(render(VARIANTS["fixed"]))["INDOMAIN_TRITON_ADDRESSES"].split(",")) == 2


def test_only_gateways_reach_triton() -> None:
    documents = render(VARIANTS["default"])
    calls, scrapes = of_kind(documents, "NetworkPolicy", "triton")["spec"]["ingress"]
    gateway = of_kind(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert calls["from"] == [{"podSelector": {"matchLabels": gateway}}]
    assert scrapes["ports"] == [{"port": "metrics"}]


def test_gateways_know_tritons_by_their_certificates_and_get_no_key_of_theirs() -> None:
    documents = render(VARIANTS["fixed"])
    given, server = environment(documents), of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]
    assert given["INDOMAIN_TRITON_TLS"] == "true"
    assert "--grpc-use-ssl=true" in server["containers"][0]["command"]
    assert "INDOMAIN_TRITON_TLS" not in environment(render(VARIANTS["default"]))
    gateway = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    folder = given["INDOMAIN_TRITON_TLS_AUTHORITIES"].removesuffix("/ca.crt")
    (mounted,) = [m["name"] for m in gateway["containers"][0]["volumeMounts"] if m["mountPath"] == folder]
    (volume,) = [v for v in gateway["volumes"] if v["name"] == mounted]
    assert volume["secret"] == {
        "secretName": "triton-certificate",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }


def test_an_embedded_gateway_brings_no_triton() -> None:
    assert {d["metadata"]["name"] for d in render(VARIANTS["embedded"])} == {"demo-indomain-gateway"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keys": {"secret": "keys"}}, "modelRepository.claim"),
        ({"modelRepository": {"claim": "models"}}, "nothing says who may call"),
    ],
)
def test_a_chart_that_lacks_something_says_what(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ChartError, match=said):
        render(values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gateway": {"backend": "cuda"}},
        {"gateway": {"settings": {"LOG_LEVEL": "debug"}}},
        {"keys": {"secrets": "keys"}},
        {"triton": {"gpus": -1}},
    ],
)
def test_values_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ChartError, match="HelmValuesError"):
        asked_of_helm("validate", BASE | wrong)


def test_the_charts_version_is_that_of_the_gateway() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == tomllib.loads(text("pyproject.toml"))["project"]["version"]
