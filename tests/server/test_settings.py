"""The rule that a public server requires keys, for Python callers and on the command line."""

from pathlib import Path

import pytest

import dualpath
from dualpath.errors import ServerError
from dualpath.server.access import KeyFile
from dualpath.server.server import serve
from dualpath.server.settings import Settings, secure_settings
from tests.conftest import run_cli

PUBLIC = ["0.0.0.0", "::", "192.168.0.1", "example.org"]


@pytest.mark.parametrize("host", PUBLIC)
def test_a_public_server_does_not_start_without_keys(host: str, gallery_folder: Path) -> None:
    with (
        dualpath.Gallery.open(gallery_folder) as gallery,
        pytest.raises(ServerError, match="other machines can reach this address; create a key"),
    ):
        serve(gallery, host=host)


def test_a_server_does_not_start_with_a_key_file_without_keys(
    gallery_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys.json").write_text("[]")
    for path in (tmp_path / "keys.json", tmp_path / "none.json"):
        settings = Settings(keys=KeyFile(path))
        with (
            dualpath.Gallery.open(gallery_folder) as gallery,
            pytest.raises(ServerError, match="contains no key; create one"),
        ):
            serve(gallery, settings, host="0.0.0.0")


@pytest.mark.slow
def test_the_command_line_refuses_in_the_same_way(gallery_folder: Path, tmp_path: Path) -> None:
    done = run_cli("serve", gallery_folder, "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "other machines can reach this address" in done.stderr
    (tmp_path / "keys.json").write_text("[]")
    done = run_cli("serve", gallery_folder, "--host", "0.0.0.0", "--keys", tmp_path / "keys.json")
    assert done.returncode == 1
    assert "contains no key" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_server_without_keys_answers_to_local_names_only(host: str) -> None:
    hosts = secure_settings(Settings(), host).hosts
    assert hosts == {"localhost", "127.0.0.1", "::1", host}


@pytest.mark.parametrize("host", ["127.0.0.1", *PUBLIC])
def test_a_server_with_keys_may_be_public_and_answers_to_any_name(
    host: str, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("one", "read")
    settings = Settings(keys=keys)
    assert secure_settings(settings, host) == settings
    assert settings.hosts is None


def test_host_names_that_were_given_are_used() -> None:
    settings = Settings(hosts=frozenset({"photos.local"}))
    assert secure_settings(settings, "127.0.0.1").hosts == {"photos.local"}


def test_a_bad_rate_is_an_error() -> None:
    with pytest.raises(ServerError, match="rate 'often': not valid"):
        Settings(rate="often")
