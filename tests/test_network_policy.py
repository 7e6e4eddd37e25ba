"""The chart's network policies: who reaches gateways and Triton servers, and whom gateways may call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rendered_chart import BASE, ChartError, asked_of_helm, of_kind, pods, render

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
TRACES = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
DNS_RULE = {"to": [DNS], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


def policy(component: str, **values: Any) -> dict[str, Any]:
    """The network policy of "gateway" or "triton" under the given values."""
    spec: dict[str, Any] = of_kind(render(BASE | values), "NetworkPolicy", component)["spec"]
    return spec


def labels(component: str) -> dict[str, str]:
    """The labels of the pods of a component."""
    (found,) = [
        pod["metadata"]["labels"]
        for pod in pods(render(BASE))
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return dict(found)


TRITON_RULE: dict[str, Any] = {
    "to": [{"podSelector": {"matchLabels": labels("triton")}}],
    "ports": [{"port": 8001}],
}


def test_callers_reach_grpc_and_http_and_only_monitoring_the_operations_port() -> None:
    calls, scrapes = policy("gateway")["ingress"]
    assert calls == {"from": [{"podSelector": {}}], "ports": [{"port": "grpc"}, {"port": "http"}]}
    assert scrapes == {"from": [MONITORING], "ports": [{"port": "operations"}]}


def test_only_monitoring_scrapes_triton_and_triton_calls_nobody() -> None:
    spec = policy("triton")
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"][1:] == [{"from": [MONITORING], "ports": [{"port": "metrics"}]}]
    assert spec["egress"] == []


def test_callers_and_monitoring_are_whom_the_values_name() -> None:
    callers = [{"podSelector": {"matchLabels": {"app": "proxy"}}}]
    monitoring = [
        {"namespaceSelector": {"matchLabels": {"team": "watch"}}, "podSelector": {"matchLabels": {"a": "b"}}}
    ]
    spec = policy("gateway", gateway={"callers": callers}, networkPolicy={"monitoring": monitoring})
    assert [rule["from"] for rule in spec["ingress"]] == [callers, monitoring]


@pytest.mark.parametrize("component", ["gateway", "triton"])
def test_without_monitoring_nobody_reaches_operations_and_metrics(component: str) -> None:
    """A rule with an empty list of peers would let everybody in: there must be no rule at all."""
    (calls,) = policy(component, networkPolicy={"monitoring": []})["ingress"]
    assert {port["port"] for port in calls["ports"]} <= {"grpc", "http"}


def test_a_gateway_may_call_triton_and_dns_only() -> None:
    spec = policy("gateway")
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == [DNS_RULE, TRITON_RULE]


def test_the_port_to_triton_is_the_one_that_it_listens_on() -> None:
    (container,) = of_kind(render(BASE), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert {"name": "grpc", "containerPort": 8001} in container["ports"]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.observability:4317", 4317),
        ("https://collector.observability:14317/", 14317),
        ("http://collector.observability", 4317),
        ("http://[fd00::1]:4319", 4319),
    ],
)
def test_with_traces_a_gateway_may_call_the_collector_too(endpoint: str, port: int) -> None:
    assert policy("gateway", traceEndpoint=endpoint)["egress"] == [
        DNS_RULE,
        TRITON_RULE,
        {"to": [TRACES], "ports": [{"port": port}]},
    ]


def test_an_embedded_gateway_calls_nobody_unless_it_sends_traces() -> None:
    assert policy("gateway", gateway={"backend": "embedded"})["egress"] == []
    traced = policy(
        "gateway", gateway={"backend": "embedded"}, traceEndpoint="http://collector.observability:4317"
    )
    assert traced["egress"] == [DNS_RULE, {"to": [TRACES], "ports": [{"port": 4317}]}]


def test_dns_the_collector_and_further_servers_are_whom_the_values_name() -> None:
    other = {"namespaceSelector": {"matchLabels": {"team": "inference"}}, "podSelector": {}}
    local_dns = {"ipBlock": {"cidr": "169.254.20.10/32"}}
    collector = {"podSelector": {"matchLabels": {"app": "collector"}}}
    spec = policy(
        "gateway",
        traceEndpoint="http://collector:4317",
        networkPolicy={"dns": [DNS, local_dns], "triton": [other], "traces": [collector]},
    )
    dns, triton, traces = (rule["to"] for rule in spec["egress"])
    assert dns == [DNS, local_dns]
    assert triton == [*TRITON_RULE["to"], other]
    assert traces == [collector]


def test_empty_lists_of_peers_open_nothing() -> None:
    """In Kubernetes, a rule with an empty list of peers means everybody."""
    nobody: dict[str, Any] = {"monitoring": [], "dns": [], "triton": [], "traces": []}
    spec = policy("gateway", traceEndpoint="http://collector:4317", networkPolicy=nobody)
    assert spec["egress"] == [TRITON_RULE]
    embedded = policy(
        "gateway",
        gateway={"backend": "embedded"},
        traceEndpoint="http://collector:4317",
        networkPolicy=nobody,
    )
    assert not embedded["egress"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"networkPolicy": {"monitoring": {"namespaceSelector": {}}}},
        {"networkPolicy": {"monitoring": [{}]}},
        {"networkPolicy": {"dns": [{"namespaceSelectors": {}}]}},
        {"networkPolicy": {"metrics": []}},
        {"gateway": {"callers": [{}]}},
        {"traceEndpoint": "collector:4317"},
    ],
)
def test_peers_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ChartError, match="HelmValuesError"):
        asked_of_helm("validate", BASE | wrong)
