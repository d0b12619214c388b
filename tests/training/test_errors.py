"""Trainings that cannot go on say why in one line."""

import pytest

from dualpath.errors import TrainingError
from tests.conftest import ONE_STAGE, run_cli, small_recipe, train_quietly


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_batch(tmp_path, shapes, cache):
    optimizer = {"name": "sgd", "lr": 1e30}
    stages = [{**ONE_STAGE[0], "instance": {}, "optimizer": optimizer}]
    with pytest.raises(
        TrainingError, match=r"step \d+: the loss is not finite .*scene-\d+\.png.*optimizer\.lr"
    ) as raised:
        train_quietly(small_recipe(stages=stages), shapes, tmp_path, cache=cache)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_missing_sentence_encoder_is_named_in_one_line(shapes, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    folder = tmp_path / "nothing"
    folder.mkdir()
    recipe.write_text(
        "name: a\ntext_encoder: {transformer: " + str(folder) + "}\n"
        "image_encoder: {backbone: test_efficientnet, pretrained: false, input_size: 32}\n"
        "stages: [{name: s, epochs: 1, contrastive: {}}]\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = run_cli("train", recipe, "--data", shapes, "--out", tmp_path / "o", env=environment)
    assert result.returncode == 1
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr
