"""Attacks on a real server. Each of them must fail."""

import http.server
import io
import json
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

import dualpath
from dualpath.server.access import KeyFile
from tests.server.conftest import Server, bearer, running

pytestmark = pytest.mark.slow
Guarded = tuple[Server, str, str]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims a large size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def guarded(gallery_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with keys: the server, a key that reads, and a key that writes."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = KeyFile(folder / "keys.json")
    reader, writer = keys.add("reader", "read"), keys.add("writer", "write")
    options = ("--keys", folder / "keys.json", "--uploads", folder / "uploads")
    with running(gallery_folder, folder / "log", *options) as server:
        yield server, reader, writer


def test_a_server_listens_on_this_machine_only(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    sockets = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = [line.split()[1] for line in sockets if line.split()]
    assert f"0100007F:{port:04X}" in addresses
    assert f"00000000:{port:04X}" not in addresses


def test_nothing_is_shown_without_a_valid_key(guarded: Guarded) -> None:
    server, reader, _ = guarded
    with server.client() as client:
        query = {"q": "x"}
        item = client.get("/v1/search", params=query, headers=bearer(reader)).json()["hits"][0]
        for path in ("/v1/search?q=x", "/v1/about", f"/v1/items/{item['id']}", item["image"],
                     f"/v1/items/{item['id']}/similar", "/metrics"):  # fmt: skip
            for headers in ({}, bearer("dp_wrong"), bearer(reader[:-1]), {"Authorization": reader},
                            {"Authorization": f"Basic {reader}"}):  # fmt: skip
                refused = client.get(path, headers=headers)
                assert refused.status_code in (401, 429)
                assert item["id"] not in refused.text
        assert client.post("/v1/search/image", files={"file": b"x"}).status_code in (401, 429)
        assert client.get("/healthz").status_code == 200


def test_guessing_keys_is_limited_in_rate(gallery_folder: Path, tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.json").add("one", "read")
    with (
        running(gallery_folder, tmp_path / "log", "--keys", tmp_path / "keys.json") as server,
        server.client() as client,
    ):
        statuses = [
            client.post("/v1/session", json={"key": f"dp_{n}"}).status_code for n in range(60)
        ]
        assert statuses[:20] == [401] * 20
        assert statuses[-1] == 429


def test_a_key_that_reads_and_a_cookie_cannot_write(guarded: Guarded) -> None:
    server, reader, writer = guarded
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    upload = {"file": image.getvalue()}
    with server.client() as client:
        assert client.post("/v1/items", files=upload, headers=bearer(reader)).status_code == 403
        added = client.post("/v1/items", files=upload, headers=bearer(writer))
        assert added.status_code == 201
        item = f"/v1/items/{added.json()['id']}"
        assert client.delete(item, headers=bearer(reader)).status_code == 403
        # A browser sends a cookie by itself, so the cookie must not permit writing.
        assert client.post("/v1/session", json={"key": writer}).status_code == 204
        assert client.get(item).status_code == 200
        assert client.delete(item).status_code == 401
        assert client.delete(item, headers=bearer(writer)).status_code == 204


def test_scripts_and_other_web_sites_cannot_use_the_cookie(guarded: Guarded) -> None:
    server, reader, _ = guarded
    cookie = httpx.post(f"{server.url}/v1/session", json={"key": reader}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_a_server_without_uploads_is_read_only(client: httpx.Client) -> None:
    assert client.post("/v1/items", files={"file": b"x"}).status_code == 403
    assert client.delete(f"/v1/items/{'0' * 32}").status_code in (403, 404)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"#!/bin/sh\nrm -rf /", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"GIF89a", b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + b"\0" * 200, b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>",
    ],
)  # fmt: skip
def test_a_file_is_an_image_by_its_content_not_by_its_name(
    client: httpx.Client, content: bytes
) -> None:
    response = client.post("/v1/search/image", files={"file": ("photo.jpg", content, "image/jpeg")})
    assert response.status_code in (415, 422)
    assert "Traceback" not in response.text


@pytest.mark.parametrize("size", [(30_000, 30_000), (8_000, 6_000), (2_000_000_000, 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    client: httpx.Client, size: tuple[int, int]
) -> None:
    response = client.post("/v1/search/image", files={"file": png_header(*size)})
    assert response.status_code == 415
    assert client.get("/healthz").status_code == 200


def test_a_large_body_is_refused_with_and_without_a_length(client: httpx.Client) -> None:
    big = b"x" * (21 * 2**20)
    assert client.post("/v1/search/image", files={"file": big}).status_code == 413

    def stream() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(42):
            yield b"x" * 2**19

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/v1/search/image", content=stream(), headers=headers).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/app.py",
        "/assets/..%2f..%2fapp.py",
        "/assets//etc/passwd",
        "//etc/passwd",
        "/v1/items/..%2f..%2f..%2fetc%2fpasswd/image",
        "/v1/items/%00/image",
        "/v1/items/∕etc∕passwd/image",
        "/v1/items/..／..／etc/image",
        "/v1/items/" + "A" * 32,
    ],
)
def test_no_path_leads_out_of_the_indexed_folders(server: Server, path: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection(
        (host, int(port)), timeout=20
    ) as raw:  # a client would normalise the path
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = b"".join(iter(lambda: raw.recv(65536), b""))
    assert response.split()[1] in (b"404", b"422", b"400")
    assert b"root:" not in response
    assert b"import" not in response


def test_an_image_replaced_by_a_link_out_of_the_folder_is_not_shown(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(photos / "images", tmp_path / "images")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), "red").save(secret)
    with dualpath.Gallery.open(tmp_path / "gallery", model=bundle) as gallery:
        gallery.add(folder)
        victim = gallery.search("x", top=1)[0].image
    with running(tmp_path / "gallery", tmp_path / "log") as server, server.client() as client:
        assert client.get(f"/v1/items/{victim.id}/image").status_code == 200
        victim.path.unlink()
        victim.path.symlink_to(secret)
        response = client.get(f"/v1/items/{victim.id}/image")
        assert response.status_code == 404
        assert str(tmp_path) not in response.text


def test_no_request_makes_the_server_fetch_a_url(client: httpx.Client) -> None:
    fetched: list[str] = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    trap = http.server.HTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{trap.server_port}/x.png"
    client.get("/v1/search", params={"q": url, "image": url, "url": url})
    client.post("/v1/search/image", files={"file": url.encode()})
    client.post("/v1/search/image", data={"file": url, "url": url})
    client.post("/v1/search/image", json={"url": url})
    client.get(f"/v1/items/{url}/image")
    trap.shutdown()
    assert fetched == []


def test_requests_of_other_web_sites_and_other_host_names_are_refused(
    client: httpx.Client,
) -> None:
    image = {"file": b"x"}
    evil = {"Origin": "http://evil.example"}
    assert client.post("/v1/search/image", files=image, headers=evil).status_code == 403
    assert client.get("/v1/about", headers={"Host": "evil.example"}).status_code == 400
    assert "access-control-allow-origin" not in client.get("/v1/about", headers=evil).headers


def test_a_client_that_sends_too_many_requests_must_wait(
    gallery_folder: Path, tmp_path: Path
) -> None:
    with (
        running(gallery_folder, tmp_path / "log", "--rate", "5/minute") as server,
        server.client() as client,
    ):
        responses = [client.get("/v1/about") for _ in range(8)]
        assert [response.status_code for response in responses] == [200] * 5 + [429] * 3
        assert responses[-1].headers["retry-after"] == "60"


@pytest.mark.parametrize(
    "path", ["/", "/assets/app.js", "/v1/about", "/v1/search", "/nothing", "/v1/openapi.json"]
)
def test_every_response_has_the_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


def test_an_error_contains_neither_paths_nor_a_traceback(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gallery"
    with dualpath.Gallery.open(folder, model=bundle) as gallery:
        gallery.add(photos)
    with running(folder, tmp_path / "log") as server, server.client() as client:
        shutil.rmtree(folder / "pictures.lance")
        for path in ("/v1/search?q=x", f"/v1/items/{'0' * 32}", "/readyz"):
            response = client.get(path)
            assert response.status_code >= 500
            assert set(json.loads(response.text)) == {"detail"}
            assert str(tmp_path) not in response.text
            assert "lance" not in response.text
            assert response.headers["x-content-type-options"] == "nosniff"
