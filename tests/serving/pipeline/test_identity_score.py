"""The identity score: what it compares, where it is left out, who gets it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

import indomain
from indomain import InvalidOptionError
from indomain.cli import main
from indomain.v1 import editing_pb2 as pb
from serving.errors import BundleInvalid
from serving.repository.reader import read_bundle
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import IDENTITY, write_tiny_bundle

Score = Callable[[object, object], float]
PICTURE = photograph(3, 16, 16)  # of the bundle's size: it is taken as it is


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("identity") / "repository", identity=True)


@pytest.fixture(scope="module")
def gateway(repository: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(settings_for(repository))
    yield running
    running.close()


@pytest.fixture(params=["grpc", "http", "embedded"])
def client(
    gateway: RunningGateway, repository: Path, request: pytest.FixtureRequest
) -> Iterator[indomain.Client]:
    if request.param == "embedded":
        with indomain.Client(":embedded:", model_repository=repository) as opened:
            yield opened
        return
    with indomain.Client(gateway.target if request.param == "grpc" else gateway.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def by_hand(repository: Path) -> Score:
    """The score of two pictures, by the graph itself and the manifest's logistic."""
    session = onnxruntime.InferenceSession(str(repository / "tiny16_identity/1/model.onnx"))

    def score(one: object, other: object) -> float:
        a, b = (
            session.run(["descriptor"], {"image": np.asarray(image, np.uint8)[None]})[0]
            for image in (one, other)
        )
        return float(1 / (1 + np.exp(IDENTITY["steepness"] * (np.linalg.norm(a - b) - IDENTITY["middle"]))))

    return score


def test_every_call_compares_what_it_says(client: indomain.Client, by_hand: Score) -> None:
    asked = {"include_identity_score": True}
    assert client.info().bundles[0].identity_score
    inversion = client.invert(PICTURE, steps=4, **asked)
    assert inversion.identity_score == pytest.approx(by_hand(inversion.image, PICTURE), abs=1e-5)
    assert 0.05 < inversion.identity_score < 0.95  # else all of this would say little
    edited = client.edit(PICTURE, smile=2.0, steps=4, **asked)
    assert edited.identity_score == pytest.approx(by_hand(edited.image, PICTURE), abs=1e-5)
    assert edited.identity_score != pytest.approx(inversion.identity_score, abs=0.01)
    # Of a code nobody knows the photograph.
    of_code = client.edit(inversion, smile=2.0, **asked)
    assert of_code.identity_score == pytest.approx(by_hand(of_code.image, inversion.image), abs=1e-5)
    (style,) = client.sample([5])
    for base, compared in ((PICTURE, PICTURE), (inversion, inversion.image)):
        mixed = client.mix(base, style, [0, 1], steps=4, **asked)
        assert mixed.identity_score == pytest.approx(by_hand(mixed.image, compared), abs=1e-5)
    diffused = client.diffuse(PICTURE, style.image, steps=4, include_aligned=True, **asked)
    assert diffused.identity_score == pytest.approx(by_hand(diffused.image, diffused.aligned), abs=1e-5)
    *_, watched = client.watch_invert(PICTURE, steps=4, **asked)
    assert watched.identity_score == pytest.approx(inversion.identity_score, abs=1e-5)


def test_a_session_goes_on_comparing_with_its_photograph(client: indomain.Client, by_hand: Score) -> None:
    with client.session(PICTURE, steps=4, include_identity_score=True) as session:
        for strength in (0.0, 2.0):
            answer = session.edit(smile=strength)
            assert answer.identity_score == pytest.approx(by_hand(answer.image, PICTURE), abs=1e-5)
    with client.session(PICTURE, steps=4) as session:
        assert session.edit(smile=1.0).identity_score is None


def test_it_is_left_out_where_nobody_asks(client: indomain.Client) -> None:
    assert client.invert(PICTURE, steps=2).identity_score is None
    edited = client.edit(PICTURE, smile=1.0, steps=2)
    assert edited.identity_score is None
    assert client.mix(edited, edited, [0]).identity_score is None


async def test_the_twin_has_it_too(gateway: RunningGateway) -> None:
    async with indomain.AsyncClient(gateway.target) as client:
        edited = await client.edit(PICTURE, smile=1.0, steps=2, include_identity_score=True)
        assert edited.identity_score is not None


def test_a_batch_changes_nothing(gateway: RunningGateway) -> None:
    output = pb.OutputOptions(include_identity_score=True, omit_image=True)
    requests = [
        pb.EditRequest(
            picture=pb.Picture(data=encoded(photograph(seed, 16, 16))),
            refine=pb.RefineOptions(steps=0),
            edits=[pb.EditStep(direction="smile", strength=1.0)],
            output=output,
        )
        for seed in range(6)
    ]
    alone = [gateway.stub.Edit(request).identity_score for request in requests]
    together = [call.result().identity_score for call in map(gateway.stub.Edit.future, requests)]
    assert together == pytest.approx(alone, abs=1e-6)
    assert len({round(score, 4) for score in alone}) == len(alone)


def test_calls_that_compare_nothing_refuse_it(gateway: RunningGateway) -> None:
    output = pb.OutputOptions(include_identity_score=True)
    code = gateway.stub.Sample(pb.SampleRequest(seeds=[1])).codes[0]
    source = pb.Source(code=code)
    calls = (
        lambda: gateway.stub.Decode(pb.DecodeRequest(codes=[code], output=output)),
        lambda: gateway.stub.Sample(pb.SampleRequest(seeds=[1], output=output)),
        lambda: gateway.stub.Mean(pb.MeanRequest(sources=[source], output=output)),
        lambda: list(
            gateway.stub.Interpolate(pb.InterpolateRequest(start=source, end=source, count=2, output=output))
        ),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError, match="compares no two faces"):
            call()


def test_a_bundle_without_it_says_so(tiny_repository: Path) -> None:
    with indomain.Client(":embedded:", model_repository=tiny_repository) as client:
        assert not client.info().bundles[0].identity_score
        with pytest.raises(InvalidOptionError, match="has no identity score"):
            client.invert(PICTURE, include_identity_score=True)
        with pytest.raises(InvalidOptionError, match="has no identity score"):
            client.edit(client.sample([1])[0], smile=1.0, include_identity_score=True)


def test_a_picture_alone_has_it_in_a_header(gateway: RunningGateway) -> None:
    options = {"edits": [{"direction": "smile", "strength": 1}], "output": {"include_identity_score": True}}
    answers = [
        httpx.post(
            f"{gateway.url}/v1/edit",
            params={"options": json.dumps(options | {"refine": {"steps": 2}})},
            content=encoded(PICTURE),
            headers={"content-type": "image/png", "accept": accept},
        )
        for accept in ("image/png", "application/json")
    ]
    assert Image.open(io.BytesIO(answers[0].content)).size == (16, 16)
    told = answers[1].json()["identity_score"]
    assert float(answers[0].headers["x-identity-score"]) == pytest.approx(told, abs=1e-4)


def test_the_command_line_tells_it(
    gateway: RunningGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "me.png")
    shared = [
        str(tmp_path / "me.png"),
        "--steps",
        "2",
        "--server",
        gateway.target,
        "-o",
        str(tmp_path / "x.png"),
    ]
    assert main(["invert", *shared, "--identity-score", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert 0 < line["identity_score"] < 1
    assert main(["edit", *shared, "smile=1", "--identity-score"]) == 0
    assert "identity score" in capsys.readouterr().out
    assert main(["edit", *shared, "smile=1"]) == 0
    assert "identity score" not in capsys.readouterr().out


def test_a_manifest_that_promises_it_needs_the_graph(repository: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    manifest = json.loads((tmp_path / "tiny16.json").read_text())
    (tmp_path / "tiny16.json").write_text(json.dumps(manifest | {"identity": IDENTITY}))
    with pytest.raises(BundleInvalid, match="no graph 'identity'"):
        read_bundle(tmp_path, "tiny16")
    # A graph whose distances mean nothing is left alone.
    manifest = json.loads((repository / "tiny16.json").read_text())
    del manifest["identity"]
    assert "identity" in manifest["graphs"]
    (repository / "without.json").write_text(json.dumps(manifest | {"bundle": "without"}))
    assert "identity" not in read_bundle(repository, "without").graphs
    (repository / "without.json").unlink()
