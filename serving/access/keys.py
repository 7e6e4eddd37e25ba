"""API keys: who may call, which methods, how often, how many requests at once. A file holds their hashes.

The lifecycle passes in the `authorization` header of either transport. The file is TOML, with a table for each key:

    [[key]]
    owner = "alice"               # goes into logs; two keys may have one owner, as while a key is being replaced
    sha256 = "9f86d0..."          # of the key; the key itself is nowhere
    requests_per_s = 20.0         # sustained; left out: no limit
    max_concurrent = 8            # requests at once; left out: no limit
    methods = ["Edit", "Decode"]  # left out: all

Keys are 256 random bits, so that a plain hash is as good as a slow one: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.deadline import Clock, MonotonicClock
from serving.errors import KeyLimitReached, KeysInvalid, PermissionDenied, Unauthenticated

_log = logging.getLogger(__name__)

KEY_PREFIX = "indomain_"  # lets scanners for leaked secrets know one when they see it
_LOOK_EVERY_S = 1.0
_OWNER = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"


class Key(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # a misspelt limit must not be none

    owner: str = Field(pattern=f"^{_OWNER}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    requests_per_s: float | None = Field(default=None, gt=0.0, le=1e6)
    max_concurrent: int | None = Field(default=None, ge=1)
    methods: tuple[str, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: tuple[Key, ...] = ()


@dataclass(slots=True)
class _Use:
    """What a key has used of its limits: a token bucket, which `requests_per_s` fills up to one second's worth."""

    tokens: float
    filled_s: float
    running: int = 0


class Keys:
    """The keys of one file, which is read again when it changes. A changed file that cannot be read is logged, and the
    keys from before stay in force.

    Raises KeysInvalid if the file cannot be read at the start.
    """

    def __init__(self, file: Path, clock: Clock | None = None) -> None:
        self._file = file
        self._clock = clock or MonotonicClock()
        self._looked_s = self._clock.now()
        self._version = _version_of(file)
        self._keys = _read(file)
        self._uses: dict[str, _Use] = {}

    @property
    def owners(self) -> set[str]:
        return {key.owner for key in self._keys}

    @contextmanager
    def admit(self, authorization: str | None, method: str) -> Iterator[str]:
        """Lets a request in for as long as the block lasts, and gives the owner's name.

        Raises Unauthenticated, PermissionDenied, KeyLimitReached.
        """
        key = self._allowed(authorization, method)
        use = self._use_of(key)
        if key.max_concurrent is not None and use.running >= key.max_concurrent:
            raise KeyLimitReached(
                f"The key of {key.owner} is for {key.max_concurrent} requests at once; wait for one to end."
            )
        self._take_token(key, use)
        use.running += 1
        try:
            yield key.owner
        finally:
            use.running -= 1

    def charge(self, authorization: str | None, method: str) -> None:
        """Counts one more message of a request that was let in, as a session has any number of them.

        Raises what `admit` raises: Unauthenticated where the key has been taken out of the file meanwhile.
        """
        key = self._allowed(authorization, method)
        self._take_token(key, self._use_of(key))

    def _allowed(self, authorization: str | None, method: str) -> Key:
        self._read_again()
        key = self._find(authorization)
        if key.methods and method not in key.methods:
            raise PermissionDenied(
                f"The key of {key.owner} is not for {method}; ask whoever gave it to you for one that is."
            )
        return key

    def _find(self, authorization: str | None) -> Key:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("A key is needed; send it as `authorization: Bearer KEY`.")
        presented = hash_of(token.strip())
        found = None
        # All keys are compared, so that the time taken does not tell which one came near.
        for key in self._keys:
            if hmac.compare_digest(presented, key.sha256):
                found = key
        if found is None:
            raise Unauthenticated("This key is not known here, or no longer; ask for another one.")
        return found

    def _use_of(self, key: Key) -> _Use:
        return self._uses.setdefault(key.sha256, _Use(_capacity(key), self._clock.now()))

    def _take_token(self, key: Key, use: _Use) -> None:
        """Takes one request's worth out of the key's bucket. Raises KeyLimitReached."""
        if key.requests_per_s is None:
            return
        now_s = self._clock.now()
        use.tokens = min(_capacity(key), use.tokens + key.requests_per_s * (now_s - use.filled_s))
        use.filled_s = now_s
        if use.tokens < 1.0:
            raise KeyLimitReached(
                f"The key of {key.owner} is for {key.requests_per_s:g} requests a second; slow down.",
                retry_after_s=(1.0 - use.tokens) / key.requests_per_s,
            )
        use.tokens -= 1.0

    def _read_again(self) -> None:
        if self._clock.now() - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = self._clock.now()
        version = _version_of(self._file)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = _read(self._file)
        except KeysInvalid as error:
            _log.error("%s The keys from before stay in force.", error.message)
            return
        known = {key.sha256 for key in self._keys}
        self._uses = {sha256: use for sha256, use in self._uses.items() if sha256 in known or use.running}
        _log.info("keys read again: %d of %d owners", len(self._keys), len(self.owners))


def _capacity(key: Key) -> float:
    """How many requests a key may make at once after a rest: one second's worth."""
    return max(1.0, key.requests_per_s or 1.0)


def hash_of(key: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(
    file: Path,
    owner: str,
    *,
    requests_per_s: float | None = None,
    max_concurrent: int | None = None,
    methods: tuple[str, ...] = (),
) -> str:
    """Makes a key, appends its hash to the file, and returns the key.

    Everyone may read a new file: a container has to, and the hash of 256 random bits tells nothing.

    Raises KeysInvalid, OSError.
    """
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    try:
        key = Key(
            owner=owner,
            sha256=hash_of(token),
            requests_per_s=requests_per_s,
            max_concurrent=max_concurrent,
            methods=methods,
        )
    except ValidationError as error:
        raise KeysInvalid(_said(error)) from None
    if file.exists():
        _read(file)
    lines = ["", "[[key]]", f'owner = "{key.owner}"', f'sha256 = "{key.sha256}"']
    if key.requests_per_s is not None:
        lines.append(f"requests_per_s = {key.requests_per_s!r}")
    if key.max_concurrent is not None:
        lines.append(f"max_concurrent = {key.max_concurrent}")
    if key.methods:
        lines.append(f"methods = [{', '.join(chr(34) + method + chr(34) for method in key.methods)}]")
    with os.fdopen(
        os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), "a", encoding="utf-8"
    ) as out:
        out.write("\n".join(lines) + "\n")
    return token


def _version_of(file: Path) -> tuple[int, int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _read(file: Path) -> tuple[Key, ...]:
    try:
        keys = _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).key
    except OSError as error:
        raise KeysInvalid(f"The file of keys cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysInvalid(f"The file of keys is no TOML: {error}.") from None
    except ValidationError as error:
        raise KeysInvalid(f"The file of keys is wrong: {_said(error)}") from None
    if len({key.sha256 for key in keys}) != len(keys):
        raise KeysInvalid("The file of keys has one key twice; remove one of the two.")
    return keys


def _said(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}."
