"""The captioned images of a training; everything that can fail about them fails here."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualpath.data.manifest import Manifest
from dualpath.data.scan import ImageScan, broken_images_message, scan_images
from dualpath.data.table import ImageTable
from dualpath.data.vector_store import Hashes
from dualpath.errors import ManifestError
from dualpath.types import Progress, no_progress

Log = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """Captioned images that can be decoded, and the hashes of their files.

    Attributes:
        train: to train on.
        val: to validate on; may be empty.
        train_hashes: (images,).
        val_hashes: (images,).
    """

    train: ImageTable
    val: ImageTable
    train_hashes: Hashes
    val_hashes: Hashes

    @property
    def fingerprint(self) -> str:
        """A hash of everything that training reads."""
        digest = hashlib.blake2b(digest_size=16)
        for images, hashes in ((self.train, self.train_hashes), (self.val, self.val_hashes)):
            for image, content_hash in zip(images, hashes, strict=True):
                fields = (image.split, image.instance, content_hash.decode(), *image.captions)
                digest.update(repr(fields).encode())
        return digest.hexdigest()


def gather_data(
    manifest: Manifest,
    cache: Path,
    *,
    skip_broken: bool,
    log: Log,
    progress: Progress = no_progress,
) -> TrainingData:
    """Select the captioned images of train and val, and check that every file can be decoded.

    Raises:
        ManifestError: there are fewer than two training images, or images are broken and
            ``skip_broken`` is false.
    """
    selected = manifest.images.filter(manifest.images.split_mask("train", "val"))
    captioned = selected.filter(selected.caption_counts > 0)
    if len(captioned) < len(selected):
        log(f"{len(selected) - len(captioned)} images without a caption are left out")
    scan = scan_images(captioned.paths, cache, progress)
    _report_broken(scan, skip_broken, log)
    train, val = (captioned.split_mask(split) & scan.is_valid for split in ("train", "val"))
    if train.sum() < 2:
        raise ManifestError(f"{manifest.folder}: split 'train' needs two captioned images or more")
    return TrainingData(
        train=captioned.filter(train),
        val=captioned.filter(val),
        train_hashes=scan.hashes[train],
        val_hashes=scan.hashes[val],
    )


def _report_broken(scan: ImageScan, skip_broken: bool, log: Log) -> None:
    if not scan.broken:
        return
    if not skip_broken:
        raise ManifestError(broken_images_message(scan.broken))
    for problem in scan.broken.values():
        log(f"left out: {problem}")
