"""New versions of a bundle while the gateway serves: no request fails, and a bad one changes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc
from tests.serving.pipeline.new_versions import (
    POLL_S,
    bring,
    eventually,
    reloads,
    sampled_picture,
    under_load,
)
from tests.serving.running_gateway import RunningGateway, settings_for, start_process
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.serving.triton_server import TritonServer, derive_repository

OUTPUT = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)
SAMPLE = pb.SampleRequest(seeds=[1], output=OUTPUT)


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., RunningGateway]]:
    started: list[RunningGateway] = []

    def start(**overrides: Any) -> RunningGateway:
        started.append(RunningGateway(settings_for(repository, repository_poll_s=POLL_S, **overrides)))
        return started[-1]

    yield start
    for running in started:
        if not running._loop.is_closed():
            running.close()


def test_a_new_version_takes_over_under_load(
    start: Callable[..., RunningGateway], repository: Path, photo_png: bytes
) -> None:
    running = start()
    old = sampled_picture(running)
    with under_load(running, photo_png) as seen:
        eventually(lambda: len(seen) > 5)
        write_tiny_bundle(repository, version=2, seed=8)
        eventually(lambda: reloads(running, "done") == 1)
        after = len(seen)
        eventually(lambda: len(seen) > after + 5)
    new = sampled_picture(running)
    assert new != old
    assert set(seen) == {old, new}
    backend = running.gateway._backend
    eventually(lambda: {key[1] for key in backend._graphs} == {2})  # the old version is let go of
    assert reloads(running, "failed") == 0


GRAPH = "tiny16_generator/2/model.onnx"


def cut(file: Path) -> None:
    """As a copy onto a full disk leaves it."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def describe(version: Path) -> None:
    """The manifest vouches for the generator as it is."""
    manifest = json.loads((version / "tiny16.json").read_text())
    manifest["graphs"]["generator"]["sha256"] = hashlib.sha256((version / GRAPH).read_bytes()).hexdigest()
    (version / "tiny16.json").write_text(json.dumps(manifest))


def cut_and_described(version: Path) -> None:
    cut(version / GRAPH)
    describe(version)


def of_another_export(version: Path) -> None:
    shutil.copytree(version / "tiny16_generator/1", (version / GRAPH).parent, dirs_exist_ok=True)
    describe(version)


SPOILT: list[tuple[Callable[[Path], object], str]] = [
    (lambda version: cut(version / GRAPH), "sha256 differs"),
    (lambda version: cut(version / "tiny16.json"), "not JSON"),
    (lambda version: (version / GRAPH).unlink(), "cannot be read"),
    (lambda version: cut(version / "tiny16.safetensors"), "tiny16.safetensors is not the file"),
    (cut_and_described, "tiny16_generator cannot be loaded"),
    (of_another_export, "answers otherwise than when it was exported"),
]


def test_versions_that_cannot_be_served(
    start: Callable[..., RunningGateway], repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    old = sampled_picture(running)
    good = shutil.copytree(repository, tmp_path / "good")
    write_tiny_bundle(good, version=2, seed=8)

    with caplog.at_level(logging.ERROR, "serving.repository.watcher"):
        for number, (spoil, complaint) in enumerate(SPOILT):
            version = shutil.copytree(good, tmp_path / f"spoilt{number}")
            spoil(version)
            caplog.clear()
            bring(version, repository)
            eventually(partial(_is_told, caplog, complaint))
            assert reloads(running, "failed") > number
            assert sampled_picture(running) == old
            assert running.http.get("/readyz").status_code == 200
    assert reloads(running, "done") == 0
    bring(good, repository)
    eventually(lambda: reloads(running, "done") == 1)
    assert sampled_picture(running) != old


def _is_told(caplog: pytest.LogCaptureFixture, complaint: str) -> bool:
    return "the old bundles stay" in caplog.text and complaint in caplog.text


def test_a_hangup_signal_is_the_trigger_where_nobody_polls(repository: Path) -> None:
    process = start_process(repository, "--grpc-port", "0", "--http-port", "0")
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "ready: gRPC on" in line)
        port = re.search(r"gRPC on 127.0.0.1:(\d+)", line)
        assert port
        with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as channel:
            stub = editing_pb2_grpc.EditingStub(channel)
            old = stub.Sample(SAMPLE, timeout=30).images[0].data
            write_tiny_bundle(repository, version=2, seed=8)
            process.send_signal(signal.SIGHUP)
            assert any("new versions are served: tiny16" in line for line in process.stderr)
            assert stub.Sample(SAMPLE, timeout=30).images[0].data != old
    finally:
        process.kill()
        process.communicate()


class ControlledTriton:
    """A server that loads what gateways tell it to, and ways to bring versions to it and to them."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self._repository, self._folder = repository, folder
        self.derived = derive_repository(repository, folder / "derived", instances=1)
        self.server = TritonServer(self.derived, folder / "log", "--model-control-mode=explicit").start()
        self._client = tritonclient.grpc.InferenceServerClient(self.server.address)

    def settings(self, unload_delay_s: float) -> dict[str, Any]:
        return {
            "backend": "triton",
            "triton_addresses": (self.server.address,),
            "triton_model_control": True,
            "triton_unload_delay_s": unload_delay_s,
            "triton_probe_interval_s": 0.1,
        }

    def has(self, role: str, version: int) -> bool:
        return bool(self._client.is_model_ready(f"tiny16_{role}", str(version)))

    def bring(self, number: int, spoil: Callable[[Path], object] = lambda derived: None) -> Path:
        """To the server first, then to the gateways, whose manifest sets them going. Gives the version's folder."""
        version = self._folder / f"version{number}"
        write_tiny_bundle(version, version=number, seed=7 + number)
        derive_repository(version, self.derived, instances=1)
        spoil(self.derived)
        bring(version, self._repository)
        return version

    def close(self) -> None:
        self._client.close()
        self.server.kill()


@pytest.fixture
def controlled(triton_installed: None, repository: Path, tmp_path: Path) -> Iterator[ControlledTriton]:
    made = ControlledTriton(repository, tmp_path)
    yield made
    made.close()


def test_versions_on_triton_under_load(
    controlled: ControlledTriton,
    start: Callable[..., RunningGateway],
    photo_png: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = start(**controlled.settings(unload_delay_s=0.0))
    old = sampled_picture(running)
    with under_load(running, photo_png) as seen:
        eventually(lambda: len(seen) > 5)
        controlled.bring(2)
        eventually(lambda: reloads(running, "done") == 1)
        eventually(lambda: not controlled.has("generator", 1))
        after = len(seen)
        eventually(lambda: len(seen) > after + 5)
    new = sampled_picture(running)
    assert set(seen) == {old, new}
    assert len({old, new}) == 2

    # One that Triton cannot load: a graph that was cut short on its way to the server.
    with caplog.at_level(logging.ERROR, "serving.repository.watcher"):
        controlled.bring(3, lambda derived: cut(derived / "tiny16_generator/3/model.onnx"))
        eventually(lambda: "cannot load the new version" in caplog.text)
    assert sampled_picture(running) == new
    assert reloads(running, "failed") > 0
    eventually(lambda: not controlled.has("mapping", 3))  # what had been loaded of it is not kept


def test_a_version_that_takes_too_long_to_load_is_given_up(
    controlled: ControlledTriton, start: Callable[..., RunningGateway], caplog: pytest.LogCaptureFixture
) -> None:
    running = start(**controlled.settings(unload_delay_s=0.0), reload_timeout_s=1e-6)
    old = sampled_picture(running)
    with caplog.at_level(logging.ERROR, "serving.repository.watcher"):
        controlled.bring(2)
        eventually(lambda: "did not have the new version ready in time" in caplog.text)
    assert sampled_picture(running) == old
    assert reloads(running, "done") == 0


@pytest.mark.slow
def test_a_server_that_was_restarted_is_told_again_what_to_load(
    controlled: ControlledTriton, start: Callable[..., RunningGateway]
) -> None:
    running = start(**controlled.settings(unload_delay_s=0.0))
    old = sampled_picture(running)
    write_tiny_bundle(controlled.derived.parent / "unheard", version=2, seed=9)
    derive_repository(controlled.derived.parent / "unheard", controlled.derived, instances=1)
    controlled.server.kill()
    eventually(lambda: running.http.get("/readyz").status_code == 503)
    controlled.server.start()
    eventually(lambda: running.http.get("/readyz").status_code == 200)
    assert controlled.has("generator", 1)  # not only the newest that lies there
    assert sampled_picture(running) == old


@pytest.mark.slow
def test_two_gateways_exchange_a_version_on_one_server(
    controlled: ControlledTriton, start: Callable[..., RunningGateway], photo_png: bytes
) -> None:
    """Neither takes away what the other one still serves."""
    both = [start(**controlled.settings(unload_delay_s=3600.0)) for _ in range(2)]
    old = sampled_picture(both[0])
    with under_load(both[0], photo_png), under_load(both[1], photo_png):
        controlled.bring(2)
        eventually(lambda: all(reloads(one, "done") == 1 for one in both))
    assert sampled_picture(both[0]) == sampled_picture(both[1]) != old
    assert controlled.has("generator", 1)
