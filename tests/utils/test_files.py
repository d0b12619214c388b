import pytest

from dualpath.utils.files import atomic_path, atomic_write


@pytest.mark.parametrize(
    ("content", "written"), [("größer\n", "größer\n".encode()), (b"\0a", b"\0a")]
)
def test_content_is_written_and_missing_folders_are_created(tmp_path, content, written):
    path = tmp_path / "some" / "folder" / "file"
    atomic_write(path, content)
    assert path.read_bytes() == written
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
