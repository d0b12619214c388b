"""The file of API keys."""

import stat
from pathlib import Path

import pytest

from dualpath.errors import KeyFileError
from dualpath.server.access import KeyFile
from tests.conftest import run_cli


def test_keys_are_stored_as_hashes_in_a_file_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = KeyFile(path).add("page", "read")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyFile(path).scope_of(key) == "read"
    assert KeyFile(path).scope_of(key + "x") is None


def test_key_names_are_unique_and_can_be_revoked(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("page", "write")
    with pytest.raises(KeyFileError, match="a key is already named page"):
        keys.add("page", "read")
    keys.revoke("page")
    assert KeyFile(tmp_path / "keys.json").scope_of(key) is None
    with pytest.raises(KeyFileError, match="no key is named page"):
        keys.revoke("page")


@pytest.mark.parametrize("content", ["{", "[1]", '[{"name": "x"}]'])
def test_a_damaged_key_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(KeyFileError, match="not a file of API keys"):
        KeyFile(tmp_path / "keys.json")


@pytest.mark.slow
def test_the_command_line_creates_lists_and_revokes_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = run_cli("keys", "add", path, "page").stdout.strip()
    assert KeyFile(path).scope_of(key) == "read"
    assert run_cli("keys", "add", path, "page").returncode == 1
    writer = run_cli("keys", "add", path, "importer", "--write").stdout.strip()
    assert KeyFile(path).scope_of(writer) == "write"
    assert "page" in run_cli("keys", "list", path).stdout
    assert run_cli("keys", "revoke", path, "page").returncode == 0
    assert KeyFile(path).scope_of(key) is None
