"""JSON bodies: read through the contract, in either spelling, and strictly."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from indomain.v1 import editing_pb2 as pb
from indomain.wire.json import message_from_json, message_to_json
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway


def reason(gateway: RunningGateway, route: str, content: str) -> str:
    """The message of a refusal that says `malformed_request`."""
    headers = {"content-type": "application/json"}
    answer = gateway.http.post(f"/v1/{route}", content=content, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request"), answer.text
    message: str = answer.json()["message"]
    return message


def test_the_head_of_a_get_is_that_of_its_answer(gateway: RunningGateway) -> None:
    answer = gateway.http.head("/v1/bundles")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"


def test_names_are_read_in_both_spellings(gateway: RunningGateway) -> None:
    snake = gateway.http.post("/v1/sample", json={"seeds": [1], "output": {"omit_image": True}}).json()
    camel = gateway.http.post("/v1/sample", json={"seeds": [1], "output": {"omitImage": True}}).json()
    assert snake["images"] == camel["images"] == []
    assert snake["codes"][0]["data"] == camel["codes"][0]["data"]


@pytest.mark.parametrize(
    ("route", "body", "path"),
    [
        ("sample", {"seeds": [1], "sedes": [2]}, "sedes is unknown"),
        ("edit", {"edits": [{"direction": "smile", "strenght": 1}]}, "edits[0].strenght is unknown"),
        ("invert", {"picture": {"bytes": ""}}, "picture.bytes is unknown"),
        ("find-faces", {"pictures": {}}, "pictures is unknown"),
        ("mix", {"base": {"code": {"size": 1}}}, "base.code.size is unknown"),
        ("interpolate", {"number": 3}, "number is unknown"),
        ("watch-invert", {"interval": 3}, "interval is unknown"),
        ("diffuse", {"refine": {"step": 3}}, "refine.step is unknown"),
        ("decode", {"codes": [{"handle": "x"}, {"hande": "x"}]}, "codes[1].hande is unknown"),
        ("sample", {"seeds": 3}, "seeds"),
        ("sample", {"seeds": [1], "output": {"format": "gif"}}, "output.format is 'gif'; it is one of png"),
        ("sample", {"seeds": [1], "output": []}, "output is no JSON object"),
    ],
)
def test_what_is_wrong_is_named(gateway: RunningGateway, route: str, body: dict[str, Any], path: str) -> None:
    assert path in reason(gateway, route, json.dumps(body))


def test_forms_are_read_as_strictly(gateway: RunningGateway) -> None:
    picture = encoded(photograph(width=16, height=16))

    def message(files: dict[str, Any], options: str = "{}") -> str:
        answer = gateway.http.post("/v1/edit", files=files, data={"options": options})
        assert (answer.status_code, answer.json()["reason"]) == (400, "malformed_request"), answer.text
        text: str = answer.json()["message"]
        return text

    assert "edit is unknown" in message({"picture": picture}, '{"edit": []}')
    assert "'photo'" in message({"picture": picture, "photo": picture})


@pytest.mark.parametrize("item", ["0", "{}", "[]", '"a"'])
def test_millions_of_values_are_refused_before_they_are_built(gateway: RunningGateway, item: str) -> None:
    content = '{"codes":[' + ",".join([item] * 1_000_000) + "]}"
    assert "more than 20000 values" in reason(gateway, "decode", content)


def test_a_deeply_nested_body_is_refused(gateway: RunningGateway) -> None:
    assert "nested" in reason(gateway, "sample", '{"a":' * 9_000 + "1" + "}" * 9_000)


def test_a_message_comes_back_as_it_was() -> None:
    message = pb.EditSessionRequest(
        sequence=2**40,
        edit=pb.EditRequest(
            picture=pb.Picture(data=b"\xff\xfe", format=pb.IMAGE_FORMAT_RAW, width=1, height=1),
            edits=[pb.EditStep(direction="smile", strength=-0.1, layers=[1, 2], keep=["age"])],
            align=pb.AlignOptions(alignment=pb.ALIGNMENT_CENTRE_CROP, face=0),
            region=pb.Region(left=0.25),
        ),
    )
    values = message_to_json(message)
    assert values["sequence"] == 2**40
    assert values["edit"]["align"]["alignment"] == "centre-crop"
    text = json.dumps(values)
    assert message_from_json(json.loads(text), pb.EditSessionRequest, ignore_unknown_fields=False) == message
    assert message_from_json(json.loads(text) | {"news": 1}, pb.EditSessionRequest) == message


def _filled(kind: Any, random: Random, depth: int = 0) -> Message:
    """A message of a descriptor with about half of its fields set, to anything that they may hold."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if random.random() < 0.5 or depth > 4:
            continue
        within = field.message_type
        if within is not None and within.GetOptions().map_entry:
            getattr(message, field.name)[_text(random)] = random.randrange(-(2**31), 2**31)
        elif field.is_repeated:
            items = [_value(field, random, depth) for _ in range(random.randrange(3))]
            getattr(message, field.name).extend(items)
        elif within is not None:
            getattr(message, field.name).CopyFrom(_value(field, random, depth))
        else:
            setattr(message, field.name, _value(field, random, depth))
    return message


def _value(field: Any, random: Random, depth: int) -> Any:
    if field.message_type is not None:
        return _filled(field.message_type, random, depth + 1)
    if field.enum_type is not None:
        return random.choice(field.enum_type.values).number
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return random.choice([0.0, -0.0, 0.7, 1e-30, 3e38, random.gauss(0, 1), float("inf"), float("-inf")])
    if field.type == field.TYPE_BOOL:
        return random.random() < 0.5
    if field.type == field.TYPE_BYTES:
        return random.randbytes(random.randrange(9))
    if field.type == field.TYPE_STRING:
        return _text(random)
    bits = 64 if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else 31
    return random.getrandbits(bits - 1) * (1 if field.type == field.TYPE_UINT64 else random.choice([1, -1]))


def _text(random: Random) -> str:
    return "".join(chr(random.choice([65, 34, 92, 233, 0x1F600, 10])) for _ in range(random.randrange(4)))


@given(st.integers(0, 2**32))
def test_all_messages_are_written_as_protobuf_does(seed: int) -> None:
    random = Random(seed)
    kind = random.choice(list(pb.DESCRIPTOR.message_types_by_name.values()))
    message = _filled(kind, random)
    written = json.loads(json.dumps(message_to_json(message)))
    theirs = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _hold_equal(written, theirs, kind)
    assert message_from_json(written, type(message), ignore_unknown_fields=False) == message


def _hold_equal(ours: Any, theirs: Any, kind: Any) -> None:
    """Ours against protobuf's, but for what differs on purpose: wide integers, enums, a handle's shape."""
    for field in kind.fields:
        if field.enum_type is not None:
            continue
        if field.full_name == "indomain.v1.Code.shape" and not theirs[field.name]:
            assert field.name not in ours
            continue
        assert (field.name in ours) == (field.name in theirs), field.full_name
        if field.name not in theirs:
            continue
        our, their = ours[field.name], theirs[field.name]
        within = field.message_type
        if within is not None and not within.GetOptions().map_entry:
            pairs = zip(our, their, strict=True) if field.is_repeated else [(our, their)]
            for one, other in pairs:
                _hold_equal(one, other, within)
        elif field.type in (field.TYPE_INT64, field.TYPE_UINT64):
            assert our == ([int(item) for item in their] if field.is_repeated else int(their))
        else:
            assert our == their, field.full_name
