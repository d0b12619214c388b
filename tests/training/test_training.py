import json
import math
import shutil

import pytest
import torch
from PIL import Image

from dualpath.data.captions import EpochPlan, tabulate_captions
from dualpath.data.manifest import read_manifest, write_manifest
from dualpath.data.tokenizer import Tokenizer
from dualpath.errors import ManifestError, TrainingError
from dualpath.evaluation.evaluate import evaluate
from dualpath.inference.model import load
from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_encoder import build_network
from dualpath.models.image_encoder import ImageEncoder
from dualpath.recipes.stages import OptimizerRecipe, ScheduleRecipe
from dualpath.training.checkpoints import load_checkpoint, load_rows
from dualpath.training.data import build_vocabulary, set_word_vectors
from dualpath.training.objective import (
    build_optimizers,
    lr_multiplier,
    parameter_groups,
)
from dualpath.training.train import train
from tests.conftest import SMALL, STAGE, quiet, small_recipe

ONE_STAGE = [{**STAGE, "name": "instance", "backbone": "frozen", "epochs": 1}]


def test_training_lowers_the_losses_and_finds_images_better_than_chance(tmp_path, shapes, cache):
    stages = [{**SMALL["stages"][1], "epochs": 40, "contrastive": {"temperature": 0.1}}]
    recipe = small_recipe(stages=stages, keep="last")
    model = train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    history = model.metrics["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 41))
    for name in ("instance_image", "instance_text", "ranking", "contrastive"):
        assert history[-1]["losses"][name] < 0.9 * history[0]["losses"][name]
    # Of the eighty images trained on, chance puts 12.5 % of the right ones among the first ten.
    seen = evaluate(model, shapes, split="train", cache=cache)
    assert seen["text_to_image"]["recall_at_10"] > 50
    assert seen["image_to_text"]["recall_at_10"] > 50


def test_the_best_weights_of_all_epochs_are_kept(bundle):
    metrics = json.loads((bundle / "metrics.json").read_text())
    best = max(entry["validation"]["rsum"] for entry in metrics["history"])
    assert metrics["validation"]["rsum"] == best


def test_keep_last_keeps_the_last(tmp_path, shapes, cache):
    train(small_recipe(keep="last"), shapes, tmp_path, cache=cache, display=quiet())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["validation"] == metrics["history"][-1]["validation"]


def test_a_frozen_stage_leaves_the_backbone_as_it_was_and_the_next_trains_it(
    tmp_path, shapes, cache
):
    recipe = small_recipe(stages=ONE_STAGE)
    model = train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    torch.manual_seed(recipe.seed)
    fresh = build_network(recipe, model.tokenizer.num_embeddings).image_encoder.backbone.state_dict()
    trained = model.network.image_encoder.backbone.state_dict()
    assert all(torch.equal(fresh[name], trained[name].cpu()) for name in fresh)


def test_the_second_run_of_a_frozen_stage_passes_no_image_through_the_backbone(
    tmp_path, shapes, monkeypatch
):
    cache = tmp_path / "cache"
    seen = []
    forward = ImageEncoder.backbone_features

    def counted(self, pixels):
        seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(ImageEncoder, "backbone_features", counted)
    recipe = small_recipe(stages=ONE_STAGE)
    train(recipe, shapes, tmp_path / "first", cache=cache, display=quiet())
    # 80 for training as they are; 10 for validation as they are and mirrored.
    assert sum(seen) == 100
    seen.clear()
    train(recipe, shapes, tmp_path / "second", cache=cache, display=quiet())
    assert sum(seen) == 0


def test_only_a_changed_image_is_computed_anew(tmp_path, shapes, monkeypatch):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    recipe = small_recipe(stages=ONE_STAGE)
    train(recipe, folder, tmp_path / "first", cache=tmp_path / "cache", display=quiet())
    changed = next(i for i in read_manifest(folder).images if i.split == "train").path
    Image.new("RGB", (40, 40), "red").save(changed)
    seen = []
    forward = ImageEncoder.backbone_features
    monkeypatch.setattr(
        ImageEncoder, "backbone_features", lambda s, x: seen.append(len(x)) or forward(s, x)
    )
    train(recipe, folder, tmp_path / "second", cache=tmp_path / "cache", display=quiet())
    assert seen == [1]


def test_interrupted_filling_of_the_cache_continues(tmp_path, shapes, monkeypatch):
    seen = []
    forward = ImageEncoder.backbone_features

    def interrupted(self, pixels):
        if sum(seen) >= 64:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr("dualpath.training.feature_cache._BATCH", 8)
    monkeypatch.setattr("dualpath.training.feature_cache._STORE_EVERY", 2)
    monkeypatch.setattr(ImageEncoder, "backbone_features", interrupted)
    recipe, cache = small_recipe(stages=ONE_STAGE), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, shapes, tmp_path / "out", cache=cache, display=quiet())
    monkeypatch.setattr(
        ImageEncoder, "backbone_features", lambda s, x: seen.append(len(x)) or forward(s, x)
    )
    train(recipe, shapes, tmp_path / "out", cache=cache, display=quiet())
    assert sum(seen) <= 100 + 16  # all of them once, and at most what was not yet stored


def test_a_broken_image_stops_before_training_and_is_left_out_when_asked(tmp_path, shapes, cache):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    broken = next(i for i in read_manifest(folder).images if i.split == "train").path
    broken.write_bytes(broken.read_bytes()[:200])
    recipe = small_recipe(stages=ONE_STAGE)
    with pytest.raises(ManifestError, match=rf"1 image is broken.*--skip-broken:\n.*{broken.name}"):
        train(recipe, folder, tmp_path / "out", cache=cache, display=quiet())
    assert not (tmp_path / "out" / "training").exists()
    model = train(recipe, folder, tmp_path / "out", skip_broken=True, cache=cache, display=quiet())
    assert model.metrics["data"]["images"] == 79


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tmp_path, shapes, cache):
    optimizer = {"name": "sgd", "lr": 1e30}
    stages = [{**ONE_STAGE[0], "instance": {}, "optimizer": optimizer}]
    with pytest.raises(TrainingError, match=r"step \d+: the loss is not finite .*scene-\d+\.png"):
        train(small_recipe(stages=stages), shapes, tmp_path, cache=cache, display=quiet())


def test_without_a_validation_split_the_last_weights_are_kept(tmp_path, shapes, cache):
    (tmp_path / "images").symlink_to(shapes / "images")
    rows = [json.loads(line) for line in (shapes / "metadata.jsonl").read_text().splitlines()]
    write_manifest(tmp_path, [row for row in rows if row["split"] != "val"])
    model = train(
        small_recipe(stages=ONE_STAGE), tmp_path, tmp_path / "o", cache=cache, display=quiet()
    )
    assert model.metrics["validation"] == {}


def test_every_way_of_viewing_a_image_trains(tmp_path, shapes, cache):
    for number, changes in enumerate(
        [
            {"backbone": "frozen", "flip": True, "crops": 2},
            {"backbone": "frozen", "crops": "random"},
            {"backbone": "frozen_batch_norm"},
            {"backbone": "trained", "flip": True, "crops": "random"},
        ]
    ):
        recipe = small_recipe(stages=[{**ONE_STAGE[0], **changes}], workers=2)
        model = train(recipe, shapes, tmp_path / str(number), cache=cache, display=quiet())
        assert math.isfinite(model.metrics["history"][0]["losses"]["instance_image"])


def test_a_model_in_parts_trains_and_is_loaded_as_it_was(tmp_path, shapes, cache):
    mined = {**SMALL["stages"][1], "ranking": {"negatives": "mined", "candidates": 8}}
    recipe = small_recipe(num_heads=4, stages=[SMALL["stages"][0], mined, SMALL["stages"][1]])
    model = train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    losses = [entry["losses"]["instance_text"] for entry in model.metrics["history"]]
    assert losses[-1] < losses[0]
    loaded = load(tmp_path)
    sentences = ["a red circle", "two small stars"]
    assert (loaded.embed_texts(sentences) == model.embed_texts(sentences)).all()
    again = evaluate(loaded, shapes, split="val", cache=cache)
    assert again["rsum"] == pytest.approx(model.metrics["validation"]["rsum"])


@pytest.mark.parametrize("relu", [True, False])
def test_the_paper_style_trains(tmp_path, shapes, cache, relu):
    vectors = tmp_path / "glove.txt"
    words = ["red", "green", "blue", "circle", "square", "star", "small", "big", "of", "two"]
    torch.manual_seed(0)
    vectors.write_text(
        "".join(f"{w} {' '.join(map(str, torch.randn(8).tolist()))}\n" for w in words)
    )
    text = {"vocabulary": "paper", "word_vectors": str(vectors), "padding": "unmasked"}
    stage = {
        **ONE_STAGE[0],
        "instance": {"dropout": 0.75},
        "ranking": {"margin": 1.0, "negatives": "random"},
        "optimizer": {"name": "sgd", "lr": 0.1, "rates": {"classifier": 0.01}},
        "schedule": {"decay": "steps", "milestones": [1]},
    }
    recipe = small_recipe(relu=relu, stages=[stage], text_encoder={**SMALL["text_encoder"], **text})
    model = train(recipe, shapes, tmp_path / "out", cache=cache, display=quiet())
    assert model.tokenizer.words == words
    assert model.recipe.text_encoder.embedding_dim == 8


def test_an_epoch_has_every_image_once_and_starts_anywhere(shapes, tmp_path):
    items = read_manifest(shapes).split("train").images[:33]
    table = tabulate_captions(items, Tokenizer(["red"], "modern", 4), tmp_path)
    options = {"batch_size": 8, "captions_per_image": 2, "seed": (0, 1, 2)}
    plans = list(EpochPlan(table, **options))
    assert [len(plan.images) for plan in plans] == [8, 8, 8, 9]  # no batch of one image
    assert sorted(p for plan in plans for p in plan.images) == list(range(33))
    for plan in plans:
        assert (table.owners[plan.captions] == plan.images[plan.owners]).all()
        assert len(set(plan.captions)) == 2 * len(plan.images)
    late = list(EpochPlan(table, **options, start=2))
    assert [plan.seed for plan in late] == [plan.seed for plan in plans[2:]]
    assert all((a.captions == b.captions).all() for a, b in zip(late, plans[2:], strict=True))
    other = next(iter(EpochPlan(table, **{**options, "seed": (0, 1, 3)})))
    assert list(other.images) != list(plans[0].images)


def test_rates_of_a_schedule():
    cosine = ScheduleRecipe(warmup=0.1, decay="cosine")
    rates = [lr_multiplier(cosine, step, 10, 10) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert max(rates) == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    steps = ScheduleRecipe(decay="steps", milestones=(2, 4), factor=0.1)
    assert [lr_multiplier(steps, step, 1, 5) for step in range(5)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert lr_multiplier(ScheduleRecipe(), 7, 10, 1) == 1


def test_groups_hold_every_parameter_once_and_get_their_rates():
    network = build_network(small_recipe(), 20)
    network.image_encoder.set_backbone("frozen")
    classifier = InstanceClassifier(32, torch.arange(5))
    groups = parameter_groups(network, classifier)
    held = [id(p) for group in groups.values() for p in group]
    everything = {id(p) for module in (network, classifier) for p in module.parameters()}
    assert len(held) == len(set(held))
    assert set(held) == everything
    recipe = OptimizerRecipe(name="adamw", lr=0.1, weight_decay=0.3, rates={"classifier": 0.01})
    options = build_optimizers(recipe, network, classifier).groups
    assert "image_backbone" not in {group["name"] for group in options}
    for group in options:
        assert group["lr"] == pytest.approx(0.001 if group["name"] == "classifier" else 0.1)
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_layers_nearer_to_the_pixels_learn_slower_and_only_the_last_ones_may_be_trained():
    network = build_network(small_recipe(), 20)
    encoder = network.image_encoder
    named = encoder.layer_distances()
    distances = {id(p): named[name] for name, p in encoder.backbone.named_parameters()}
    classifier = InstanceClassifier(32, torch.arange(5))
    recipe = OptimizerRecipe(lr=0.1, layer_decay=0.5, rates={"image_backbone": 0.1})
    for group in build_optimizers(recipe, network, classifier).groups:
        if group["name"] == "image_backbone":
            far = {distances[id(p)] for p in group["params"]}
            assert len(far) == 1
            assert group["lr"] == pytest.approx(0.01 * 0.5 ** far.pop())
        else:
            assert group["lr"] == pytest.approx(0.1)
    network.image_encoder.set_backbone("trained", last_layers=2)
    trained = {
        distances[id(p)] for p in network.image_encoder.backbone.parameters() if p.requires_grad
    }
    assert trained == {0, 1}


def test_words_without_a_vector_get_random_numbers_of_the_same_spread(tmp_path, shapes):
    (tmp_path / "glove.txt").write_text("red 1 -1 1 -1\nblue -1 1 1 1\n")
    recipe = small_recipe(
        text_encoder={**SMALL["text_encoder"], "word_vectors": str(tmp_path / "glove.txt")}
    )
    said = []
    words = build_vocabulary(recipe, read_manifest(shapes).images, said.append)
    assert any("2 of" in line and "word vectors" in line for line in said)
    network = build_network(
        small_recipe(text_encoder={**SMALL["text_encoder"], "embedding_dim": 4}),
        words.tokenizer.num_embeddings,
    )
    set_word_vectors(network.text_encoder.embedding, words.vectors)
    table = network.text_encoder.embedding.weight
    assert table[0].tolist() == [0, 0, 0, 0]
    assert table[1 + words.tokenizer.words.index("blue")].tolist() == [-1, 1, 1, 1]
    assert table.std().item() == pytest.approx(1, abs=0.25)


def test_a_checkpoint_holds_no_code(bundle):
    state, progress = load_checkpoint(bundle / "training" / "last.pt")
    assert set(state) == {"network", "classifier", "rows"}
    (rows,) = state["rows"]
    assert set(load_rows([bundle / "training" / rows], slice(0, 5))) == {"weights"}
    assert progress.stage == 2
