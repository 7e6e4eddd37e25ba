"""Every setting that an operator can make, with its default: environment `INDOMAIN_*`, or `python -m serving` flags.

Each field's docstring is its reference (`python -m serving --help` prints it). The defaults of what callers can leave
out of a request are part of the contract and stand in jobs.py.
"""

from __future__ import annotations

import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_MIB = 1024 * 1024


class Settings(BaseSettings):
    """The gateway of Indomain: gRPC and HTTP over one pipeline."""

    model_config = SettingsConfigDict(
        env_prefix="INDOMAIN_",
        protected_namespaces=(),  # `model_repository` is the established name
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_prog_name="python -m serving",
        cli_implicit_flags=True,
        env_ignore_empty=True,  # compose hands on what is not set as an empty value
        extra="ignore",
    )

    model_repository: Path = Path("model_repository")
    """Folder with the bundles, in Triton's layout. Mount it read-only: who writes there runs code here."""

    bundles: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of the bundles to serve, separated by commas, the default one first. Empty: all, by name."""

    verify_checksums: bool = True
    """Compare each file of a bundle with the sha256 in its manifest before loading it."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 to be reached from outside this machine: that takes keys or client certificates."""

    grpc_port: int = Field(default=8500, ge=0, le=65535)
    """Port of gRPC. 0 takes a free one."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of HTTP. 0 takes a free one."""

    backend: Literal["embedded", "triton"] = "embedded"
    """What runs the graphs: this process, or Triton servers."""

    triton_addresses: Annotated[tuple[str, ...], NoDecode] = Field(default=("127.0.0.1:8001",), min_length=1)
    """gRPC addresses of Triton servers, separated by commas; requests go to the one with the least outstanding."""

    triton_model_control: bool = False
    """Load and unload models on the servers, which must run with --model-control-mode=explicit."""

    triton_shared_memory: bool = False
    """Pass tensors through shared memory, to servers on this machine that allow it; over the connection to others."""

    triton_tls: bool = False
    """Speak TLS with the servers, which must run with --grpc-use-ssl; their certificates must name their addresses."""

    triton_tls_authorities: Path | None = None
    """With triton_tls: PEM file with the authorities that sign the servers' certificates. Left out: public ones."""

    triton_tls_certificate: Path | None = None
    """With triton_tls: PEM file with the gateway's own certificate, for servers with --grpc-use-ssl-mutual."""

    triton_tls_key: Path | None = None
    """PEM file with the private key of triton_tls_certificate."""

    triton_probe_interval_s: float = Field(default=1.0, gt=0.0)
    """How often a server is asked whether it is live and has its graphs; one that is left out is asked more often."""

    triton_unload_delay_s: float = Field(default=30.0, ge=0.0)
    """With triton_model_control: how long an old version stays after a switch, for other gateways to switch too."""

    repository_poll_s: float = Field(default=0.0, ge=0.0)
    """How often to look for new versions of bundles in the model repository. 0: only at SIGHUP."""

    reload_timeout_s: float = Field(default=300.0, gt=0.0)
    """How long a new version may take to be loaded and checked."""

    studio: bool = True
    """Serve the studio, a page to edit pictures with, at /. Off: / leads to /docs."""

    operations_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a second HTTP listener that has /healthz, /readyz and /metrics only, without keys and TLS: for probes and
    Prometheus, not for the world. Left out: none. 0 takes a free one."""

    keys_file: Path | None = None
    """File with the hashes of API keys (`python -m serving key NAME` adds one). Once set, every call needs a key.
    Read again when it changes."""

    insecure: bool = False
    """Let `host` be any address although nobody has to say who they are: something in front decides who gets here."""

    tls_certificate: Path | None = None
    """PEM file with the certificate of both ports, and those between it and its authority. Left out: no TLS."""

    tls_key: Path | None = None
    """PEM file with the certificate's private key."""

    tls_client_authorities: Path | None = None
    """PEM file with the authorities that sign clients' certificates: callers without one are refused (mTLS)."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (e.g. https://app.example.com), separated by commas, whose pages may call over HTTP. Empty: none but the
    gateway's own."""

    intra_op_threads: int = Field(default=0, ge=0)
    """Threads for each run of a graph. 0: as many as this process may use processors (container limits count)."""

    refiner_engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """What runs refinement steps. auto: OpenVINO where it is installed,
    the processor has bfloat16, and a trial at start-up is right and faster."""

    max_batch_size: int = Field(default=16, ge=1)
    """Samples in one run of a graph, at most; a bundle may set it lower. Memory grows to the largest batch seen."""

    max_queue_samples: int = Field(default=512, ge=1)
    """Samples waiting for one graph, at most. Beyond: RESOURCE_EXHAUSTED / 429."""

    max_batch_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    """How long a batch that is not full waits for company. At 0 batches still form, while the one before runs."""

    max_requests_in_flight: int = Field(default=256, ge=1)
    """Requests in the pipeline at once, at most. Beyond: RESOURCE_EXHAUSTED / 429."""

    max_request_bytes: int = Field(default=32 * _MIB, ge=1024)
    """Size of a request, at most."""

    max_bytes_in_flight: int = Field(default=512 * _MIB, ge=1024)
    """Size of all requests that are held at once, at most. Beyond: RESOURCE_EXHAUSTED / 429."""

    max_picture_bytes: int = Field(default=20 * _MIB, ge=64)
    """Size of an encoded picture, at most."""

    max_picture_pixels: int = Field(default=50_000_000, ge=64)
    """Width times height of a picture, at most; read from its header, before it is decoded."""

    max_open_photographs: int = Field(default=4, ge=1)
    """Photographs held decoded at once, at most, to find faces on them or to paste into them: others wait. One takes
    some 8 bytes for each of its pixels."""

    max_session_photograph_bytes: int = Field(default=512 * _MIB, ge=1024)
    """Size of the encoded photographs that all open edit sessions hold to paste into, at most. Beyond:
    RESOURCE_EXHAUSTED / 429."""

    max_codes: int = Field(default=64, ge=1)
    """Codes or seeds in one request, at most."""

    max_interpolated_pictures: int = Field(default=256, ge=2)
    """Pictures in one interpolation, at most."""

    max_edits: int = Field(default=32, ge=1)
    """Edits in one request, at most."""

    max_refine_steps: int = Field(default=500, ge=1)
    """Refinement steps that a request may ask for, at most."""

    refine_window_steps: int = Field(default=25, ge=1)
    """Refinement looks back this many steps to see whether its loss still improves."""

    refine_min_improvement_ratio: float = Field(default=0.001, ge=0.0, lt=1.0)
    """Refinement stops when its best loss fell by less than this part of itself over the window. 0: never."""

    max_refinements_at_full_steps: int = Field(default=8, ge=1)
    """Refinements at once, of one bundle, beyond which those that allow fewer steps get fewer."""

    max_sessions: int = Field(default=256, ge=1)
    """Edit sessions at once, at most. Beyond: RESOURCE_EXHAUSTED / 429."""

    session_idle_s: float = Field(default=600.0, gt=0.0)
    """An edit session in which nothing is asked for this long is ended."""

    max_code_handles: int = Field(default=2048, ge=0)
    """Codes that are kept under a handle for later requests, at most, some 20 to 40 KB each. 0: none, no handles."""

    max_code_handles_per_owner: int = Field(default=512, ge=1)
    """The same for one caller (all who have no key count as one)."""

    code_handle_expiry_s: float = Field(default=900.0, gt=0.0)
    """A code that nobody names by its handle for this long is forgotten."""

    default_deadline_s: float = Field(default=60.0, gt=0.0)
    """Time for a request that names no deadline."""

    max_deadline_s: float = Field(default=600.0, gt=0.0)
    """Time for any request, at most, whatever it asks for."""

    decode_reserve_ms: float = Field(default=50.0, ge=0.0)
    """Kept for decoding and answering, beyond what these took lately, when refinement runs into the deadline."""

    picture_threads: int = Field(default=2, ge=1)
    """Threads that decode and encode pictures."""

    drain_delay_s: float = Field(default=0.0, ge=0.0)
    """After SIGTERM: how long to go on accepting while already reported as not ready, for load balancers to notice."""

    drain_timeout_s: float = Field(default=30.0, ge=0.0)
    """After SIGTERM: how long requests in flight may take to finish."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is written to standard error."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """json: one object a line, for machines. auto: text on a terminal, otherwise json."""

    log_requests: bool = True
    """One line for each request, at the level info."""

    trace_endpoint: str = ""
    """An OpenTelemetry collector (OTLP over gRPC), e.g. http://localhost:4317. Empty: no traces. Needs the extra
    `tracing`."""

    trace_sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    """The part of the requests that are traced, of those whose callers have not decided it already."""

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

    @field_validator("bundles", "cors_origins", "triton_addresses", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _tracing_is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False
