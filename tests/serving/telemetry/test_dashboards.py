"""Dashboard and alerts: each query is PromQL and names metrics and labels that a gateway, after some traffic, has;
a real Prometheus, where there is one, has an answer to each."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from indomain.v1 import editing_pb2 as pb
from serving.telemetry.metrics import Metrics
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.triton_server import TritonServer, free_port
from tests.serving.waiting import wait_for

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
OF_THE_SCRAPE = {"job", "instance"}  # Prometheus adds these labels
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/indomain.json").read_text(encoding="utf-8"))
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    **{
        f"panel {panel['title']}, {target['refId']}": target["expr"]
        for panel in PANELS
        for target in panel["targets"]
    },
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
}

OF_TRITON: dict[str, set[str]] = {  # its metrics and their labels, as a server of release 24.10 has them
    "nv_inference_request_success": {"model", "version"},
    "nv_inference_request_failure": {"model", "version", "reason"},
    "nv_inference_count": {"model", "version"},
    "nv_inference_exec_count": {"model", "version"},
    "nv_inference_queue_duration_us": {"model", "version"},
    "nv_inference_compute_infer_duration_us": {"model", "version"},
    "nv_inference_pending_request_count": {"model", "version"},
}


@pytest.fixture(scope="module")
def exposed(tiny_repository: Path) -> dict[str, list[dict[str, str]]]:
    """Name of each series -> the labels it has, once a live gateway has had a bit of everything."""
    running = RunningGateway(settings_for(tiny_repository))
    a_bit_of_everything(running)
    text = running.http.get("/metrics").text
    running.close()
    series: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    return series


def a_bit_of_everything(running: RunningGateway) -> None:
    photo = {"picture": encoded(photograph())}
    options = json.dumps({"edits": [{"direction": "smile", "strength": 1.0}], "refine": {"steps": 2}})
    assert running.http.post("/v1/invert", files=photo).status_code == 200
    assert running.http.post("/v1/edit", files=photo, data={"options": options}).status_code == 200
    code = running.http.post("/v1/sample", json={"seeds": [1]}).json()["codes"][0]
    assert running.http.post("/v1/decode", json={"codes": [code]}).status_code == 200
    assert running.http.post("/v1/decode", json={"codes": []}).status_code == 400
    _hang_up(running)


def _hang_up(running: RunningGateway) -> None:
    """A caller goes away in the middle of a long refinement."""
    picture = pb.Picture(data=encoded(photograph()))
    request = pb.InvertRequest(picture=picture, refine=pb.RefineOptions(steps=500))
    end_s = time.monotonic() + 20.0
    while "indomain_cancelled_total{" not in running.http.get("/metrics").text:
        assert time.monotonic() < end_s, "no cancellation was counted"
        calling = running.stub.Invert.future(request, timeout=20)
        time.sleep(0.02)
        calling.cancel()


def selectors(query: str) -> list[Any]:
    """All vector selectors of a query, which must be PromQL."""
    plain = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
    found: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "param", "vector_selector", "args"):
            child = getattr(node, name, None)
            for part in child if isinstance(child, list | tuple) else [child]:
                if part is not None:
                    walk(part)

    walk(promql_parser.parse(plain))
    assert found, query
    return found


def grouping(query: str) -> set[str]:
    """Labels that the query groups by."""
    return {
        label.strip() for listed in re.findall(r"\bby\s*\(([^)]*)\)", query) for label in listed.split(",")
    }


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_names_what_is_there(name: str, exposed: dict[str, list[dict[str, str]]]) -> None:
    query = QUERIES[name]
    known: set[str] = set(OF_THE_SCRAPE)
    for selector in selectors(query):
        if selector.name == "up":  # Prometheus' own
            continue
        if selector.name.startswith("nv_"):
            known |= OF_TRITON[selector.name]
            continue
        assert selector.name in exposed, f"{selector.name} is not exposed"
        labels = exposed[selector.name]
        known |= {label for each in labels for label in each}
        for matcher in selector.matchers.matchers:
            if matcher.name in OF_THE_SCRAPE:
                continue
            assert any(matcher.name in each for each in labels), (
                f"{selector.name} has no label {matcher.name}"
            )
    assert grouping(query) <= known


def test_tritons_metrics_are_those_of_a_real_server(triton: TritonServer) -> None:
    for name, labels in OF_TRITON.items():
        families = text_string_to_metric_families(triton.metrics())
        found = [
            sample.labels
            for family in families
            for sample in family.samples
            if sample.name in (name, f"{name}_total")
        ]
        assert found, name
        assert all(set(each) == labels for each in found), name


def test_values_that_queries_ask_for_exist(exposed: dict[str, list[dict[str, str]]]) -> None:
    """A stage, a bucket, a method or a code with a wrong name would give an empty panel and a mute alert."""
    import grpc

    from serving.call import STAGES
    from serving.errors import ERROR_TABLE
    from serving.wire.contract import METHODS

    possible = {
        "stage": set(STAGES),
        "code": set(grpc.StatusCode.__members__),
        "reason": {row.reason for row in ERROR_TABLE.values()},
        "method": {method.name for method in METHODS},
        "le": {each["le"] for labels in exposed.values() for each in labels if "le" in each},
    }
    for name, query in QUERIES.items():
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                if matcher.name not in OF_THE_SCRAPE:
                    assert set(matcher.value.split("|")) <= possible[matcher.name], name


def test_every_metric_of_the_design_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    for metric in (
        "stage_seconds",
        "requests_total",
        "batch_size",
        "queue_depth",
        "rejected_total",
        "cancelled_total",
        "backend_up",
        "domain_score",
        "build_info",
    ):
        assert f"indomain_{metric}" in shown, metric


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_dashboard_and_datasource_fit_together() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert used == {source["uid"]}


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description"} <= set(rule["annotations"])
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        kept = grouping(rule["expr"]) or OF_THE_SCRAPE
        assert named <= kept, rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_accepts_them(tmp_path: Path) -> None:
    configuration = (DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8")
    file = tmp_path / "prometheus.yml"
    file.write_text(configuration.replace("/etc/prometheus/", f"{DEPLOY}/prometheus/"))
    done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.fixture
def prometheus(triton: TritonServer, tiny_repository: Path, tmp_path: Path) -> Iterator[LivePrometheus]:
    """A real Prometheus with the configuration of compose, but for addresses and intervals."""
    on_triton = {"backend": "triton", "triton_addresses": (triton.address,), "max_refine_steps": 500}
    gateways = [RunningGateway(settings_for(tiny_repository, **more)) for more in ({}, on_triton)]
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), "500ms"
    )
    configuration["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
    targets = {
        "gateway": [f"127.0.0.1:{running.gateway.http_port}" for running in gateways],
        "triton": [f"127.0.0.1:{triton.ports['metrics']}"],
    }
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    live = LivePrometheus(tmp_path, gateways)
    yield live
    live.close()


class LivePrometheus:
    """It, and the gateways that it scrapes."""

    def __init__(self, folder: Path, gateways: list[RunningGateway]) -> None:
        self.gateways = gateways
        address = f"127.0.0.1:{free_port()}"
        self.http = httpx.Client(base_url=f"http://{address}")
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, query: str) -> list[float]:
        """Values of its series now, those that are no number left out; none while it starts."""
        plain = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        try:
            answer = self.http.get("/api/v1/query", params={"query": plain})
        except httpx.TransportError:
            return []
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, answer.text
        values = (float(series["value"][1]) for series in answer.json()["data"]["result"])
        return [value for value in values if not math.isnan(value)]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        self.http.close()
        for running in self.gateways:
            running.close()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus here")
def test_every_panel_shows_data_from_a_live_prometheus(prometheus: LivePrometheus) -> None:
    eventually = partial(wait_for, timeout_s=60.0)
    eventually(lambda: prometheus.ask("up") == [1.0] * 3)
    panels = {name: query for name, query in QUERIES.items() if name.startswith("panel")}
    for _ in range(2):  # a counter that starts to exist has risen by nothing, as Prometheus sees it
        for running in prometheus.gateways:
            a_bit_of_everything(running)
        time.sleep(1.5)  # some scrapes
    assert [name for name, query in panels.items() if not prometheus.ask(query)] == []
    for name, query in QUERIES.items():
        if name.startswith("alert"):
            prometheus.ask(query)  # one that cannot be asked fails here


def test_the_table_of_metrics_names_each_of_them() -> None:
    document = (Path(__file__).resolve().parents[3] / "docs/deployment.md").read_text(encoding="utf-8")
    table = {
        row.split("`")[1] for row in document.splitlines() if row.startswith(("| `indomain_", "| `grpc_"))
    }
    exposed = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in Metrics().registry.collect()
        if metric.name.startswith(("indomain_", "grpc_"))
    }
    assert table == {"indomain_build_info" if name == "indomain_build" else name for name in exposed}
