"""Downloads from a local HTTP server that serves ranges and can break off."""

import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from dualpath.datasets.download import RemoteFile, download_file
from dualpath.errors import DatasetError


def make_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("dataset.json", '{"images": []}' * 1000)
    return buffer.getvalue()


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content, log = self.server.content, self.server.ranges
            requested = self.headers.get("Range")
            log.append(requested)
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if requested else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = self.server.breaks_at or len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.ranges, running.breaks_at = make_zip(), [], None
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def remote(server, md5=None):
    return RemoteFile(f"http://127.0.0.1:{server.server_port}/set.zip", "free", md5)


def test_a_file_is_downloaded_once_and_its_bytes_are_counted(server, tmp_path):
    received = []
    path = download_file(remote(server), tmp_path, received.append)
    assert path.read_bytes() == server.content
    assert sum(received) == len(server.content)
    download_file(remote(server), tmp_path)
    assert server.ranges == [None]


def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path):
    server.breaks_at = 100
    with pytest.raises(DatasetError, match="run the command again to continue"):
        download_file(remote(server), tmp_path)
    server.breaks_at = None
    md5 = hashlib.md5(server.content).hexdigest()
    assert download_file(remote(server, md5), tmp_path).read_bytes() == server.content
    assert server.ranges == [None, "bytes=100-"]


@pytest.mark.parametrize("md5", [None, "0" * 32])
def test_a_file_that_is_not_the_published_one_is_removed(server, tmp_path, md5):
    server.content = b"<html>moved</html>" if md5 is None else server.content
    with pytest.raises(DatasetError, match="not the published file"):
        download_file(remote(server, md5), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_address_is_named(tmp_path):
    file = RemoteFile("http://127.0.0.1:9/set.zip", "free")
    with pytest.raises(DatasetError, match=r"127\.0\.0\.1:9/set\.zip: cannot be downloaded"):
        download_file(file, tmp_path)
