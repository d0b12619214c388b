"""Names of models: bundles, and pretrained image-text models, which become bundles in the cache."""

import hashlib
import json
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from filelock import FileLock

from dualpath.data.cache import default_cache_folder
from dualpath.errors import BundleError
from dualpath.inference.bundle import RECIPE, find_bundle
from dualpath.utils.text import error_reason

_VERSION = 1  # of the conversion; a model that an earlier one converted is converted again
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_CONFIG = "config.json"
_CARD = "README.md"  # names the licence
_CONNECT_SECONDS = 10
_PREFIXES = ("hf-hub:", "local-dir:")  # of open_clip

Log = Callable[[str], None]


class _Source(NamedTuple):
    """Where a pretrained model is.

    Attributes:
        library: that loads it. ``dualpath``: it is a bundle.
        source: the library's name of it.
        folder: of its configuration.
    """

    library: str
    source: str
    folder: Path | None


def find_model(source: str | Path, log: Log | None = None) -> Path:
    """Return the folder of a bundle.

    A pretrained image-text model is converted and stored in the cache, where the next call finds
    it without a connection.

    Args:
        source: the folder of a bundle or of a pretrained model; an id of the Hugging Face hub of
            either; or open_clip's name of a model, ``hf-hub:USER/NAME`` or ``local-dir:FOLDER``.
        log: called with lines about a conversion, which takes minutes.

    Raises:
        BundleError: there is no such model, or it cannot be converted.
        MissingPackageError: a conversion needs packages that are not installed.
    """
    name = str(source)
    if not _is_pretrained_name(name):
        return find_bundle(source)
    cached = _cache_folder(name)
    if (cached / RECIPE).is_file():
        return cached
    found = _find_source(name)
    if found.library == "dualpath":
        return Path(found.source)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if not (cached / RECIPE).is_file():
            _convert(found, name, cached, log or (lambda _: None))
    return cached


def convert_pretrained(name: str | Path, out: str | Path, *, log: Log = lambda _: None) -> Path:
    """Write a pretrained image-text model (CLIP, SigLIP and their like) as a bundle.

    Args:
        name: a folder of ``transformers`` or open_clip; an id of the Hugging Face hub such as
            ``google/siglip2-base-patch16-224``; or open_clip's name of a model,
            ``hf-hub:USER/NAME`` or ``local-dir:FOLDER``.
        out: the folder to write.
        log: called with lines about what is done.

    Returns:
        The folder.

    Raises:
        BundleError: there is no such model, it cannot be converted, or ``out`` is not empty.
        MissingPackageError: packages of the extra ``pretrained`` are not installed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out}: exists already; choose another folder, or delete it")
    found = _find_source(str(name))
    if found.library == "dualpath":
        raise BundleError(f"{name}: is a DualPath bundle already")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        out.rmdir()
    _convert(found, str(name), out.absolute(), log)
    return out


def _is_pretrained_name(name: str) -> bool:
    """Return whether a name may be that of a pretrained model and is not certainly of a bundle."""
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        pretrained = any((folder / file).is_file() for file in (_CONFIG, _OPEN_CLIP_CONFIG))
        return pretrained and not (folder / RECIPE).is_file()
    return name.startswith(_PREFIXES) or _is_hub_id(name)


def _is_hub_id(name: str) -> bool:
    return len(Path(name).parts) == 2 and not Path(name).is_absolute()


def _convert(found: _Source, name: str, out: Path, log: Log) -> None:
    """Convert a model to a folder, whole or not at all."""
    from dualpath.inference.conversion import load_original, write_original

    log(f"loading {name} with {found.library}")
    title = Path(name).name if Path(name).is_dir() else name
    original = load_original(found.library, found.source, found.folder, title)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        written = Path(scratch) / "bundle"
        write_original(original, title, written, log)
        written.chmod(0o755)
        if out.is_dir():  # an earlier conversion that was not complete
            shutil.rmtree(out)
        written.rename(out)


def _cache_folder(name: str) -> Path:
    """Return where the bundle of a converted model is stored.

    The files of a local folder are part of the key, so that a model that has changed is converted
    again.
    """
    folder = Path(name.removeprefix("local-dir:"))
    state: list[Any] = [_VERSION, name]
    if folder.is_dir():
        state = [_VERSION, str(folder.resolve())]
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                status = file.stat()
                state.append([str(file.relative_to(folder)), status.st_size, status.st_mtime_ns])
    digest = hashlib.blake2b(json.dumps(state).encode(), digest_size=6).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(Path(name).parts[-2:])).strip("-.")
    return default_cache_folder() / "models" / f"{slug}-{digest}"


def _find_source(name: str) -> _Source:
    """Return where a model is, of which kind.

    Raises:
        BundleError: there is no such model.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        return _local_source(name, folder)
    if name.startswith("local-dir:") or not _is_hub_id(name.removeprefix("hf-hub:")):
        raise BundleError(f"{name}: the folder does not exist")
    return _hub_source(name)


def _local_source(name: str, folder: Path) -> _Source:
    if (folder / RECIPE).is_file():
        return _Source("dualpath", name, folder)
    if (folder / _OPEN_CLIP_CONFIG).is_file() and (
        name.startswith("local-dir:") or not _is_transformers(folder / _CONFIG)
    ):
        return _Source("open_clip", f"local-dir:{folder}", folder)
    if _is_transformers(folder / _CONFIG):
        return _Source("transformers", str(folder), folder)
    raise BundleError(
        f"{folder}: not a bundle, {RECIPE} missing, nor a pretrained model, {_CONFIG} of "
        f"transformers and {_OPEN_CLIP_CONFIG} missing"
    )


def _hub_source(name: str) -> _Source:
    """Return the kind of a repository of the hub by its small files, which are downloaded."""
    repository = name.removeprefix("hf-hub:")
    _require_connection(name)
    if not name.startswith("hf-hub:"):
        if _download(name, repository, RECIPE) is not None:
            return _Source("dualpath", str(find_bundle(repository)), None)
        config = _download(name, repository, _CONFIG)
        if config is not None and _is_transformers(config):
            _download(name, repository, _CARD)
            return _Source("transformers", repository, config.parent)
    config = _download(name, repository, _OPEN_CLIP_CONFIG)
    if config is not None:
        _download(name, repository, _CARD)
        return _Source("open_clip", f"hf-hub:{repository}", config.parent)
    raise BundleError(
        f"{name}: neither a bundle nor a model of transformers or open_clip; its repository has no "
        f"{RECIPE}, {_CONFIG} or {_OPEN_CLIP_CONFIG}"
    )


def _download(name: str, repository: str, file: str) -> Path | None:
    """Return a file of the hub. None: the repository does not have it.

    Raises:
        BundleError: there is no such repository, or no connection.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:  # no connection, and not downloaded before
        raise BundleError(_not_found(name, error)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub client raises errors of its dependencies
        raise BundleError(_not_found(name, error)) from error


def _require_connection(name: str) -> None:
    """Raise ``BundleError`` without a connection to the hub, which its client tries for minutes.

    The variable ``HF_HUB_OFFLINE`` lets the client use what it has downloaded before.
    """
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies() or not hub.hostname:
        return
    try:
        port = hub.port or (443 if hub.scheme == "https" else 80)
        socket.create_connection((hub.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise BundleError(
            f"{name}: the folder does not exist, and there is no connection to {hub.hostname} "
            f"({error_reason(error)}); give a folder, or set HF_HUB_OFFLINE=1 if the model was "
            "downloaded before"
        ) from error


def _not_found(name: str, error: Exception) -> str:
    return (
        f"{name}: the folder does not exist, and the hub has no such bundle or pretrained model, "
        f"or it cannot be downloaded ({error_reason(error)})"
    )


def _is_transformers(config: Path) -> bool:
    try:
        return "model_type" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
