"""A gallery through its public interface, in both of its stores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.errors import FilterError, GalleryError, ManifestError
from tests.gallery.conftest import ON_MILVUS, drop_gallery

in_both_stores = pytest.mark.parametrize("address", ["embedded", ON_MILVUS], indirect=True)


@pytest.fixture
def gallery(address, model, photos):
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add(photos)
        yield gallery


def rewrite(photos: Path, change) -> None:
    path = photos / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ids(hits) -> list[str]:
    return [hit.image.id for hit in hits]


@in_both_stores
def test_a_sentence_finds_what_comparing_with_every_image_finds(gallery, model, photos):
    items = read_manifest(photos).items
    scores = model.embed_texts(["a red circle"])[0] @ model.embed_images([i.path for i in items]).T
    best = np.sort(scores)[::-1][:5]
    hits = gallery.search("a red circle", top=5)
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
    by_name = {item.file_name: item for item in items}
    for hit in hits:
        assert hit.image.captions == by_name[hit.image.name].captions
        assert hit.image.metadata["number"] == by_name[hit.image.name].metadata["number"]
        assert (hit.image.width, hit.image.height) == (40, 40)


def test_a_image_finds_itself_and_similar_leaves_it_out(gallery, photos):
    path = read_manifest(photos).items[7].path
    found = gallery.search(path, top=3)
    assert found[0].image.path == path
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert ids(gallery.similar(found[0].image.id, top=2)) == ids(found)[1:]
    with pytest.raises(KeyError):
        gallery.similar("0" * 32)


@in_both_stores
def test_sentences_and_images_find_captions(gallery, model, photos):
    caption = read_manifest(photos).items[3].captions[1]
    found = gallery.search_captions(caption, top=4)
    assert found[0].score == pytest.approx(1, abs=1e-5)
    same = model.embed_texts([found[0].caption])[0] @ model.embed_texts([caption])[0]
    assert same == pytest.approx(1, abs=1e-5)
    assert len(gallery.search_captions(read_manifest(photos).items[0].path, top=3)) == 3


@in_both_stores
def test_adding_again_embeds_only_what_is_new_or_has_changed(gallery, photos):
    before = gallery.search("a star", top=100)
    assert gallery.add(photos).unchanged == 100
    items = read_manifest(photos).items
    shutil.copy(items[1].path, items[0].path)  # other content
    items[2].path.touch()  # the same content
    rewrite(photos, lambda rows: rows[4].update(captions=["one new sentence"], number=4000))
    added = gallery.add(photos)
    assert (added.new, added.changed, added.unchanged) == (0, 2, 98)
    assert len(gallery) == 100
    assert gallery.verify() == []
    after = {hit.image.name: hit for hit in gallery.search("a star", top=100)}
    assert after[items[0].file_name].score == pytest.approx(after[items[1].file_name].score)
    assert after[items[4].file_name].image.captions == ("one new sentence",)
    assert after[items[4].file_name].image.metadata["number"] == 4000
    untouched = [hit for hit in before if hit.image.name != items[0].file_name]
    for hit in untouched:
        assert after[hit.image.name].score == pytest.approx(hit.score, abs=1e-5)


@in_both_stores
def test_filters_choose_among_the_images(gallery):
    for where, right in (
        ("number >= 90", lambda m: m["number"] >= 90),
        ("colour = 'red' and even = true", lambda m: m.get("colour") == "red" and m["even"]),
        ("colour = 'it''s ''blue'''", lambda m: m.get("colour") == "it's 'blue'"),
        ("colour is null", lambda m: "colour" not in m),
        ("colour != 'red'", lambda m: m.get("colour", "red") != "red"),
        ("not (colour in ('red', 'green') or number < 50)",
         lambda m: m.get("colour", "red") not in ("red", "green") and m["number"] >= 50),
    ):  # fmt: skip
        found = gallery.search("a circle", top=100, where=where)
        everything = gallery.search("a circle", top=100)
        wanted = {h.image.id for h in everything if right(h.image.metadata)}
        assert wanted, where
        assert set(ids(found)) == wanted, where
        assert len(gallery.search_captions("a circle", top=400, where=where)) == 3 * len(wanted)


def test_bad_filters_are_refused_with_one_line(gallery):
    for where, message in (
        ("colour", "a filter knows"),
        ("size > 3", "no image has the field 'size'"),
        ("colour = 3", "holds text values"),
        ("number = 'x'", "holds number values"),
        ("even > true", "compare it with = or !="),
        ("number = 1; drop table images", "a filter knows"),
        ("1 = 1", "is no field"),
        ("lower(colour) = 'red'", "is no field"),
        ("number in (select 1)", "a filter knows"),
        ("colour like '%'", "a filter knows"),
        ("((((", "not a filter"),
        ("number = 1 or " * 200 + "number = 1", "longer than"),
    ):
        with pytest.raises(FilterError, match=message.replace("(", r"\(")) as caught:
            gallery.search("x", where=where)
        assert "\n" not in str(caught.value)


@in_both_stores
def test_removing_syncing_and_verifying(gallery, photos):
    items = read_manifest(photos).items
    gone = gallery.search(items[0].path, top=1)[0].image
    assert gallery.remove(gone.id, items[1].path) == 2
    assert len(gallery) == 98
    assert gallery.get(gone.id) is None
    assert gallery.store.count("captions") == 98 * 3
    items[2].path.unlink()
    items[3].path.write_bytes(items[4].path.read_bytes())
    problems = gallery.verify()
    assert len(problems) == 2
    assert any(items[2].path.name in line and "gallery sync" in line for line in problems)
    assert any(items[3].path.name in line and "has changed" in line for line in problems)
    assert gallery.sync() == 1
    assert len(gallery) == 97
    gallery.remove(items[3].path)
    assert gallery.verify() == []
    shutil.move(photos, photos.with_name("elsewhere"))
    with pytest.raises(GalleryError, match="is its disk mounted"):
        gallery.sync()
    assert gallery.remove(photos) == 96
    assert len(gallery) == 0


def test_broken_images_are_named_and_do_not_stop_the_others(address, model, photos):
    items = read_manifest(photos).items
    items[0].path.write_bytes(items[0].path.read_bytes()[:200])
    items[1].path.write_text("no image")
    items[2].path.unlink()
    with dualpath.Gallery.open(address, model=model) as gallery:
        added = gallery.add(photos)
        assert added.new == 97
        assert set(added.broken) == {item.file_name for item in items[:3]}
        assert all(name in problem for name, problem in added.broken.items())
        assert gallery.verify() == []


def test_a_gallery_refuses_another_model(gallery, address, bundle):
    import torch

    other = dualpath.load(bundle)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(GalleryError, match="was filled with the model small"):
        dualpath.Gallery.open(address, model=other)
    with pytest.raises(GalleryError, match="holds vectors of 32 numbers, the query has 16"):
        gallery.search_vector(np.ones(16, np.float32))
    with dualpath.Gallery.open(address) as without:
        assert len(without) == 100
        with pytest.raises(GalleryError, match="open the gallery with its model"):
            without.search("a star")


def test_what_does_not_fit_is_refused_before_anything_is_written(gallery, photos):
    rewrite(photos, lambda rows: rows[5].update(number="many"))
    with pytest.raises(GalleryError, match="'number' is 'many', but a number"):
        gallery.add(photos)
    (photos / "metadata.jsonl").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        gallery.add(photos)
    assert len(gallery) == 100


@in_both_stores
def test_facets_count_the_values_of_fields_with_few(gallery):
    facets = gallery.facets(most=20)
    assert set(facets) == {"even", "colour", "kind", "count"}  # the last two are of shapes
    assert sorted(facets["even"]) == [(False, 50), (True, 50)]
    assert sum(count for _, count in facets["colour"]) == 66


@in_both_stores
def test_export_writes_everything_as_parquet(gallery, tmp_path, model):
    assert gallery.export(tmp_path / "out" / "gallery.parquet") == 100
    table = pq.read_table(tmp_path / "out" / "gallery.parquet")
    row = table.slice(0, 1).to_pylist()[0]
    assert row["vector"] == pytest.approx(model.embed_images([row["path"]])[0], abs=1e-5)
    assert len(row["captions"]) == 3
    assert json.loads(row["metadata"])["even"] in (True, False)


def test_images_outside_the_folder_need_a_root(address, model, photos, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    image = read_manifest(photos).items[0].path
    for name in ("a.png", "b.png"):
        shutil.copy(image, outside / name)
    (photos / "images" / "link.png").symlink_to(outside / "b.png")
    rewrite(photos, lambda rows: rows.extend(
        {"file_name": name, "captions": [], "split": "train"}
        for name in ("../outside/a.png", "images/link.png", str(outside / "b.png"))
    ))  # fmt: skip
    with dualpath.Gallery.open(address, model=model) as gallery:
        added = gallery.add(photos)
        assert added.new == 100
        assert len(added.broken) == 3
        assert all("allow its folder with --root" in line for line in added.broken.values())
        assert gallery.add(photos, roots=[outside]).new == 3
        assert gallery.verify() == []


def test_a_bare_folder_is_indexed_without_captions(address, model, photos):
    (photos / "metadata.jsonl").unlink()
    with dualpath.Gallery.open(address, model=model) as gallery:
        assert gallery.add(photos).new == 100
        assert gallery.search("a star", top=2)[0].image.captions == ()
        assert gallery.search_captions("a star") == []


def test_what_is_no_gallery_is_told(tmp_path, model):
    with pytest.raises(GalleryError, match="no gallery; begin one with"):
        dualpath.Gallery.open(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(GalleryError, match="is a file"):
        dualpath.Gallery.open(tmp_path / "file", model=model)
    with pytest.raises(GalleryError, match="holds other files"):
        dualpath.Gallery.open(tmp_path, model=model)
    with pytest.raises(GalleryError, match="not understood"):
        dualpath.Gallery.open("ftp://x/y", model=model)
    with pytest.raises(GalleryError, match="holds nothing yet"):
        dualpath.Gallery.open(tmp_path / "new", model=model).search("x")


def test_a_server_that_does_not_answer_or_a_bad_name_is_told():
    pytest.importorskip("pymilvus")
    with pytest.raises(GalleryError, match="write it as http://HOST:PORT/NAME"):
        dualpath.Gallery.open("http://127.0.0.1:1/")
    with pytest.raises(GalleryError, match="not into the address"):
        dualpath.Gallery.open("http://user:secret@127.0.0.1:1/name")
    with pytest.raises(GalleryError, match="no Milvus server answers"):
        dualpath.Gallery.open("http://127.0.0.1:1/name")
    with pytest.raises(GalleryError, match="only shards and replicas"):
        dualpath.Gallery.open("http://127.0.0.1:1/name?shards=many")


@pytest.mark.xdist_group("milvus")
def test_a_gallery_on_a_server_may_be_spread_over_shards(milvus, model, photos):
    from pymilvus import MilvusClient

    with dualpath.Gallery.open(f"{milvus}/spread?shards=2", model=model) as gallery:
        gallery.add(photos)
        assert len(gallery) == 100
    record = MilvusClient(uri=milvus).describe_collection("spread_images")
    assert record["num_shards"] == 2
    drop_gallery(milvus, "spread")
