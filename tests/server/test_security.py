"""Attacks on a real server, each of which must fail."""

import http.server
import io
import json
import socket
import stat
import struct
import threading
import zlib
from pathlib import Path

import httpx
import pytest
from PIL import Image

import dualpath
from dualpath.server.access import Keys
from tests.conftest import run_cli
from tests.serving.conftest import running


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def guarded(gallery_folder, tmp_path_factory):
    """A server with keys: (server, the key that reads, the key that writes)."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = Keys(folder / "keys.json")
    reader, writer = keys.add("reader", "read"), keys.add("writer", "write")
    options = ("--keys", folder / "keys.json", "--uploads", folder / "uploads")
    with running(gallery_folder, folder / "log", *options) as server:
        yield server, reader, writer


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_beyond_this_machine_it_refuses_to_start_without_keys(gallery_folder, tmp_path):
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        done = run_cli("serve", gallery_folder, "--host", host)
        assert done.returncode == 1
        assert "can be reached by others: make a key" in done.stderr
    (tmp_path / "keys.json").write_text("[]")
    done = run_cli("serve", gallery_folder, "--host", "0.0.0.0", "--keys", tmp_path / "keys.json")
    assert done.returncode == 1
    assert "holds no key" in done.stderr


def test_it_listens_on_this_machine_alone(server):
    port = int(server.url.rsplit(":", 1)[1])
    listening = Path("/proc/net/tcp").read_text()
    rows = [line.split()[1] for line in listening.splitlines()[1:] if line.split()]
    assert f"0100007F:{port:04X}" in rows
    assert f"00000000:{port:04X}" not in rows


def test_without_a_right_key_nothing_is_shown(guarded):
    server, reader, _ = guarded
    with server.client() as client:
        item = client.get("/v1/search", params={"q": "x"}, headers=bearer(reader)).json()["hits"][0]
        for path in ("/v1/search?q=x", "/v1/about", f"/v1/items/{item['id']}", item["image"],
                     f"/v1/items/{item['id']}/similar", "/metrics"):  # fmt: skip
            for headers in ({}, bearer("dp_wrong"), bearer(reader[:-1]), {"Authorization": reader},
                            {"Authorization": f"Basic {reader}"}):  # fmt: skip
                refused = client.get(path, headers=headers)
                assert refused.status_code in (401, 429)
                assert item["id"] not in refused.text
        assert client.post("/v1/search/image", files={"file": b"x"}).status_code in (401, 429)
        assert client.get("/healthz").status_code == 200


def test_guessing_keys_is_slowed_down(gallery_folder, tmp_path):
    Keys(tmp_path / "keys.json").add("one", "read")
    with (
        running(gallery_folder, tmp_path / "log", "--keys", tmp_path / "keys.json") as server,
        server.client() as client,
    ):
        answers = [
            client.post("/v1/session", json={"key": f"dp_{n}"}).status_code for n in range(60)
        ]
        assert answers[:20] == [401] * 20
        assert answers[-1] == 429


def test_a_key_that_reads_does_not_write(guarded):
    server, reader, writer = guarded
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    sent = {"file": image.getvalue()}
    with server.client() as client:
        assert client.post("/v1/items", files=sent, headers=bearer(reader)).status_code == 403
        added = client.post("/v1/items", files=sent, headers=bearer(writer))
        assert added.status_code == 201
        place = f"/v1/items/{added.json()['id']}"
        assert client.delete(place, headers=bearer(reader)).status_code == 403
        # A cookie is sent by the browser itself, so it must not write.
        assert client.post("/v1/session", json={"key": writer}).status_code == 204
        assert client.get(place).status_code == 200
        assert client.delete(place).status_code == 401
        assert client.delete(place, headers=bearer(writer)).status_code == 204


def test_the_cookie_of_the_page_is_out_of_reach_of_scripts_and_other_sites(guarded):
    server, reader, _ = guarded
    cookie = httpx.post(f"{server.url}/v1/session", json={"key": reader}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_keys_are_hashed_at_rest_and_for_the_owner_alone(tmp_path):
    path = tmp_path / "keys.json"
    made = run_cli("keys", "add", path, "page")
    key = made.stdout.strip()
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keys(path).scope_of(key) == "read"
    assert Keys(path).scope_of(key + "x") is None
    assert run_cli("keys", "add", path, "page").returncode == 1
    assert "page" in run_cli("keys", "list", path).stdout
    assert run_cli("keys", "revoke", path, "page").returncode == 0
    assert Keys(path).scope_of(key) is None


def test_nothing_is_written_where_writing_is_not_allowed(client):
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
def test_only_real_images_are_taken_whatever_they_are_called(client, content):
    answer = client.post("/v1/search/image", files={"file": ("photo.jpg", content, "image/jpeg")})
    assert answer.status_code in (415, 422)
    assert "Traceback" not in answer.text


def test_decompression_bombs_are_refused_before_they_are_decoded(client):
    for size in ((30_000, 30_000), (8_000, 6_000), (2_000_000_000, 1)):
        answer = client.post("/v1/search/image", files={"file": png_header(*size)})
        assert answer.status_code == 415
    assert client.get("/healthz").status_code == 200


def test_bodies_are_limited_whether_or_not_they_say_how_long_they_are(client):
    big = b"x" * (21 * 2**20)
    assert client.post("/v1/search/image", files={"file": big}).status_code == 413

    def stream():
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
def test_no_path_leaves_the_folders(server, path):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:  # clients tidy paths up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"422", b"400")
    assert b"root:" not in answer
    assert b"import" not in answer


def test_a_image_replaced_by_a_link_out_of_the_folder_is_not_shown(bundle, photos, tmp_path):
    import shutil

    folder = shutil.copytree(photos / "images", tmp_path / "images")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), "red").save(secret)
    with dualpath.Gallery.open(tmp_path / "gallery", model=dualpath.load(bundle)) as gallery:
        gallery.add(folder)
        victim = gallery.search("x", top=1)[0].image
    with running(tmp_path / "gallery", tmp_path / "log") as server, server.client() as client:
        assert client.get(f"/v1/items/{victim.id}/image").status_code == 200
        victim.path.unlink()
        victim.path.symlink_to(secret)
        answer = client.get(f"/v1/items/{victim.id}/image")
        assert answer.status_code == 404
        assert str(tmp_path) not in answer.text


def test_no_request_makes_the_server_fetch_an_address(client):
    asked = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

        def log_message(self, *_):
            pass

    trap = http.server.HTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{trap.server_port}/x.png"
    client.get("/v1/search", params={"q": address, "image": address, "url": address})
    client.post("/v1/search/image", files={"file": address.encode()})
    client.post("/v1/search/image", data={"file": address, "url": address})
    client.post("/v1/search/image", json={"url": address})
    client.get(f"/v1/items/{address}/image")
    trap.shutdown()
    assert asked == []


def test_pages_elsewhere_and_foreign_names_are_refused(client):
    image = {"file": b"x"}
    evil = {"Origin": "http://evil.example"}
    assert client.post("/v1/search/image", files=image, headers=evil).status_code == 403
    assert client.get("/v1/about", headers={"Host": "evil.example"}).status_code == 400
    assert "access-control-allow-origin" not in client.get("/v1/about", headers=evil).headers


def test_a_client_that_asks_too_often_waits(gallery_folder, tmp_path):
    with (
        running(gallery_folder, tmp_path / "log", "--rate", "5/minute") as server,
        server.client() as client,
    ):
        answers = [client.get("/v1/about") for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
        assert answers[-1].headers["retry-after"] == "60"


def test_every_answer_carries_the_headers(client):
    for path in ("/", "/assets/app.js", "/v1/about", "/v1/search", "/nothing", "/v1/openapi.json"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_errors_show_neither_paths_nor_traces(bundle, photos, tmp_path):
    import shutil

    folder = tmp_path / "gallery"
    with dualpath.Gallery.open(folder, model=dualpath.load(bundle)) as gallery:
        gallery.add(photos)
    with running(folder, tmp_path / "log") as server, server.client() as client:
        shutil.rmtree(folder / "images.lance")
        for path in ("/v1/search?q=x", f"/v1/items/{'0' * 32}", "/readyz"):
            answer = client.get(path)
            assert answer.status_code >= 500
            assert set(json.loads(answer.text)) == {"detail"}
            assert str(tmp_path) not in answer.text
            assert "lance" not in answer.text
            assert answer.headers["x-content-type-options"] == "nosniff"
