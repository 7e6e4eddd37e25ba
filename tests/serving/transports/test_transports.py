"""All methods over both transports, against a real gateway: the same question gets the same answer."""

from __future__ import annotations

import base64
import io
import json
import re

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from indomain.v1 import editing_pb2 as pb
from tests.serving.messages import as_json, as_message, close, code_of, image_of
from tests.serving.running_gateway import RunningGateway

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)


def test_list_bundles(gateway: RunningGateway) -> None:
    answer = gateway.stub.ListBundles(pb.ListBundlesRequest())
    (bundle,) = answer.bundles
    assert (bundle.name, bundle.resolution, bundle.layers, bundle.code_size) == ("tiny16", 16, 6, 512)
    assert [direction.name for direction in bundle.directions] == ["smile", "age"]
    assert bundle.directions[0].held_out.metric == "r"
    assert (bundle.refine.chunk_steps, bundle.refine.steps) == (2, 20)
    assert dict(bundle.refine.quality_steps) == {"fast": 4, "best": 600}
    assert answer.limits.max_picture_pixels == 50_000_000
    over_http = gateway.http.get("/v1/bundles").json()
    assert over_http["bundles"][0]["directions"][1]["layers"] == list(bundle.directions[1].layers)
    assert over_http["limits"]["max_refine_steps"] == answer.limits.max_refine_steps
    assert over_http["server_version"] == answer.server_version


def test_invert(gateway: RunningGateway, photo_png: bytes) -> None:
    output = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW, include_aligned=True, include_start=True)
    request = pb.InvertRequest(picture=pb.Picture(data=photo_png), output=output)
    answer = gateway.stub.Invert(request, timeout=20)
    assert answer.bundle == "tiny16"
    assert answer.losses.steps_done == 20
    assert answer.losses.stop_reason == pb.STOP_REASON_STEPS_DONE
    assert answer.losses.pixel_mse_after < answer.losses.pixel_mse_before
    assert answer.losses.refine_loss_after < answer.losses.refine_loss_before
    assert 0.0 <= answer.domain_score <= 1.0
    assert {timing.stage for timing in answer.timings} >= {"align", "encode", "refine", "decode", "image"}
    difference = image_of(answer.image).astype(float) - image_of(answer.aligned)
    assert np.mean((difference / 127.5) ** 2) == pytest.approx(answer.losses.pixel_mse_after, rel=1e-4)
    difference = image_of(answer.start).astype(float) - image_of(answer.aligned)
    assert np.mean((difference / 127.5) ** 2) == pytest.approx(answer.losses.pixel_mse_before, rel=1e-4)

    options = {"output": {"format": "raw", "include_aligned": True, "include_start": True}}
    form = gateway.http.post(
        "/v1/invert", files={"picture": ("face.png", photo_png)}, data={"options": json.dumps(options)}
    ).json()
    body = {"picture": {"data": base64.b64encode(photo_png).decode()}, **options}
    for over_http in (form, gateway.http.post("/v1/invert", json=body).json()):
        close(code_of(over_http["code"]), code_of(answer.code))
        close(image_of(over_http["image"]), image_of(answer.image))
        assert over_http["losses"]["stop_reason"] == "steps_done"
        assert over_http["losses"]["pixel_mse_after"] == pytest.approx(
            answer.losses.pixel_mse_after, rel=1e-2
        )


def test_invert_without_refinement_is_the_encoder(gateway: RunningGateway, photo_png: bytes) -> None:
    request = pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=0))
    answer = gateway.stub.Invert(request)
    assert answer.losses.stop_reason == pb.STOP_REASON_NOT_REFINED
    assert answer.losses.steps_done == 0
    assert answer.losses.pixel_mse_after == answer.losses.pixel_mse_before
    assert "refine" not in {timing.stage for timing in answer.timings}


def test_edit_of_a_picture_goes_on_from_its_source_code(gateway: RunningGateway, photo_png: bytes) -> None:
    edits = [
        pb.EditStep(direction="smile", strength=2.0),
        pb.EditStep(direction="age", strength=-1.0, layers=[4]),
    ]
    first = gateway.stub.Edit(pb.EditRequest(picture=pb.Picture(data=photo_png), edits=edits, output=RAW))
    assert first.losses.steps_done == 20
    again = gateway.stub.Edit(pb.EditRequest(code=first.source_code, edits=edits, output=RAW))
    assert not again.HasField("losses")
    close(code_of(again.code), code_of(first.code))
    close(image_of(again.image), image_of(first.image))
    moved = code_of(first.code) - code_of(first.source_code)
    assert {layer for layer in range(6) if np.any(moved[layer])} == {2, 3, 4}

    json_edits = [
        {"direction": "smile", "strength": 2.0},
        {"direction": "age", "strength": -1.0, "layers": [4]},
    ]
    from_code = {
        "code": as_json(code_of(first.source_code)),
        "edits": json_edits,
        "output": {"format": "raw"},
    }
    over_http = gateway.http.post("/v1/edit", json=from_code).json()
    close(code_of(over_http["code"]), code_of(first.code))
    close(image_of(over_http["image"]), image_of(first.image))
    form = gateway.http.post(
        "/v1/edit",
        files={
            "picture": ("face.png", photo_png, "image/png"),
            "options": (
                "",
                json.dumps({"edits": json_edits, "output": {"format": "raw"}}),
                "application/json",
            ),
        },
    ).json()
    close(code_of(form["source_code"]), code_of(first.source_code))
    close(image_of(form["image"]), image_of(first.image))


def test_sample_then_decode(gateway: RunningGateway) -> None:
    sampled = gateway.stub.Sample(pb.SampleRequest(seeds=[3, 1, 3], truncation=0.5, output=RAW))
    codes = [code_of(code) for code in sampled.codes]
    np.testing.assert_array_equal(codes[0], codes[2])
    assert not np.array_equal(codes[0], codes[1])
    stacked = pb.DecodeRequest(codes=[as_message(codes[0]), as_message(np.stack(codes[1:]))], output=RAW)
    decoded = gateway.stub.Decode(stacked)
    assert len(decoded.images) == 3
    for one, other in zip(decoded.images, sampled.images, strict=True):
        close(image_of(one), image_of(other))

    body = {"seeds": [3, 1, 3], "truncation": 0.5, "output": {"format": "raw"}}
    over_http = gateway.http.post("/v1/sample", json=body).json()
    for code, picture, expected in zip(over_http["codes"], over_http["images"], sampled.images, strict=True):
        assert code["shape"] == [6, 512]
        close(image_of(picture), image_of(expected))
    body = {"codes": [as_json(code) for code in codes], "output": {"format": "raw"}}
    over_http = gateway.http.post("/v1/decode", json=body).json()
    for picture, expected in zip(over_http["images"], sampled.images, strict=True):
        close(image_of(picture), image_of(expected))


def test_truncation_zero_is_the_mean_and_the_default_is_between(gateway: RunningGateway) -> None:
    mean = gateway.stub.Sample(pb.SampleRequest(seeds=[5], truncation=0.0))
    np.testing.assert_allclose(code_of(mean.codes[0]), 0.05, rtol=1e-6)
    full = code_of(gateway.stub.Sample(pb.SampleRequest(seeds=[5], truncation=1.0)).codes[0])
    usual = code_of(gateway.stub.Sample(pb.SampleRequest(seeds=[5])).codes[0])
    np.testing.assert_allclose(usual, 0.05 + 0.7 * (full - 0.05), atol=1e-6)


def test_omitted_images(gateway: RunningGateway, photo_png: bytes) -> None:
    output = pb.OutputOptions(omit_image=True)
    assert not gateway.stub.Sample(pb.SampleRequest(seeds=[1], output=output)).images
    answer = gateway.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=photo_png), output=output))
    assert not answer.HasField("image")
    assert answer.losses.pixel_mse_after > 0.0


@pytest.mark.parametrize(
    ("format", "name"),
    [(pb.IMAGE_FORMAT_PNG, "PNG"), (pb.IMAGE_FORMAT_JPEG, "JPEG"), (pb.IMAGE_FORMAT_WEBP, "WEBP")],
)
def test_answer_formats(format: int, name: str, gateway: RunningGateway) -> None:
    (picture,) = gateway.stub.Sample(
        pb.SampleRequest(seeds=[1], output=pb.OutputOptions(format=format))
    ).images
    assert picture.format == format
    assert Image.open(io.BytesIO(picture.data)).format == name
    accepted = gateway.http.post(
        "/v1/sample", json={"seeds": [1]}, headers={"accept": f"image/{name.lower()}, */*;q=0.1"}
    )
    assert accepted.headers["content-type"] == f"image/{name.lower()}"
    assert accepted.content == picture.data


def test_a_picture_is_answered_as_a_picture(gateway: RunningGateway, photo_png: bytes) -> None:
    answer = gateway.http.post(
        "/v1/edit",
        files={"picture": photo_png},
        data={"options": '{"edits": [{"direction": "smile", "strength": 1}]}'},
        headers={"accept": "image/*"},
    )
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)
    assert float(answer.headers["x-pixel-mse-after"]) < float(answer.headers["x-pixel-mse-before"])
    assert re.fullmatch(r"0\.\d+|1\.0+", answer.headers["x-domain-score"])
    assert "refine;dur=" in answer.headers["server-timing"]
    several = gateway.http.post("/v1/sample", json={"seeds": [1, 2]}, headers={"accept": "image/png"})
    assert (several.status_code, several.json()["reason"]) == (400, "invalid_option")


def test_health_and_reflection(gateway: RunningGateway) -> None:
    health = health_pb2_grpc.HealthStub(gateway.channel)
    for service in ("", "indomain.v1.Editing"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"indomain.v1.Editing", "grpc.health.v1.Health"} <= names
    assert gateway.http.get("/healthz").status_code == 200
    ready, *engines = gateway.http.get("/readyz").text.splitlines()
    assert (ready, engines[1]) == ("ready", "tiny16_generator: onnxruntime")


def test_docs_ask_no_other_host(gateway: RunningGateway) -> None:
    page = gateway.http.get("/docs").text
    assert "swagger" in page
    assert not re.findall(r"(?:src|href)=[\"']?https?://", page)
    script = re.search(r'src="([^"]+)"', page)
    assert script
    assert gateway.http.get(script.group(1)).status_code == 200
    document = gateway.http.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/v1/invert", "/v1/edit", "/v1/decode", "/v1/sample", "/v1/bundles"}
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))) <= known


def test_metrics_have_the_names_that_were_promised(gateway: RunningGateway, photo_png: bytes) -> None:
    gateway.stub.Edit(
        pb.EditRequest(picture=pb.Picture(data=photo_png), edits=[pb.EditStep(direction="smile", strength=1)])
    )
    text = gateway.http.get("/metrics").text
    for name in (
        'indomain_requests_total{code="OK",method="Edit"}',
        'indomain_batch_size_bucket{graph="tiny16_refiner",le="1.0"}',
        'indomain_queue_depth{graph="tiny16_encoder"}',
        'indomain_backend_up{address="embedded"} 1.0',
        "indomain_domain_score_bucket",
        "indomain_build_info{",
        'grpc_server_started_total{grpc_method="Edit",grpc_service="indomain.v1.Editing",grpc_type="unary"}',
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Edit"',
        "grpc_server_handling_seconds_bucket",
        "# TYPE indomain_rejected_total counter",
        "# TYPE indomain_cancelled_total counter",
    ):
        assert name in text, name
    for stage in ("align", "queue", "encode", "refine", "edit", "decode", "image"):
        assert f'indomain_stage_seconds_bucket{{le="0.0025",stage="{stage}"}}' in text
