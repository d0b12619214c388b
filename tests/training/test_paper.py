"""The paper's recipes, and what only they and the ablations use."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dualpath.data.captions import EpochPlan, tabulate_captions
from dualpath.data.images import open_image
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words
from dualpath.data.transforms import WHOLE, render
from dualpath.errors import ClusterError, RecipeError
from dualpath.losses.instance import InstanceClassifier, instance_loss
from dualpath.losses.ranking import mined_ranking_loss
from dualpath.models.dual_encoder import build_network
from dualpath.models.image_encoder import create_backbone
from dualpath.models.text.cnn import TextCNN
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import Recipe
from dualpath.training.clustering import cluster_instances
from dualpath.training.dry_run import dry_run
from dualpath.training.feature_cache import cached_features
from dualpath.training.mining import mine_captions
from dualpath.training.train import train
from tests.conftest import quiet, run_cli, small_recipe
from tests.models.sentence_encoder import write_sentence_encoder

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = ["flickr30k", "mscoco", "cuhk_pedes"]
VARIANTS = sorted(p.stem for p in RECIPES.glob("*.yaml") if p.stem.startswith(tuple(PAPER)))


@pytest.fixture(scope="session")
def word_vectors(tmp_path_factory, shapes):
    """A file in GloVe's format with the words of the shapes."""
    words = count_words(read_manifest(shapes).images.captions, "paper")
    path = tmp_path_factory.mktemp("words") / "words.txt"
    rows = np.random.default_rng(0).normal(size=(len(words), 12))
    lines = [f"{w} {' '.join(f'{v:.4f}' for v in row)}" for w, row in zip(words, rows, strict=True)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*.yaml")))
def test_three_steps_of_every_recipe_at_a_reduced_size(
    name, shapes, word_vectors, sentence_encoder, cache, tmp_path
):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    tree = recipe.model_dump(mode="json")
    tree |= {"dim": 16, "workers": 0, "expected": None, "scale": None}
    if recipe.text_encoder.transformer:
        tree["text_encoder"] |= {"transformer": str(sentence_encoder), "states": [0, -1]}
    else:
        tree["text_encoder"] |= {"width": 0.0625, "word_vectors": str(word_vectors)}
    reduced = {"backbone": "test_resnet", "pretrained": False, "input_size": 32}
    if recipe.image_encoder.test_size:
        reduced["test_size"] = 40
    tree["image_encoder"] |= reduced
    for stage in tree["stages"]:
        stage |= {"epochs": 1, "batch_size": 28, "validate_every": 1}  # 80 images, 3 steps
        stage["schedule"]["milestones"] = []
        stage["distillation"] = (
            None  # its teacher is the user's; tests/training/test_sentence_encoder
        )
    model = train(Recipe.model_validate(tree), shapes, tmp_path, cache=cache, display=quiet())
    history = model.metrics["history"]
    assert [entry["stage"] for entry in history] == [stage.name for stage in recipe.stages]
    assert all(np.isfinite(list(entry["losses"].values())).all() for entry in history)
    assert ("ranking" in history[-1]["losses"]) == (recipe.stages[-1].ranking is not None)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_values_of_the_paper(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    first, second = recipe.stages
    dropout = {"flickr30k": 0.75, "mscoco": 0.5, "cuhk_pedes": 0.8}
    person = name.startswith("cuhk")
    assert recipe.dim == 2048
    assert recipe.relu
    assert recipe.text_encoder.depths == (3, 4, 6, 1)
    assert recipe.text_encoder.max_words == (56 if person else 32)
    assert recipe.text_encoder.padding == "unmasked"
    for stage in recipe.stages:
        assert stage.instance.dropout == dropout[re.sub("_(vgg|resnet).*", "", name)]
        assert (stage.instance.image_weight, stage.instance.text_weight) == (1, 1)
        assert stage.instance.scale is None
        rates = {group: stage.optimizer.lr * r for group, r in stage.optimizer.rates.items()}
        assert rates["classifier"] == pytest.approx(1e-3)
        assert rates["text_trunk"] == rates["image_head"] == pytest.approx(1e-2)
        assert rates["word_embedding"] == pytest.approx(1e-4)
        assert stage.captions_of == ("instance" if person else "image")
    assert (first.backbone, first.ranking) == ("frozen", None)
    assert (second.ranking.weight, second.ranking.margin) == (1, 1)
    assert second.ranking.negatives == ("random" if person else "mined")


def test_a_dry_run_counts_the_published_sizes():
    first, second = dry_run(read_recipe(RECIPES / "flickr30k.yaml"))
    groups = {group.name: group for group in first.groups}
    assert groups["classifier"].parameters == 29783 * 2048  # 61.0 M
    # The table holds a row of padding that the published 6.02 M have not; its norm is elsewhere.
    assert groups["word_embedding"].parameters == 20075 * 300 + 300
    assert groups["image_backbone"].lr == 0
    assert {g.name: g.lr for g in second.groups}["image_backbone"] == pytest.approx(2e-3)
    assert second.optimiser == second.gradients == second.weights
    assert second.activations > 10 * first.activations


def test_the_dry_run_of_the_command_needs_no_data(small_recipe_file):
    sizes = [f"--set=expected.{key}=9" for key in ("words", "images", "instances")]
    done = run_cli("train", small_recipe_file, "--dry-run", *sizes)
    assert done.returncode == 0, done.stderr
    assert "image_backbone" in done.stdout
    assert "frozen" in done.stdout
    refused = run_cli("train", small_recipe_file, "--dry-run")
    assert refused.returncode == 1
    assert "a dry run needs the sizes of the data" in refused.stderr


def test_a_variant_is_another_recipe_with_overrides(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nset: ['dim=7', 'stages.0.epochs=9']\n")
    with pytest.raises(RecipeError, match=r"b\.yaml: cannot be read"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(
        "name: b\nstages: [{name: s, epochs: 1, instance: {}}]\nimage_encoder: {grid: 1}\n"
    )
    recipe = read_recipe(tmp_path / "a.yaml", ["dim=8"])
    assert (recipe.name, recipe.dim, recipe.stages[0].epochs) == ("b", 8, 9)


def test_vggs_feature_is_before_its_last_relu():
    backbone, dim = create_backbone("vgg11")
    assert dim == 4096
    with torch.no_grad():
        assert backbone.eval()(torch.randn(1, 3, 224, 224)).min() < 0


def test_sliding_over_a_image_of_the_input_size_is_the_plain_forward():
    changes = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "test_size": 64}
    network = build_network(small_recipe(image_encoder=changes), 5).eval()
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            network.image_encoder.sliding_forward(pixels), network.image_encoder(pixels)
        )
        wide = torch.cat([pixels, pixels], dim=3)  # 4 columns of the map: 3 windows of 2
        assert network.image_encoder.sliding_forward(wide).shape == (2, 32)


def test_mean_pooling_by_hand():
    torch.manual_seed(0)
    encoder = TextCNN(9, embedding_dim=8, dim=4, width=0.0625, depths=(1, 1, 1, 1), pooling="mean")
    seen = {}
    encoder.project.register_forward_pre_hook(lambda _, x: seen.update(pooled=x[0]))
    encoder.blocks[-1].register_forward_hook(lambda *call: seen.update(rows=call[2]))
    encoder.train()(encoder.place(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([0, 5])))
    torch.testing.assert_close(seen["pooled"], seen["rows"].view(2, 8, -1).mean(dim=1))


def test_separate_classifiers_and_classes_of_clusters():
    torch.manual_seed(0)
    class_of = torch.tensor([0, 1, 0])  # instances 0 and 2 are one cluster
    classifier = InstanceClassifier(4, class_of, shared=False)
    image, text = torch.randn(3, 4), torch.randn(2, 4)
    image_loss, text_loss = classifier(image, text, torch.arange(3), torch.tensor([2, -1]))
    torch.testing.assert_close(image_loss, instance_loss(image, classifier.weight, class_of))
    expected = instance_loss(text[:1], classifier.weights()[1], torch.tensor([0]))
    torch.testing.assert_close(text_loss, expected)
    assert classifier.weight.shape == (2, 4)


def test_clusters_join_images_that_are_alike():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1], [1, 0.05]], np.float32)
    labels = cluster_instances(features, np.array([0, 1, 2, 3, 0]), 2, seed=0)
    assert labels[0] == labels[1] != labels[2] == labels[3]
    with pytest.raises(ClusterError, match="clusters is 5, and there are 4 instances"):
        cluster_instances(features, np.array([0, 1, 2, 3, 0]), 5, seed=0)


def test_a_training_on_clusters_resumes_with_the_same_classes(shapes, cache, tmp_path):
    recipe = small_recipe(classifier={"clusters": 7})
    train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    classes = np.load(tmp_path / "training" / "classes.npy")
    assert set(classes) == set(range(7))
    again = train(recipe, shapes, tmp_path, resume=True, cache=cache, display=quiet())
    assert again.metrics["history"]


def test_mined_captions_are_the_hardest_of_other_instances(shapes, tmp_path):
    items = read_manifest(shapes).split("train").images
    words = list(count_words(items.captions, "modern"))
    recipe = small_recipe()
    tokenizer = Tokenizer(words, "modern", recipe.text_encoder.max_words)
    table = tabulate_captions(items, tokenizer, tmp_path)
    torch.manual_seed(0)
    network = build_network(recipe, tokenizer.num_embeddings).train()
    plan = next(iter(EpochPlan(table, batch_size=8, captions_per_image=1, seed=(0, 0, 0))))
    from dualpath.data.captions import Batch

    pixels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    ids = torch.from_numpy(table.instance_ids[plan.images])
    tokens = torch.from_numpy(table.tokens_of(plan.captions))
    batch = Batch(pixels, tokens, torch.from_numpy(plan.owners), ids)
    everything = len(table.token_ids)
    placed, mined_ids = mine_captions(network, batch, table, recipe.text_encoder, everything)
    assert network.training
    assert not torch.isin(mined_ids, ids).any()
    network.eval()
    with torch.no_grad():
        images, mined = network(pixels, placed)
        every = network.text_encoder(
            network.text_encoder.place_at_random(
                torch.from_numpy(table.tokens_of(np.arange(everything)))
            )
        )
    scores = torch.cosine_similarity(images, mined)
    others = torch.cosine_similarity(images[:, None], every[None], dim=2)
    others[:, torch.isin(torch.from_numpy(table.instance_ids[table.owners]), ids)] = -1
    # Another draw of the places moves the scores a little.
    assert (scores > others.quantile(0.8, dim=1)).all()


def test_mined_ranking_loss_by_hand():
    images, texts = torch.eye(2), torch.eye(2)
    mined = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = mined_ranking_loss(images, texts, mined, torch.arange(2), torch.arange(2), margin=0.5)
    # Captions: 0.5 - 1 + 0.7071 and 0; images: the only other one has the cosine 0.
    assert loss.item() == pytest.approx((0.5 - 1 + 0.5**0.5) / 2)


def test_captions_of_an_instance_meet_each_of_its_images(tmp_path):
    from dualpath.data.record import ImageRecord
    from dualpath.data.table import ImageTable

    items = [
        ImageRecord(f"{n}.png", Path(f"{n}.png"), (f"word{n}",), instance, "train", n)
        for n, instance in enumerate(["a", "b", "a"])
    ]
    tokenizer = Tokenizer(["word0", "word1", "word2"], "modern", 4)
    table = tabulate_captions(ImageTable.from_records(items), tokenizer, tmp_path)
    met = set()
    for epoch in range(30):
        plan = EpochPlan(
            table, batch_size=3, captions_per_image=1, seed=(0, 0, epoch), of_instance=True
        )
        for batch in plan:
            met |= set(zip(batch.images.tolist(), batch.captions.tolist(), strict=True))
    assert met == {(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)}


def test_kept_features_of_another_grid_are_not_mixed_up(shapes, cache):
    for grid in (2, 3):
        image = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "grid": grid}
        torch.manual_seed(0)
        encoder = build_network(small_recipe(image_encoder=image), 5).image_encoder.eval()
        items = read_manifest(shapes).split("val").images
        hashes = np.array([f"{number:032x}" for number in range(len(items))], "S32")
        kept = cached_features(encoder, items.paths, hashes, [WHOLE], 64, cache)
        pixels = render(open_image(items[0].path), WHOLE, 64)[None]
        with torch.no_grad():
            live = encoder.backbone_features(pixels)[0].numpy()
        np.testing.assert_allclose(kept.features[0][kept.rows[0][0]], live, atol=1e-5)
