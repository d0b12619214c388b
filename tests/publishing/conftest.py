"""A published gallery of shapes, served as a static host does: below a path, without headers."""

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dualpath
from dualpath.errors import PublishError
from dualpath.publishing.publish import publish_gallery
from dualpath.publishing.runtime_files import FILES, find_runtime


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def gallery_folder(bundle: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "gallery"
    photos = shutil.copytree(shapes, folder.with_name("photos"))
    with dualpath.Gallery.open(folder, model=bundle) as gallery:
        gallery.add(photos)
    return folder


@pytest.fixture
def fake_runtime(tmp_path: Path) -> Path:
    """Files with the names of the runtime, for tests that do not run it."""
    folder = tmp_path / "runtime" / "dist"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    return folder.parent


@pytest.fixture(scope="session")
def runtime() -> Path:
    try:
        return find_runtime()
    except PublishError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def site(gallery_folder: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder with weights in single precision, which find what Python finds."""
    out = tmp_path_factory.mktemp("host") / "some" / "path"
    with dualpath.Gallery.open(gallery_folder) as gallery:
        publish_gallery(gallery, out, runtime=runtime, weights="fp32")
    return out


@pytest.fixture(scope="session")
def site_url(site: Path) -> Iterator[str]:
    """The address of the page, which is not the root of its host."""
    handler = functools.partial(QuietHandler, directory=str(site.parents[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some/path/"
        server.shutdown()
