import pytest

from dualpath.errors import RecipeError
from dualpath.recipes.loading import read_recipe
from dualpath.training.dry_run import dry_run
from tests.conftest import run_cli, small_recipe

SIZES = {"words": 9, "images": 9, "instances": 9}


@pytest.mark.slow
def test_the_recipe_of_the_paper_has_the_published_sizes():
    first, second = dry_run(read_recipe("flickr30k"))
    groups = {group.name: group for group in first.groups}
    assert groups["classifier"].parameters == 29783 * 2048  # 61.0 M
    # The published 6.02 M do not count the row of padding; the norm is in another group.
    assert groups["word_embedding"].parameters == 20075 * 300 + 300
    assert groups["image_backbone"].lr == 0
    assert {g.name: g.lr for g in second.groups}["image_backbone"] == pytest.approx(2e-3)
    assert second.optimizer == second.gradients == second.weights
    assert second.activations > 10 * first.activations
    assert second.memory == 3 * second.weights + second.activations


def test_a_recipe_with_a_sentence_encoder_is_planned_too(sentence_encoder):
    stages = [
        {"name": "heads", "epochs": 1, "contrastive": {}, "sentence_encoder": "frozen"},
        {"name": "all", "epochs": 1, "contrastive": {}},
    ]
    text = {"transformer": str(sentence_encoder)}
    first, second = dry_run(small_recipe(text_encoder=text, expected=SIZES, stages=stages))
    rates = [{group.name: group.lr for group in plan.groups} for plan in (first, second)]
    assert rates[0]["text_backbone"] == 0
    assert rates[1]["text_backbone"] > 0
    assert second.activations > first.activations


def test_a_recipe_without_expected_sizes_is_refused():
    with pytest.raises(RecipeError, match="a dry run needs the sizes of the data"):
        dry_run(small_recipe())


@pytest.mark.slow
def test_the_command_prints_the_plan_without_data(small_recipe_file):
    sizes = [f"--set=expected.{key}={value}" for key, value in SIZES.items()]
    done = run_cli("train", small_recipe_file, "--dry-run", *sizes)
    assert done.returncode == 0, done.stderr
    assert "image_backbone" in done.stdout
    assert "frozen" in done.stdout
    refused = run_cli("train", small_recipe_file, "--dry-run")
    assert refused.returncode == 1
    assert "a dry run needs the sizes of the data" in refused.stderr
