"""A folder as a data set was unpacked, or not yet: its files by name, also inside its zips."""

import json
import os
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dualpath.errors import DatasetError


class RawFolder:
    """Find the files of a data set wherever they lie below a folder.

    Raises:
        SourceError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder")
        self.folder = folder

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for place, _, names in os.walk(self.folder, followlinks=True):
            for name in names:
                found.setdefault(name, []).append(Path(place) / name)
        return found

    def has(self, name: str) -> bool:
        """Tell whether a file of this name is there."""
        return self._find(name) is not None

    def text(self, name: str) -> str:
        """Return the text of a file, or raise ``SourceError``."""
        found = self._find(name)
        if found is None:
            raise DatasetError(
                f"{self.folder}: {name} is neither there nor inside a zip that is; put it there"
            )
        path, member = found
        try:
            if member is None:
                return path.read_text(encoding="utf-8")
            with zipfile.ZipFile(path) as archive:
                return archive.read(member).decode("utf-8")
        except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path}: {name} cannot be read ({error})") from error

    def json(self, name: str) -> Any:
        """Return the content of a JSON file, or raise ``SourceError``."""
        try:
            return json.loads(self.text(name))
        except json.JSONDecodeError as error:
            raise DatasetError(f"{self.folder}: {name} is not valid JSON ({error})") from error

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file that are not empty, or raise ``SourceError``."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def image(self, name: str) -> Path:
        """Return where an image lies; ``name`` may begin with folders, which then must agree.

        An image that is not there gets the place where it was looked for.
        """
        wanted = PurePosixPath(name)
        candidates = self._by_name.get(wanted.name, [])
        for path in candidates:
            if path.as_posix().endswith(f"/{wanted}"):
                return path
        return self.folder / name

    def _find(self, name: str) -> tuple[Path, str | None] | None:
        """Return the file, or the zip and the member of it."""
        if name in self._by_name:
            return min(self._by_name[name]), None
        return self._zipped.get(name)

    @cached_property
    def _zipped(self) -> dict[str, tuple[Path, str]]:
        members: dict[str, tuple[Path, str]] = {}
        for paths in self._by_name.values():
            for path in paths:
                if path.suffix != ".zip":
                    continue
                try:
                    with zipfile.ZipFile(path) as archive:
                        for member in archive.namelist():
                            if not member.startswith("__MACOSX"):
                                members.setdefault(PurePosixPath(member).name, (path, member))
                except zipfile.BadZipFile as error:
                    raise DatasetError(
                        f"{path}: not a whole zip ({error}); fetch it again"
                    ) from error
        return members
