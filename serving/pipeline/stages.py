"""The stages of a request, one method each: align, encode and refine, map, decode and score, encode the pictures.

Each is timed on its call, and errors of the table leave it with its name. Which job takes which, pipeline.py says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.backends import Backend, Inference
from serving.bundle import Bundle, GraphKey, Role
from serving.call import Call, Lap
from serving.errors import InvalidOption
from serving.jobs import (
    Alignment,
    AlignOptions,
    Code,
    EncodedPicture,
    Image,
    ImageFormat,
    Origin,
    OutputOptions,
    Placement,
)
from serving.photographs.alignment import Similarity, centred_square, face_square, lies_as
from serving.photographs.faces import Detection, as_face, choose, find_faces, look_again
from serving.photographs.pasting import paste_change, paste_picture
from serving.photographs.photograph import Photograph
from serving.photographs.pictures import centre_square, encode_picture, open_photograph
from serving.pipeline.edits import gaussian_inputs, truncate
from serving.pipeline.refinement import Refinement, Refiner, RefineSettings, Report, StopRule, unreported
from serving.results import FoundFaces, StopReason
from serving.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Aligned:
    """A picture in place, as the encoder takes it, and where on the picture sent that is."""

    image: Image
    origin: Origin


class Stages:
    """Runs single stages on a back end. Knows its bundles' refiners, and how long answers have taken lately."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._pictures = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="pictures")
        self._in_memory = asyncio.Semaphore(settings.max_open_photographs)
        self._answer_s = 0.0  # smoothed time to decode and encode an answer
        self._refiners: dict[GraphKey, Refiner] = {}

    def exchange(self, bundles: Mapping[str, Bundle]) -> None:
        """Refines for these bundles too from now on."""
        rule = StopRule(self._settings.refine_window_steps, self._settings.refine_min_improvement_ratio)
        comfortable = self._settings.max_refinements_at_full_steps
        self._refiners |= {
            bundle.graphs["refiner"].key: Refiner(bundle, self._backend, rule, comfortable)
            for bundle in bundles.values()
        }

    def keep_only(self, bundles: Mapping[str, Bundle]) -> None:
        """Forgets what it knows of others."""
        current = {bundle.graphs["refiner"].key for bundle in bundles.values()}
        self._refiners = {key: refiner for key, refiner in self._refiners.items() if key in current}

    async def align(
        self, bundle: Bundle, picture: EncodedPicture, options: AlignOptions, call: Call
    ) -> Aligned:
        """Brings a picture into place. A picture of exactly the bundle's size, and one on which the face lies where the
        bundle wants it already, are taken as they are."""
        with call.during("align") as lap:
            kind = _alignment(bundle, options)
            self.check_room(bundle, "encoder")
            if kind is Alignment.CENTRE_CROP:
                return await self._in_picture_thread(lambda: self._centre_square(bundle, picture))
            async with self._in_memory:
                photograph = await self._open(picture)
                side = bundle.resolution
                if options == AlignOptions() and (photograph.width, photograph.height) == (side, side):
                    return await self._in_picture_thread(lambda: self._centre_square(bundle, picture))
                return await self._align_face(bundle, picture, photograph, options, call, lap)

    async def cut_mask(
        self, bundle: Bundle, mask: EncodedPicture, origin: Origin | None, call: Call
    ) -> Image:
        """A mask as the encoder sees what it belongs to. One of the photograph's own size is cut as the photograph was;
        any other is that square already, and loses what lies beside its middle."""

        def cut() -> Image:
            opened = open_photograph(mask, **self._limits)
            if origin is None or (opened.width, opened.height) != (
                origin.placement.width,
                origin.placement.height,
            ):
                return self._centre_square(bundle, mask).image
            return opened.cut(Similarity.of_corners(origin.placement.corners), bundle.resolution)

        with call.during("align"):
            async with self._in_memory:
                return await self._in_picture_thread(cut)

    async def find_faces(self, bundle: Bundle, picture: EncodedPicture, call: Call) -> FoundFaces:
        """All of them, the largest first."""
        with call.during("align") as lap:
            if bundle.face is None:
                raise _not_by_faces(bundle)
            self.check_room(bundle, "detector")
            template, side = bundle.face, bundle.resolution
            async with self._in_memory:
                photograph = await self._open(picture)
                width, height = photograph.width, photograph.height
                look, look_side = self._look(bundle, photograph, call, lap)
                found = await find_faces(look, width, height, look_side)
            faces = tuple(as_face(face, template, side) for face in found)
            return FoundFaces(bundle.name, faces, width, height)

    async def _align_face(
        self,
        bundle: Bundle,
        picture: EncodedPicture,
        photograph: Photograph,
        options: AlignOptions,
        call: Call,
        lap: Lap,
    ) -> Aligned:
        assert bundle.face is not None, "the kind was checked"
        template, side = bundle.face, bundle.resolution
        look, look_side = self._look(bundle, photograph, call, lap)
        found = await find_faces(look, photograph.width, photograph.height, look_side)
        number = choose(found, options.face, template, side)
        face = found[number]
        if lies_as(face_square(face.landmarks, template), photograph.centred_square, template.tolerance):
            aligned = await self._in_picture_thread(lambda: self._centre_square(bundle, picture))
            place, image = photograph.centred_square, aligned.image
        else:
            landmarks = await look_again(look, face, template, look_side)
            place = face_square(landmarks, template)
            face = Detection(face.score, face.box, landmarks)
            image = await self._in_picture_thread(lambda: photograph.cut(place, side))
        placement = replace(
            _placement(Alignment.FACE, place, photograph.width, photograph.height),
            face=number,
            faces=len(found),
            found=as_face(face, template, side),
        )
        return Aligned(image, Origin(picture, placement))

    def _look(
        self, bundle: Bundle, photograph: Photograph, call: Call, lap: Lap
    ) -> tuple[Callable[[Sequence[Similarity]], Awaitable[npt.NDArray[np.float32]]], int]:
        """What shows the detector parts of a photograph, and how large it wants them, in pixels."""
        side = bundle.graphs["detector"].inputs[0].shape[1]

        async def look(places: Sequence[Similarity]) -> npt.NDArray[np.float32]:
            squares = await self._in_picture_thread(
                lambda: np.stack([photograph.cut(place, side, mirrored=False) for place in places])
            )
            seen = await self._infer(bundle, "detector", {"image": squares}, call)
            lap.queued_s += seen.queued_s
            return seen.outputs["faces"]

        return look, side

    async def _open(self, picture: EncodedPicture) -> Photograph:
        return await self._in_picture_thread(lambda: open_photograph(picture, **self._limits))

    def _centre_square(self, bundle: Bundle, picture: EncodedPicture) -> Aligned:
        image, (width, height) = centre_square(picture, bundle.resolution, **self._limits)
        place = centred_square(width, height)
        return Aligned(image, Origin(picture, _placement(Alignment.CENTRE_CROP, place, width, height)))

    @property
    def _limits(self) -> dict[str, int]:
        settings = self._settings
        return {"max_bytes": settings.max_picture_bytes, "max_pixels": settings.max_picture_pixels}

    async def paste(
        self, origin: Origin, before: Image | None, after: Image, output: OutputOptions, call: Call
    ) -> EncodedPicture:
        """The photograph with `after` in its place; with `before`, what lies between the two is added to it there."""
        place = Similarity.of_corners(origin.placement.corners)
        face = origin.placement.alignment is Alignment.FACE

        def pasted() -> EncodedPicture:
            photograph = open_photograph(origin.picture, **self._limits)
            if before is not None:
                return encode_picture(paste_change(photograph, place, before, after, face=face), output)
            aligned = photograph.cut(place, len(after))
            return encode_picture(paste_picture(photograph, place, aligned, after, face=face), output)

        with call.during("image"):
            async with self._in_memory:
                return await self._in_picture_thread(pasted)

    async def find_code(
        self,
        bundle: Bundle,
        aligned: Image,
        settings: RefineSettings,
        call: Call,
        *,
        mask: npt.NDArray[np.float32] | None = None,
        report: Report = unreported,
        kept_s: float = 0.0,
    ) -> tuple[Code, Refinement]:
        """Encode, refine: the encoder's code and what became of it. `kept_s` are left for what follows."""
        with call.during("encode") as lap:
            encoded = await self._infer(bundle, "encoder", {"image": aligned[None]}, call)
            lap.queued_s = encoded.queued_s
            start = np.array(encoded.outputs["code"][0], dtype=np.float32)
        report(0, None, start)
        return start, await self.refine(
            bundle, start, aligned, settings, call, mask=mask, report=report, kept_s=kept_s
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
        report: Report = unreported,
        kept_s: float = 0.0,
    ) -> Refinement:
        """A code on its way to a target; `start` as it is where no step is asked for."""
        if settings.steps == 0:
            return Refinement(start, 0.0, 0.0, 0, StopReason.NOT_REFINED)
        refiner = self._refiners[bundle.graphs["refiner"].key]
        with call.during("refine") as lap:
            refined = await refiner.refine(
                start,
                target,
                settings,
                call.deadline,
                lambda: self._answer_reserve_s() + kept_s,
                mask=mask,
                report=report,
            )
            lap.queued_s = refined.queued_s
        return refined

    async def map(
        self, bundle: Bundle, seeds: tuple[int, ...], truncation: float, call: Call
    ) -> npt.NDArray[np.float32]:
        """Seeds -> codes [N, L, 512]. Timed as `encode`: both make codes."""
        with call.during("encode") as lap:
            self.check_room(bundle, "mapping", len(seeds))
            z = gaussian_inputs(seeds, bundle.z_size)
            mapped = await self._infer(bundle, "mapping", {"z": z}, call)
            lap.queued_s = mapped.queued_s
            return truncate(mapped.outputs["code"], bundle.mean_code, truncation)

    async def generate(self, bundle: Bundle, codes: npt.NDArray[np.float32], call: Call) -> list[Image]:
        with call.during("decode") as lap:
            decoded = await self._infer(bundle, "generator", {"code": codes}, call)
            lap.queued_s = decoded.queued_s
            return list(decoded.outputs["image"])

    async def generate_and_score(
        self, bundle: Bundle, codes: Sequence[Code], scored: int, call: Call
    ) -> tuple[list[Image], list[float]]:
        """Pictures of all codes, domain scores of the last `scored`. Equal codes are decoded once."""
        distinct = {id(code): code for code in codes}
        with call.during("decode") as lap:
            decoded, critic = await asyncio.gather(
                self._infer(bundle, "generator", {"code": np.stack(list(distinct.values()))}, call),
                self._infer(bundle, "critic", {"code": np.stack(codes[-scored:])}, call),
            )
            lap.queued_s = max(decoded.queued_s, critic.queued_s)
        image_of = dict(zip(distinct, decoded.outputs["image"], strict=True))
        scores = [float(score) for score in critic.outputs["score"][:, 0]]
        return [image_of[id(code)] for code in codes], scores

    async def encode_pictures(
        self, images: list[Image], output: OutputOptions, call: Call
    ) -> tuple[EncodedPicture, ...]:
        with call.during("image"):
            if output.format is ImageFormat.RAW:  # a copy: not worth a thread
                return tuple(encode_picture(image, output) for image in images)
            return await self._in_picture_thread(
                lambda: tuple(encode_picture(image, output) for image in images)
            )

    async def encode_wanted(
        self, images: Sequence[Image | None], output: OutputOptions, call: Call
    ) -> list[EncodedPicture | None]:
        """Encodes the pictures that are there; None stays None."""
        wanted = [image for image in images if image is not None]
        encoded = iter(await self.encode_pictures(wanted, output, call) if wanted else ())
        return [None if image is None else next(encoded) for image in images]

    def check_room(self, bundle: Bundle, role: Role, count: int = 1) -> None:
        """Raises QueueFull: a request that is to be refused costs no more than that."""
        self._backend.check_room(bundle.graphs[role], count)

    async def _infer(
        self, bundle: Bundle, role: Role, inputs: Mapping[str, npt.NDArray[Any]], call: Call
    ) -> Inference:
        return await self._backend.infer(bundle.graphs[role], inputs, call.deadline)

    async def _in_picture_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pictures, work)

    def learn_answer_time(self, seconds: float) -> None:
        self._answer_s = (
            seconds if self._answer_s == 0.0 else self._answer_s + 0.3 * (seconds - self._answer_s)
        )

    def _answer_reserve_s(self) -> float:
        """What refinement leaves for decoding and answering: twice what these took lately, and some more."""
        return 2.0 * self._answer_s + self._settings.decode_reserve_ms / 1000.0

    def close(self) -> None:
        self._pictures.shutdown(wait=True)


def _alignment(bundle: Bundle, options: AlignOptions) -> Alignment:
    """How to bring a picture into place. Raises InvalidOption."""
    kind = options.alignment or (Alignment.CENTRE_CROP if bundle.face is None else Alignment.FACE)
    if kind is Alignment.FACE and bundle.face is None:
        raise _not_by_faces(bundle)
    if kind is Alignment.CENTRE_CROP and options.face is not None:
        raise InvalidOption("align.face counts with the alignment by faces only; leave one of the two out.")
    return kind


def _not_by_faces(bundle: Bundle) -> InvalidOption:
    return InvalidOption(
        f"Bundle {bundle.name} is not aligned by faces; send pictures that lie as its training pictures do."
    )


def _placement(alignment: Alignment, place: Similarity, width: int, height: int) -> Placement:
    return Placement(alignment, 0, 0, None, place.corners, place.roll_degrees, width, height)
