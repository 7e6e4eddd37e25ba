"""The stages of a request, one method each: align, encode, refine, map, relabel, decode, score, encode pictures.

Each stage is timed on its call, and an EditingError that leaves it carries its name. pipeline.py says which job runs
which stages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.backends.backend import Backend, Inference
from serving.bundle import Bundle, Role
from serving.call import Call, StageTimer
from serving.errors import InvalidOption, about
from serving.jobs import (
    Alignment,
    AlignOptions,
    Area,
    Code,
    EncodedPicture,
    Image,
    ImageFormat,
    Origin,
    OutputOptions,
    Region,
)
from serving.photographs.alignment import Similarity, centred_square, corners_agree, face_square
from serving.photographs.areas import Mask, Strokes, drawing_place, picture_mask, picture_strokes, region_mask
from serving.photographs.decoders import Decoders, OpenPicture
from serving.photographs.faces import (
    Detect,
    Detection,
    as_face,
    choose,
    choose_several,
    chosen_alignment,
    find_faces,
    not_by_faces,
    placement_of,
    refine_landmarks,
)
from serving.photographs.formats.encoding import encode_picture
from serving.photographs.pasting import Patch
from serving.photographs.pictures import PictureReader
from serving.pipeline.bundles import ServedBundles
from serving.pipeline.edits import drawn_labels, gaussian_inputs, truncate, wanted_labels
from serving.pipeline.refinement import Refinement, RefineSettings, Report, no_report, starting_code
from serving.results import FoundFaces, StopReason
from serving.settings import Settings
from serving.telemetry.average import ExponentialAverage


@dataclass(frozen=True, slots=True)
class Aligned:
    """The square that the encoder takes, uint8 [H, W, 3], and where it lies on the picture that was sent."""

    image: Image
    origin: Origin


class Stages:
    """Runs single stages on a back end. `answer_s`: the time that rendering a result takes lately."""

    def __init__(
        self, backend: Backend, served: ServedBundles, decoders: Decoders, settings: Settings
    ) -> None:
        self._backend = backend
        self._served = served
        self._settings = settings
        self._decoders = decoders
        self.answer_s = ExponentialAverage(0.3)

    async def align(
        self, bundle: Bundle, picture: EncodedPicture, options: AlignOptions, call: Call
    ) -> Aligned:
        """Cuts the square for the encoder out of a picture.

        A picture of exactly the bundle's size, and one that is aligned already, are taken as they are.

        Raises InvalidPicture, PictureTooLarge, InvalidOption, NoFace, NoSuchFace, FaceNotUsable, and what the back
        end raises.
        """
        if options.several:
            raise InvalidOption(
                "align.faces and align.all_faces count in an Edit of a picture only; give align.face."
            )
        with call.during("align") as timer:
            kind = chosen_alignment(bundle, options)
            self.check_room(bundle, "encoder")
            by_face = kind is Alignment.FACE
            async with self._decoders.open(picture, whole=by_face) as opened:
                timer.queued_s += opened.queued_s
                if by_face:
                    side = bundle.resolution
                    size = await opened.run(PictureReader.size)
                    if options != AlignOptions() or size != (side, side):
                        return await self._align_face(bundle, picture, opened, size, options, call, timer)
                return await self._centre_square(bundle, picture, opened)

    async def mask(self, bundle: Bundle, area: Area, origin: Origin | None, call: Call) -> Mask:
        """The mask of an area on the encoder's square. origin: the photograph that a mask picture may belong to."""
        if isinstance(area, Region):
            return region_mask(area, bundle.resolution)
        return picture_mask(await self._drawn("mask", area, PictureReader.cut, bundle, origin, call))

    async def strokes(
        self, bundle: Bundle, picture: EncodedPicture, origin: Origin | None, call: Call
    ) -> Strokes:
        """Strokes on the encoder's square. origin: the photograph that they may have been drawn on."""
        cut = PictureReader.cut_on_both
        return picture_strokes(*await self._drawn("strokes", picture, cut, bundle, origin, call))

    async def _drawn(
        self,
        what: str,
        picture: EncodedPicture,
        cut: Callable[[PictureReader, Similarity, int], Image],
        bundle: Bundle,
        origin: Origin | None,
        call: Call,
    ) -> Image:
        """Cuts a drawing to the encoder's square. Raises PictureTooLarge and InvalidPicture."""
        with call.during("align") as timer, about(what):
            async with self._decoders.open(picture, whole=True) as opened:
                timer.queued_s += opened.queued_s
                place = drawing_place(await opened.run(PictureReader.size), origin)
                return await opened.run(cut, place, bundle.resolution)

    async def find_faces(self, bundle: Bundle, picture: EncodedPicture, call: Call) -> FoundFaces:
        """Finds all faces on a picture, the largest first. Raises InvalidOption, and what `align` raises."""
        with call.during("align") as timer:
            if bundle.face is None:
                raise not_by_faces(bundle)
            self.check_room(bundle, "detector")
            template, side = bundle.face, bundle.resolution
            async with self._decoders.open(picture, whole=True) as opened:
                timer.queued_s += opened.queued_s
                width, height = await opened.run(PictureReader.size)
                detect, input_side = self._detector(bundle, opened, call, timer)
                found = await find_faces(detect, width, height, input_side)
            faces = tuple(as_face(face, template, side) for face in found)
            return FoundFaces(bundle.name, faces, width, height)

    async def _align_face(
        self,
        bundle: Bundle,
        picture: EncodedPicture,
        opened: OpenPicture,
        size: tuple[int, int],
        options: AlignOptions,
        call: Call,
        timer: StageTimer,
    ) -> Aligned:
        assert bundle.face is not None, "_alignment has checked it"
        detect, input_side = self._detector(bundle, opened, call, timer)
        found = await find_faces(detect, *size, input_side)
        number = choose(found, options.face, bundle.face, bundle.resolution)
        return await self._cut_face(bundle, picture, opened, size, found, number, detect, input_side)

    async def align_faces(
        self, bundle: Bundle, picture: EncodedPicture, options: AlignOptions, call: Call
    ) -> list[Aligned]:
        """Cuts the squares of several faces out of a picture, in the order of `find_faces`.

        Raises what `align` raises.
        """
        with call.during("align") as timer:
            if options.face is not None or (options.faces and options.all_faces):
                raise InvalidOption("Give one of align.face, align.faces and align.all_faces.")
            if chosen_alignment(bundle, options) is not Alignment.FACE or bundle.face is None:
                raise InvalidOption("align.faces and align.all_faces count with the alignment by faces only.")
            self.check_room(bundle, "encoder")
            async with self._decoders.open(picture, whole=True) as opened:
                timer.queued_s += opened.queued_s
                size = await opened.run(PictureReader.size)
                detect, input_side = self._detector(bundle, opened, call, timer)
                found = await find_faces(detect, *size, input_side)
                wanted = None if options.all_faces else options.faces
                most = self._settings.max_codes
                return [
                    await self._cut_face(bundle, picture, opened, size, found, number, detect, input_side)
                    for number in choose_several(found, wanted, bundle.face, bundle.resolution, most)
                ]

    async def _cut_face(
        self,
        bundle: Bundle,
        picture: EncodedPicture,
        opened: OpenPicture,
        size: tuple[int, int],
        found: Sequence[Detection],
        number: int,
        detect: Detect,
        input_side: int,
    ) -> Aligned:
        assert bundle.face is not None, "_alignment has checked it"
        template, side = bundle.face, bundle.resolution
        face = found[number]
        square = face_square(face.landmarks, template)
        if corners_agree(square, centred_square(*size), template.tolerance):
            place = centred_square(*size)
            image, _ = await opened.run(PictureReader.centre_square, side)
        else:
            landmarks = await refine_landmarks(detect, face, template, input_side)
            place = face_square(landmarks, template)
            face = Detection(face.score, face.box, landmarks)
            image = await opened.run(PictureReader.cut, place, side)
        placement = replace(
            placement_of(Alignment.FACE, place, *size),
            face=number,
            faces=len(found),
            found=as_face(face, template, side),
        )
        return Aligned(image, Origin(picture, placement, image))

    def _detector(
        self, bundle: Bundle, opened: OpenPicture, call: Call, timer: StageTimer
    ) -> tuple[Detect, int]:
        """A function that runs the detector on squares of a photograph, and the side of its input in pixels."""
        side = bundle.graphs["detector"].inputs[0].shape[1]

        async def detect(squares: Sequence[Similarity]) -> npt.NDArray[np.float32]:
            pixels = await opened.run(PictureReader.cut_for_detector, list(squares), side)
            found = await self._infer(bundle, "detector", {"image": pixels}, call)
            timer.queued_s += found.queued_s
            return found.outputs["faces"]

        return detect, side

    async def _centre_square(self, bundle: Bundle, picture: EncodedPicture, opened: OpenPicture) -> Aligned:
        image, (width, height) = await opened.run(PictureReader.centre_square, bundle.resolution)
        place = centred_square(width, height)
        placement = placement_of(Alignment.CENTRE_CROP, place, width, height)
        return Aligned(image, Origin(picture, placement, image))

    async def pasted_picture(
        self, picture: EncodedPicture, patches: Sequence[Patch], output: OutputOptions, call: Call
    ) -> EncodedPicture:
        """A photograph with results pasted in."""
        with call.during("image") as timer:
            async with self._decoders.open(picture, whole=True, answer=output) as opened:
                timer.queued_s += opened.queued_s
                return await opened.run(PictureReader.paste, list(patches), output)

    async def find_code(
        self,
        bundle: Bundle,
        aligned: Image,
        settings: RefineSettings,
        call: Call,
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = no_report,
        extra_reserve_s: float = 0.0,
    ) -> tuple[Code, Refinement]:
        """Encodes the aligned picture and refines the code: the encoder's code, and the refinement.

        mask: float32 [H, W, 1], the weight of each pixel. extra_reserve_s: time that later stages need beyond
        rendering the result. Raises what the back end raises.
        """
        with call.during("encode") as timer:
            encoded = await self._infer(bundle, "encoder", {"image": aligned[None]}, call)
            timer.queued_s = encoded.queued_s
            start = starting_code(encoded.outputs["code"][0], bundle, settings)
        report(0, None, start)
        return start, await self.refine(
            bundle, start, aligned, settings, call, mask=mask, report=report, extra_reserve_s=extra_reserve_s
        )

    async def refine(
        self,
        bundle: Bundle,
        start: Code,
        target: Image,
        settings: RefineSettings,
        call: Call,
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = no_report,
        extra_reserve_s: float = 0.0,
    ) -> Refinement:
        """Refines a code towards a target picture. Without a step the result is `start`."""
        if settings.steps == 0:
            return Refinement(start, 0.0, 0.0, 0, StopReason.NOT_REFINED)
        refiner = self._served.refiner(bundle)
        with call.during("refine") as timer:
            refined = await refiner.refine(
                start,
                target,
                settings,
                call.deadline,
                lambda: self.answer_reserve_s() + extra_reserve_s,
                mask=mask,
                report=report,
            )
            timer.queued_s = refined.queued_s
        return refined

    async def map(
        self,
        bundle: Bundle,
        seeds: tuple[int, ...],
        truncation: float,
        call: Call,
        label: Mapping[str, float] = MappingProxyType({}),
    ) -> npt.NDArray[np.float32]:
        """Maps seeds, and the labels of a bundle that has some, to codes, float32 [N, L, 512]. It is timed as `encode`,
        as both make codes."""
        with call.during("encode") as timer:
            self.check_room(bundle, "mapping", len(seeds))
            inputs = {"z": gaussian_inputs(seeds, bundle.z_size)}
            if bundle.labels:
                inputs["label"] = drawn_labels(seeds, label, bundle)
            mapped = await self._infer(bundle, "mapping", inputs, call)
            timer.queued_s = mapped.queued_s
            return truncate(mapped.outputs["code"], bundle.mean_code, truncation)

    async def relabel(self, bundle: Bundle, code: Code, label: Mapping[str, float], call: Call) -> Code:
        """The code with other labels (graph `B_relabeller`), float32 [L, 512]; it is timed as `edit`."""
        with call.during("edit") as timer:
            inputs = {"code": code[None], "label": wanted_labels(label, bundle)}
            relabelled = await self._infer(bundle, "relabeller", inputs, call)
            timer.queued_s = relabelled.queued_s
            edited: Code = relabelled.outputs["edited_code"][0]
            return edited

    async def generate(self, bundle: Bundle, codes: npt.NDArray[np.float32], call: Call) -> list[Image]:
        """The pictures of codes [N, L, 512], each uint8 [H, W, 3]."""
        with call.during("decode") as timer:
            decoded = await self._infer(bundle, "generator", {"code": codes}, call)
            timer.queued_s = decoded.queued_s
            return list(decoded.outputs["image"])

    async def generate_and_score(
        self, bundle: Bundle, codes: Sequence[Code], scored: int, call: Call
    ) -> tuple[list[Image], list[float]]:
        """The pictures of all codes, and the domain scores of the last `scored` codes (graph `B_critic`).

        A code that occurs twice (as one object) is decoded once.
        """
        distinct = {id(code): code for code in codes}
        with call.during("decode") as timer:
            decoded, judged = await asyncio.gather(
                self._infer(bundle, "generator", {"code": np.stack(list(distinct.values()))}, call),
                self._infer(bundle, "critic", {"code": np.stack(codes[-scored:])}, call),
            )
            timer.queued_s = max(decoded.queued_s, judged.queued_s)
        image_of = dict(zip(distinct, decoded.outputs["image"], strict=True))
        scores = [float(score) for score in judged.outputs["score"][:, 0]]
        return [image_of[id(code)] for code in codes], scores

    async def describe(self, bundle: Bundle, images: Sequence[Image], call: Call) -> npt.NDArray[np.float32]:
        """The descriptors of the faces on pictures, float32 [N, D] (graph `B_identity`). It is timed as `decode`."""
        with call.during("decode") as timer:
            described = await self._infer(bundle, "identity", {"image": np.stack(images)}, call)
            timer.queued_s = described.queued_s
            return described.outputs["descriptor"]

    async def encode_pictures(
        self, images: list[Image], output: OutputOptions, call: Call
    ) -> tuple[EncodedPicture, ...]:
        """Encodes pictures in the requested format."""
        with call.during("image"):
            # Raw pixels are only copied: that is not worth a thread.
            if output.format is ImageFormat.RAW:
                return tuple(encode_picture(image, output) for image in images)
            return await asyncio.get_running_loop().run_in_executor(
                self._decoders.threads, lambda: tuple(encode_picture(image, output) for image in images)
            )

    async def encode_wanted(
        self, images: Sequence[Image | None], output: OutputOptions, call: Call
    ) -> list[EncodedPicture | None]:
        """Encodes the pictures that are there; None stays None."""
        wanted = [image for image in images if image is not None]
        encoded = iter(await self.encode_pictures(wanted, output, call) if wanted else ())
        return [None if image is None else next(encoded) for image in images]

    def check_room(self, bundle: Bundle, role: Role, count: int = 1) -> None:
        """Raises QueueFull if the back end would refuse `count` samples. Asked before expensive work on them."""
        self._backend.check_room(bundle.graphs[role], count)

    async def _infer(
        self, bundle: Bundle, role: Role, inputs: Mapping[str, npt.NDArray[Any]], call: Call
    ) -> Inference:
        return await self._backend.infer(bundle.graphs[role], inputs, call.deadline)

    def answer_reserve_s(self) -> float:
        """The time that refinement leaves for the answer: twice what answers take lately, and a fixed reserve."""
        return 2.0 * self.answer_s.value + self._settings.decode_reserve_ms / 1000.0
