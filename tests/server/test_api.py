"""The API of a real server."""

import io
import json
import math
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

import dualpath
from dualpath.data.manifest import read_manifest
from tests.serving.conftest import CURVE, running


def test_search_answers_what_the_gallery_finds(client, gallery_folder, bundle):
    with dualpath.Gallery.open(gallery_folder, model=dualpath.load(bundle)) as gallery:
        wanted = gallery.search("a red star", top=5, where="kind = 'count'")
    answer = client.get(
        "/v1/search", params={"q": "a red star", "top": 5, "where": "kind = 'count'"}
    )
    details = answer.json()
    assert details["total"] == 100
    assert [hit["id"] for hit in details["hits"]] == [hit.image.id for hit in wanted]
    assert [hit["score"] for hit in details["hits"]] == pytest.approx(
        [h.score for h in wanted], abs=1e-5
    )
    assert details["hits"][0]["captions"] == list(wanted[0].image.captions)
    assert details["hits"][0]["metadata"]["kind"] == "count"


def test_a_image_that_is_sent_finds_itself(client, photos):
    item = read_manifest(photos).items[5]
    answer = client.post(
        "/v1/search/image", files={"file": item.path.read_bytes()}, params={"top": 3}
    )
    hits = answer.json()["hits"]
    assert hits[0]["name"] == item.file_name
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    similar = client.get(f"/v1/items/{hits[0]['id']}/similar", params={"top": 2}).json()["hits"]
    assert [hit["id"] for hit in similar] == [hit["id"] for hit in hits[1:]]


def test_matches_have_probabilities_and_a_least_one_can_be_asked_for(judged):
    with judged.client() as client:
        assert client.get("/v1/about").json()["calibrated"]
        hits = client.get("/v1/search", params={"q": "a red star", "top": 100}).json()["hits"]
        for hit in hits:
            expected = 1 / (1 + math.exp(-(CURVE["slope"] * hit["score"] + CURVE["intercept"])))
            assert hit["probability"] == pytest.approx(expected)
        least = hits[9]["probability"]
        asked = {"q": "a red star", "top": 100, "min_probability": least}
        kept = client.get("/v1/search", params=asked).json()["hits"]
        assert [hit["id"] for hit in kept] == [h["id"] for h in hits if h["probability"] >= least]
        assert 10 <= len(kept) < 100
        nothing = client.get("/v1/search", params={"q": "a red star", "min_probability": 1})
        assert nothing.json()["hits"] == []
        image = client.get(f"/v1/items/{hits[0]['id']}/similar").json()["hits"]
        assert all(hit["probability"] is None for hit in image)
        assert client.get("/v1/search", params={"q": "a", "min_probability": 2}).status_code == 422


def test_an_item_and_its_image(client):
    hit = client.get("/v1/search", params={"q": "a star", "top": 1}).json()["hits"][0]
    item = client.get(f"/v1/items/{hit['id']}").json()
    assert item == {key: value for key, value in hit.items() if key not in ("score", "probability")}
    answer = client.get(item["image"], params={"size": 20})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (20, 20)
    assert client.get(f"/v1/items/{'0' * 32}").status_code == 404
    assert client.get(f"/v1/items/{'0' * 32}/image").status_code == 404
    assert client.get(f"/v1/items/{'0' * 32}/similar").status_code == 404


def test_about_names_fields_and_their_values(client):
    about = client.get("/v1/about").json()
    assert about["images"] == 100
    assert about["writable"] is False
    assert about["fields"] == {"kind": "text", "count": "number"}
    kinds = next(facet for facet in about["facets"] if facet["name"] == "kind")
    assert sum(value["count"] for value in kinds["values"]) == 100


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"q": ""}, "q: "),
        ({}, "q: "),
        ({"q": "x" * 1001}, "q: "),
        ({"q": "x", "top": 0}, "top: "),
        ({"q": "x", "top": 501}, "top: "),
        ({"q": "x", "where": "nothing = 3"}, "no image has the field 'nothing'"),
        ({"q": "x", "where": "kind ="}, "not a filter"),
    ],
)
def test_a_bad_query_is_told_in_one_line(client, query, message):
    answer = client.get("/v1/search", params=query)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_probes_and_counts(client):
    for prefix in ("", "/v1"):
        assert client.get(f"{prefix}/healthz").json() == {"status": "ok"}
        assert client.get(f"{prefix}/readyz").json() == {"status": "ready"}
        counts = client.get(f"{prefix}/metrics").text
    assert 'dualpath_requests_total{method="GET",route="search",status="200"}' in counts
    assert "dualpath_batch_queries_bucket" in counts
    assert "dualpath_gallery_images 100.0" in counts


def test_queries_that_come_together_are_embedded_together(client, server):
    def ask(number):
        with server.client() as own:
            return own.get("/v1/search", params={"q": f"a star {number}", "top": 3}).json()["hits"]

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, [number % 4 for number in range(160)]))
    for number, hits in enumerate(together):
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in alone[number % 4]]
    counts = client.get("/metrics").text.splitlines()
    value = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in counts if line[0] != "#"
    }
    assert value["dualpath_batch_queries_sum"] > value["dualpath_batch_queries_count"]


def test_images_are_added_and_removed_where_that_is_allowed(bundle, photos, tmp_path):
    folder, uploads = tmp_path / "gallery", tmp_path / "uploads"
    with dualpath.Gallery.open(folder, model=dualpath.load(bundle)) as gallery:
        gallery.add(photos)
    content = io.BytesIO()
    Image.new("RGB", (50, 30), "navy").save(content, "PNG")
    sent = {"file": ("../../evil.py", content.getvalue())}
    with (
        running(folder, tmp_path / "log", "--uploads", uploads) as server,
        server.client() as client,
    ):
        form = {"captions": ["a dark rectangle", " "], "metadata": json.dumps({"kind": "plain"})}
        added = client.post("/v1/items", files=sent, data=form)
        assert added.status_code == 201
        item = added.json()
        assert (item["captions"], item["metadata"]) == (["a dark rectangle"], {"kind": "plain"})
        kept = list(uploads.iterdir())
        assert [file.suffix for file in kept] == [".png"]
        assert item["name"] == kept[0].name
        found = client.post("/v1/search/image", files=sent, params={"top": 1}).json()["hits"]
        assert found[0]["id"] == item["id"]
        again = client.post("/v1/items", files=sent, data={"metadata": '{"count": 1}'})
        assert again.json()["id"] == item["id"]
        assert client.get("/v1/about").json()["images"] == 101
        for metadata, message in (("[", "not valid JSON"), ("[]", "is a JSON object"),
                                  ('{"count": "many"}', "'count' is 'many'")):  # fmt: skip
            refused = client.post("/v1/items", files=sent, data={"metadata": metadata})
            assert refused.status_code == 422
            assert message in refused.json()["detail"]
        assert client.delete(f"/v1/items/{item['id']}").status_code == 204
        assert client.get(f"/v1/items/{item['id']}").status_code == 404
        assert list(uploads.iterdir()) == []
        indexed = client.get("/v1/search", params={"q": "x", "top": 1}).json()["hits"][0]
        assert client.delete(f"/v1/items/{indexed['id']}").status_code == 204
        assert (photos / indexed["name"]).exists()
        assert client.get("/v1/about").json()["images"] == 99


def test_stopping_finishes_what_is_in_flight(gallery_folder, tmp_path):
    with running(gallery_folder, tmp_path / "log") as server:
        answers, begun = [], threading.Event()

        def ask():
            with server.client() as client:
                begun.set()
                for _ in range(500):
                    try:
                        answers.append(client.get("/v1/search", params={"q": "a star"}).status_code)
                    except (httpx.ConnectError, httpx.ReadError):
                        return
                    except httpx.RemoteProtocolError as error:  # between two requests
                        assert "without sending a response" in str(error)  # noqa: PT017
                        return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        begun.wait(10)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) in (0, -signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers
        assert set(answers) == {200}
        assert "Traceback" not in server.log.read_text()


def test_the_document_of_the_api_holds_against_made_up_requests(server, client, tmp_path):
    """schemathesis sends what the OpenAPI document allows, and what it does not."""
    import sys

    document = tmp_path / "openapi.json"
    document.write_text(client.get("/v1/openapi.json").text)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", server.url,
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance",
            "--max-examples", "12", "--phases", "examples,coverage,fuzzing", "--seed", "1",
            "--workers", "2",
        ],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
