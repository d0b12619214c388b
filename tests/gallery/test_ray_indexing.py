"""Indexing on a Ray cluster: a local one with two workers, of which one is killed."""

import os
import signal

import numpy as np
import psutil
import pytest

import dualpath
from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.recipes.schema import SplitRecipe
from tests.gallery.conftest import ON_MILVUS

ray = pytest.importorskip("ray", reason="needs dualpath[scale]")


@pytest.fixture
def cluster():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write_shapes(folder, scenes=600, captions=1, size=40, seed=2, split=SplitRecipe())
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "images/broken.jpg", "captions": ["a broken one"]}\n')
    return folder


def contents(gallery):
    columns = ("id", "content", "vector")
    rows = [row for batch in gallery.store.scan("images", columns) for row in batch.to_pylist()]
    return {row["id"]: (row["content"], np.asarray(row["vector"])) for row in rows}, len(rows)


class KillsAWorker:
    """Called with the number of images done; kills a worker once some are."""

    def __init__(self):
        self.done, self.killed = 0, []

    def __call__(self, count):
        self.done += count
        if self.done > 100 and not self.killed:
            running = psutil.process_iter(["cmdline"])  # of one that has just ended it is none
            titles = {process.pid: " ".join(process.info["cmdline"] or []) for process in running}
            workers = [pid for pid, title in titles.items() if "_Embedder" in title]
            self.killed = workers[:1]
            os.kill(self.killed[0], signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("address", ["embedded", ON_MILVUS], indirect=True)
def test_a_killed_worker_changes_nothing_of_what_is_indexed(many, bundle, tmp_path, address):
    model = dualpath.load(bundle)
    with dualpath.Gallery.open(tmp_path / "alone", model=model) as gallery:
        alone = gallery.add(many)
        expected, _ = contents(gallery)
    killer = KillsAWorker()
    with dualpath.Gallery.open(address, model=model) as gallery:
        added = gallery.add(many, ray=True, progress=killer)
        found, rows = contents(gallery)
        again = gallery.add(many, ray=True)
        problems = gallery.verify()
    assert killer.killed
    assert (added.new, len(added.broken)) == (alone.new, len(alone.broken)) == (600, 1)
    assert rows == len(found) == 600
    assert found.keys() == expected.keys()
    for image, (content, vector) in expected.items():
        assert found[image][0] == content
        np.testing.assert_allclose(found[image][1], vector, atol=1e-5)
    assert (again.new, again.unchanged) == (0, 600)
    assert not problems
