"""Options of an edit: one declaration for all that edit, and names that a strength must not be taken for."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

import indomain
from indomain.calls import editing
from indomain.calls.options import align_options, refine_options
from tests.clients.scripted_gateway import ScriptedGateway

EDITS = [
    indomain.Client.edit,
    indomain.AsyncClient.edit,
    indomain.Inversion.edit,
    indomain.AsyncInversion.edit,
]
SESSION_EDITS = [
    method
    for session in (indomain.EditSession, indomain.AsyncEditSession)
    for method in (session.send, session.edit)
]


def options(call: object) -> list[inspect.Parameter]:
    """All parameters but self and the source."""
    parameters = inspect.signature(call).parameters  # type: ignore[arg-type]
    return [parameter for name, parameter in parameters.items() if name not in ("self", "source")]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__qualname__)
def test_everything_that_edits_takes_the_options_of_one_declaration(edit: object) -> None:
    assert options(edit) == options(editing.edit)


@pytest.mark.parametrize("edit", SESSION_EDITS, ids=lambda edit: edit.__qualname__)
def test_a_session_takes_those_that_concern_each_edit(edit: object) -> None:
    expected = [option for option in options(editing.edit) if option.name not in editing.OPENING_OPTIONS]
    assert options(edit) == expected
    assert {"keep", "region", "mask", "strokes", "strengths"} <= {option.name for option in expected}


def test_every_field_of_an_edit_has_its_option() -> None:
    """A field of EditRequest that the SDK does not know would be out of its users' reach."""
    built_of = {"picture": "source", "code": "source", "output": "include_pasted"}
    parameters = inspect.signature(editing.edit).parameters
    fields = editing.edit(np.zeros((1, 512), np.float32), timeout_s=None).request.DESCRIPTOR.fields_by_name
    assert [name for name in fields if built_of.get(name, name) not in parameters] == []


def test_a_session_refuses_options_of_its_opening(client: indomain.Client) -> None:
    with (
        client.session(np.zeros((1, 512), np.float32)) as session,
        pytest.raises(TypeError, match=r"takes quality, steps when it is opened"),
    ):
        session.send(smile=1.0, steps=3, quality="fast")


def test_an_unknown_option_is_refused(client: indomain.Client) -> None:
    with pytest.raises(TypeError, match="stps"):
        client.invert(b"", stps=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'regoin'"):
        client.edit(np.zeros((1, 512), np.float32), smile=1.0, regoin=(0, 0, 1, 1))  # type: ignore[arg-type]


def test_an_option_of_the_command_line_is_passed_on_by_its_name(
    gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indomain.cli import main

    monkeypatch.chdir(tmp_path)
    np.save("a.npy", gateway.code)
    flags = ["--keep", "age,pose", "--region", "0,0.5,1,1", "--bundle", "tiny", "--steps", "3"]
    assert main(["edit", "a.npy", "smile=1", *flags, "-o", "a.png", "--server", gateway.address]) == 0
    request = gateway.requests[-1]
    assert list(request.edits[0].keep) == ["age", "pose"]
    assert (request.region.top, request.bundle, request.refine.steps) == (0.5, "tiny", 3)


def test_the_former_name_of_a_frame_still_works(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="InterpolationFrame"):
        former = indomain.Between
    assert former is indomain.InterpolationFrame
    with pytest.raises(AttributeError, match="Betwen"):
        _ = indomain.Betwen  # type: ignore[attr-defined]


def test_words_stand_for_options_of_one_obvious_field(
    client: indomain.Client, gateway: ScriptedGateway
) -> None:
    """As on the command line."""
    client.invert(np.zeros((5, 5, 3), np.uint8), align="centre-crop", refine="fast")
    sent = gateway.requests[-1]
    assert sent.align == align_options(indomain.Align("centre-crop"))
    assert sent.refine == refine_options(None, None, indomain.Refine(quality="fast"))
    with pytest.raises(ValueError, match="one of face, centre-crop"):
        client.invert(np.zeros((5, 5, 3), np.uint8), align="left")  # type: ignore[arg-type]
