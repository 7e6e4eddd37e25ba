"""A real tritonserver for the tests, from PyPI: installs it once, derives a repository for it, starts and stops it.

`nvidia-pytriton` carries the server (release 24.10) with the python back end only. Names, shapes, batches, queues,
versions and errors are the real server's; python_model.py runs the graphs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.7.0"
INSTALLED = Path(os.environ.get("INDOMAIN_TEST_TRITON", ROOT / "build" / f"tritonserver-{VERSION}"))
MODEL = Path(__file__).with_name("python_model.py")


class CannotInstall(RuntimeError):
    """There is no server to test with; the message says why."""


def install() -> Path:
    """The environment with the server in it; made where it is not there yet. Raises CannotInstall."""
    INSTALLED.parent.mkdir(parents=True, exist_ok=True)
    with INSTALLED.with_suffix(".lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install()


def _install() -> Path:
    stamp = INSTALLED / ".complete"
    if stamp.exists():
        return INSTALLED
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise CannotInstall("nvidia-pytriton's server is for Linux on x86-64")
    shutil.rmtree(INSTALLED, ignore_errors=True)
    pip = [str(INSTALLED / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = (
        [sys.executable, "-m", "venv", str(INSTALLED)],
        [*pip, "--no-deps", f"nvidia-pytriton=={VERSION}"],  # what it depends on is for its Python half
        [*pip, "numpy<2", "onnxruntime"],  # with numpy 2 its back end answers with empty tensors, silently
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotInstall(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")
    _lay_out_backend()
    stamp.touch()
    return INSTALLED


def _packages() -> Path:
    return (
        INSTALLED
        / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/pytriton/tritonserver"
    )


def _lay_out_backend() -> None:
    server, backend = _packages(), INSTALLED / "backends" / "python"
    backend.mkdir(parents=True)
    stub = f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
    for file in (
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        stub,
    ):
        if not (server / file).exists():
            raise CannotInstall(f"nvidia-pytriton {VERSION} has no {file}")
        (backend / Path(file).name).symlink_to(server / file)


def derive_repository(production: Path, derived: Path, instances: int = 0, **changes: dict[str, str]) -> Path:
    """A model repository like the production one, each graph run by the python back end. Returns it.

    `instances` of each graph, where not as many as the configuration says; `changes`: for a graph's role, what
    python_model.py is told, and `max_queue_size`. Called again, it brings over what has changed.
    """
    shutil.copytree(production, derived, dirs_exist_ok=True)
    for file in derived.glob("*/config.pbtxt"):
        config = text_format.Parse(file.read_text(), ModelConfig())
        config.backend = "python"
        if instances:
            config.instance_group[0].count = instances
        for key, value in changes.get(file.parent.name.rpartition("_")[2], {}).items():
            if key == "max_queue_size":
                config.dynamic_batching.default_queue_policy.max_queue_size = int(value)
            else:
                config.parameters[key].string_value = value
        file.write_text(text_format.MessageToString(config))
        for graph in file.parent.glob("*/model.onnx"):
            shutil.copy(MODEL, graph.with_name("model.py"))
    return derived


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class TritonServer:
    """One server, on ports of its own that it keeps when it is started again."""

    def __init__(self, repository: Path, log: Path, *flags: str) -> None:
        self.ports = {name: free_port() for name in ("grpc", "http", "metrics")}
        self.address = f"127.0.0.1:{self.ports['grpc']}"
        self._repository, self._log, self._flags = repository, log, flags
        self._shared_memory = f"indomain-test-{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> TritonServer:
        environment = os.environ | {
            "PATH": f"{INSTALLED / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        environment.pop("PYTHONPATH", None)
        command = [
            str(_packages() / "bin/tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={INSTALLED / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--disable-auto-complete-config",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
            *(f"--{name}-address=127.0.0.1" for name in self.ports if name != "metrics"),
            "--metrics-address=127.0.0.1",
            *(f"--{name}-port={port}" for name, port in self.ports.items()),
            *self._flags,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        end_s = time.monotonic() + timeout_s
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"tritonserver did not start:\n{self.log()[-4000:]}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self._url("http", "/v2/health/ready")).status_code == 200:
                    return
            time.sleep(0.05)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def metrics(self) -> str:
        """All its metrics, in Prometheus' text format."""
        return httpx.get(self._url("metrics", "/metrics")).text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all its series that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            series, _, value = line.rpartition(" ")
            if series.split("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total

    def send(self, number: signal.Signals) -> None:
        """Signals the server alone, not the processes of its models."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: to the server, and then to the processes of its models, which it leaves behind."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def _url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"
