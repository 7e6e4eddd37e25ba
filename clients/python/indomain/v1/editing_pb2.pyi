from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]
    IMAGE_FORMAT_RAW: _ClassVar[ImageFormat]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_NOT_REFINED: _ClassVar[StopReason]
    STOP_REASON_STEPS_DONE: _ClassVar[StopReason]
    STOP_REASON_CONVERGED: _ClassVar[StopReason]
    STOP_REASON_DEADLINE: _ClassVar[StopReason]
    STOP_REASON_DIVERGED: _ClassVar[StopReason]
    STOP_REASON_PRESSURE: _ClassVar[StopReason]

class Alignment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALIGNMENT_UNSPECIFIED: _ClassVar[Alignment]
    ALIGNMENT_FACE: _ClassVar[Alignment]
    ALIGNMENT_CENTRE_CROP: _ClassVar[Alignment]

class Pasting(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PASTING_UNSPECIFIED: _ClassVar[Pasting]
    PASTING_CHANGE: _ClassVar[Pasting]
    PASTING_REPLACE: _ClassVar[Pasting]

class Path(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PATH_UNSPECIFIED: _ClassVar[Path]
    PATH_LINEAR: _ClassVar[Path]
    PATH_GEODESIC: _ClassVar[Path]
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat
IMAGE_FORMAT_RAW: ImageFormat
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_NOT_REFINED: StopReason
STOP_REASON_STEPS_DONE: StopReason
STOP_REASON_CONVERGED: StopReason
STOP_REASON_DEADLINE: StopReason
STOP_REASON_DIVERGED: StopReason
STOP_REASON_PRESSURE: StopReason
ALIGNMENT_UNSPECIFIED: Alignment
ALIGNMENT_FACE: Alignment
ALIGNMENT_CENTRE_CROP: Alignment
PASTING_UNSPECIFIED: Pasting
PASTING_CHANGE: Pasting
PASTING_REPLACE: Pasting
PATH_UNSPECIFIED: Path
PATH_LINEAR: Path
PATH_GEODESIC: Path
ACCEPTED_FIELD_NUMBER: _ClassVar[int]
accepted: _descriptor.FieldDescriptor

class Accepted(_message.Message):
    __slots__ = ("min", "max", "limit")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    min: float
    max: float
    limit: str
    def __init__(self, min: _Optional[float] = ..., max: _Optional[float] = ..., limit: _Optional[str] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("data", "format", "width", "height")
    DATA_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    format: ImageFormat
    width: int
    height: int
    def __init__(self, data: _Optional[bytes] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Code(_message.Message):
    __slots__ = ("data", "shape", "handle", "space")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    shape: _containers.RepeatedScalarFieldContainer[int]
    handle: str
    space: str
    def __init__(self, data: _Optional[bytes] = ..., shape: _Optional[_Iterable[int]] = ..., handle: _Optional[str] = ..., space: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("picture", "code")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    picture: Picture
    code: Code
    def __init__(self, picture: _Optional[_Union[Picture, _Mapping]] = ..., code: _Optional[_Union[Code, _Mapping]] = ...) -> None: ...

class AlignOptions(_message.Message):
    __slots__ = ("alignment", "face", "faces", "all_faces")
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    ALL_FACES_FIELD_NUMBER: _ClassVar[int]
    alignment: Alignment
    face: int
    faces: _containers.RepeatedScalarFieldContainer[int]
    all_faces: bool
    def __init__(self, alignment: _Optional[_Union[Alignment, str]] = ..., face: _Optional[int] = ..., faces: _Optional[_Iterable[int]] = ..., all_faces: _Optional[bool] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("box", "score", "landmarks", "corners", "roll_degrees", "unusable")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    CORNERS_FIELD_NUMBER: _ClassVar[int]
    ROLL_DEGREES_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    box: Box
    score: float
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    corners: _containers.RepeatedCompositeFieldContainer[Point]
    roll_degrees: float
    unusable: str
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., score: _Optional[float] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., corners: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., roll_degrees: _Optional[float] = ..., unusable: _Optional[str] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("alignment", "face", "faces", "box", "landmarks", "corners", "roll_degrees", "width", "height")
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    CORNERS_FIELD_NUMBER: _ClassVar[int]
    ROLL_DEGREES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    alignment: Alignment
    face: int
    faces: int
    box: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    corners: _containers.RepeatedCompositeFieldContainer[Point]
    roll_degrees: float
    width: int
    height: int
    def __init__(self, alignment: _Optional[_Union[Alignment, str]] = ..., face: _Optional[int] = ..., faces: _Optional[int] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., corners: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., roll_degrees: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class RefineOptions(_message.Message):
    __slots__ = ("steps", "learning_rate", "pixel_weight", "perceptual_weight", "domain_weight", "quality", "allow_fewer_steps", "detail", "identity_weight", "grey", "downsampling", "noise")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PERCEPTUAL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FEWER_STEPS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    GREY_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    learning_rate: float
    pixel_weight: float
    perceptual_weight: float
    domain_weight: float
    quality: str
    allow_fewer_steps: bool
    detail: bool
    identity_weight: float
    grey: bool
    downsampling: int
    noise: bool
    def __init__(self, steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., pixel_weight: _Optional[float] = ..., perceptual_weight: _Optional[float] = ..., domain_weight: _Optional[float] = ..., quality: _Optional[str] = ..., allow_fewer_steps: _Optional[bool] = ..., detail: _Optional[bool] = ..., identity_weight: _Optional[float] = ..., grey: _Optional[bool] = ..., downsampling: _Optional[int] = ..., noise: _Optional[bool] = ...) -> None: ...

class OutputOptions(_message.Message):
    __slots__ = ("format", "quality", "omit_image", "include_aligned", "include_start", "omit_codes", "include_pasted", "pasting", "strip_metadata", "include_identity_score")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    OMIT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ALIGNED_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_START_FIELD_NUMBER: _ClassVar[int]
    OMIT_CODES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PASTED_FIELD_NUMBER: _ClassVar[int]
    PASTING_FIELD_NUMBER: _ClassVar[int]
    STRIP_METADATA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    format: ImageFormat
    quality: int
    omit_image: bool
    include_aligned: bool
    include_start: bool
    omit_codes: bool
    include_pasted: bool
    pasting: Pasting
    strip_metadata: bool
    include_identity_score: bool
    def __init__(self, format: _Optional[_Union[ImageFormat, str]] = ..., quality: _Optional[int] = ..., omit_image: _Optional[bool] = ..., include_aligned: _Optional[bool] = ..., include_start: _Optional[bool] = ..., omit_codes: _Optional[bool] = ..., include_pasted: _Optional[bool] = ..., pasting: _Optional[_Union[Pasting, str]] = ..., strip_metadata: _Optional[bool] = ..., include_identity_score: _Optional[bool] = ...) -> None: ...

class EditStep(_message.Message):
    __slots__ = ("direction", "strength", "layers", "keep")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    direction: str
    strength: float
    layers: _containers.RepeatedScalarFieldContainer[int]
    keep: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, direction: _Optional[str] = ..., strength: _Optional[float] = ..., layers: _Optional[_Iterable[int]] = ..., keep: _Optional[_Iterable[str]] = ...) -> None: ...

class Losses(_message.Message):
    __slots__ = ("pixel_mse_before", "pixel_mse_after", "refine_loss_before", "refine_loss_after", "steps_done", "stop_reason")
    PIXEL_MSE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_MSE_AFTER_FIELD_NUMBER: _ClassVar[int]
    REFINE_LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    REFINE_LOSS_AFTER_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: StopReason
    def __init__(self, pixel_mse_before: _Optional[float] = ..., pixel_mse_after: _Optional[float] = ..., refine_loss_before: _Optional[float] = ..., refine_loss_after: _Optional[float] = ..., steps_done: _Optional[int] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "seconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    seconds: float
    def __init__(self, stage: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class ListBundlesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBundlesResponse(_message.Message):
    __slots__ = ("bundles", "limits", "server_version", "request_id")
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    limits: Limits
    server_version: str
    request_id: str
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("name", "resolution", "layers", "code_size", "directions", "refine", "alignment", "licence", "summary", "data", "presets", "detail", "labels", "code_space", "noise", "identity_score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CODE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CODE_SPACE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    resolution: int
    layers: int
    code_size: int
    directions: _containers.RepeatedCompositeFieldContainer[Direction]
    refine: RefineDefaults
    alignment: str
    licence: str
    summary: str
    data: str
    presets: _containers.RepeatedCompositeFieldContainer[Preset]
    detail: DetailCodes
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    code_space: str
    noise: NoiseMaps
    identity_score: bool
    def __init__(self, name: _Optional[str] = ..., resolution: _Optional[int] = ..., layers: _Optional[int] = ..., code_size: _Optional[int] = ..., directions: _Optional[_Iterable[_Union[Direction, _Mapping]]] = ..., refine: _Optional[_Union[RefineDefaults, _Mapping]] = ..., alignment: _Optional[str] = ..., licence: _Optional[str] = ..., summary: _Optional[str] = ..., data: _Optional[str] = ..., presets: _Optional[_Iterable[_Union[Preset, _Mapping]]] = ..., detail: _Optional[_Union[DetailCodes, _Mapping]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., code_space: _Optional[str] = ..., noise: _Optional[_Union[NoiseMaps, _Mapping]] = ..., identity_score: _Optional[bool] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "frequency", "held_out")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    frequency: float
    held_out: HeldOut
    def __init__(self, name: _Optional[str] = ..., frequency: _Optional[float] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ...) -> None: ...

class DetailCodes(_message.Message):
    __slots__ = ("rows", "layer", "side", "maps", "fade")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    FADE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    layer: int
    side: int
    maps: int
    fade: float
    def __init__(self, rows: _Optional[int] = ..., layer: _Optional[int] = ..., side: _Optional[int] = ..., maps: _Optional[int] = ..., fade: _Optional[float] = ...) -> None: ...

class NoiseMaps(_message.Message):
    __slots__ = ("rows", "layers", "sides", "fade")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SIDES_FIELD_NUMBER: _ClassVar[int]
    FADE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    layers: _containers.RepeatedScalarFieldContainer[int]
    sides: _containers.RepeatedScalarFieldContainer[int]
    fade: float
    def __init__(self, rows: _Optional[int] = ..., layers: _Optional[_Iterable[int]] = ..., sides: _Optional[_Iterable[int]] = ..., fade: _Optional[float] = ...) -> None: ...

class Preset(_message.Message):
    __slots__ = ("name", "label", "edits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    edits: _containers.RepeatedCompositeFieldContainer[EditStep]
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., edits: _Optional[_Iterable[_Union[EditStep, _Mapping]]] = ...) -> None: ...

class Direction(_message.Message):
    __slots__ = ("name", "label", "layers", "range_min", "range_max", "held_out", "conditioned_on")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    RANGE_MIN_FIELD_NUMBER: _ClassVar[int]
    RANGE_MAX_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONED_ON_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    layers: _containers.RepeatedScalarFieldContainer[int]
    range_min: float
    range_max: float
    held_out: HeldOut
    conditioned_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., layers: _Optional[_Iterable[int]] = ..., range_min: _Optional[float] = ..., range_max: _Optional[float] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., conditioned_on: _Optional[_Iterable[str]] = ...) -> None: ...

class HeldOut(_message.Message):
    __slots__ = ("metric", "value")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class RefineDefaults(_message.Message):
    __slots__ = ("steps", "learning_rate", "pixel_weight", "perceptual_weight", "domain_weight", "chunk_steps", "quality_steps", "detail", "identity_weight", "grey", "downsampling", "noise")
    class QualityStepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    PIXEL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PERCEPTUAL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_STEPS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    GREY_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    learning_rate: float
    pixel_weight: float
    perceptual_weight: float
    domain_weight: float
    chunk_steps: int
    quality_steps: _containers.ScalarMap[str, int]
    detail: bool
    identity_weight: float
    grey: bool
    downsampling: int
    noise: bool
    def __init__(self, steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., pixel_weight: _Optional[float] = ..., perceptual_weight: _Optional[float] = ..., domain_weight: _Optional[float] = ..., chunk_steps: _Optional[int] = ..., quality_steps: _Optional[_Mapping[str, int]] = ..., detail: _Optional[bool] = ..., identity_weight: _Optional[float] = ..., grey: _Optional[bool] = ..., downsampling: _Optional[int] = ..., noise: _Optional[bool] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_picture_bytes", "max_picture_pixels", "max_codes", "max_refine_steps", "max_edits", "max_request_bytes", "max_interpolated_pictures")
    MAX_PICTURE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PICTURE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_CODES_FIELD_NUMBER: _ClassVar[int]
    MAX_REFINE_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_EDITS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_INTERPOLATED_PICTURES_FIELD_NUMBER: _ClassVar[int]
    max_picture_bytes: int
    max_picture_pixels: int
    max_codes: int
    max_refine_steps: int
    max_edits: int
    max_request_bytes: int
    max_interpolated_pictures: int
    def __init__(self, max_picture_bytes: _Optional[int] = ..., max_picture_pixels: _Optional[int] = ..., max_codes: _Optional[int] = ..., max_refine_steps: _Optional[int] = ..., max_edits: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_interpolated_pictures: _Optional[int] = ...) -> None: ...

class FindFacesRequest(_message.Message):
    __slots__ = ("bundle", "picture")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    picture: Picture
    def __init__(self, bundle: _Optional[str] = ..., picture: _Optional[_Union[Picture, _Mapping]] = ...) -> None: ...

class FindFacesResponse(_message.Message):
    __slots__ = ("bundle", "faces", "width", "height", "timings", "request_id")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    width: int
    height: int
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    def __init__(self, bundle: _Optional[str] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class InvertRequest(_message.Message):
    __slots__ = ("bundle", "picture", "refine", "output", "align", "mask")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    picture: Picture
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    mask: Picture
    def __init__(self, bundle: _Optional[str] = ..., picture: _Optional[_Union[Picture, _Mapping]] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ..., mask: _Optional[_Union[Picture, _Mapping]] = ...) -> None: ...

class InvertResponse(_message.Message):
    __slots__ = ("bundle", "code", "image", "domain_score", "losses", "timings", "request_id", "aligned", "start", "pasted", "placement", "identity_score")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    code: Code
    image: Picture
    domain_score: float
    losses: Losses
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    aligned: Picture
    start: Picture
    pasted: Picture
    placement: Placement
    identity_score: float
    def __init__(self, bundle: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., aligned: _Optional[_Union[Picture, _Mapping]] = ..., start: _Optional[_Union[Picture, _Mapping]] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., identity_score: _Optional[float] = ...) -> None: ...

class WatchInvertRequest(_message.Message):
    __slots__ = ("bundle", "picture", "refine", "output", "interval_s", "omit_previews", "align", "mask")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    OMIT_PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    picture: Picture
    refine: RefineOptions
    output: OutputOptions
    interval_s: float
    omit_previews: bool
    align: AlignOptions
    mask: Picture
    def __init__(self, bundle: _Optional[str] = ..., picture: _Optional[_Union[Picture, _Mapping]] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., interval_s: _Optional[float] = ..., omit_previews: _Optional[bool] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ..., mask: _Optional[_Union[Picture, _Mapping]] = ...) -> None: ...

class WatchInvertResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: InvertProgress
    result: InvertResponse
    def __init__(self, progress: _Optional[_Union[InvertProgress, _Mapping]] = ..., result: _Optional[_Union[InvertResponse, _Mapping]] = ...) -> None: ...

class InvertProgress(_message.Message):
    __slots__ = ("step", "steps", "loss", "preview", "domain_score", "request_id")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    loss: float
    preview: Picture
    domain_score: float
    request_id: str
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ..., preview: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class EditRequest(_message.Message):
    __slots__ = ("bundle", "picture", "code", "edits", "refine", "output", "align", "region", "mask", "within_range", "strokes", "label")
    class LabelEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    WITHIN_RANGE_FIELD_NUMBER: _ClassVar[int]
    STROKES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    picture: Picture
    code: Code
    edits: _containers.RepeatedCompositeFieldContainer[EditStep]
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    region: Region
    mask: Picture
    within_range: bool
    strokes: Picture
    label: _containers.ScalarMap[str, float]
    def __init__(self, bundle: _Optional[str] = ..., picture: _Optional[_Union[Picture, _Mapping]] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., edits: _Optional[_Iterable[_Union[EditStep, _Mapping]]] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., mask: _Optional[_Union[Picture, _Mapping]] = ..., within_range: _Optional[bool] = ..., strokes: _Optional[_Union[Picture, _Mapping]] = ..., label: _Optional[_Mapping[str, float]] = ...) -> None: ...

class EditResponse(_message.Message):
    __slots__ = ("bundle", "code", "image", "domain_score", "losses", "timings", "request_id", "source_code", "aligned", "start", "pasted", "placement", "area", "faces", "strokes", "identity_score")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_CODE_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    STROKES_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    code: Code
    image: Picture
    domain_score: float
    losses: Losses
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    source_code: Code
    aligned: Picture
    start: Picture
    pasted: Picture
    placement: Placement
    area: AreaChange
    faces: _containers.RepeatedCompositeFieldContainer[EditResponse]
    strokes: Losses
    identity_score: float
    def __init__(self, bundle: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., source_code: _Optional[_Union[Code, _Mapping]] = ..., aligned: _Optional[_Union[Picture, _Mapping]] = ..., start: _Optional[_Union[Picture, _Mapping]] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., area: _Optional[_Union[AreaChange, _Mapping]] = ..., faces: _Optional[_Iterable[_Union[EditResponse, _Mapping]]] = ..., strokes: _Optional[_Union[Losses, _Mapping]] = ..., identity_score: _Optional[float] = ...) -> None: ...

class AreaChange(_message.Message):
    __slots__ = ("inside_mse_before", "inside_mse_after", "outside_mse_before", "outside_mse_after", "losses")
    INSIDE_MSE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    INSIDE_MSE_AFTER_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_MSE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_MSE_AFTER_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: Losses
    def __init__(self, inside_mse_before: _Optional[float] = ..., inside_mse_after: _Optional[float] = ..., outside_mse_before: _Optional[float] = ..., outside_mse_after: _Optional[float] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ...) -> None: ...

class EditSessionRequest(_message.Message):
    __slots__ = ("sequence", "edit")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    edit: EditRequest
    def __init__(self, sequence: _Optional[int] = ..., edit: _Optional[_Union[EditRequest, _Mapping]] = ...) -> None: ...

class EditSessionResponse(_message.Message):
    __slots__ = ("sequence", "edited", "error", "skipped")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EDITED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    edited: EditResponse
    error: ErrorDetail
    skipped: int
    def __init__(self, sequence: _Optional[int] = ..., edited: _Optional[_Union[EditResponse, _Mapping]] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ..., skipped: _Optional[int] = ...) -> None: ...

class InterpolateRequest(_message.Message):
    __slots__ = ("bundle", "start", "end", "count", "refine", "output", "align", "path")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    start: Source
    end: Source
    count: int
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    path: Path
    def __init__(self, bundle: _Optional[str] = ..., start: _Optional[_Union[Source, _Mapping]] = ..., end: _Optional[_Union[Source, _Mapping]] = ..., count: _Optional[int] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ..., path: _Optional[_Union[Path, str]] = ...) -> None: ...

class InterpolateResponse(_message.Message):
    __slots__ = ("bundle", "index", "position", "code", "image", "domain_score", "timings", "request_id", "pasted", "placement", "energy", "length")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    index: int
    position: float
    code: Code
    image: Picture
    domain_score: float
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    pasted: Picture
    placement: Placement
    energy: float
    length: float
    def __init__(self, bundle: _Optional[str] = ..., index: _Optional[int] = ..., position: _Optional[float] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., energy: _Optional[float] = ..., length: _Optional[float] = ...) -> None: ...

class MixRequest(_message.Message):
    __slots__ = ("bundle", "base", "style", "layers", "strength", "refine", "output", "align", "region", "mask")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    base: Source
    style: Source
    layers: _containers.RepeatedScalarFieldContainer[int]
    strength: float
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    region: Region
    mask: Picture
    def __init__(self, bundle: _Optional[str] = ..., base: _Optional[_Union[Source, _Mapping]] = ..., style: _Optional[_Union[Source, _Mapping]] = ..., layers: _Optional[_Iterable[int]] = ..., strength: _Optional[float] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., mask: _Optional[_Union[Picture, _Mapping]] = ...) -> None: ...

class MixResponse(_message.Message):
    __slots__ = ("bundle", "code", "image", "domain_score", "timings", "request_id", "pasted", "placement", "area", "identity_score")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    code: Code
    image: Picture
    domain_score: float
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    pasted: Picture
    placement: Placement
    area: AreaChange
    identity_score: float
    def __init__(self, bundle: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., area: _Optional[_Union[AreaChange, _Mapping]] = ..., identity_score: _Optional[float] = ...) -> None: ...

class MeanRequest(_message.Message):
    __slots__ = ("bundle", "sources", "path", "refine", "output", "align")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    path: Path
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    def __init__(self, bundle: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., path: _Optional[_Union[Path, str]] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ...) -> None: ...

class MeanResponse(_message.Message):
    __slots__ = ("bundle", "code", "image", "domain_score", "timings", "request_id", "pasted", "placement", "distances")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    code: Code
    image: Picture
    domain_score: float
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    pasted: Picture
    placement: Placement
    distances: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, bundle: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., distances: _Optional[_Iterable[float]] = ...) -> None: ...

class DiffuseRequest(_message.Message):
    __slots__ = ("bundle", "target", "context", "region", "mask", "refine", "output", "align")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    target: Picture
    context: Picture
    region: Region
    mask: Picture
    refine: RefineOptions
    output: OutputOptions
    align: AlignOptions
    def __init__(self, bundle: _Optional[str] = ..., target: _Optional[_Union[Picture, _Mapping]] = ..., context: _Optional[_Union[Picture, _Mapping]] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., mask: _Optional[_Union[Picture, _Mapping]] = ..., refine: _Optional[_Union[RefineOptions, _Mapping]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., align: _Optional[_Union[AlignOptions, _Mapping]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class DiffuseResponse(_message.Message):
    __slots__ = ("bundle", "code", "image", "domain_score", "losses", "timings", "request_id", "aligned", "start", "pasted", "placement", "identity_score")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PASTED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SCORE_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    code: Code
    image: Picture
    domain_score: float
    losses: Losses
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    aligned: Picture
    start: Picture
    pasted: Picture
    placement: Placement
    identity_score: float
    def __init__(self, bundle: _Optional[str] = ..., code: _Optional[_Union[Code, _Mapping]] = ..., image: _Optional[_Union[Picture, _Mapping]] = ..., domain_score: _Optional[float] = ..., losses: _Optional[_Union[Losses, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ..., aligned: _Optional[_Union[Picture, _Mapping]] = ..., start: _Optional[_Union[Picture, _Mapping]] = ..., pasted: _Optional[_Union[Picture, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., identity_score: _Optional[float] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("bundle", "codes", "output")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    codes: _containers.RepeatedCompositeFieldContainer[Code]
    output: OutputOptions
    def __init__(self, bundle: _Optional[str] = ..., codes: _Optional[_Iterable[_Union[Code, _Mapping]]] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("bundle", "images", "timings", "request_id")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    images: _containers.RepeatedCompositeFieldContainer[Picture]
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    def __init__(self, bundle: _Optional[str] = ..., images: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("bundle", "seeds", "truncation", "output", "label")
    class LabelEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    seeds: _containers.RepeatedScalarFieldContainer[int]
    truncation: float
    output: OutputOptions
    label: _containers.ScalarMap[str, float]
    def __init__(self, bundle: _Optional[str] = ..., seeds: _Optional[_Iterable[int]] = ..., truncation: _Optional[float] = ..., output: _Optional[_Union[OutputOptions, _Mapping]] = ..., label: _Optional[_Mapping[str, float]] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("bundle", "codes", "images", "timings", "request_id")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    codes: _containers.RepeatedCompositeFieldContainer[Code]
    images: _containers.RepeatedCompositeFieldContainer[Picture]
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    request_id: str
    def __init__(self, bundle: _Optional[str] = ..., codes: _Optional[_Iterable[_Union[Code, _Mapping]]] = ..., images: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("reason", "message", "stage", "retryable", "retry_after_s", "request_id", "code")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    stage: str
    retryable: bool
    retry_after_s: float
    request_id: str
    code: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., stage: _Optional[str] = ..., retryable: _Optional[bool] = ..., retry_after_s: _Optional[float] = ..., request_id: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...
