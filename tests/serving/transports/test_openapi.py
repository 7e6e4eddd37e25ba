"""The OpenAPI document: made from the contract, with what its comments say and what its options accept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from indomain.v1 import editing_pb2 as pb
from tests.serving.running_gateway import RunningGateway


@pytest.fixture(scope="module")
def document(gateway: RunningGateway) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.http.get("/openapi.json").json()
    return answer


@pytest.fixture(scope="module")
def schemas(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


def test_every_field_of_every_message_is_there(schemas: dict[str, Any]) -> None:
    for method in pb.DESCRIPTOR.services_by_name["Editing"].methods:
        for message in (method.input_type, method.output_type):
            assert list(schemas[message.name]["properties"]) == [field.name for field in message.fields]
            assert schemas[message.name]["additionalProperties"] is False


def test_fields_say_what_the_contracts_comments_say(schemas: dict[str, Any]) -> None:
    assert "Whose code it is" in schemas["Code"]["properties"]["space"]["description"]
    assert "added up" in schemas["EditRequest"]["properties"]["edits"]["description"]
    assert schemas["Region"]["description"] == "A rectangle, in parts of the picture's sides."
    # of a oneof: which fields exclude each other, and its own comment
    assert (
        "At most one of: region, mask. only there the picture changes"
        in schemas["EditRequest"]["description"]
    )


def test_operations_say_what_the_contracts_comments_say(document: dict[str, Any]) -> None:
    mixed = "Layers of one code put into another, everywhere or in an area."
    assert document["paths"]["/v1/mix"]["post"]["description"] == mixed
    assert "websocket" in document["paths"]["/v1/edit-session"]["get"]["description"]
    kinds = document["paths"]["/v1/watch-invert"]["post"]["responses"]["200"]
    assert "`progress`: InvertProgress, `result`: InvertResponse" in kinds["description"]


def test_enums_have_the_names_that_are_answered(schemas: dict[str, Any]) -> None:
    assert schemas["ImageFormat"]["enum"] == ["png", "jpeg", "webp", "raw"]
    assert schemas["Alignment"]["enum"] == ["face", "centre-crop"]
    assert "not_refined" in schemas["StopReason"]["enum"]
    assert "`raw`: uint8 [height, width, 3]" in schemas["ImageFormat"]["description"]


def test_pictures_may_come_as_files(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/edit"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data", "application/json", "image/*"]
    form = content["multipart/form-data"]["schema"]["properties"]
    assert list(form) == ["picture", "mask", "strokes", "options"]
    assert list(document["paths"]["/v1/mean"]["post"]["requestBody"]["content"]) == ["application/json"]


def test_no_reference_leads_nowhere(document: dict[str, Any], schemas: dict[str, Any]) -> None:
    referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert referred <= schemas.keys()


# --- limits ----------------------------------------------------------------------------------------------

LIMITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "OutputOptions.quality": ("maximum", "sample", {"seeds": [1], "output": {"quality": "LIMIT"}}),
    "EditStep.strength": ("maximum", "edit", {"edits": [{"direction": "smile", "strength": "LIMIT"}]}),
    "SampleRequest.truncation": ("maximum", "sample", {"seeds": [1], "truncation": "LIMIT"}),
    "RefineOptions.steps": ("maximum", "diffuse", {"refine": {"steps": "LIMIT"}}),
    "RefineOptions.downsampling": ("maximum", "diffuse", {"refine": {"downsampling": "LIMIT"}}),
    "InterpolateRequest.count": ("maximum", "interpolate", {"count": "LIMIT"}),
    "SampleRequest.seeds": ("maxItems", "sample", {"seeds": "LIMIT"}),
    "EditRequest.edits": ("maxItems", "edit", {"edits": "LIMIT"}),
    "MeanRequest.sources": ("maxItems", "mean", {"sources": "LIMIT"}),
    # More of them in tests/serving/pipeline/test_labels.py, which has a bundle with labels.
    "EditRequest.label": ("maximum", "edit", {"label": {"smiling": "LIMIT"}}),
    "SampleRequest.label": ("maximum", "sample", {"seeds": [1], "label": {"smiling": "LIMIT"}}),
    "DecodeRequest.codes": ("maxItems", "decode", {"codes": "LIMIT"}),
}


def test_each_limit_of_the_contract_is_tried_here() -> None:
    limited = {
        f"{message.name}.{field.name}"
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.GetOptions().HasExtension(pb.accepted)
    }
    assert limited == LIMITS.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_beyond_a_limit_is_refused(
    name: str, gateway: RunningGateway, schemas: dict[str, Any]
) -> None:
    keyword, route, body = LIMITS[name]
    message, field = name.split(".")
    described = schemas[message]["properties"][field]
    limit = described.get("additionalProperties", described)[keyword]
    sampled = gateway.http.post("/v1/sample", json={"seeds": [1]}).json()
    code = {key: sampled["codes"][0][key] for key in ("data", "shape")}
    picture = {"data": sampled["images"][0]["data"]}
    sources: dict[str, dict[str, Any]] = {
        "edit": {"code": code},
        "interpolate": {"start": {"code": code}, "end": {"code": code}},
        "diffuse": {"target": picture, "context": picture},
    }
    text = json.dumps(sources.get(route, {}) | body)

    def answer(value: Any) -> Any:
        sent = text.replace('"LIMIT"', json.dumps(value))
        return gateway.http.post(f"/v1/{route}", content=sent, headers={"content-type": "application/json"})

    if keyword == "maximum":
        assert answer(limit + 1).json()["reason"] == "invalid_option"
        return
    edit = {"direction": "smile", "strength": 0.01}
    items = {"seeds": 1, "edits": edit, "codes": code, "sources": {"code": code}}
    assert answer([items[field]] * (limit + 1)).json()["reason"] in ("invalid_option", "invalid_code")
    assert answer([items[field]] * limit).status_code == 200
