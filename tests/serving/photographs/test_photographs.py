"""Any photograph: faces are found and brought into place, results are pasted back, and what cannot be is said.

Geometry on made pictures; faces on the examples' photographs, by the shipped detector in a tiny bundle.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indomain.v1 import editing_pb2 as pb
from serving.bundle import FaceTemplate
from serving.photographs.alignment import CORNERS, Similarity, corners_agree
from serving.photographs.faces import Detection, why_unusable
from serving.photographs.pasting import Patch, paste, soft_mask
from serving.photographs.photograph import Photograph
from tests import shipped
from tests.serving.messages import code_of, session_request
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.tiny_bundle import write_tiny_bundle

EXAMPLES = Path(__file__).parents[3] / "clients/python/examples"
ASTRONAUT, HOPPER, PORTRAIT = (
    Image.open(EXAMPLES / name).convert("RGB") for name in ("astronaut.jpg", "hopper.jpg", "portrait.png")
)
few = settings(max_examples=40, deadline=None)
places = st.builds(
    Similarity.square,
    st.complex_numbers(max_magnitude=40).map(lambda offset: 60 + 50j + offset),
    st.floats(20, 110),
    st.floats(-180, 180),
)

# --- geometry -----------------------------------------------------------------------------------------------------


@few
@given(place=places, other=places)
def test_similarities_compose_and_invert(place: Similarity, other: Similarity) -> None:
    points = np.array([[0.2, 0.9], [3.0, -1.0], [0.0, 0.0]])
    assert np.allclose(place.inverse()(place(points)), points)
    assert np.allclose(place.after(other)(points), place(other(points)))
    assert np.allclose(Similarity.of_corners(place.corners)(points), place(points))
    assert np.allclose(Similarity.fit(points, place(points))(CORNERS), place(CORNERS))


def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    waves = [np.sin(x / 17) * np.cos(y / 23), np.cos((x + y) / 19), np.sin((x - 2 * y) / 31)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


SMOOTH = smooth(*np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5))


@few
@given(place=places)
def test_a_cut_is_what_lies_there(place: Similarity) -> None:
    side = 32
    at = (np.arange(side) + 0.5) / side
    points = place(np.stack(np.meshgrid(at, at), -1))
    inside = ((points > 3) & (points < np.array([117, 97]))).all(-1)
    found = Photograph(Image.fromarray(SMOOTH)).cut(place, side)
    wanted = smooth(points[..., 0], points[..., 1])
    assert found.shape == (side, side, 3)
    assert np.abs(found.astype(int) - wanted)[inside].max(initial=0) <= 6


def test_beyond_its_borders_a_photograph_goes_on_mirrored() -> None:
    place = Similarity.square(0 + 50j, 60)
    cut = Photograph(Image.fromarray(SMOOTH)).cut(place, 60)
    assert np.abs(cut[:, :30].astype(int) - cut[:, :29:-1]).max() <= 2


def test_what_is_shrunk_is_averaged() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    cut = Photograph(Image.fromarray(stripes)).cut(Similarity.square(200 + 200j, 300, 17.0), 16)
    assert np.abs(cut.astype(int) - 128).max() <= 12


@few
@given(place=places, face=st.booleans())
def test_pasting_what_was_cut_gives_the_photograph_back(place: Similarity, face: bool) -> None:
    picture = Photograph(Image.fromarray(SMOOTH))
    cut = picture.cut(place, 64)
    paste(picture, [Patch(place, cut, cut, face)])
    assert np.array_equal(picture.pixels, SMOOTH)
    paste(picture, [Patch(place, None, cut, face)])
    replaced = picture.pixels
    inside = ((place(CORNERS) > 0) & (place(CORNERS) < np.array([120, 100]))).all()
    if inside:
        assert np.abs(replaced.astype(int) - SMOOTH).max() <= 8


def test_a_change_ends_before_the_squares_border() -> None:
    place = Similarity.square(60 + 50j, 70, 30.0)
    grey, light = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 130, np.uint8)
    for face in (False, True):
        picture = Photograph(Image.fromarray(SMOOTH))
        paste(picture, [Patch(place, grey, light, face)])
        moved = picture.pixels.astype(int) - SMOOTH
        points = np.stack(np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5), -1)
        within = place.inverse()(points)
        outside = ((within < 0.0) | (within > 1.0)).any(-1)
        assert not moved[outside].any()
        assert moved[50, 60].min() >= 25
        assert np.abs(np.diff(moved, axis=1)).max() <= 8  # no step anywhere: no seam
        assert soft_mask(32, face=face).max() == pytest.approx(1.0)


def test_patches_that_overlap_leave_no_seam() -> None:
    """Two results of one change: where they overlap it is the change once, and there is no step anywhere."""
    places = [Similarity.square(45 + 50j, 70, 10.0), Similarity.square(75 + 50j, 70, -20.0)]
    before, after = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 130, np.uint8)

    def moved(*where: Similarity) -> np.ndarray:
        picture = Photograph(Image.fromarray(SMOOTH))
        paste(picture, [Patch(place, before, after, False) for place in where])
        return picture.pixels.astype(int) - SMOOTH

    both = moved(*places)
    assert both.max() <= 31
    assert both[50, 60].min() >= 28
    assert np.abs(np.diff(both, axis=1)).max() <= 8
    assert np.abs(both - moved(*places[::-1])).max() <= 1
    # Beside the overlap each is as it is alone.
    left = places[1].inverse()(np.stack(np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5), -1))
    beside = ((left < 0.0) | (left > 1.0)).any(-1)
    assert np.array_equal(both[beside], moved(places[0])[beside])


def test_no_colours_come_into_a_photograph_of_one_tone() -> None:
    """Black and white, and sepia; a photograph in colours takes the change's."""
    place = Similarity.square(60 + 50j, 70, 30.0)
    before, after = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), (140, 100, 90), np.uint8)
    grey = np.repeat(SMOOTH.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    sepia = (grey * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    pictures = [Photograph(Image.fromarray(own)) for own in (grey, sepia, SMOOTH)]
    for picture in pictures:
        paste(picture, [Patch(place, before, after, True)])
    pasted = [picture.pixels.astype(int) for picture in pictures]
    assert pasted[0][50, 60, 0] > grey[50, 60, 0] + 5
    assert np.ptp(pasted[0], axis=2).max() <= 1
    assert np.abs(pasted[1] - pasted[1][:, :, :1] * np.array([1.0, 0.8, 0.6])).max() <= 3
    moved = pasted[2] - SMOOTH
    assert moved[50, 60, 0] > 25
    assert moved[50, 60, 2] < 0


# --- faces --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    repository = tmp_path_factory.mktemp("faces")
    write_tiny_bundle(repository, faces=True)
    write_tiny_bundle(repository, "uncropped", seed=8)
    write_tiny_bundle(repository, "frontal", seed=9, faces=True)
    manifest = json.loads((repository / "frontal.json").read_text())
    manifest["face"]["max_turn"] = 1e-6
    (repository / "frontal.json").write_text(json.dumps(manifest))
    running = RunningGateway(settings_for(repository, bundles="tiny16,uncropped,frontal"))
    yield running
    running.close()


def jpeg(picture: Image.Image, **options: Any) -> pb.Picture:
    return pb.Picture(data=encoded(np.asarray(picture), "JPEG", quality=95, **options))


def image_of(picture: pb.Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"))


def find(gateway: RunningGateway, picture: Image.Image) -> pb.FindFacesResponse:
    return gateway.stub.FindFaces(pb.FindFacesRequest(picture=jpeg(picture)))


def invert(gateway: RunningGateway, picture: Image.Image | pb.Picture, **fields: Any) -> pb.InvertResponse:
    if isinstance(picture, Image.Image):
        picture = jpeg(picture)
    return gateway.stub.Invert(
        pb.InvertRequest(
            picture=picture,
            refine=pb.RefineOptions(steps=0),
            output=pb.OutputOptions(include_aligned=True, **fields.pop("output", {})),
            **fields,
        )
    )


def square_of(answer: pb.InvertResponse | pb.Face) -> Similarity:
    corners = answer.placement.corners if isinstance(answer, pb.InvertResponse) else answer.corners
    return Similarity.of_corners([(corner.x, corner.y) for corner in corners])


@pytest.fixture(scope="module")
def both() -> Image.Image:
    """Two people; the astronaut is the smaller one, on the left and low."""
    group = Image.new("RGB", (1100, 700), (90, 110, 140))
    group.paste(ASTRONAUT, (30, 180))
    group.paste(HOPPER, (570, 60))
    return group


def test_the_largest_face_comes_first_and_others_by_their_number(
    gateway: RunningGateway, both: Image.Image
) -> None:
    found = find(gateway, both)
    assert (len(found.faces), found.width, found.height) == (2, 1100, 700)
    hopper, astronaut = found.faces
    assert hopper.box.left > 700 > 400 > astronaut.box.right
    assert not hopper.unusable
    assert not astronaut.unusable
    for number, face in enumerate(found.faces):
        answer = invert(gateway, both, align=pb.AlignOptions(face=number))
        assert (answer.placement.face, answer.placement.faces) == (number, 2)
        assert answer.placement.alignment == pb.ALIGNMENT_FACE
        assert corners_agree(square_of(answer), square_of(face), 0.12)
    assert invert(gateway, both).placement.face == 0


@pytest.mark.parametrize(
    ("roll", "scale"), [(0, 1.7), (25, 1.0), (-40, 1.3), (8, 0.6), (90, 1.0), (180, 1.0)]
)
def test_the_same_face_gives_the_same_crop_however_it_lies(
    gateway: RunningGateway, roll: float, scale: float
) -> None:
    straight = invert(gateway, HOPPER)
    size = (round(HOPPER.width * scale), round(HOPPER.height * scale))
    turned = HOPPER.resize(size, Image.Resampling.LANCZOS).rotate(
        -roll, Image.Resampling.BICUBIC, expand=True, fillcolor=(90, 110, 140)
    )
    answer = invert(gateway, turned)
    middle = [(half / 2) for half in turned.size]
    expected = Similarity.square(complex(*middle), 1, roll).after(Similarity(scale, 0j))
    there = Similarity(
        expected.turn, complex(*middle) - expected.turn * complex(HOPPER.width, HOPPER.height) / 2
    )
    assert corners_agree(square_of(answer), there.after(square_of(straight)), 0.06)
    apart = image_of(answer.aligned).astype(int) - image_of(straight.aligned)
    assert np.abs(apart).mean() < 12


def test_exif_orientation_counts(gateway: RunningGateway) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter to stand upright
    lying = jpeg(HOPPER.transpose(Image.Transpose.ROTATE_90), exif=exif)
    answer = invert(gateway, lying, output={"include_pasted": True})
    assert (answer.placement.width, answer.placement.height) == HOPPER.size
    assert (answer.pasted.width, answer.pasted.height) == HOPPER.size
    assert corners_agree(square_of(answer), square_of(invert(gateway, HOPPER)), 0.03)


def test_a_small_face_on_a_large_photograph_and_one_at_the_border(gateway: RunningGateway) -> None:
    large = Image.new("RGB", (3000, 2000), (40, 90, 60))
    large.paste(ASTRONAUT.resize((400, 400), Image.Resampling.LANCZOS), (2500, 1500))
    answer = invert(gateway, large)
    assert answer.placement.faces == 1
    assert answer.placement.box.left > 2500
    cut = HOPPER.crop((190, 0, 512, 600))  # an ear and a cheek are gone
    answer = invert(gateway, cut, output={"include_pasted": True})
    assert min(corner.x for corner in answer.placement.corners) < 0
    assert (answer.pasted.width, answer.pasted.height) == cut.size


def test_a_picture_in_place_already_is_taken_as_it_is(gateway: RunningGateway) -> None:
    crop = pb.AlignOptions(alignment=pb.ALIGNMENT_CENTRE_CROP)
    for picture, faces in ((PORTRAIT, 1), (Image.fromarray(photograph(3, 16, 16)), 0)):
        itself, cropped = invert(gateway, picture), invert(gateway, picture, align=crop)
        assert itself.aligned == cropped.aligned
        assert itself.code.data == cropped.code.data
        assert itself.placement.faces == faces
    off_centre = Image.new("RGB", (500, 400))
    off_centre.paste(PORTRAIT, (10, 100))
    assert invert(gateway, off_centre).placement.alignment == pb.ALIGNMENT_FACE


@pytest.mark.parametrize(
    ("picture", "align", "reason", "said"),
    [
        (Image.fromarray(photograph(1, 200, 150)), {}, "no_face", "No face was found"),
        (HOPPER, {"face": 1}, "no_such_face", "the picture has 1"),
        (HOPPER, {"face": -1}, "no_such_face", "the picture has 1"),
        (HOPPER, {"bundle": "frontal"}, "face_not_usable", "turned away too far"),
        (HOPPER, {"alignment": "centre-crop", "face": 0}, "invalid_option", "by faces only"),
    ],
)
def test_what_cannot_be_aligned_is_said_alike_on_both_transports(
    gateway: RunningGateway, picture: Image.Image, align: dict[str, Any], reason: str, said: str
) -> None:
    align = dict(align)
    bundle = align.pop("bundle", "")
    wire = {"centre-crop": pb.ALIGNMENT_CENTRE_CROP}
    options = pb.AlignOptions(alignment=wire.get(align.get("alignment", "")), face=align.get("face"))
    with pytest.raises(grpc.RpcError) as raised:
        invert(gateway, picture, align=options, bundle=bundle)
    (detail,) = [v for k, v in raised.value.trailing_metadata() if k == "indomain-error-bin"]
    told = pb.ErrorDetail.FromString(detail)
    answer = gateway.http.post(
        "/v1/invert",
        files={"picture": jpeg(picture).data},
        data={"options": json.dumps({"bundle": bundle, "refine": {"steps": 0}, "align": align})},
    )
    assert answer.status_code == (400 if reason == "invalid_option" else 422)
    for found in (told.reason, answer.json()["reason"]):
        assert found == reason
    assert told.stage == answer.json()["stage"] == "align"
    assert said in told.message
    assert told.message == answer.json()["message"]


def test_a_face_too_small_or_turned_away_is_not_edited() -> None:
    """As the shipped bundle's template has it: the nose within `max_turn`, the eyes at least half as far apart."""
    template = FaceTemplate.model_validate(shipped.MANIFEST["face"])
    left_eye, right_eye = template.points[:2]
    between_eyes = float(np.linalg.norm(right_eye - left_eye))
    points = np.array([[100.0, 100], [160, 100], [130, 140], [105, 170], [150, 170]])
    face = Detection(0.9, np.array([80.0, 60, 190, 200]), points)
    points[2, 0] = 130 + 60 * 1.1 * template.max_turn
    assert "turned away" in why_unusable(face, template, shipped.RESOLUTION)
    points[2, 0] = 130 + 60 * 0.9 * template.max_turn
    assert why_unusable(face, template, shipped.RESOLUTION) == ""
    largest = int(60 / (between_eyes / 2))
    assert why_unusable(face, template, largest) == ""
    needed = between_eyes / 2 * 2 * largest
    assert f"60.0 pixels apart, and {needed:.1f} are needed" in why_unusable(face, template, 2 * largest)


def test_a_bundle_without_faces_says_so(gateway: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError, match="not aligned by faces"):
        invert(gateway, HOPPER, bundle="uncropped", align=pb.AlignOptions(alignment=pb.ALIGNMENT_FACE))
    with pytest.raises(grpc.RpcError, match="not aligned by faces"):
        gateway.stub.FindFaces(pb.FindFacesRequest(bundle="uncropped", picture=jpeg(HOPPER)))


# --- pasted answers -----------------------------------------------------------------------------------------------


def test_http_answers_what_grpc_does(gateway: RunningGateway, both: Image.Image) -> None:
    options = {
        "edits": [{"direction": "smile", "strength": 2}],
        "refine": {"steps": 0},
        "output": {"include_pasted": True},
        "align": {"alignment": "face", "face": 1},
    }
    request = pb.EditRequest(
        picture=jpeg(both),
        edits=[pb.EditStep(direction="smile", strength=2)],
        refine=pb.RefineOptions(steps=0),
        output=pb.OutputOptions(include_pasted=True),
        align=pb.AlignOptions(alignment=pb.ALIGNMENT_FACE, face=1),
    )
    over_grpc = gateway.stub.Edit(request)
    form = {"files": {"picture": request.picture.data}, "data": {"options": json.dumps(options)}}
    over_http = gateway.http.post("/v1/edit", **form).json()
    assert base64.b64decode(over_http["pasted"]["data"]) == over_grpc.pasted.data
    assert over_http["placement"]["faces"] == over_grpc.placement.faces == 2
    assert over_http["placement"]["corners"][0]["x"] == pytest.approx(over_grpc.placement.corners[0].x)
    alone = gateway.http.post("/v1/edit", **form, headers={"accept": "image/png"})
    assert alone.content == over_grpc.pasted.data
    found = gateway.http.post("/v1/find-faces", files={"picture": request.picture.data}).json()
    assert [face["unusable"] for face in found["faces"]] == ["", ""]

    changed = np.abs(image_of(over_grpc.pasted).astype(int) - image_of(request.picture)).max(-1)
    rows, columns = np.nonzero(changed)
    xs, ys = zip(*((corner.x, corner.y) for corner in over_grpc.placement.corners), strict=True)
    assert len(rows) > 100
    assert min(xs) <= columns.min()
    assert columns.max() <= max(xs)
    assert min(ys) <= rows.min()
    assert rows.max() <= max(ys)


def edit_faces(gateway: RunningGateway, picture: Image.Image, **align: Any) -> pb.EditResponse:
    return gateway.stub.Edit(
        pb.EditRequest(
            picture=jpeg(picture),
            edits=[pb.EditStep(direction="smile", strength=2)],
            refine=pb.RefineOptions(steps=0),
            output=pb.OutputOptions(include_pasted=True),
            align=pb.AlignOptions(**align),
        )
    )


def test_several_faces_are_edited_in_one_call(gateway: RunningGateway, both: Image.Image) -> None:
    first, second = (edit_faces(gateway, both, face=number) for number in (0, 1))
    together = edit_faces(gateway, both, all_faces=True)
    assert [face.placement.face for face in together.faces] == [0, 1]
    for alone, face in zip((first, second), together.faces, strict=True):
        np.testing.assert_allclose(code_of(face.code), code_of(alone.code), atol=1e-4)
        assert face.placement == alone.placement
        assert not face.HasField("pasted")
    assert together.code == together.faces[0].code
    # the photograph has both changes, each where it is alone, and nothing else
    own = image_of(jpeg(both)).astype(int)
    change = image_of(together.pasted) - own
    alone = [image_of(answer.pasted) - own for answer in (first, second)]
    apart = (alone[0] == 0) | (alone[1] == 0)
    assert np.abs(change - sum(alone))[apart].max() <= 1
    assert all(np.abs(one).max() > 3 for one in alone)


def test_the_order_of_faces_does_not_matter(gateway: RunningGateway, both: Image.Image) -> None:
    asked = [edit_faces(gateway, both, faces=faces) for faces in ([0, 1], [1, 0], [1, 0, 1])]
    assert len({answer.pasted.data for answer in asked}) == 1
    assert {len(answer.faces) for answer in asked} == {2}
    (only,) = edit_faces(gateway, both, faces=[1]).faces
    assert only.placement.face == 1


@pytest.mark.parametrize(
    ("align", "reason"),
    [
        ({"faces": [0, 2]}, "no_such_face"),
        ({"faces": [0], "all_faces": True}, "invalid_option"),
        ({"face": 1, "all_faces": True}, "invalid_option"),
        ({"faces": [0], "alignment": pb.ALIGNMENT_CENTRE_CROP}, "invalid_option"),
    ],
)
def test_faces_that_make_no_sense(
    gateway: RunningGateway, both: Image.Image, align: dict[str, Any], reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        edit_faces(gateway, both, **align)
    (detail,) = [v for k, v in raised.value.trailing_metadata() if k == "indomain-error-bin"]
    assert pb.ErrorDetail.FromString(detail).reason == reason


def test_several_faces_are_for_edits(gateway: RunningGateway, both: Image.Image) -> None:
    with pytest.raises(grpc.RpcError, match="in an Edit of a picture only"):
        invert(gateway, both, align=pb.AlignOptions(all_faces=True))


def test_nothing_edited_is_the_photograph(gateway: RunningGateway) -> None:
    picture = jpeg(HOPPER)
    answer = gateway.stub.Edit(
        pb.EditRequest(picture=picture, output=pb.OutputOptions(include_pasted=True, omit_image=True))
    )
    assert np.array_equal(image_of(answer.pasted), image_of(picture))
    assert not answer.HasField("image")


def test_a_sessions_photograph_stays_with_it(gateway: RunningGateway) -> None:
    smile = [pb.EditStep(direction="smile", strength=2)]
    pasted = pb.OutputOptions(include_pasted=True)
    first = session_request(sequence=1, picture=jpeg(HOPPER), refine=pb.RefineOptions(steps=0), output=pasted)
    answers = gateway.stub.EditSession(iter([first]), timeout=30)
    (opened,) = list(answers)
    assert opened.edited.placement.faces == 1

    def messages() -> Iterator[pb.EditSessionRequest]:
        yield first
        yield from rest

    later = session_request(sequence=2, edits=smile)
    code = session_request(sequence=3, code=opened.edited.source_code, output=pasted)
    rest = [later]
    *_, edited = gateway.stub.EditSession(messages(), timeout=30)
    at_once = gateway.stub.Edit(
        pb.EditRequest(picture=first.edit.picture, edits=smile, refine=first.edit.refine, output=pasted)
    )
    assert edited.sequence == 2
    assert edited.edited.pasted.data == at_once.pasted.data
    rest = [code]
    *_, refused = gateway.stub.EditSession(messages(), timeout=30)
    assert refused.error.reason == "invalid_option"
    assert "no photograph to paste into" in refused.error.message


def test_mixes_ways_and_diffusions_are_pasted_too(gateway: RunningGateway, both: Image.Image) -> None:
    output = pb.OutputOptions(include_pasted=True, format=pb.IMAGE_FORMAT_RAW)
    options = {"refine": pb.RefineOptions(steps=0), "output": output}
    hopper, group = pb.Source(picture=jpeg(HOPPER)), pb.Source(picture=jpeg(both))
    mixed = gateway.stub.Mix(pb.MixRequest(base=group, style=hopper, layers=[2], **options))
    assert (mixed.pasted.width, mixed.pasted.height) == both.size
    way = list(gateway.stub.Interpolate(pb.InterpolateRequest(start=hopper, end=group, count=3, **options)))
    own = np.asarray(Image.open(io.BytesIO(hopper.picture.data)).convert("RGB"))
    assert np.array_equal(np.frombuffer(way[0].pasted.data, np.uint8).reshape(own.shape), own)
    assert way[2].pasted.data != way[0].pasted.data
    diffused = gateway.stub.Diffuse(
        pb.DiffuseRequest(target=hopper.picture, context=group.picture, **options)
    )
    assert (diffused.pasted.width, diffused.pasted.height) == both.size
    assert diffused.placement.faces == 2


def test_a_mask_of_the_photographs_size_lies_on_the_photograph(
    gateway: RunningGateway, both: Image.Image
) -> None:
    """The face is far from the middle: cropped to that, the mask would lie elsewhere."""
    placed = invert(gateway, both)
    side = image_of(placed.aligned).shape[0]
    square = square_of(placed)
    mask = Image.new("RGB", both.size)
    middle = sum(corner.x for corner in placed.placement.corners) / 4
    mask.paste((255, 255, 255), (round(middle), 0, *both.size))

    def pasted(mask: Image.Image) -> np.ndarray:
        data = io.BytesIO()
        mask.save(data, "PNG")
        request = pb.DiffuseRequest(
            target=jpeg(both), context=jpeg(ASTRONAUT), mask=pb.Picture(data=data.getvalue()),
            refine=pb.RefineOptions(steps=0), output=pb.OutputOptions(include_aligned=True),
        )  # fmt: skip
        return image_of(gateway.stub.Diffuse(request).aligned)

    as_cut = Image.fromarray(Photograph(mask).cut(square, side))
    assert np.array_equal(pasted(mask), pasted(as_cut))
    assert np.array_equal(pasted(mask)[:, side * 3 // 4 :], image_of(placed.aligned)[:, side * 3 // 4 :])


def test_a_code_has_no_photograph(gateway: RunningGateway) -> None:
    code = invert(gateway, HOPPER).code
    with pytest.raises(grpc.RpcError, match="no photograph to paste into"):
        gateway.stub.Edit(pb.EditRequest(code=code, output=pb.OutputOptions(include_pasted=True)))
    with pytest.raises(grpc.RpcError, match="replace"):
        invert(gateway, HOPPER, output={"include_pasted": True, "pasting": pb.PASTING_CHANGE})
