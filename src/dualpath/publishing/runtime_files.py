"""The files of ONNX Runtime Web, which the published page runs the text encoder with.

They are 12 MB and in no Python package. They are taken from the npm package ``onnxruntime-web``:
from a folder of the user, or from the npm registry, once, into the cache.
"""

import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from dualpath.data.cache import default_cache_folder
from dualpath.errors import PublishError
from dualpath.types import Progress, no_progress
from dualpath.utils.files import atomic_write
from dualpath.utils.text import error_reason

VERSION = "1.23.2"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
ARCHIVE_SHA256 = "0b8707d7efab9a2bea63564d66cad79e897cfd0bd627e5ae000488ffc1c45c7d"
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
_TIMEOUT = 60  # seconds
_CHUNK = 1 << 20  # bytes
_HINT = (
    "download it with 'npm pack onnxruntime-web', unpack it, and give the folder: --runtime FOLDER"
)


def find_runtime(folder: Path | None = None, progress: Progress = no_progress) -> Path:
    """Return the folder that holds :data:`FILES`.

    Args:
        folder: the unpacked npm package, or its folder ``dist``. None: the cache; if the files are
            not there, they are downloaded from the npm registry and their checksum is compared.
        progress: called with the number of bytes downloaded since the last call.

    Raises:
        PublishError: the folder does not hold the files, or they cannot be downloaded.
    """
    if folder is not None:
        for candidate in (folder, folder / "dist", folder / "package" / "dist"):
            if all((candidate / name).is_file() for name in FILES):
                return candidate
        raise PublishError(
            f"{folder}: does not hold {', '.join(FILES)} of the npm package onnxruntime-web"
        )
    cached = default_cache_folder() / "onnxruntime-web" / VERSION
    if not all((cached / name).is_file() for name in FILES):
        _unpack(_download(progress), cached)
    return cached


def _download(progress: Progress) -> bytes:
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as response:
            while chunk := response.read(_CHUNK):
                content.write(chunk)
                progress(len(chunk))
    except (urllib.error.URLError, OSError) as error:
        raise PublishError(
            f"{URL}: cannot be downloaded ({error_reason(error)}); run the command again, or "
            f"{_HINT}"
        ) from error
    return content.getvalue()


def _unpack(archive: bytes, folder: Path) -> None:
    if hashlib.sha256(archive).hexdigest() != ARCHIVE_SHA256:
        raise PublishError(
            f"{URL}: the content is not the published file and was not used; try again later"
        )
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            if member is None:
                raise PublishError(f"{URL}: does not hold {name}; {_HINT}")
            atomic_write(folder / name, member.read())
