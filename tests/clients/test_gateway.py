"""SDK and command line against the gateway itself, as a process of its own, on a bundle in miniature."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import indomain
from indomain.cli import main
from tests.clients.support import PORTRAIT, load_demo

LAYERS, RESOLUTION = 6, 16


@pytest.fixture(scope="module")
def address(tiny_repository: Path) -> Iterator[str]:
    with load_demo().running_gateway(tiny_repository) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[indomain.Client]:
    with indomain.Client(address, timeout_s=120.0) as client:
        yield client


def test_bundles(client: indomain.Client) -> None:
    info = client.info()
    (bundle,) = info.bundles
    assert (bundle.name, bundle.resolution, bundle.layers) == ("tiny16", RESOLUTION, LAYERS)
    assert set(bundle.directions) == {"smile", "age"}
    assert info.limits.max_codes > 0
    assert info.version


def test_invert_refines(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT, include_aligned=True, include_start=True)
    assert inversion.code.shape == (LAYERS, 512)
    assert inversion.image.size == (RESOLUTION, RESOLUTION)
    assert inversion.losses.pixel_mse_after < inversion.losses.pixel_mse_before
    assert inversion.losses.steps_done > 0
    assert 0 <= inversion.domain_score <= 1
    assert {"encode", "refine", "decode"} <= set(inversion.stage_seconds)
    assert inversion.aligned is not None
    assert inversion.start is not None


def test_no_steps_leave_the_encoders_code(client: indomain.Client) -> None:
    losses = client.invert(PORTRAIT, steps=0).losses
    assert losses.stop_reason == "not_refined"
    assert losses.pixel_mse_after == losses.pixel_mse_before


def test_every_way_to_hand_over_a_picture_gives_the_same_code(client: indomain.Client) -> None:
    with Image.open(PORTRAIT) as image:
        image.load()
    ways = (PORTRAIT, str(PORTRAIT), PORTRAIT.read_bytes(), image, np.asarray(image.convert("RGB")))
    codes = [client.invert(way, steps=0).code for way in ways]
    for code in codes[1:]:
        assert np.allclose(code, codes[0], atol=1e-5)


def test_decoding_a_code_gives_its_picture(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT)
    (image,) = client.decode(inversion.code)
    assert np.array_equal(np.asarray(image), inversion.pixels)


@pytest.mark.parametrize("picture_format", ["png", "raw"])
def test_lossless_formats_agree(
    address: str, client: indomain.Client, picture_format: indomain.PictureFormat
) -> None:
    code = client.sample(1)[0].code
    with indomain.Client(address, picture_format=picture_format) as other:
        assert np.array_equal(np.asarray(other.decode(code)[0]), np.asarray(client.decode(code)[0]))


def test_edits_move_the_code_on_the_directions_layers(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT)
    edited = inversion.edit(smile=2.0)
    moved = np.abs(edited.code - inversion.code).max(axis=1) > 0
    assert [layer for layer in range(LAYERS) if moved[layer]] == [2, 3]
    assert np.array_equal(edited.source_code, inversion.code)
    only = inversion.edit(indomain.Edit("smile", 2.0, layers=(3,)))
    assert np.array_equal(only.code[2], inversion.code[2])
    back = client.edit(edited, smile=-2.0)
    assert np.allclose(back.code, inversion.code, atol=1e-4)


def test_a_picture_can_be_edited_at_once(client: indomain.Client) -> None:
    edited = client.edit(PORTRAIT, smile=1.0, age=-1.0)
    two_calls = client.invert(PORTRAIT).edit(smile=1.0, age=-1.0)
    assert edited.losses is not None
    assert np.allclose(edited.code, two_calls.code, atol=1e-3)


def test_a_seed_gives_the_same_picture_again(client: indomain.Client) -> None:
    first, second = client.sample([5, 6]), client.sample(6)
    assert np.allclose(first[1].code, second[0].code, atol=1e-5)
    assert not np.allclose(first[0].code, first[1].code, atol=1e-3)


def test_one_client_serves_many_threads(client: indomain.Client) -> None:
    alone = {sample.seed: sample.code for sample in client.sample(range(16))}
    with ThreadPoolExecutor(8) as pool:
        for seed, (sample,) in zip(alone, pool.map(client.sample, alone), strict=True):
            assert np.allclose(sample.code, alone[seed], atol=1e-5)


def truncated_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    return buffer.getvalue()[:60]


CODE = np.zeros((LAYERS, 512), np.float32)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.invert(b"no picture"), indomain.InvalidPictureError),
        (lambda c: c.invert(truncated_picture()), indomain.InvalidPictureError),
        (lambda c: c.invert(PORTRAIT, steps=10**6), indomain.InvalidOptionError),
        (lambda c: c.invert(PORTRAIT, bundle="nobody"), indomain.UnknownBundleError),
        (lambda c: c.edit(CODE, halo=1.0), indomain.UnknownDirectionError),
        (lambda c: c.edit(CODE, smile=float("nan")), indomain.InvalidRequestError),
        (lambda c: c.decode(CODE[:3]), indomain.InvalidCodeError),
        (lambda c: c.decode(CODE * np.nan), indomain.InvalidCodeError),
        (lambda c: c.sample(range(10_000)), indomain.InvalidOptionError),
        (lambda c: c.sample(1, truncation=-5.0), indomain.InvalidOptionError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_errors_are_typed_and_the_gateway_goes_on(
    client: indomain.Client, call: object, kind: type[indomain.IndomainError]
) -> None:
    with pytest.raises(kind) as caught:
        call(client)  # type: ignore[operator]
    assert len(caught.value.request_id) == 32
    assert not caught.value.retryable
    assert client.sample(1)


def test_the_command_line_from_picture_to_edit(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, smiling = tmp_path / "again.png", tmp_path / "smiling.png"
    assert main(["invert", str(PORTRAIT), "-o", str(again), "--server", address]) == 0
    capsys.readouterr()
    arguments = ["edit", str(again.with_suffix(".npy")), "smile=2", "-o", str(smiling)]
    assert main([*arguments, "--server", address, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bundle"] == "tiny16"
    assert Image.open(smiling).size == (RESOLUTION, RESOLUTION)


def test_an_edit_of_an_area_that_keeps_something(
    client: indomain.Client, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = client.edit(PORTRAIT, age=1.0, keep=["smile"], region=(0, 0, 0.5, 1))
    assert edited.area is not None
    assert edited.area.outside_mse_after < edited.area.outside_mse_before
    mask = tmp_path / "mask.png"
    Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 2, axis=0)).resize(
        (32, 32), Image.NEAREST
    ).save(mask)
    arguments = ["edit", str(PORTRAIT), "age=1", "--keep", "smile", "--mask", str(mask)]
    assert main([*arguments, "-o", str(tmp_path / "a.png"), "--server", address, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["area"]["outside_mse_after"] == pytest.approx(edited.area.outside_mse_after, rel=0.05)
    with client.session(PORTRAIT) as session:
        assert session.edit(age=1.0, region=(0, 0, 0.5, 1)).area is not None
        assert session.edit(age=1.0).area is None
    with pytest.raises(ValueError, match="region or a mask"):
        client.edit(PORTRAIT, age=1.0, region=(0, 0, 1, 1), mask=mask)
    with pytest.raises(indomain.InvalidOptionError, match="cannot change and be kept"):
        client.edit(PORTRAIT, age=1.0, keep="age")


def test_an_edit_along_strokes(
    client: indomain.Client, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = Image.new("RGBA", (32, 32))
    drawn.paste((200, 40, 60), (8, 8, 24, 24))
    edited = client.edit(PORTRAIT, strokes=drawn)
    assert edited.strokes is not None
    assert edited.strokes.pixel_mse_after < edited.strokes.pixel_mse_before
    assert edited.strokes.steps_done > 0
    drawn.save(tmp_path / "drawn.png")
    arguments = [
        "edit",
        str(PORTRAIT),
        "--strokes",
        str(tmp_path / "drawn.png"),
        "-o",
        str(tmp_path / "a.png"),
    ]
    assert main([*arguments, "--server", address, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["strokes"]["pixel_mse_after"] == pytest.approx(edited.strokes.pixel_mse_after, rel=0.05)
    edited.save(tmp_path / "edited.npz")
    assert indomain.Edited.load(tmp_path / "edited.npz").strokes == edited.strokes
    with client.session(PORTRAIT) as session:
        assert session.edit(strokes=drawn).strokes is not None
        assert session.edit(smile=1.0).strokes is None


# --- streams, mixing, diffusion --------------------------------------------------------------------------------------


def test_watching_an_inversion(client: indomain.Client) -> None:
    *reports, last = client.watch_invert(PORTRAIT, interval_s=0)
    assert isinstance(last, indomain.Inversion)
    assert last.edit(smile=1.0).image.size == (RESOLUTION, RESOLUTION)
    assert reports
    for report in reports:
        assert isinstance(report, indomain.InvertProgress)
        assert report.preview is not None
        assert report.preview.size == (RESOLUTION, RESOLUTION)
    assert (reports[0].step, reports[0].loss) == (0, None)
    (first, _) = client.watch_invert(PORTRAIT, interval_s=1000, previews=False)
    assert isinstance(first, indomain.InvertProgress)
    assert (first.preview, first.domain_score) == (None, None)
    with pytest.raises(indomain.InvalidPictureError):
        next(client.watch_invert(b"no picture"))


def test_a_session(client: indomain.Client) -> None:
    inversion = client.invert(PORTRAIT)
    with client.session(PORTRAIT, picture_format="raw") as session:
        first = session.edit(smile=1.0)
        assert first.losses is not None
        assert first.losses.steps_done > 0
        expected = inversion.edit(smile=-2.0)
        second = session.edit(smile=-2.0)
        assert np.abs(np.asarray(second.image).astype(int) - expected.pixels).max() <= 2
        with pytest.raises(indomain.UnknownDirectionError) as caught:
            session.edit(nose=1.0)
        assert caught.value.request_id
        session.change(inversion)
        moved = session.edit(indomain.Edit("smile", -2.0))
        assert np.abs(np.asarray(moved.image).astype(int) - expected.pixels).max() <= 2
        sent = [session.send(age=n / 10) for n in range(20)]
        session.finish()
        answers = list(session)
        assert answers[-1].sequence == sent[-1]
        assert len(answers) + sum(answer.skipped for answer in answers) == 20


def test_interpolating_between_results_codes_and_pictures(client: indomain.Client) -> None:
    one, other = client.sample([1, 2])
    pictures = list(client.interpolate(one, other.code, 5))
    assert [picture.position for picture in pictures] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert np.array_equal(pictures[0].code, one.code)
    assert np.allclose(pictures[2].code, (one.code + other.code) / 2, atol=1e-5)
    assert 0 == pictures[0].energy < pictures[-1].length ** 2 <= 1.0001 * pictures[-1].energy
    geodesic = list(client.interpolate(one, other.code, 5, path="geodesic", steps=4))
    assert geodesic[-1].energy <= pictures[-1].energy
    halfway = next(client.interpolate(PORTRAIT, pictures[2], 9, steps=0))
    assert np.allclose(halfway.code, client.invert(PORTRAIT, steps=0).code, atol=1e-4)


def test_the_mean_of_results_codes_and_pictures(client: indomain.Client) -> None:
    one, other = client.sample([1, 2])
    mean = client.mean([one, other.code, PORTRAIT], steps=2)
    third = client.invert(PORTRAIT, steps=2)
    assert np.allclose(mean.code, (one.code + other.code + third.code) / 3, atol=1e-4)
    curved = client.mean([one, other.code, third], path="geodesic", steps=4)
    assert len(curved.distances) == 3
    assert sum(np.square(curved.distances)) <= sum(np.square(mean.distances)) * (1 + 1e-4)
    assert client.edit(curved, smile=1.0).bundle == mean.bundle
    with pytest.raises(indomain.InvalidPictureError, match=r"sources\[1\]"):
        client.mean([one, b"no picture"])


def test_mixing_and_diffusing(client: indomain.Client) -> None:
    one, other = client.sample([1, 2])
    mixed = client.mix(one, other, [4, 5])
    assert np.array_equal(mixed.code[:4], one.code[:4])
    assert np.array_equal(mixed.code[4:], other.code[4:])
    assert client.edit(mixed, smile=1.0).bundle == mixed.bundle
    diffused = client.diffuse(PORTRAIT, one.image, region=(0.2, 0.2, 0.8, 0.8), include_aligned=True)
    assert diffused.losses.pixel_mse_after < diffused.losses.pixel_mse_before
    assert diffused.aligned is not None
    assert np.array_equal(np.asarray(diffused.aligned)[0], one.pixels[0])  # the context, outside the region
    with pytest.raises(indomain.InvalidOptionError):
        client.mix(one, other, [17])
    with pytest.raises(ValueError, match="region or a mask"):
        client.diffuse(PORTRAIT, PORTRAIT, region=(0, 0, 1, 1), mask=PORTRAIT)


def test_the_command_line_interpolates_mixes_and_diffuses(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDOMAIN_SERVER", address)
    assert main(["sample", "--seeds", "4", "-o", "other.png"]) == 0
    ends = [str(PORTRAIT), "other.png", "--steps", "2"]
    assert main(["interpolate", *ends, "-n", "6", "-o", "way.png"]) == 0
    assert Image.open("way.png").size == (3 * RESOLUTION, 2 * RESOLUTION)
    assert main(["interpolate", *ends, "-n", "3", "-o", "way"]) == 0
    assert sorted(file.name for file in Path("way").iterdir()) == ["000.png", "001.png", "002.png"]
    assert main(["interpolate", *ends, "-n", "4", "-o", "way.gif"]) == 0
    assert Image.open("way.gif").n_frames == 6  # there and back
    capsys.readouterr()
    assert main(["interpolate", *ends, "-n", "4", "-o", "geodesic.png", "--path", "geodesic", "--json"]) == 0
    frames = json.loads(capsys.readouterr().out)
    assert 0 == frames[0]["energy"] < frames[-1]["length"] ** 2 <= 1.0001 * frames[-1]["energy"]
    assert (
        main(["mean", *ends[:2], "other.png", *ends[2:], "-o", "mean.png", "--path", "geodesic", "--json"])
        == 0
    )
    assert len(json.loads(capsys.readouterr().out)["distances"]) == 3
    assert np.load("mean.npy").shape == (LAYERS, 512)
    assert main(["mix", *ends, "--layers", "4-5", "-o", "mixed.png"]) == 0
    assert np.load("mixed.npy").shape == (LAYERS, 512)
    capsys.readouterr()
    assert main(["diffuse", *ends, "--region", "0.2,0.2,0.8,0.8", "-o", "diffused.jpg", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["losses"]["steps_done"] == 2
    assert Image.open("diffused.jpg").size == (RESOLUTION, RESOLUTION)
    area = ["--region", "0,0,1,0.5", "--json"]
    assert main(["mix", *ends, "--layers", "4-5", *area, "-o", "local.png"]) == 0
    assert json.loads(capsys.readouterr().out)["area"]["losses"]["steps_done"] > 0
    assert main(["mix", *ends, "--layers", "4-5", "--mask", "nowhere.png", "-o", "x.png"]) == 2
    assert main(["mix", "mixed.npy", "other.png", "--layers", "80", "-o", "x.png"]) == 1
    assert main(["mix", "mixed.npy", "other.png", "--layers", "1", "-o", "x.txt"]) == 2
    with pytest.raises(SystemExit):
        main(["diffuse", *ends, "--region", "1,2"])
