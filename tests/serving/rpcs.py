"""Every RPC of the contract, each with a small valid request, called in the same way over gRPC and over HTTP.

The names come from the service descriptor, and the routes follow from the names: an RPC that is added to the contract
is asked for here at once.
"""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.message import Message
from websockets.exceptions import InvalidStatus

from indomain.v1 import editing_pb2 as pb
from tests.serving.messages import as_message, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, answered, websocket

SERVICE = pb.DESCRIPTOR.services_by_name["Editing"]
RPCS = tuple(method.name for method in SERVICE.methods)
TRANSPORTS = ("grpc", "http")

_SMILE = [pb.EditStep(direction="smile", strength=1.0)]


def request_of(rpc: str) -> Message:
    """A valid request. Those with a picture refine for two steps at most."""
    code = as_message(np.full((6, 512), 0.05, np.float32))
    # Of the bundle's own size: taken as it is, no face is looked for.
    picture = pb.Picture(data=encoded(photograph(width=16, height=16)))
    source = pb.Source(code=code)
    refine = pb.RefineOptions(steps=2)
    middle = pb.Region(left=0.25, top=0.25, right=0.75, bottom=0.75)
    requests: dict[str, Message] = {
        "ListBundles": pb.ListBundlesRequest(),
        "FindFaces": pb.FindFacesRequest(picture=picture),
        "Invert": pb.InvertRequest(picture=picture, refine=refine),
        "WatchInvert": pb.WatchInvertRequest(picture=picture, refine=refine),
        "Edit": pb.EditRequest(code=code, edits=_SMILE),
        "EditSession": session_request(code=code, edits=_SMILE),
        "Decode": pb.DecodeRequest(codes=[code]),
        "Interpolate": pb.InterpolateRequest(start=source, end=source, count=2),
        "Mix": pb.MixRequest(base=source, style=source, layers=[0]),
        "Mean": pb.MeanRequest(sources=[source, source]),
        "Diffuse": pb.DiffuseRequest(target=picture, context=picture, region=middle, refine=refine),
        "Sample": pb.SampleRequest(seeds=[1]),
    }
    return requests[rpc]


def route_of(rpc: str) -> tuple[str, str]:
    """The HTTP verb and path: the RPC's name in kebab case. ListBundles is the one that reads a resource."""
    if rpc == "ListBundles":
        return "GET", "/v1/bundles"
    return "POST", "/v1/" + re.sub(r"(?<!^)(?=[A-Z])", "-", rpc).lower()


def call(
    running: RunningGateway,
    rpc: str,
    transport: str,
    *,
    padding_bytes: int = 0,
    key: str | None = None,
    traceparent: str | None = None,
) -> str:
    """Calls an RPC and reads all that it answers. Gives "" after a success, otherwise the reason of its error.

    `padding_bytes` make the request longer and mean nothing: an unknown field over gRPC, white space in JSON.
    """
    headers = {}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    if traceparent is not None:
        headers["traceparent"] = traceparent
    if transport == "grpc":
        return _call_grpc(running, rpc, padding_bytes, headers)
    body = json.dumps(json_format.MessageToDict(request_of(rpc), preserving_proto_field_name=True))
    body += " " * padding_bytes
    if SERVICE.methods_by_name[rpc].client_streaming:
        return _call_websocket(running, body, headers)
    return _call_http(running, rpc, body, headers)


def _call_grpc(running: RunningGateway, rpc: str, padding_bytes: int, headers: dict[str, str]) -> str:
    method = SERVICE.methods_by_name[rpc]
    request: Any = _padded(request_of(rpc), padding_bytes)
    if method.client_streaming:
        request = iter([request])
    try:
        answer = getattr(running.stub, rpc)(request, timeout=30, metadata=tuple(headers.items()))
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return pb.ErrorDetail.FromString(dict(error.trailing_metadata())["indomain-error-bin"]).reason
    return ""


def _padded(request: Message, count: int) -> Message:
    """The request with a field of `count` bytes that its type does not know: options have number 999 for what is left
    to interpret, and nothing of the contract has."""
    if count:
        unknown = descriptor_pb2.UninterpretedOption(string_value=bytes(count))
        request.MergeFromString(
            descriptor_pb2.MessageOptions(uninterpreted_option=[unknown]).SerializeToString()
        )
    return request


def _call_http(running: RunningGateway, rpc: str, body: str, headers: dict[str, str]) -> str:
    verb, path = route_of(rpc)
    content = body if verb == "POST" else None
    answer = running.http.request(
        verb, path, content=content, headers={"content-type": "application/json", **headers}
    )
    if answer.status_code != 200:
        return str(answer.json()["reason"])
    error = re.search(r"^event: error\ndata: (.*)$", answer.text, re.MULTILINE)
    return str(json.loads(error[1])["reason"]) if error else ""


def _call_websocket(running: RunningGateway, body: str, headers: dict[str, str]) -> str:
    try:
        connection = websocket(running, additional_headers=headers)
    except InvalidStatus as refused:
        return str(json.loads(refused.response.body or b"{}")["reason"])
    with connection:
        connection.send(body)
        answer = answered(connection)
        # What ends the session is told by itself, what a single message did wrong within its answer.
        return str(answer.get("reason") or answer.get("error", {}).get("reason", ""))
