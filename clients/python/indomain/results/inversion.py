"""An inversion, which can be edited by the client that made it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Protocol, Self

from indomain.calls.editing import edit
from indomain.results.pictures import Edited, Inverted
from indomain.signatures import arguments_after_first

# Makes a method take the arguments of `Client.edit`, but for the source.
takes_edit_options = arguments_after_first(edit)  # type: ignore[arg-type]


class Editor(Protocol):
    """What an inversion needs of its client: `Client.edit`, or `AsyncClient.edit`, whose result is awaited."""

    def edit(self, source: Any, /, *edits: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Inversion(Inverted):
    """A picture's latent code and what it decodes to.

    Attributes:
        bundle: name of the bundle that the code belongs to.
        code: float32 [L, 512].
        image: RGB picture of `code`: the reconstruction.
        losses: errors before and after refinement.
        domain_score: 0..1, how native `code` is to the latent space.
        identity_score: 0..1, how likely `image` and the photograph, as the encoder saw it, show one person; None unless
            asked for.
        stage_seconds: seconds in each stage of the pipeline.
        aligned, start: the picture as the encoder saw it, and that of the encoder's code; None unless asked for.
        pasted: the whole photograph with the result in its place, in its own mode, with its colour profile and metadata
            in `info`; None unless asked for.
        placement: where on the photograph that is; None where the source was a code.
        request_id: id of the call, also in the gateway's log.
        handle: a name that the gateway knows the code by, for a while. Calls that take this result send it in place of
            the code.
        code_space: names the bundle and the generator of the code; others refuse it (`OtherCodeSpaceError`).
    """

    _edit: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, file: str | os.PathLike[str] | BinaryIO, client: Editor | None = None) -> Self:
        """Reads a file that `save` wrote. With a client, `edit` works again. Nothing in the file is executed.

        Raises:
            OSError: the file cannot be read.
            InvalidFileError: the file is no saved inversion.
        """
        inversion = super().load(file)
        return inversion if client is None else replace(inversion, _edit=client.edit)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has, and what arrives in another process: all but the client, which belongs to its process."""
        return vars(self) | {"_edit": None}

    def __copy__(self) -> Self:
        """In this process a copy keeps the client."""
        return replace(self)

    @takes_edit_options
    def edit(self, *args: Any, **options: Any) -> Edited:
        """Edits this code, without inverting again.

        Example:
            >>> client.invert("portrait.png").edit(smile=1.0, age=-1.0).image.save("edited.png")

        Takes what `Client.edit` takes and raises what it raises.
        """
        if self._edit is None:
            raise RuntimeError("this inversion has no client; pass it to Client.edit")
        result: Edited = self._edit(self, *args, **options)
        return result


class AsyncInversion(Inversion):
    """An inversion of an `AsyncClient`: `edit` is awaited."""

    @takes_edit_options
    async def edit(self, *args: Any, **options: Any) -> Edited:  # type: ignore[override]
        """Edits this code, without inverting again: `await inversion.edit(smile=1.0, age=-1.0)`."""
        if self._edit is None:
            raise RuntimeError("this inversion has no client; pass it to AsyncClient.edit")
        result: Edited = await self._edit(self, *args, **options)
        return result
