"""The folder with the files of a data set, which may be inside zip archives."""

import json
import os
import unicodedata
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dualpath.errors import DatasetError
from dualpath.utils.text import error_reason
from dualpath.utils.text_files import decode_text


class RawFolder:
    """Finds the files of a data set by name, at any depth below a folder.

    Raises:
        DatasetError: the folder does not exist. Every method raises it for a zip that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the folder does not exist")
        self.folder = folder

    def has(self, name: str) -> bool:
        """Return whether a file of this name exists, also inside a zip."""
        return self._find(name) is not None

    def read_text(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            DatasetError: it is missing or cannot be read.
        """
        found = self._find(name)
        if found is None:
            raise DatasetError(
                f"{self.folder}: {name} was found neither as a file nor inside a zip; put it there"
            )
        path, member = found
        try:
            if member is None:
                return decode_text(path.read_bytes())
            with zipfile.ZipFile(path) as archive:
                return decode_text(archive.read(member))
        except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path}: {name} cannot be read ({error_reason(error)})") from error

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file; raise ``DatasetError`` as :meth:`read_text` does."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            reason = error_reason(error)
            raise DatasetError(f"{self.folder}: {name} is not valid JSON ({reason})") from error

    def read_lines(self, name: str) -> list[str]:
        """Return the lines of a file that are not empty, stripped."""
        return [line.strip() for line in self.read_text(name).splitlines() if line.strip()]

    def find_image(self, name: str) -> Path:
        """Return the path of an image.

        Args:
            name: a file name, or a path whose folders must be the last folders of the result. It
                may have backslashes, and accents in another Unicode form than the file has.

        Returns:
            Where the file is; if it is missing, ``folder / name``.
        """
        for spelling in (name, name.replace("\\", "/")):
            wanted = PurePosixPath(_normalize(spelling))
            for path in self._images.get(wanted.name, []):
                if _normalize(path.as_posix()).endswith(f"/{wanted}"):
                    return path
        return self.folder / name

    def _find(self, name: str) -> tuple[Path, str | None] | None:
        """Return a file and None, or a zip and the name of the member."""
        if name in self._files:
            return min(self._files[name]), None
        return self._zip_members.get(name)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """The paths of all files, by file name."""
        files: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(self.folder, followlinks=True):
            for name in names:
                files.setdefault(name, []).append(Path(folder) / name)
        return files

    @cached_property
    def _images(self) -> dict[str, list[Path]]:
        """The paths of all files, by file name in Unicode form NFC."""
        files: dict[str, list[Path]] = {}
        for name, paths in self._files.items():
            files.setdefault(_normalize(name), []).extend(paths)
        return files

    @cached_property
    def _zip_members(self) -> dict[str, tuple[Path, str]]:
        """The zip and the member of all files inside zips, by file name."""
        members: dict[str, tuple[Path, str]] = {}
        archives = (path for paths in self._files.values() for path in paths)
        for path in archives:
            if path.suffix != ".zip":
                continue
            try:
                with zipfile.ZipFile(path) as archive:
                    for member in archive.namelist():
                        if not member.startswith("__MACOSX"):
                            members.setdefault(PurePosixPath(member).name, (path, member))
            except zipfile.BadZipFile as error:
                raise DatasetError(
                    f"{path}: not a complete zip ({error_reason(error)}); download it again"
                ) from error
        return members


def _normalize(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)
