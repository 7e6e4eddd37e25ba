"""Mixing and diffusion: what of two pictures ends up in one. Against a real gateway, over both transports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indomain.v1 import editing_pb2 as pb
from serving.pipeline.edits import interpolate_codes, mix_codes
from tests.serving.messages import as_json, as_message, close, code_of, image_of, refusal, sampled
from tests.serving.pictures import encoded, photograph
from tests.serving.running_gateway import RunningGateway

RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW, include_aligned=True)


# --- mixing ----------------------------------------------------------------------------------------------------------


def test_mixing_takes_layers_of_the_style(gateway: RunningGateway) -> None:
    base, style = sampled(gateway, 1, 2)
    request = pb.MixRequest(
        base=pb.Source(code=as_message(base)),
        style=pb.Source(code=as_message(style)),
        layers=[4, 5],
        output=RAW,
    )
    mixed = gateway.stub.Mix(request, timeout=20)
    code = code_of(mixed.code)
    np.testing.assert_array_equal(code[:4], base[:4])
    np.testing.assert_array_equal(code[4:], style[4:])
    decoded = gateway.stub.Decode(pb.DecodeRequest(codes=[mixed.code], output=RAW), timeout=20)
    close(image_of(mixed.image), image_of(decoded.images[0]))
    request.strength = 0.25
    code = code_of(gateway.stub.Mix(request, timeout=20).code)
    np.testing.assert_allclose(code[4:], base[4:] + 0.25 * (style[4:] - base[4:]), atol=1e-6)

    body = {
        "base": {"code": as_json(base)}, "style": {"code": as_json(style)}, "layers": [4, 5],
        "output": {"format": "raw"},
    }  # fmt: skip
    over_http = gateway.http.post("/v1/mix", json=body).json()
    close(image_of(over_http["image"]), image_of(mixed.image))
    del body["output"]
    picture = gateway.http.post("/v1/mix", json=body, headers={"accept": "image/webp"})
    assert picture.headers["content-type"] == "image/webp"


def test_pictures_are_mixed_too(gateway: RunningGateway, photo_png: bytes) -> None:
    (style,) = sampled(gateway, 2)
    request = pb.MixRequest(
        base=pb.Source(picture=pb.Picture(data=photo_png)),
        style=pb.Source(code=as_message(style)),
        layers=[0],
        refine=pb.RefineOptions(steps=2),
    )
    mixed = code_of(gateway.stub.Mix(request, timeout=20).code)
    inverted = gateway.stub.Invert(
        pb.InvertRequest(picture=pb.Picture(data=photo_png), refine=pb.RefineOptions(steps=2)), timeout=20
    )
    close(mixed[1:], code_of(inverted.code)[1:])
    np.testing.assert_array_equal(mixed[0], style[0])


def test_mixing_is_refused_what_makes_no_sense(gateway: RunningGateway) -> None:
    source = pb.Source(code=as_message(sampled(gateway, 1)[0]))
    for layers in ([], [6], [-1]):
        assert (
            refusal(gateway.stub.Mix, pb.MixRequest(base=source, style=source, layers=layers))
            == "invalid_option"
        )
    for strength in (-0.1, 1.1, float("nan")):
        request = pb.MixRequest(base=source, style=source, layers=[1], strength=strength)
        assert refusal(gateway.stub.Mix, request) == "invalid_option"
    assert refusal(gateway.stub.Mix, pb.MixRequest(base=source, layers=[1])) == "malformed_request"
    request = pb.MixRequest(
        base=source, style=source, layers=[1], region=pb.Region(right=1, bottom=1), refine={"steps": 0}
    )
    assert refusal(gateway.stub.Mix, request) == "invalid_option"
    request = pb.MixRequest(base=source, style=source, layers=[1], region=pb.Region(right=1))
    assert refusal(gateway.stub.Mix, request) == "invalid_option"


def test_in_an_area_the_style_shows_and_elsewhere_the_base_stays(gateway: RunningGateway) -> None:
    """Local style transfer (Image2StyleGAN++, Abdal et al. 2020): the answer is a code whose picture has both."""
    # Within 0..255: the tiny refiner does not know of the generator's clipping.
    base, style = (code * np.float32(0.2) for code in sampled(gateway, 3, 5))
    request = pb.MixRequest(
        base=pb.Source(code=as_message(base)),
        style=pb.Source(code=as_message(style)),
        layers=[3, 4, 5],
        output=RAW,
        refine=pb.RefineOptions(steps=200, domain_weight=0),
    )
    everywhere = gateway.stub.Mix(request, timeout=20)
    assert not everywhere.HasField("area")
    request.region.CopyFrom(pb.Region(left=0, top=0, right=0.5, bottom=1))
    held = gateway.stub.Mix(request, timeout=30)
    decoded = gateway.stub.Decode(pb.DecodeRequest(codes=[as_message(base), held.code], output=RAW))
    before, after = (image_of(image).astype(float) for image in decoded.images)
    close(after, image_of(held.image))
    change, far = held.area, (slice(None), slice(10, None))  # beyond the soft border
    moved = np.mean(((after - before)[far] / 127.5) ** 2)
    whole = np.mean(((image_of(everywhere.image) - before)[far] / 127.5) ** 2)
    assert moved < 0.5 * whole
    assert change.outside_mse_after < 0.5 * change.outside_mse_before
    assert change.inside_mse_after > 0.1 * change.inside_mse_before
    assert change.losses.pixel_mse_after < change.losses.pixel_mse_before

    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, :8] = 255
    body = {
        "base": {"code": as_json(base)}, "style": {"code": as_json(style)}, "layers": [3, 4, 5],
        "refine": {"steps": 200, "domain_weight": 0},
    }  # fmt: skip
    form = {"files": {"mask": encoded(mask)}, "data": {"options": json.dumps(body)}}
    over_http = gateway.http.post("/v1/mix", **form).json()
    close(code_of(over_http["code"]), code_of(held.code))
    picture = gateway.http.post("/v1/mix", **form, headers={"accept": "image/png"})
    assert float(picture.headers["x-outside-mse"]) == pytest.approx(change.outside_mse_after, rel=1e-2)


def test_an_area_of_a_mix_lies_on_the_bases_photograph(gateway: RunningGateway, photo_png: bytes) -> None:
    """The photograph has 40 x 30 pixels, of which the middle 30 are encoded."""
    source = pb.Source(picture=pb.Picture(data=photo_png))
    wide = np.zeros((30, 40, 3), np.uint8)
    wide[8:20, 14:26] = 255
    answers = []
    for mask in (wide, wide[:, 5:35]):
        request = pb.MixRequest(
            base=source,
            style=source,
            layers=[4],
            mask=pb.Picture(data=encoded(mask)),
            refine=pb.RefineOptions(steps=2),
        )
        request.style.CopyFrom(pb.Source(code=as_message(sampled(gateway, 2)[0])))
        answers.append(gateway.stub.Mix(request, timeout=20))
    close(code_of(answers[0].code), code_of(answers[1].code))
    request.mask.data = encoded(wide[:, 5:25])
    assert refusal(gateway.stub.Mix, request) == "invalid_picture"


codes = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).standard_normal((6, 8)).astype(np.float32)
)


@given(base=codes, style=codes, layers=st.sets(st.integers(0, 5), min_size=1), strength=st.floats(0, 1))
def test_mixing_touches_no_other_layer(
    base: np.ndarray, style: np.ndarray, layers: set[int], strength: float
) -> None:
    before = base.copy()
    mixed = mix_codes(base, style, tuple(layers), strength)
    others = [layer for layer in range(6) if layer not in layers]
    np.testing.assert_array_equal(mixed[others], base[others])
    np.testing.assert_array_equal(base, before)
    np.testing.assert_array_equal(mix_codes(base, style, tuple(range(6)), 1.0), style)


@given(start=codes, end=codes, count=st.integers(2, 40))
def test_codes_between_keep_both_ends_and_even_steps(start: np.ndarray, end: np.ndarray, count: int) -> None:
    between = interpolate_codes(start, end, count)
    np.testing.assert_array_equal(between[0], start)
    np.testing.assert_array_equal(between[-1], end)
    np.testing.assert_allclose(
        np.diff(between, axis=0), np.tile((end - start) / (count - 1), (count - 1, 1, 1)), atol=1e-5
    )


# --- diffusion -------------------------------------------------------------------------------------------------------

REGION = pb.Region(left=0.25, top=0.25, right=0.75, bottom=0.75)  # the middle 8 x 8 of 16 x 16


def squares() -> tuple[np.ndarray, np.ndarray]:
    """A target and a context of the bundle's own size, so that nothing is resized."""
    return photograph(21, 16, 16), photograph(22, 16, 16)


def diffuse(gateway: RunningGateway, **fields: object) -> pb.DiffuseResponse:
    target, context = squares()
    request = pb.DiffuseRequest(
        target=pb.Picture(data=encoded(target)),
        context=pb.Picture(data=encoded(context)),
        output=RAW,
        **fields,
    )
    return gateway.stub.Diffuse(request, timeout=20)


def test_the_region_is_pasted_and_only_it_is_refined(gateway: RunningGateway) -> None:
    target, context = squares()
    answer = diffuse(gateway, region=REGION, refine=pb.RefineOptions(steps=60))
    pasted = image_of(answer.aligned)
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    np.testing.assert_array_equal(pasted[inside], target[inside])
    np.testing.assert_array_equal(pasted[~inside], context[~inside])

    def error(image: np.ndarray, where: np.ndarray) -> float:
        return float(np.mean(((image[where].astype(float) - pasted[where]) / 127.5) ** 2))

    found = image_of(answer.image)
    assert answer.losses.pixel_mse_after == pytest.approx(error(found, inside), rel=1e-3)
    assert answer.losses.pixel_mse_after < answer.losses.pixel_mse_before
    # Refined on the whole picture, the inside is met less well: the rest wants its share of the code.
    whole = gateway.stub.Invert(
        pb.InvertRequest(
            picture=pb.Picture(data=encoded(pasted)), refine=pb.RefineOptions(steps=60), output=RAW
        ),
        timeout=20,
    )
    assert error(found, inside) < error(image_of(whole.image), inside)
    assert error(found, ~inside) > error(image_of(whole.image), ~inside)


def test_a_mask_does_what_the_same_region_does(gateway: RunningGateway) -> None:
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[4:12, 4:12] = 255
    by_region = diffuse(gateway, region=REGION)
    by_mask = diffuse(gateway, mask=pb.Picture(data=encoded(mask)))
    close(code_of(by_mask.code), code_of(by_region.code))
    target, context = squares()
    files = {"target": encoded(target), "context": encoded(context), "mask": encoded(mask)}
    options = {"options": json.dumps({"output": {"format": "raw"}})}
    over_http = gateway.http.post("/v1/diffuse", files=files, data=options).json()
    close(code_of(over_http["code"]), code_of(by_region.code))
    del files["mask"]
    options = {"options": json.dumps({"region": {"left": 0.25, "top": 0.25, "right": 0.75, "bottom": 0.75}})}
    picture = gateway.http.post("/v1/diffuse", files=files, data=options, headers={"accept": "image/png"})
    assert picture.headers["content-type"] == "image/png"
    assert float(picture.headers["x-pixel-mse-after"]) == pytest.approx(
        by_region.losses.pixel_mse_after, rel=1e-2
    )


def test_left_out_the_area_is_the_middle_of_a_face(gateway: RunningGateway) -> None:
    usual = diffuse(gateway)
    named = diffuse(gateway, region=pb.Region(left=0.27, top=0.35, right=0.71, bottom=0.78))
    close(code_of(usual.code), code_of(named.code))


@pytest.mark.parametrize(
    "sides", [(0.5, 0, 0.5, 1), (0, 0.7, 1, 0.3), (-0.1, 0, 1, 1), (0, 0, float("nan"), 1)]
)
def test_an_area_that_holds_nothing_is_refused(gateway: RunningGateway, sides: tuple[float, ...]) -> None:
    picture = pb.Picture(data=encoded(photograph()))
    left, top, right, bottom = sides
    region = pb.Region(left=left, top=top, right=right, bottom=bottom)
    request = pb.DiffuseRequest(target=picture, context=picture, region=region)
    assert refusal(gateway.stub.Diffuse, request) == "invalid_option"
    black = pb.Picture(data=encoded(np.zeros((16, 16, 3), np.uint8)))
    assert refusal(
        gateway.stub.Diffuse, pb.DiffuseRequest(target=picture, context=picture, mask=black)
    ) == "invalid_option"  # fmt: skip


def test_a_form_that_lacks_a_picture_says_which(gateway: RunningGateway) -> None:
    answer = gateway.http.post("/v1/diffuse", files={"target": encoded(photograph())})
    assert answer.status_code == 400
    assert "'context'" in answer.json()["message"]
