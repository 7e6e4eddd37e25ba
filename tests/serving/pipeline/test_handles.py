"""Code handles: what a gateway keeps, for whom and how long; and that nothing depends on it."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import indomain
from indomain.v1 import editing_pb2 as pb
from serving.errors import UnknownCodeHandle
from serving.pipeline.handles import CodeHandles
from tests.serving.messages import as_message, close, code_of, image_of
from tests.serving.running_gateway import RunningGateway
from tests.serving.waiting import FakeClock

SMILE = [pb.EditStep(direction="smile", strength=2.0)]
RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW)


def code(value: float) -> np.ndarray:
    return np.full((2, 4), value, np.float32)


def knows(handles: CodeHandles, owner: str, handle: str, bundle: str = "faces") -> bool:
    try:
        handles.find(owner, bundle, handle)
    except UnknownCodeHandle:
        return False
    return True


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_handle_is_its_owners_and_its_bundles_alone() -> None:
    handles = CodeHandles(10, 10, 60.0)
    handle = handles.keep("ada", "faces", code(1.0))
    np.testing.assert_array_equal(handles.find("ada", "faces", handle), code(1.0))
    assert not knows(handles, "eve", handle)
    assert not knows(handles, "ada", handle, "cats")
    assert not knows(handles, "ada", "x" * 1000)


def test_what_was_used_longest_ago_goes_first() -> None:
    handles = CodeHandles(max_codes=3, max_per_owner=2, expiry_s=60.0)
    first, second = handles.keep("ada", "faces", code(1)), handles.keep("ada", "faces", code(2))
    assert knows(handles, "ada", first)  # used again
    third = handles.keep("ada", "faces", code(3))  # one too many for one owner
    assert [knows(handles, "ada", handle) for handle in (first, second, third)] == [True, False, True]
    handles.keep("bob", "faces", code(4))
    handles.keep("bob", "faces", code(5))  # one too many for all
    assert [knows(handles, "ada", handle) for handle in (first, third)] == [False, True]
    assert len(handles) == 3


async def test_what_nobody_asks_for_expires() -> None:
    clock = FakeClock()
    handles = CodeHandles(10, 10, expiry_s=60.0, clock=clock)
    used, unused = handles.keep("ada", "faces", code(1)), handles.keep("ada", "faces", code(2))
    await clock.advance(40.0)
    assert knows(handles, "ada", used)
    await clock.advance(40.0)
    assert knows(handles, "ada", used)
    assert not knows(handles, "ada", unused)
    await clock.advance(61.0)
    assert len(handles) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 30)), max_size=60))
def test_bounds_hold_whatever_is_done(operations: list[tuple[str, bool, int]]) -> None:
    handles = CodeHandles(max_codes=5, max_per_owner=3, expiry_s=60.0)
    given_out: list[tuple[str, str]] = []
    for owner, keep, number in operations:
        if keep or not given_out:
            given_out.append((owner, handles.keep(owner, "faces", code(1))))
            assert knows(handles, *given_out[-1])  # the newest is always there
        else:
            knows(handles, *given_out[number % len(given_out)])
        assert len(handles) <= 5
        alive = [owner for owner, handle in given_out if handle in handles._kept]
        assert all(alive.count(owner) <= 3 for owner in "abc")
        assert sorted(alive) == sorted(o for o, own in handles._of_owner.items() for _ in own)


# --- over the wire ---------------------------------------------------------------------------------------------------


def test_an_edit_by_handle_is_the_edit_of_the_code(gateway: RunningGateway, photo_png: bytes) -> None:
    inverted = gateway.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=photo_png)), timeout=20)
    by_code = pb.EditRequest(code=as_message(code_of(inverted.code)), edits=SMILE, output=RAW)
    by_handle = pb.EditRequest(code=pb.Code(handle=inverted.code.handle), edits=SMILE, output=RAW)
    assert by_handle.ByteSize() < 100
    expected, found = gateway.stub.Edit(by_code, timeout=20), gateway.stub.Edit(by_handle, timeout=20)
    close(image_of(found.image), image_of(expected.image))
    np.testing.assert_array_equal(code_of(found.source_code), code_of(inverted.code))
    assert found.source_code.handle == inverted.code.handle

    by_handle.output.omit_codes = True
    assert gateway.stub.Edit(by_handle, timeout=20).code.data == b""
    decoded = gateway.stub.Decode(pb.DecodeRequest(codes=[pb.Code(handle=found.code.handle)], output=RAW))
    close(image_of(decoded.images[0]), image_of(found.image))

    body = {
        "code": {"handle": inverted.code.handle},
        "edits": [{"direction": "smile", "strength": 2.0}],
        "output": {"format": "raw", "omit_codes": True},
    }
    over_http = gateway.http.post("/v1/edit", json=body).json()
    close(image_of(over_http["image"]), image_of(expected.image))
    assert set(over_http["code"]) == {"handle", "space"}


def test_an_unknown_handle_is_told_to_send_the_code(gateway: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        gateway.stub.Edit(pb.EditRequest(code=pb.Code(handle="long gone"), edits=SMILE))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    detail = pb.ErrorDetail.FromString(dict(raised.value.trailing_metadata())["indomain-error-bin"])
    assert (detail.reason, detail.retryable) == ("unknown_code_handle", False)
    assert "send the code" in detail.message
    answer = gateway.http.post("/v1/decode", json={"codes": [{"handle": "long gone"}]})
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_code_handle")


@pytest.mark.parametrize("kept", [0, 1])
def test_nothing_depends_on_a_handle_being_there(
    start_gateway: Callable[..., RunningGateway], photo_png: bytes, kept: int
) -> None:
    running = start_gateway(max_code_handles=kept)
    with indomain.Client(running.target, picture_format="raw") as client:
        inversion = client.invert(photo_png)
        assert bool(inversion.handle) == bool(kept)
        first = inversion.edit(smile=1.0)  # which takes the one place
        second = inversion.edit(smile=1.0)  # so that this falls back on the code
        assert np.abs(first.pixels.astype(int) - second.pixels.astype(int)).max() <= 1
        back = client.edit(second, smile=-1.0)
        np.testing.assert_allclose(back.code, inversion.code, atol=1e-4)
    omitted = pb.OutputOptions(omit_codes=True)
    answer = running.stub.Invert(pb.InvertRequest(picture=pb.Picture(data=photo_png), output=omitted))
    assert bool(answer.code.data) == (kept == 0)  # a code without a handle is never left out
