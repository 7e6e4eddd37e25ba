"""The errors that a caller may catch. How a failed call becomes one of them is in transports/errors.py."""

from __future__ import annotations


class IndomainError(Exception):
    """A call failed. Base of all errors of this package.

    Attributes:
        message: what went wrong, and what to do about it.
        reason: stable name for programs, e.g. `"invalid_picture"`, `"queue_full"`; where the gateway gave none, the
            gRPC status in lower case.
        code: name of the gRPC status, e.g. `"INVALID_ARGUMENT"`.
        stage: step of the pipeline that failed, e.g. `"refine"`; empty where none had begun.
        request_id: id of the call, also in the gateway's log.
        retryable: the gateway says that the same call may succeed later.
        retry_after_s: seconds to wait before trying again.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        stage: str = "",
        request_id: str = "",
        retryable: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.stage = stage
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f" (in {self.stage})" if self.stage else ""
        which = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.message}{where}{which}"


class InvalidRequestError(IndomainError):
    """The gateway refuses the request for what is in it; sending it again changes nothing."""


class InvalidPictureError(InvalidRequestError):
    """The gateway cannot read the picture, or it is over the gateway's limits."""


class FaceError(InvalidPictureError):
    """The picture has no face (`reason` no_face), not as many as asked for (no_such_face), or one that is too small or
    turned away (face_not_usable)."""


class InvalidCodeError(InvalidRequestError):
    """A latent code of a wrong shape, or with values that are not finite."""


class OtherCodeSpaceError(InvalidCodeError):
    """A latent code of another bundle, or of another generator under the same name; the message names both."""


class InvalidOptionError(InvalidRequestError):
    """An option out of its range."""


class RequestTooLargeError(InvalidRequestError):
    """The request has more bytes than the gateway accepts."""


class UnauthenticatedError(IndomainError):
    """The gateway requires an API key, and the call had none or an unknown one."""


class PermissionDeniedError(IndomainError):
    """The API key does not allow this call."""


class NotFoundError(IndomainError):
    """The request names something that does not exist."""


class UnknownBundleError(NotFoundError):
    """The gateway serves no bundle of this name."""


class UnknownDirectionError(NotFoundError):
    """The bundle has no direction of this name."""


class UnknownCodeHandleError(NotFoundError):
    """The gateway does not know this handle of a code, or has forgotten it. The client then sends the code itself."""


class OverloadedError(IndomainError):
    """The gateway's queue is full."""


class KeyLimitError(OverloadedError):
    """More calls at once, or more calls a minute, than the API key allows."""


class DeadlineExceededError(IndomainError):
    """The call's time ran out."""


class RequestCancelledError(IndomainError):
    """The call was cancelled."""


class UnavailableError(IndomainError):
    """The gateway answers but does not serve now: it is starting or stopping, or has lost its back end."""


class GatewayUnreachableError(UnavailableError):
    """Nothing answers at the address, or the connection broke."""


class ServerError(IndomainError):
    """Something failed inside the gateway; its log has more under the request id."""


class MismatchedAnswerError(IndomainError):
    """The answer is that of another request. Its content is dropped, and the client opens other connections."""


class ForkedError(IndomainError, RuntimeError):
    """What was opened before a fork is used in the child, and would take answers from the parent."""


class NotCopyableError(IndomainError, TypeError):
    """A client or a session is copied or pickled."""


class InvalidFileError(IndomainError, ValueError):
    """The file holds nothing that can be read here, or is no data alone; the message says which."""


class NotInstalledError(IndomainError, ImportError):
    """A package that is needed is not installed; the message names it."""
