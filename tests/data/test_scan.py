import os

from dualpath.data.scan import broken_images_message, scan_images
from tests.data.files import save_image


def test_a_scan_finds_broken_images_and_caches_valid_ones(tmp_path):
    paths = [save_image(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(3)]
    (tmp_path / "broken.jpg").write_text("x")
    paths.append(tmp_path / "broken.jpg")
    counted = []
    first = scan_images(paths, tmp_path / "cache", counted.append)
    assert first.is_valid.tolist() == [True, True, True, False]
    assert len(set(first.hashes[:3])) == 3
    assert list(first.broken) == [tmp_path / "broken.jpg"]
    assert sum(counted) == 4
    # A second scan does not read a file of the same size and time: this one is no longer an image.
    state = paths[0].stat()
    paths[0].write_bytes(b"\0" * state.st_size)
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (scan_images(paths, tmp_path / "cache").hashes == first.hashes).all()


def test_a_changed_image_gets_another_hash(tmp_path):
    path = save_image(tmp_path / "a.png")
    before = scan_images([path], tmp_path / "cache").hashes[0]
    save_image(path, (0, 200, 0), size=(41, 30))
    assert scan_images([path], tmp_path / "cache").hashes[0] != before


def test_the_message_lists_ten_broken_images_and_counts_the_others(tmp_path):
    broken = {tmp_path / f"{i}.jpg": f"{i}.jpg: not an image" for i in range(12)}
    lines = broken_images_message(broken).splitlines()
    assert lines[0].startswith("12 images are broken; repair or remove them, or add --skip-broken")
    assert lines[1:11] == [f"{i}.jpg: not an image" for i in range(10)]
    assert lines[11:] == ["... and 2 more"]
