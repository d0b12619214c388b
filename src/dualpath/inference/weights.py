"""What can be read from the weights of a bundle without torch: fingerprint and sizes."""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from dualpath.errors import BundleError

WEIGHTS_FORMAT = "dualpath-1"
# State of batch normalisation that is not learnt.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class WeightsInfo(NamedTuple):
    """What a weights file holds.

    Attributes:
        fingerprint: a hash of all weights, 32 hexadecimal digits.
        parameters: number of parameters of ``image_encoder`` and ``text_encoder``.
    """

    fingerprint: str
    parameters: dict[str, int]


def read_weights_info(path: Path) -> WeightsInfo:
    """Read fingerprint and sizes from ``model.safetensors``.

    Raises:
        BundleError: the file is damaged, truncated, or not of a bundle.
    """
    try:
        with safe_open(path, framework="np") as file:
            # One entry, since safetensors writes several in an order that changes.
            written, _, fingerprint = (file.metadata() or {}).get("format", "").partition(" ")
            if written != WEIGHTS_FORMAT:
                raise BundleError(f"{path}: not the weights of a DualPath bundle")
            names = sorted(file.keys())
            parameters: dict[str, int] = {}
            for name in names:
                if not name.endswith(_BUFFERS):
                    encoder = name.partition(".")[0]
                    size = math.prod(file.get_slice(name).get_shape())
                    parameters[encoder] = parameters.get(encoder, 0) + size
            if not fingerprint:  # written by a version before 0.2
                digest = hashlib.blake2b(digest_size=16)
                for name in names:
                    digest.update(name.encode())
                    digest.update(file.get_tensor(name).tobytes())
                fingerprint = digest.hexdigest()
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: damaged or truncated ({error}); copy it again") from error
    return WeightsInfo(fingerprint, parameters)
