"""Indexing on a Ray cluster: a local one with two workers, one of which is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psutil
import pytest

import dualpath
from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.gallery.schema import IMAGES
from dualpath.recipes.schema import SplitRecipe
from tests.gallery.conftest import in_both_stores

if TYPE_CHECKING:
    from dualpath import Gallery

ray = pytest.importorskip("ray", reason="requires dualpath[ray]")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images and a broken one."""
    folder = tmp_path_factory.mktemp("many")
    write_shapes(folder, scenes=600, captions=1, size=40, seed=2, split=SplitRecipe())
    (folder / "images" / "broken.jpg").write_bytes(b"not an image")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "images/broken.jpg", "captions": ["a broken one"]}\n')
    return folder


def contents(gallery: "Gallery") -> tuple[dict[str, tuple[str, npt.NDArray[np.float32]]], int]:
    """The content hash and the vector of each image, and the number of rows."""
    columns = ("id", "content", "vector")
    rows = [row for batch in gallery.store.scan(IMAGES, columns) for row in batch.to_pylist()]
    return {row["id"]: (row["content"], np.asarray(row["vector"])) for row in rows}, len(rows)


class KillOneWorker:
    """A progress callback that kills a worker after 100 images."""

    def __init__(self) -> None:
        self.finished = 0
        self.killed: list[int] = []

    def __call__(self, count: int) -> None:
        self.finished += count
        if self.finished > 100 and not self.killed:
            processes = psutil.process_iter(["cmdline"])  # None for a process that has just ended
            titles = {one.pid: " ".join(one.info["cmdline"] or []) for one in processes}
            workers = [pid for pid, title in titles.items() if "EmbeddingWorker" in title]
            self.killed = workers[:1]
            os.kill(self.killed[0], signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
@in_both_stores
def test_a_killed_worker_does_not_change_the_result(
    many: Path, bundle: Path, tmp_path: Path, address: str
) -> None:
    with dualpath.Gallery.open(tmp_path / "alone", model=bundle) as gallery:
        alone = gallery.add(many)
        expected, _ = contents(gallery)
    killer = KillOneWorker()
    with dualpath.Gallery.open(address, model=bundle) as gallery:
        summary = gallery.add(many, ray=True, progress=killer)
        found, rows = contents(gallery)
        again = gallery.add(many, ray=True)
        problems = gallery.verify()
    assert killer.killed
    assert (summary.new, len(summary.broken)) == (alone.new, len(alone.broken)) == (600, 1)
    assert rows == len(found) == 600
    assert found.keys() == expected.keys()
    for image, (content, vector) in expected.items():
        assert found[image][0] == content
        np.testing.assert_allclose(found[image][1], vector, atol=1e-5)
    assert (again.new, again.unchanged) == (0, 600)
    assert problems == []
