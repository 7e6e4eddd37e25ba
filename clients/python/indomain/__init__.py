"""Client of the Indomain image-editing gateway: invert, edit, decode and sample pictures, over gRPC, over HTTP, or with
the same pipeline in this process.

    >>> with indomain.Client("localhost:8500") as client:
    ...     inversion = client.invert("portrait.png")
    ...     inversion.edit(smile=2.0).image.save("smile.png")

The public names of the package and nothing else.
"""

from indomain._async_client import AsyncClient
from indomain._client import Client
from indomain._codes import CodeArray
from indomain._exceptions import (
    DeadlineExceededError,
    GatewayUnreachableError,
    IndomainError,
    InvalidCodeError,
    InvalidFileError,
    InvalidOptionError,
    InvalidPictureError,
    InvalidRequestError,
    KeyLimitError,
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
from indomain._pictures import PictureFormat, PictureLike
from indomain._results import (
    AreaChange,
    AsyncInversion,
    Between,
    Bundle,
    Diffused,
    Direction,
    Edit,
    Edited,
    GatewayInfo,
    HeldOut,
    Inversion,
    InvertProgress,
    Limits,
    Losses,
    Mixed,
    Preset,
    Refine,
    Result,
    Sample,
    SessionPicture,
)
from indomain._session import AsyncEditSession, EditSession

__version__ = "0.1.0"

__all__ = [
    "AreaChange",
    "AsyncClient",
    "AsyncEditSession",
    "AsyncInversion",
    "Between",
    "Bundle",
    "Client",
    "CodeArray",
    "DeadlineExceededError",
    "Diffused",
    "Direction",
    "Edit",
    "EditSession",
    "Edited",
    "GatewayInfo",
    "GatewayUnreachableError",
    "HeldOut",
    "IndomainError",
    "InvalidCodeError",
    "InvalidFileError",
    "InvalidOptionError",
    "InvalidPictureError",
    "InvalidRequestError",
    "Inversion",
    "InvertProgress",
    "KeyLimitError",
    "Limits",
    "Losses",
    "Mixed",
    "NotFoundError",
    "NotInstalledError",
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
]
