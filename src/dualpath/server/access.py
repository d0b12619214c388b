"""Who may ask: from where, API keys, hashed at rest, and a limit on how often."""

import hashlib
import hmac
import ipaddress
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fastapi import HTTPException, Request
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from dualpath.errors import KeyFileError

Scope = Literal["read", "write"]
COOKIE = "dualpath_key"
_PREFIX = "dp_"
_REFUSED_RATE = "30/minute"  # wrong keys from one address


def loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_hosts(host: str) -> frozenset[str]:
    """Return the names of a server that only this machine reaches."""
    return frozenset({"localhost", "127.0.0.1", "::1", host})


@dataclass(frozen=True)
class Key:
    """What is kept of a key: its hash. ``write`` may also read."""

    name: str
    scope: Scope
    hash: str
    made: str


class Keys:
    """A file of API keys. A key has 256 random bits, so a plain SHA-256 hides it well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.keys = [Key(**key) for key in json.loads(path.read_text("utf-8"))]
        except FileNotFoundError:
            self.keys = []
        except (OSError, ValueError, TypeError) as error:
            raise KeyFileError(f"{path}: no file of keys ({error})") from error

    def add(self, name: str, scope: Scope) -> str:
        """Make a key and return it; it is shown this once. Raises ``KeyFileError``."""
        if any(key.name == name for key in self.keys):
            raise KeyFileError(f"{self._path}: has a key named {name} already; revoke it first")
        secret = _PREFIX + secrets.token_urlsafe(32)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self.keys.append(Key(name, scope, _hash(secret), made))
        self._write()
        return secret

    def revoke(self, name: str) -> None:
        """Forget a key; raises ``KeyFileError`` if there is none of that name."""
        kept = [key for key in self.keys if key.name != name]
        if len(kept) == len(self.keys):
            raise KeyFileError(f"{self._path}: has no key named {name}")
        self.keys = kept
        self._write()

    def scope_of(self, secret: str) -> Scope | None:
        """Return what a key allows; every key is compared, in constant time."""
        details, found = _hash(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.hash, details):
                found = key.scope
        return found

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + ".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps([asdict(key) for key in self.keys], indent=2) + "\n", "utf-8")
        partial.replace(self._path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Access:
    """Lets requests in. Without keys everybody may read and write, within the rate.

    A cookie, which the page gets for a key, only reads: a page elsewhere cannot make it write.
    """

    def __init__(self, keys: Keys | None, rate: str) -> None:
        self._keys = keys
        self._rate, self._refused = parse(rate), parse(_REFUSED_RATE)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    @property
    def open(self) -> bool:
        """Whether no key is asked for."""
        return self._keys is None

    def read(self, request: Request) -> None:
        """Let a reader in, or raise 401 or 429."""
        self._admit(request, _bearer(request) or request.cookies.get(COOKIE), "read")

    def write(self, request: Request) -> None:
        """Let a writer in, or raise 401, 403 or 429."""
        self._admit(request, _bearer(request), "write")

    def check(self, request: Request, secret: str) -> None:
        """Raise 401 or 429 unless the key may read."""
        self._admit(request, secret, "read")

    def _admit(self, request: Request, secret: str | None, wanted: Scope) -> None:
        client = request.client.host if request.client else "unknown"
        if not self._limiter.hit(self._rate, "asked", client):
            raise _too_many()
        if self._keys is None:
            return
        if not self._limiter.test(self._refused, "refused", client):
            raise _too_many()
        scope = self._keys.scope_of(secret) if secret else None
        if scope is None:
            if secret:
                self._limiter.hit(self._refused, "refused", client)
            raise HTTPException(401, "an API key is needed", headers={"WWW-Authenticate": "Bearer"})
        if wanted == "write" and scope != "write":
            raise HTTPException(403, "this key may only read")


def _bearer(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def _too_many() -> HTTPException:
    return HTTPException(429, "too many requests; wait a minute", headers={"Retry-After": "60"})
