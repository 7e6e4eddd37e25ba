"""The gateway's metrics, by name. One registry for each gateway, so that one process can hold two.

This file only declares metrics; they are counted where things happen.
"""

from __future__ import annotations

import platform
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from serving import __version__

STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
SCORE_BUCKETS = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """Counters, gauges and histograms, in seconds and plain counts."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        build = Info("indomain_build", "Version of the gateway and of Python", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self.stage_seconds = Histogram(
            "indomain_stage_seconds",
            "Time of a request in one stage of the pipeline",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self.requests = Counter(
            "indomain_requests_total",
            "Requests answered, over both transports, by method and gRPC code",
            ["method", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "indomain_request_seconds",
            "Time from the start of a request to its answer, by method and transport",
            ["method", "transport"],
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge("indomain_requests_in_flight", "Requests in the pipeline", registry=registry)
        self.batch_size = Histogram(
            "indomain_batch_size",
            "Samples in one run of a graph",
            ["graph"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "indomain_queue_depth", "Samples waiting for a graph", ["graph"], registry=registry
        )
        self.rejected = Counter(
            "indomain_rejected_total", "Requests that failed, by reason", ["reason"], registry=registry
        )
        self.cancelled = Counter(
            "indomain_cancelled_total",
            "Requests whose caller went away, by the stage they had reached",
            ["stage"],
            registry=registry,
        )
        self.backend_up = Gauge(
            "indomain_backend_up",
            "1 while the back end at this address answers and has all graphs",
            ["address"],
            registry=registry,
        )
        self.graph_engine = Gauge(
            "indomain_graph_engine",
            "1 for the engine that runs a graph in this process",
            ["graph", "engine"],
            registry=registry,
        )
        self.ejections = Counter(
            "indomain_backend_ejections_total",
            "Times that a server was left out until it answers again",
            ["address"],
            registry=registry,
        )
        self.reloads = Counter(
            "indomain_reloads_total",
            "Times that new bundles were found in the model repository, by what became of them",
            ["outcome"],
            registry=registry,
        )
        self.decoders_ended = Counter(
            "indomain_decoders_ended_total",
            "Processes that were ended while they decoded a picture, by reason",
            ["reason"],
            registry=registry,
        )
        # A series that begins with its first event hides that event from `increase`.
        for reason in ("request", "budget", "crash", "shutdown"):
            self.decoders_ended.labels(reason)
        self.domain_score = Histogram(
            "indomain_domain_score",
            "Domain scores of the codes that were answered",
            buckets=SCORE_BUCKETS,
            registry=registry,
        )
        self.log_lines_dropped = Counter(
            "indomain_log_lines_dropped_total",
            "Log lines that were not written, as nobody read the log in time or its disk was full",
            registry=registry,
        )
        # These three have the names that dashboards for gRPC servers expect.
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self.grpc_started = Counter("grpc_server_started_total", "RPCs begun", labels, registry=registry)
        self.grpc_handled = Counter(
            "grpc_server_handled_total", "RPCs ended, by code", [*labels, "grpc_code"], registry=registry
        )
        self.grpc_handling_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from the start of an RPC to its end",
            labels,
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )

        for metric in (value for value in vars(self).values() if isinstance(value, MetricWrapperBase)):
            # Looking a label up takes longer than counting.
            metric.labels = cache(metric.labels)  # type: ignore[method-assign]

    def observe_stage(self, stage: str, seconds: float) -> None:
        self.stage_seconds.labels(stage).observe(seconds)

    def exposition(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self.registry)
