"""Every setting that an operator can make, with its default: environment `INDOMAIN_*`, or `python -m serving` flags.

Each field's docstring is its reference (`python -m serving --help` prints it). The defaults of what callers can leave
out of a request are part of the contract and stand in jobs.py.
"""

from __future__ import annotations

import ipaddress
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_MIB = 1024 * 1024


def _cache_folder() -> Path:
    """Where this user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "indomain"


class Settings(BaseSettings):
    """The gateway of Indomain: gRPC and HTTP over one pipeline."""

    model_config = SettingsConfigDict(
        env_prefix="INDOMAIN_",
        protected_namespaces=(),  # `model_repository` is the established name
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_prog_name="python -m serving",
        cli_implicit_flags=True,
        env_ignore_empty=True,  # docker compose passes an unset variable on as an empty one
        extra="ignore",
    )

    model_repository: Path = Path("model_repository")
    """Folder with the bundles, in Triton's layout. Mount it read-only: whoever can write to it can run code in the
    gateway."""

    bundles: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of the bundles to serve, separated by commas, the default one first. Empty: all, in order of their
    names."""

    verify_checksums: bool = True
    """Compare each file of a bundle with the sha256 in its manifest before loading it."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 makes it reachable from other machines; that needs keys or client certificates."""

    grpc_port: int = Field(default=8500, ge=0, le=65535)
    """Port of gRPC. 0 takes a free one."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of HTTP. 0 takes a free one."""

    backend: Literal["embedded", "triton"] = "embedded"
    """Where graphs run: in this process, or on Triton servers."""

    triton_addresses: Annotated[tuple[str, ...], NoDecode] = Field(default=("127.0.0.1:8001",), min_length=1)
    """gRPC addresses of Triton servers, separated by commas. A request goes to the one with the least outstanding
    work."""

    triton_model_control: bool = False
    """Load and unload models on the servers, which must run with --model-control-mode=explicit."""

    triton_shared_memory: bool = False
    """Pass tensors through shared memory to those servers that allow it: servers on this machine."""

    triton_tls: bool = False
    """Use TLS with the servers. They must run with --grpc-use-ssl, and their certificates must name their addresses."""

    triton_tls_authorities: Path | None = None
    """With triton_tls: PEM file with the authorities that sign the servers' certificates. Default: the public ones."""

    triton_tls_certificate: Path | None = None
    """With triton_tls: PEM file with the gateway's own certificate, for servers with --grpc-use-ssl-mutual."""

    triton_tls_key: Path | None = None
    """PEM file with the private key of triton_tls_certificate."""

    triton_probe_interval_s: float = Field(default=1.0, gt=0.0)
    """Seconds between two probes of a server: is it live, has it its graphs? A server that is down is probed more
    often."""

    triton_unload_delay_s: float = Field(default=30.0, ge=0.0)
    """With triton_model_control: seconds that an old version stays loaded after a switch, so that other gateways can
    switch, too."""

    repository_poll_s: float = Field(default=0.0, ge=0.0)
    """Seconds between two looks for new versions of bundles in the model repository. 0: only at SIGHUP."""

    reload_timeout_s: float = Field(default=300.0, gt=0.0)
    """Seconds in which a new version must be loaded and checked."""

    studio: bool = True
    """Serve the studio, a web page for editing pictures, at /. Off: / redirects to /docs."""

    operations_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a second HTTP server with /healthz, /readyz and /metrics only, without keys and TLS, for probes and
    Prometheus. Do not expose it. Default: none. 0 takes a free one."""

    keys_file: Path | None = None
    """File with the hashes of API keys (`python -m serving key NAME` adds one). With it, every call needs a key. It is
    read again when it changes."""

    insecure: bool = False
    """Allow any address as `host` without keys and client certificates, as something in front controls access."""

    tls_certificate: Path | None = None
    """PEM file with the certificate chain of both ports. Default: no TLS."""

    tls_key: Path | None = None
    """PEM file with the certificate's private key."""

    tls_client_authorities: Path | None = None
    """PEM file with the authorities that sign clients' certificates. Callers without a certificate are refused
    (mTLS)."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names, separated by commas, by which HTTP callers may address a gateway that asks nobody who they are, besides
    localhost and addresses. Others are refused, so that no page can pass for the gateway's own (DNS rebinding)."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (e.g. https://app.example.com), separated by commas, whose pages may call over HTTP. Empty: only the
    gateway's own."""

    intra_op_threads: int = Field(default=0, ge=0)
    """Threads for each run of a graph. 0: one for each processor that this process may use (container limits count)."""

    engine: Literal[
        "auto", "onnxruntime", "openvino", "openvino-bfloat16", "onnxruntime-cuda", "tensorrt"
    ] = "auto"
    """What runs graphs in this process. auto: each graph is tried at start-up on every engine that there is, and runs
    on the fastest whose answers are right. openvino: in float32. onnxruntime-cuda: on a GPU. tensorrt: on a GPU too, by
    ONNX Runtime's TensorRT provider, which auto does not try, as it builds for minutes. /readyz says which one runs
    what."""

    engine_cache: Path = Field(default_factory=lambda: _cache_folder() / "engines.json")
    """File that remembers what the trials found, for the next start. It may be missing or not writable. What OpenVINO
    compiles, TensorRT builds and ONNX Runtime optimises is kept beside it."""

    max_batch_size: int = Field(default=16, ge=1)
    """Maximum number of samples in one run of a graph; a bundle may set it lower. Memory grows with the largest
    batch."""

    max_queue_samples: int = Field(default=512, ge=1)
    """Maximum number of samples that wait for one graph. Beyond: RESOURCE_EXHAUSTED / 429."""

    max_batch_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    """How long a batch that is not full waits for more samples. At 0 batches still form while another one runs."""

    max_requests_in_flight: int = Field(default=256, ge=1)
    """Maximum number of requests in the pipeline at once. Beyond: RESOURCE_EXHAUSTED / 429."""

    max_http_connections: int = Field(default=1024, ge=8)
    """Connections to the HTTP port at once, at most, and no more than half of the file descriptors that the process may
    have. Beyond: the one that has waited for a request the longest is closed."""

    max_request_bytes: int = Field(default=32 * _MIB, ge=1024)
    """Maximum size of a request."""

    max_bytes_in_flight: int = Field(default=160 * _MIB, ge=1024)
    """Maximum size of all requests, and of large answers that are not read yet, together. Beyond: RESOURCE_EXHAUSTED
    / 429. While they are worked on, requests and answers take about twice their size."""

    max_picture_bytes: int = Field(default=20 * _MIB, ge=64)
    """Maximum size of an encoded picture."""

    max_picture_pixels: int = Field(default=50_000_000, ge=64)
    """Maximum width times height of a picture, read from its header before it is decoded."""

    max_decoded_bytes: int = Field(default=350 * _MIB, ge=1024)
    """Maximum memory for pictures that are decoded at once by processes; others wait. A photograph takes 7 bytes for
    each pixel, a WebP 16, an AVIF 18, a progressive JPEG up to 12, a 16-bit answer 12. One that takes more by itself is
    refused."""

    max_picture_processor_s: float = Field(default=30.0, gt=0.0)
    """Seconds of a processor that one step on a picture (decoding it, pasting into it and encoding it) may take in a
    process."""

    max_open_photographs: int = Field(default=4, ge=1)
    """Maximum number of small photographs (up to 1.1 megapixels) that are decoded at once, to find faces on them or to
    paste into them; others wait."""

    max_session_photograph_bytes: int = Field(default=256 * _MIB, ge=1024)
    """Maximum size of the encoded photographs and masks that all open edit sessions hold. Beyond: RESOURCE_EXHAUSTED
    / 429."""

    max_codes: int = Field(default=64, ge=1)
    """Maximum number of codes or seeds in one request."""

    max_interpolated_pictures: int = Field(default=256, ge=2)
    """Maximum number of pictures in one interpolation."""

    max_edits: int = Field(default=32, ge=1)
    """Maximum number of edits in one request."""

    max_refine_steps: int = Field(default=500, ge=1)
    """Maximum number of refinement steps that a request may ask for."""

    refine_window_steps: int = Field(default=25, ge=1)
    """Number of steps over which refinement looks whether its loss still improves."""

    refine_min_improvement_ratio: float = Field(default=0.001, ge=0.0, lt=1.0)
    """Refinement stops when its best loss has fallen by less than this part of itself over the window. 0: never."""

    max_refinements_at_full_steps: int = Field(default=8, ge=1)
    """Maximum number of refinements of one bundle at once that all get their full steps. Beyond, those that allow fewer
    steps get fewer."""

    max_sessions: int = Field(default=256, ge=1)
    """Maximum number of edit sessions at once. Beyond: RESOURCE_EXHAUSTED / 429."""

    session_idle_s: float = Field(default=600.0, gt=0.0)
    """An edit session ends after so many seconds without a request."""

    max_code_handles: int = Field(default=2048, ge=0)
    """Maximum number of codes that are kept under a handle for later requests, 20 to 100 KB each. 0: no handles."""

    max_code_handles_per_owner: int = Field(default=512, ge=1)
    """The same for one caller. All callers without a key count as one."""

    code_handle_expiry_s: float = Field(default=900.0, gt=0.0)
    """A code is dropped after so many seconds in which no request names its handle."""

    default_deadline_s: float = Field(default=60.0, gt=0.0)
    """Seconds for a request that names no deadline."""

    max_deadline_s: float = Field(default=600.0, gt=0.0)
    """Maximum seconds for any request."""

    decode_reserve_ms: float = Field(default=50.0, ge=0.0)
    """Time that refinement leaves before the deadline for decoding and answering, beyond what these take on average."""

    picture_threads: int = Field(default=2, ge=1)
    """Threads that decode small pictures, and encode results."""

    picture_processes: int = Field(default=2, ge=1)
    """Processes that decode large pictures, one each. They are ended with the request. Each takes 35 MB by itself."""

    drain_delay_s: float = Field(default=0.0, ge=0.0)
    """After SIGTERM: seconds in which requests are still accepted while it reports not ready, for load balancers to
    notice."""

    drain_timeout_s: float = Field(default=30.0, ge=0.0)
    """After SIGTERM: seconds in which running requests may finish."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of log lines that are written to standard error."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """json: one JSON object a line. text: for people. auto: text on a terminal, otherwise json."""

    log_requests: bool = True
    """Log one line for each request, at the level info."""

    trace_endpoint: str = ""
    """An OpenTelemetry collector (OTLP over gRPC), e.g. http://localhost:4317. Empty: no traces. Needs the extra
    `tracing`."""

    trace_sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of requests that are traced, of those whose callers have not decided that already."""

    @model_validator(mode="after")
    def _is_safe(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together; name both files, or neither")
        if self.tls_client_authorities and not self.tls_certificate:
            raise ValueError("tls_client_authorities needs tls_certificate and tls_key")
        if (self.triton_tls_certificate is None) != (self.triton_tls_key is None):
            raise ValueError(
                "triton_tls_certificate and triton_tls_key go together; name both files, or neither"
            )
        if (self.triton_tls_authorities or self.triton_tls_certificate) and not self.triton_tls:
            raise ValueError(
                "triton_tls_authorities and triton_tls_certificate are for triton_tls; set it, too"
            )
        if self.trace_endpoint and not _tracing_is_installed():
            raise ValueError("trace_endpoint needs the extra: pip install 'indomain-gateway[tracing]'")
        guarded = self.keys_file or self.tls_client_authorities or self.insecure
        if not guarded and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from outside this machine, and nothing says who may call: name a "
                "keys_file or tls_client_authorities, or set insecure if something in front decides that"
            )
        return self

    @field_validator("bundles", "allowed_hosts", "cors_origins", "triton_addresses", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _tracing_is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:
        return False  # its parent package is missing, too
