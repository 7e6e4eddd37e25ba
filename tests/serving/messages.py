"""Messages that tests send, made in one line."""

from __future__ import annotations

from typing import Any

from indomain.v1 import editing_pb2 as pb


def session_request(sequence: int = 0, **edit: Any) -> pb.EditSessionRequest:
    """A message of an edit session; `edit`: fields of an EditRequest."""
    return pb.EditSessionRequest(sequence=sequence, edit=pb.EditRequest(**edit))
