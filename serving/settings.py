"""Every setting of the gateway, with its default: environment `INDOMAIN_*`, or flags of `python -m serving`.

Each field's docstring is its reference (`python -m serving --help` prints it). No other file has defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
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
        extra="ignore",
    )

    model_repository: Path = Path("model_repository")
    """Folder with the bundles, in Triton's layout. Mount it read-only: who writes there runs code here."""

    bundles: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of the bundles to serve, separated by commas, the default one first. Empty: all, by name."""

    verify_checksums: bool = True
    """Compare each file of a bundle with the sha256 in its manifest before loading it."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 to be reached from outside this machine."""

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

    triton_probe_interval_s: float = Field(default=1.0, gt=0.0)
    """How often a server is asked whether it is live and has its graphs; one that is left out is asked more often."""

    triton_unload_delay_s: float = Field(default=30.0, ge=0.0)
    """With triton_model_control: how long an old version stays after a switch, for other gateways to switch too."""

    repository_poll_s: float = Field(default=0.0, ge=0.0)
    """How often to look for new versions of bundles in the model repository. 0: only at SIGHUP."""

    reload_timeout_s: float = Field(default=300.0, gt=0.0)
    """How long a new version may take to be loaded and checked."""

    intra_op_threads: int = Field(default=0, ge=0)
    """Threads for each graph's session. 0: as many as this process may use processors (container limits count)."""

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

    max_picture_bytes: int = Field(default=20 * _MIB, ge=64)
    """Size of an encoded picture, at most."""

    max_picture_pixels: int = Field(default=50_000_000, ge=64)
    """Width times height of a picture, at most; read from its header, before it is decoded."""

    max_codes: int = Field(default=64, ge=1)
    """Codes or seeds in one request, at most."""

    max_edits: int = Field(default=32, ge=1)
    """Edits in one request, at most."""

    max_refine_steps: int = Field(default=500, ge=1)
    """Refinement steps that a request may ask for, at most."""

    refine_window_steps: int = Field(default=25, ge=1)
    """Refinement looks back this many steps to see whether its loss still improves."""

    refine_min_improvement_ratio: float = Field(default=0.001, ge=0.0, lt=1.0)
    """Refinement stops when its best loss fell by less than this part of itself over the window. 0: never."""

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

    @field_validator("bundles", "triton_addresses", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value
