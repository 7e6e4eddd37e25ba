"""Client of the Indomain image-editing gateway: invert, edit, decode and sample pictures over gRPC.

    with indomain.Client("localhost:8500") as client:
        inversion = client.invert("portrait.jpg")
        inversion.edit(smile=2.0).image.save("smile.png")

The public names of the package and nothing else.
"""

from indomain._client import Client
from indomain._codes import CodeArray
from indomain._exceptions import (
    DeadlineExceededError,
    GatewayUnreachableError,
    IndomainError,
    InvalidCodeError,
    InvalidOptionError,
    InvalidPictureError,
    InvalidRequestError,
    KeyLimitError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RequestCancelledError,
    RequestTooLargeError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownBundleError,
    UnknownDirectionError,
)
from indomain._pictures import PictureFormat, PictureLike
from indomain._results import (
    Bundle,
    Direction,
    Edit,
    Edited,
    GatewayInfo,
    HeldOut,
    Inversion,
    Limits,
    Losses,
    Refine,
    Sample,
)

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Client",
    "CodeArray",
    "DeadlineExceededError",
    "Direction",
    "Edit",
    "Edited",
    "GatewayInfo",
    "GatewayUnreachableError",
    "HeldOut",
    "IndomainError",
    "InvalidCodeError",
    "InvalidOptionError",
    "InvalidPictureError",
    "InvalidRequestError",
    "Inversion",
    "KeyLimitError",
    "Limits",
    "Losses",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PictureFormat",
    "PictureLike",
    "Refine",
    "RequestCancelledError",
    "RequestTooLargeError",
    "Sample",
    "ServerError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownBundleError",
    "UnknownDirectionError",
]
