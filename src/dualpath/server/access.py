"""Access control: API keys, which are stored as hashes, and limits on the rate of requests."""

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fastapi import HTTPException, Request
from limits import RateLimitItem, parse

from dualpath.errors import KeyFileError, ServerError
from dualpath.server.rate_limit import RateLimiter

Scope = Literal["read", "write"]
COOKIE = "dualpath_key"
_PREFIX = "dp_"
_WRONG_KEY_RATE = "30/minute"  # wrong keys from one address


def parse_rate(rate: str) -> RateLimitItem:
    """Parse a rate of requests, such as ``3000/minute``.

    Raises:
        ServerError: the rate is not valid.
    """
    try:
        return parse(rate)
    except ValueError as error:
        raise ServerError(f"rate {rate!r}: not valid; write, for example, 3000/minute") from error


@dataclass(frozen=True)
class ApiKey:
    """An API key as it is stored.

    Attributes:
        name: of the key.
        scope: what the key permits. ``write`` includes ``read``.
        hash: SHA-256 of the key, in hexadecimal digits.
        made: when the key was created, in ISO 8601.
    """

    name: str
    scope: Scope
    hash: str
    made: str


class KeyFile:
    """A file of API keys.

    A key has 256 random bits, so its plain SHA-256 hash does not reveal it.

    Attributes:
        path: of the file. It need not exist yet.
        keys: in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.keys = [ApiKey(**key) for key in json.loads(path.read_text("utf-8"))]
        except FileNotFoundError:
            self.keys = []
        except (OSError, ValueError, TypeError) as error:
            raise KeyFileError(f"{path}: not a file of API keys ({error})") from error

    def add(self, name: str, scope: Scope) -> str:
        """Create a key and return it. The file stores its hash, so the key is not shown again.

        Raises:
            KeyFileError: a key has this name already.
        """
        if any(key.name == name for key in self.keys):
            raise KeyFileError(f"{self.path}: a key is already named {name}; revoke it first")
        secret = _PREFIX + secrets.token_urlsafe(32)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self.keys.append(ApiKey(name, scope, _hash(secret), made))
        self._write()
        return secret

    def revoke(self, name: str) -> None:
        """Delete a key.

        Raises:
            KeyFileError: no key has this name.
        """
        remaining = [key for key in self.keys if key.name != name]
        if len(remaining) == len(self.keys):
            raise KeyFileError(f"{self.path}: no key is named {name}")
        self.keys = remaining
        self._write()

    def scope_of(self, secret: str) -> Scope | None:
        """Return what a key permits. None: the key is unknown.

        All keys are compared, each in constant time, so the duration reveals nothing.
        """
        hashed, scope = _hash(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.hash, hashed):
                scope = key.scope
        return scope

    def _write(self) -> None:
        text = json.dumps([asdict(key) for key in self.keys], indent=2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.touch(mode=0o600)  # before the content is written
        partial.write_text(text + "\n", "utf-8")
        partial.replace(self.path)


class AccessControl:
    """Admits or refuses requests.

    Without keys, every request is admitted within the limit of its rate. The cookie of the web page
    permits reading only, so that another web site cannot make a browser write.

    Args:
        keys: that are admitted. None: no key is required.
        rate: requests that one client may send, such as ``3000/minute``.

    Raises:
        ServerError: ``rate`` is not valid.
    """

    def __init__(self, keys: KeyFile | None, rate: str) -> None:
        self._keys = keys
        self._rate, self._wrong_key_rate = parse_rate(rate), parse_rate(_WRONG_KEY_RATE)
        self._limiter = RateLimiter()

    @property
    def requires_key(self) -> bool:
        """Whether requests need a key."""
        return self._keys is not None

    def require_read(self, request: Request) -> None:
        """Admit a request that reads, or raise an HTTP error 401 or 429."""
        self._admit(request, _bearer_token(request) or request.cookies.get(COOKIE), "read")

    def require_write(self, request: Request) -> None:
        """Admit a request that writes, or raise an HTTP error 401, 403 or 429."""
        self._admit(request, _bearer_token(request), "write")

    def check_key(self, request: Request, secret: str) -> None:
        """Raise an HTTP error 401 or 429 unless a key permits reading."""
        self._admit(request, secret, "read")

    def _admit(self, request: Request, secret: str | None, scope: Scope) -> None:
        client = request.client.host if request.client else "unknown"
        if not self._limiter.hit(self._rate, "requests", client):
            raise _too_many_requests()
        if self._keys is None:
            return
        if not self._limiter.test(self._wrong_key_rate, "wrong keys", client):
            raise _too_many_requests()
        permitted = self._keys.scope_of(secret) if secret else None
        if permitted is None:
            if secret:
                self._limiter.hit(self._wrong_key_rate, "wrong keys", client)
            raise HTTPException(
                401, "an API key is required", headers={"WWW-Authenticate": "Bearer"}
            )
        if scope == "write" and permitted != "write":
            raise HTTPException(403, "this key permits reading only")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _bearer_token(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def _too_many_requests() -> HTTPException:
    return HTTPException(429, "too many requests; wait a minute", headers={"Retry-After": "60"})
