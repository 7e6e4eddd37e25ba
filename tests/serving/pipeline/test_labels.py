"""Labels over both transports and the SDK: samples with them, edits that change them, and who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import indomain
from indomain.cli import main
from indomain.v1 import editing_pb2 as pb
from tests.serving.messages import as_message, code_of
from tests.serving.running_gateway import RunningGateway, answered, settings_for, websocket
from tests.serving.tiny_bundle import LABEL_MOVE, LABELS, _weights, write_tiny_bundle

SEEDS = range(40)
CODE = np.zeros((6, 512), np.float32)
READS = _weights(7)["label_reads"]


def read(codes: np.ndarray) -> np.ndarray:
    """The labels of codes as they lie on the labels' own directions, [N, K]; z moves them by a few hundredths."""
    return codes.reshape(len(codes), -1) @ READS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with three bundles: labels that edits change, labels of samples only, no labels."""
    repository = tmp_path_factory.mktemp("labels")
    write_tiny_bundle(repository, "edited", labels="edited")
    write_tiny_bundle(repository, "sampled", labels="sampled")
    write_tiny_bundle(repository, "without")
    gateway = RunningGateway(settings_for(repository, bundles=("edited", "sampled", "without")))
    yield gateway
    gateway.close()


@pytest.fixture(params=["grpc", "http", "embedded"])
def client(running: RunningGateway, request: pytest.FixtureRequest) -> Iterator[indomain.Client]:
    address = {"grpc": running.target, "http": running.url, "embedded": ":embedded:"}[request.param]
    repository: Path = running.gateway.settings.model_repository
    options = {"model_repository": repository} if address == ":embedded:" else {}
    with indomain.Client(address, **options) as client:
        yield client


def test_bundles_say_which_labels_they_have(client: indomain.Client) -> None:
    edited, sampled, without = client.bundles()
    assert {name: label.frequency for name, label in edited.labels.items()} == LABELS
    assert edited.labels["male"].held_out == indomain.HeldOut("accuracy", pytest.approx(0.9))
    assert sampled.labels.keys() == LABELS.keys()
    assert sampled.labels["male"].held_out is None
    assert not without.labels


def test_samples_have_the_labels_asked_for_and_the_others_are_drawn(client: indomain.Client) -> None:
    def codes(**options: object) -> np.ndarray:
        samples = client.sample(SEEDS, 1.0, bundle="sampled", **options)  # type: ignore[arg-type]
        return np.stack([sample.code for sample in samples])

    smiling, male = read(codes(label={"smiling": 1})).T
    np.testing.assert_allclose(smiling, 1, atol=0.2)
    assert {0, 1} == set(np.round(male))
    drawn, again = codes(), codes()
    np.testing.assert_array_equal(drawn, again)
    share = np.round(read(drawn)).mean(0)
    np.testing.assert_allclose(share, list(LABELS.values()), atol=0.2)
    # z is the same whatever the label is: codes of one seed differ by the label's move alone.
    without = codes(label={"smiling": 0})
    np.testing.assert_allclose(
        np.linalg.norm((codes(label={"smiling": 1}) - without).reshape(len(SEEDS), -1), axis=1),
        LABEL_MOVE,
        rtol=1e-3,
    )


def test_an_edit_changes_a_label_and_leaves_the_others(client: indomain.Client) -> None:
    [sample] = client.sample(3, 1.0, bundle="edited", label={"smiling": 0, "male": 1})
    edited = client.edit(sample, label={"smiling": 1})
    ((smiling, male),) = read(edited.code[None])
    assert smiling == pytest.approx(1, abs=0.2)
    assert male == pytest.approx(read(sample.code[None])[0, 1], abs=1e-4)
    assert np.abs(np.asarray(edited.image).astype(int) - np.asarray(sample.image)).mean() > 1
    [wanted] = client.decode(edited.code, bundle="edited")
    np.testing.assert_array_equal(edited.image, wanted)
    # Directions go on from there, and an edit of a photograph takes labels, too.
    both, alone = client.edit(sample, smile=1.0, label={"smiling": 1}), client.edit(sample, smile=1.0)
    np.testing.assert_allclose(both.code - edited.code, alone.code - sample.code, atol=1e-4)
    photo = client.edit(edited.image, label={"smiling": 0.5}, bundle="edited", steps=0)
    assert read(photo.code[None])[0, 0] == pytest.approx(0.5, abs=1e-3)


REFUSED: dict[str, tuple[Callable[[indomain.Client], object], str]] = {
    "no labels in an edit": (lambda c: c.edit(CODE, label={"smiling": 1}, bundle="without"), "has no labels"),
    "no labels in a sample": (lambda c: c.sample(1, label={"smiling": 1}, bundle="without"), "has no labels"),
    "samples only": (lambda c: c.edit(CODE, label={"smiling": 1}, bundle="sampled"), "labels in Sample only"),
    "unknown": (lambda c: c.sample(1, label={"old": 1}, bundle="edited"), "it has smiling, male"),
    "out of range": (lambda c: c.sample(1, label={"smiling": 1.5}, bundle="edited"), "goes from 0 to 1"),
    "no number": (lambda c: c.edit(CODE, label={"smiling": float("nan")}, bundle="edited"), "goes from 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_labels_are_refused_where_they_cannot_be(client: indomain.Client, case: str) -> None:
    call, told = REFUSED[case]
    with pytest.raises(indomain.InvalidOptionError, match=told):
        call(client)


def test_a_session_takes_labels(running: RunningGateway) -> None:
    code = CODE
    with indomain.Client(running.target) as client, client.session(code, bundle="edited") as session:
        relabelled, plain = session.edit(label={"male": 1}), session.edit()
    assert np.abs(np.asarray(relabelled.image).astype(int) - np.asarray(plain.image)).mean() > 1

    async def edit() -> indomain.Edited:
        async with indomain.AsyncClient(running.url) as client:
            return await client.edit(code, label={"male": 1}, bundle="edited")

    np.testing.assert_array_equal(asyncio.run(edit()).image, relabelled.image)
    with websocket(running) as connection:
        request = {"bundle": "edited", "code": {"data": "", "shape": []}, "label": {"male": 2}}
        connection.send('{"sequence": 1, "edit": ' + str(request).replace("'", '"') + "}")
        assert answered(connection)["error"]["reason"] == "invalid_code"


def test_the_wire(running: RunningGateway) -> None:
    code = as_message(CODE)
    answer = running.stub.Edit(pb.EditRequest(bundle="edited", code=code, label={"male": 1}))
    assert read(code_of(answer.code)[None])[0, 1] == pytest.approx(1)
    with pytest.raises(grpc.RpcError) as refused:
        running.stub.Edit(pb.EditRequest(bundle="sampled", code=code, label={"male": 1}))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    sampled = running.http.post("/v1/sample", json={"bundle": "sampled", "seeds": [1], "label": {"male": 1}})
    assert sampled.status_code == 200
    refused_over_http = running.http.post(
        "/v1/sample", json={"bundle": "without", "seeds": [1], "label": {"male": 1}}
    )
    assert (refused_over_http.status_code, refused_over_http.json()["reason"]) == (400, "invalid_option")
    schema = running.http.get("/openapi.json").json()["components"]["schemas"]["EditRequest"]["properties"][
        "label"
    ]
    assert schema["additionalProperties"] | {"minimum": 0, "maximum": 1} == schema["additionalProperties"]


def test_the_command_line(
    running: RunningGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", running.target]
    assert main(["bundles", *server]) == 0
    assert "label smiling: 25% of pictures, in edits too" in capsys.readouterr().out
    sheet, edited = tmp_path / "sheet.png", tmp_path / "edited.png"
    assert main(["sample", "--seeds", "0-3", "--label", "smiling=1,male=0", "-o", str(sheet), *server]) == 0
    np.save(tmp_path / "code.npy", CODE)
    assert main(["edit", str(tmp_path / "code.npy"), "--label", "smiling=1", "-o", str(edited), *server]) == 0
    assert sheet.is_file()
    assert edited.is_file()
    assert main(["edit", str(tmp_path / "code.npy"), "--label", "smiling=1", "--bundle", "sampled", *server,
                 "-o", str(tmp_path / "refused.png")]) != 0  # fmt: skip
