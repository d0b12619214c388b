"""The application in this process, without a network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import dualpath
from dualpath.errors import GalleryError
from dualpath.server.app import create_app
from dualpath.server.settings import Settings


@pytest.fixture(scope="module")
def client(gallery_folder: Path) -> Iterator[TestClient]:
    with (
        dualpath.Gallery.open(gallery_folder) as gallery,
        TestClient(create_app(gallery, Settings())) as client,
    ):
        yield client


def test_a_sentence_finds_images_and_an_image_finds_similar_ones(client: TestClient) -> None:
    results = client.get("/v1/search", params={"q": "a red star", "top": 3}).json()
    assert results["total"] == 100
    scores = [hit["score"] for hit in results["hits"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    similar = client.get(f"/v1/items/{results['hits'][0]['id']}/similar").json()["hits"]
    assert results["hits"][0]["id"] not in [hit["id"] for hit in similar]


def test_a_search_returns_ten_images_unless_it_asks_for_more(client: TestClient) -> None:
    assert len(client.get("/v1/search", params={"q": "a star"}).json()["hits"]) == 10


@pytest.mark.parametrize("route", ["", "/image", "/similar"])
def test_an_unknown_image_is_not_found(client: TestClient, route: str) -> None:
    response = client.get(f"/v1/items/{'0' * 32}{route}")
    assert response.status_code == 404
    assert response.json() == {"detail": "no such image"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"q": ""}, "q: "),
        ({}, "q: "),
        ({"q": "x" * 1001}, "q: "),
        ({"q": "x", "top": 0}, "top: "),
        ({"q": "x", "top": 501}, "top: "),
        ({"q": "x", "min_probability": 2}, "min_probability: "),
        ({"q": "x", "where": "nothing = 3"}, "no image has the field 'nothing'"),
        ({"q": "x", "where": "kind ="}, "not a filter"),
    ],
)
def test_a_bad_query_is_answered_with_one_line(
    client: TestClient, query: dict[str, str | int], message: str
) -> None:
    response = client.get("/v1/search", params=query)
    assert response.status_code == 422
    assert message in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


def test_an_application_needs_a_model_that_can_be_loaded(
    gallery_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dualpath.Gallery.open(gallery_folder) as gallery:
        monkeypatch.setattr(gallery, "info", replace(gallery.info, source=None))
        with pytest.raises(GalleryError, match="does not record where its model is"):
            create_app(gallery, Settings())
