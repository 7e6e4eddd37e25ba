"""What makes the messages that tests send, and what reads those that come back."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import numpy as np
import pytest

from indomain.v1 import editing_pb2 as pb
from tests.serving.running_gateway import RunningGateway


def session_request(sequence: int = 0, **edit: Any) -> pb.EditSessionRequest:
    """A message of an edit session; `edit`: fields of an EditRequest."""
    return pb.EditSessionRequest(sequence=sequence, edit=pb.EditRequest(**edit))


def code_of(code: pb.Code | dict) -> np.ndarray:
    """The latent code of a message or of its JSON, float32 in the shape that it names."""
    if isinstance(code, dict):
        code = pb.Code(data=base64.b64decode(code["data"]), shape=code["shape"])
    return np.frombuffer(code.data, "<f4").reshape(tuple(code.shape))


def image_of(picture: pb.Picture | dict) -> np.ndarray:
    """The pixels of a raw picture, or of its JSON: uint8 [height, width, 3]."""
    if isinstance(picture, dict):
        picture = pb.Picture(
            data=base64.b64decode(picture["data"]), width=picture["width"], height=picture["height"]
        )
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)


def as_json(code: np.ndarray) -> dict:
    """A latent code as a JSON body has it."""
    return {"data": base64.b64encode(code.astype("<f4").tobytes()).decode(), "shape": list(code.shape)}


def as_message(code: np.ndarray) -> pb.Code:
    """A latent code as a message."""
    return pb.Code(data=code.astype("<f4").tobytes(), shape=code.shape)


def close(one: np.ndarray, other: np.ndarray) -> None:
    """Asserts that two results are equal but for rounding: batches of other sizes may add up in another order."""
    assert one.shape == other.shape
    if one.dtype == np.uint8:
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    else:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def sampled(gateway: RunningGateway, *seeds: int) -> list[np.ndarray]:
    """The latent codes of seeds."""
    return [code_of(code) for code in gateway.stub.Sample(pb.SampleRequest(seeds=seeds)).codes]


def refusal(call: object, request: object) -> str:
    """Calls an RPC that must fail. Gives the reason of its error."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=20)  # type: ignore[operator]
    trailing = dict(raised.value.trailing_metadata())
    return pb.ErrorDetail.FromString(trailing["indomain-error-bin"]).reason
