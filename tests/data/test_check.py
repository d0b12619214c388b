import shutil

from dualpath.data.check import check_folder
from dualpath.data.manifest import write_manifest
from tests.data.files import save_image


def test_a_check_counts_and_warns_about_what_may_be_unintended(tmp_path):
    for number in range(6):
        save_image(tmp_path / f"{number}.png", (40 * number, 0, 0))
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "again.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [
        {"file_name": f"{number}.png", "captions": [""] if number > 1 else ["a", " "]}
        for number in range(6)
    ]
    rows += [{"file_name": name, "text": "b"} for name in ("again.png", "broken.png")]
    rows = [{**row, "split": "train"} for row in rows]
    write_manifest(tmp_path, [*rows, {"file_name": "copy.png", "text": "c", "split": "test"}])
    counted = []
    report = check_folder(tmp_path, tmp_path / "cache", counted.append)
    assert report.counts == ["9 images (train 8, test 1)", "5 captions", "9 instances"]
    assert report.warnings == [
        "6 empty captions are ignored",
        "4 images have no caption: 2.png, 3.png, 4.png and 1 more",
        "the same image in two splits: 0.png (train), copy.png (test)",
        "1 images occur more than once in one split",
    ]
    assert len(report.errors) == 1
    assert "broken.png: not an image" in report.errors[0]
    assert sum(counted) == 9
