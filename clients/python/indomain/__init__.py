"""Client of the Indomain image-editing gateway: invert, edit, decode and sample pictures, over gRPC, over HTTP, or with
the same pipeline in this process.

    >>> with indomain.Client("localhost:8500") as client:
    ...     inversion = client.invert("portrait.png")
    ...     inversion.edit(smile=1.0).image.save("smile.png")

The public names of the package. Its modules may change from one version to the next.
"""

import warnings
from typing import TYPE_CHECKING

from indomain.calls.options import Align, Edit, Refine
from indomain.clients.async_client import AsyncClient
from indomain.clients.client import Client
from indomain.clients.session import AsyncEditSession, EditSession
from indomain.exceptions import (
    DeadlineExceededError,
    FaceError,
    ForkedError,
    GatewayUnreachableError,
    IndomainError,
    InvalidCodeError,
    InvalidFileError,
    InvalidOptionError,
    InvalidPictureError,
    InvalidRequestError,
    KeyLimitError,
    MismatchedAnswerError,
    NotCopyableError,
    NotFoundError,
    NotInstalledError,
    OtherCodeSpaceError,
    OverloadedError,
    PermissionDeniedError,
    RequestCancelledError,
    RequestTooLargeError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownBundleError,
    UnknownCodeHandleError,
    UnknownDirectionError,
)
from indomain.latents import Code, ForeignCodeWarning, load_code, load_codes
from indomain.results.bundles import (
    Bundle,
    DetailCodes,
    Direction,
    GatewayInfo,
    HeldOut,
    Label,
    Limits,
    NoiseMaps,
    Preset,
)
from indomain.results.inversion import AsyncInversion, Inversion
from indomain.results.measures import AreaChange, Face, FoundFaces, Losses, Placement
from indomain.results.pictures import (
    Diffused,
    Edited,
    InterpolationFrame,
    InvertProgress,
    Mean,
    Mixed,
    Result,
    Sample,
    SessionPicture,
)
from indomain.wire.codes import CodeArray
from indomain.wire.pictures import PictureFormat, PictureLike

__version__ = "0.1.0"

__all__ = [
    "AreaChange",
    "AsyncClient",
    "AsyncEditSession",
    "AsyncInversion",
    "Bundle",
    "Client",
    "Code",
    "CodeArray",
    "DeadlineExceededError",
    "DetailCodes",
    "Diffused",
    "Direction",
    "Edit",
    "EditSession",
    "Edited",
    "ForeignCodeWarning",
    "ForkedError",
    "GatewayInfo",
    "GatewayUnreachableError",
    "HeldOut",
    "IndomainError",
    "InterpolationFrame",
    "InvalidCodeError",
    "InvalidFileError",
    "InvalidOptionError",
    "InvalidPictureError",
    "InvalidRequestError",
    "Inversion",
    "InvertProgress",
    "KeyLimitError",
    "Label",
    "Limits",
    "Losses",
    "Mean",
    "MismatchedAnswerError",
    "Mixed",
    "NotCopyableError",
    "NotFoundError",
    "NotInstalledError",
    "NoiseMaps",
    "OtherCodeSpaceError",
    "OverloadedError",
    "PermissionDeniedError",
    "PictureFormat",
    "PictureLike",
    "Preset",
    "Refine",
    "RequestCancelledError",
    "RequestTooLargeError",
    "Result",
    "Sample",
    "ServerError",
    "SessionPicture",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownBundleError",
    "UnknownCodeHandleError",
    "UnknownDirectionError",
    "Align",
    "Face",
    "FaceError",
    "FoundFaces",
    "Placement",
    "load_code",
    "load_codes",
]

if TYPE_CHECKING:
    Between = InterpolationFrame
else:

    def __getattr__(name: str) -> object:
        """Names that are deprecated: `Between` is `InterpolationFrame` now."""
        if name == "Between":
            warnings.warn(
                "indomain.Between is now indomain.InterpolationFrame", DeprecationWarning, stacklevel=2
            )
            return InterpolationFrame
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
