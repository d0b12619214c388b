"""The API of a real server."""

import io
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import dualpath
from dualpath.data.manifest import read_manifest
from tests.server.conftest import CALIBRATION, Server, running

pytestmark = pytest.mark.slow


def search(client: httpx.Client, **query: object) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = client.get("/v1/search", params=query).json()["hits"]
    return hits


def test_a_search_returns_what_the_gallery_finds(
    client: httpx.Client, gallery_folder: Path, bundle: Path
) -> None:
    with dualpath.Gallery.open(gallery_folder, model=bundle) as gallery:
        expected = gallery.search("a red star", top=5, where="kind = 'count'")
    query = {"q": "a red star", "top": 5, "where": "kind = 'count'"}
    results = client.get("/v1/search", params=query).json()
    assert results["total"] == 100
    hits = results["hits"]
    assert [hit["id"] for hit in hits] == [hit.image.id for hit in expected]
    assert [h["score"] for h in hits] == pytest.approx([h.score for h in expected], abs=1e-5)
    assert hits[0]["captions"] == list(expected[0].image.captions)
    assert hits[0]["metadata"]["kind"] == "count"


def test_an_uploaded_image_finds_itself(client: httpx.Client, photos: Path) -> None:
    image = read_manifest(photos).images[5]
    response = client.post(
        "/v1/search/image", files={"file": image.path.read_bytes()}, params={"top": 3}
    )
    hits = response.json()["hits"]
    assert hits[0]["name"] == image.file_name
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    similar = client.get(f"/v1/items/{hits[0]['id']}/similar", params={"top": 2}).json()["hits"]
    assert [hit["id"] for hit in similar] == [hit["id"] for hit in hits[1:]]


def test_hits_of_a_sentence_have_probabilities(calibrated_server: Server) -> None:
    with calibrated_server.client() as client:
        assert client.get("/v1/about").json()["calibrated"]
        hits = search(client, q="a red star", top=100)
        for hit in hits:
            log_odds = CALIBRATION["slope"] * hit["score"] + CALIBRATION["intercept"]
            assert hit["probability"] == pytest.approx(1 / (1 + math.exp(-log_odds)))
        similar = client.get(f"/v1/items/{hits[0]['id']}/similar").json()["hits"]
        assert all(hit["probability"] is None for hit in similar)


def test_a_search_can_require_a_minimum_probability(calibrated_server: Server) -> None:
    with calibrated_server.client() as client:
        hits = search(client, q="a red star", top=100)
        least = hits[9]["probability"]
        likely = search(client, q="a red star", top=100, min_probability=least)
        assert [hit["id"] for hit in likely] == [
            hit["id"] for hit in hits if hit["probability"] >= least
        ]
        assert 10 <= len(likely) < 100
        assert search(client, q="a red star", min_probability=1) == []


def test_an_item_has_the_image_and_its_metadata(client: httpx.Client) -> None:
    [hit] = search(client, q="a star", top=1)
    item = client.get(f"/v1/items/{hit['id']}").json()
    assert item == {key: value for key, value in hit.items() if key not in ("score", "probability")}
    response = client.get(item["image"], params={"size": 20})
    assert response.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (20, 20)


def test_about_describes_the_gallery_and_its_fields(client: httpx.Client) -> None:
    about = client.get("/v1/about").json()
    assert about["images"] == 100
    assert about["writable"] is False
    assert about["fields"] == {"kind": "text", "count": "number"}
    kinds = next(facet for facet in about["facets"] if facet["name"] == "kind")
    assert sum(value["count"] for value in kinds["values"]) == 100


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_server_has_health_checks_and_metrics(client: httpx.Client, prefix: str) -> None:
    search(client, q="a star")
    assert client.get(f"{prefix}/healthz").json() == {"status": "ok"}
    assert client.get(f"{prefix}/readyz").json() == {"status": "ready"}
    metrics = client.get(f"{prefix}/metrics").text
    assert 'dualpath_requests_total{method="GET",route="search",status="200"}' in metrics
    assert "dualpath_batch_queries_bucket" in metrics
    assert "dualpath_gallery_images 100.0" in metrics


def test_simultaneous_queries_are_embedded_in_batches(client: httpx.Client, server: Server) -> None:
    def ask(number: int) -> list[str]:
        with server.client() as own:
            return [hit["id"] for hit in search(own, q=f"a star {number}", top=3)]

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, [number % 4 for number in range(160)]))
    for number, hits in enumerate(together):
        assert hits == alone[number % 4]
    lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines()]
    values = {name: float(value) for name, value in lines if not name.startswith("#")}
    assert values["dualpath_batch_queries_sum"] > values["dualpath_batch_queries_count"]


@pytest.fixture
def writable(bundle: Path, photos: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a server that stores uploads in the folder ``uploads``."""
    with dualpath.Gallery.open(tmp_path / "gallery", model=bundle) as gallery:
        gallery.add(photos)
    options = ("--uploads", tmp_path / "uploads")
    with (
        running(tmp_path / "gallery", tmp_path / "log", *options) as server,
        server.client() as client,
    ):
        yield client


def test_images_can_be_uploaded_replaced_and_removed(
    writable: httpx.Client, photos: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (50, 30), "navy").save(content, "PNG")
    upload = {"file": ("../../evil.py", content.getvalue())}

    form = {"captions": ["a dark rectangle", " "], "metadata": json.dumps({"kind": "plain"})}
    added = writable.post("/v1/items", files=upload, data=form)
    assert added.status_code == 201
    item = added.json()
    assert (item["captions"], item["metadata"]) == (["a dark rectangle"], {"kind": "plain"})
    stored = list((tmp_path / "uploads").iterdir())
    assert [file.suffix for file in stored] == [".png"]
    assert item["name"] == stored[0].name
    hits = writable.post("/v1/search/image", files=upload, params={"top": 1}).json()["hits"]
    assert hits[0]["id"] == item["id"]

    again = writable.post("/v1/items", files=upload, data={"metadata": '{"count": 1}'})
    assert again.json()["id"] == item["id"]
    assert writable.get("/v1/about").json()["images"] == 101

    for metadata, message in (
        ("[", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('{"count": "many"}', "'count' is 'many'"),
    ):
        refused = writable.post("/v1/items", files=upload, data={"metadata": metadata})
        assert refused.status_code == 422
        assert message in refused.json()["detail"]

    assert writable.delete(f"/v1/items/{item['id']}").status_code == 204
    assert writable.get(f"/v1/items/{item['id']}").status_code == 404
    assert list((tmp_path / "uploads").iterdir()) == []

    [indexed] = search(writable, q="x", top=1)
    assert writable.delete(f"/v1/items/{indexed['id']}").status_code == 204
    assert (photos / indexed["name"]).exists()
    assert writable.get("/v1/about").json()["images"] == 99


def test_a_server_that_stops_completes_the_requests_in_progress(
    gallery_folder: Path, tmp_path: Path
) -> None:
    statuses: list[int] = []
    started = threading.Event()

    def ask(server: Server) -> None:
        with server.client() as client:
            started.set()
            for _ in range(500):
                try:
                    statuses.append(client.get("/v1/search", params={"q": "a star"}).status_code)
                except (httpx.ConnectError, httpx.ReadError):
                    return
                except httpx.RemoteProtocolError as error:  # between two requests
                    assert "without sending a response" in str(error)
                    return

    with running(gallery_folder, tmp_path / "log") as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        started.wait(10)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) in (0, -signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert statuses
        assert set(statuses) == {200}
        assert "Traceback" not in server.log.read_text()


def test_the_server_conforms_to_its_openapi_document(
    server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    """schemathesis sends requests that the document allows, and requests that it forbids."""
    document = tmp_path / "openapi.json"
    document.write_text(client.get("/v1/openapi.json").text)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", server.url,
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance",
            "--max-examples", "12", "--phases", "examples,coverage,fuzzing", "--seed", "1",
            "--workers", "1",  # in threads, Python 3.11 may fail in ast.parse (cpython#106905)
        ],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
