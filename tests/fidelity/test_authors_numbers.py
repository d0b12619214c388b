"""Both networks, losses, gradients and training steps equal the authors' own code.

Double precision, full width. ``pytest -v tests/fidelity`` prints the largest differences.
"""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dualpath.losses.ranking import mined_ranking_loss
from dualpath.training.objective import stage_losses
from tests.fidelity.case import (
    GOLDEN,
    RECIPES,
    Case,
    Positions,
    assert_golden,
    dropout_mask,
    load_case,
    without_padding,
)
from tests.fidelity.formulas import BATCHES, SENTENCES

pytestmark = pytest.mark.slow

# The images and captions in the first half of a batch are anchors, the others negatives.
ANCHORS = SENTENCES // 2


class Forward(NamedTuple):
    """The features of both encoders, (8, 2048), before and after the last ReLU."""

    image: Tensor
    text: Tensor
    image_after: Tensor
    text_after: Tensor


def forward(case: Case, number: int) -> Forward:
    batch = case.inputs(number)
    image, text = case.network(batch.pooled, case.placed(batch))
    features = Forward(image, text, F.relu(image), F.relu(text))
    for one in features[2:]:
        if one.requires_grad:
            one.retain_grad()
    return features


def stage_1_losses(case: Case, number: int, features: Forward) -> dict[str, Tensor]:
    batch, stage = case.inputs(number), case.recipe.stages[0]
    with dropout_mask(batch.mask(stage.instance.dropout)):
        return stage_losses(
            stage,
            case.classifier,
            *features[2:],
            torch.arange(SENTENCES),
            batch.instance_ids,
        )


def stage_2_losses(case: Case, number: int, features: Forward) -> dict[str, Tensor]:
    """Return the losses of the authors' Stage II: four anchors, four negatives of each encoder."""
    batch, golden = case.inputs(number), case.golden["stage2"]
    images, texts = features[2:]
    text_ids = batch.instance_ids + (torch.arange(SENTENCES) >= ANCHORS)
    rate = case.recipe.stages[1].instance.dropout
    with dropout_mask(batch.mask(rate)):
        of_images, of_texts = case.classifier(
            images, texts, batch.instance_ids, text_ids, dropout=rate
        )
    rankings = [
        mined_ranking_loss(
            images[[anchor, anchor + ANCHORS]],
            texts[[anchor]],
            texts[[anchor + ANCHORS] * 2],
            owners=torch.tensor([0]),
            instance_ids=torch.arange(2),  # the one other image is the negative
            margin=golden["margin"],
        )
        for anchor in range(ANCHORS)
    ]
    weights = golden["weights"]
    return {
        "instance_image": weights["image"] * of_images,
        "instance_text": weights["text"] * of_texts,
        # A mean over half of the batch; the authors divide their sum by the whole batch.
        "ranking": weights["rank"] / 2 * torch.stack(rankings).mean(),
    }


def gradients(case: Case, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of the sum over the batch, which the authors' code has, by name."""
    case.network.zero_grad()
    case.classifier.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: SENTENCES * p.grad for name, p in case.parameters().items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_block_and_both_losses_at_test(name):
    case = load_case(name)
    case.start()
    case.network.eval()
    case.classifier.eval()
    positions = Positions(case.network.text_encoder)
    with torch.no_grad(), positions.recorded():
        features = forward(case, 0)
    check_forward(f"{name}, test mode", case.golden["test"], features, positions)
    losses = case.classifier(
        *features[2:], case.inputs(0).instance_ids, case.inputs(0).instance_ids
    )
    check_losses(f"{name}, test mode", case.golden["test"], *losses)


@pytest.mark.parametrize("name", RECIPES)
def test_every_block_both_losses_and_the_gradients_in_training(name):
    case = load_case(name)
    case.start()
    case.network.train()
    case.classifier.train()
    positions = Positions(case.network.text_encoder)
    with positions.recorded():
        features = forward(case, 0)
    check_forward(f"{name}, training mode", case.golden["train"], features, positions)
    losses = stage_1_losses(case, 0, features)
    check_losses(f"{name}, training mode", case.golden["train"], *losses.values())
    found = gradients(case, losses)
    for parameter, golden in case.golden["gradients_of_sum"].items():
        assert_golden(f"{name}, gradients", golden, without_padding(parameter, found[parameter]))
    for kind in ("image", "text"):
        golden = case.golden[f"gradient_{kind}_feature_of_sum"]
        assert_golden(
            f"{name}, gradients", golden, SENTENCES * getattr(features, f"{kind}_after").grad
        )


def check_forward(subject, golden, features, positions):
    assert len(positions.blocks) == len(golden["blocks"]) == 14
    for block, expected in zip(positions.blocks, golden["blocks"].values(), strict=True):
        assert_golden(f"{subject}: 14 blocks", expected, block)
    assert_golden(f"{subject}: features", golden["fc2bn"], positions.embedded)
    assert_golden(f"{subject}: features", golden["pooled"], positions.pooled)
    assert_golden(f"{subject}: features", golden["text_feature"], features.text)
    assert_golden(f"{subject}: features", golden["image_feature"], features.image)


def check_losses(subject, golden, image_loss, text_loss):
    for loss, kind in ((image_loss, "img"), (text_loss, "txt")):
        expected = golden[f"instance_loss_sum_{kind}"]
        assert_golden(f"{subject}: instance losses", expected, SENTENCES * loss.detach())


@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_and_running_averages_after_one_and_three_steps(stage):
    case = load_case("flickr30k_32")
    case.start()
    case.network.train()
    case.classifier.train()
    optimizers = case.optimizers(case.recipe.stages[stage - 1])
    for number in range(BATCHES):
        features = forward(case, number)
        losses = (stage_1_losses, stage_2_losses)[stage - 1](case, number, features)
        found = gradients(case, losses)
        if stage == 2 and number == 0:
            check_stage_2(case, losses, features, found)
        for optimizer in optimizers:
            optimizer.step()
        golden = case.golden[f"stage{stage}_steps"].get(str(number + 1))
        if golden is not None:
            check_step(f"Stage {'I' * stage}, after {number + 1} steps", case, golden)


def check_stage_2(case, losses, features, found):
    golden, subject = case.golden["stage2"], "Stage II"
    weights = golden["weights"]
    check = {
        "instance_loss_sum_img": losses["instance_image"] / weights["image"],
        "instance_loss_sum_txt": losses["instance_text"] / weights["text"],
        "rank_loss_sum": losses["ranking"] / weights["rank"],
    }
    for entry, loss in check.items():
        assert_golden(f"{subject}: three losses", golden[entry], SENTENCES * loss.detach())
    for kind, after in zip(("image", "text"), features[2:], strict=True):
        assert_golden(f"{subject}: unit vectors", golden[f"{kind}_normalised"], F.normalize(after))
        expected = golden[f"gradient_{kind}_feature_of_weighted_sum"]
        assert_golden(
            f"{subject}: gradients", expected, SENTENCES * getattr(features, f"{kind}_after").grad
        )
    for parameter, expected in golden["gradients_of_weighted_sum"].items():
        assert_golden(
            f"{subject}: gradients", expected, without_padding(parameter, found[parameter])
        )


def check_step(subject, case, golden):
    found, modules = case.parameters(), dict(case.network.named_modules())
    for parameter, expected in golden.items():
        if parameter != "moments":
            value = without_padding(parameter, found[parameter])
            assert_golden(f"{subject}: parameters", expected, value)
    for layer, (mean, sigma) in golden["moments"].items():
        norm = modules[layer]
        assert_golden(f"{subject}: running averages", mean, norm.running_mean)
        found_sigma = (norm.running_var + norm.eps).sqrt()
        assert_golden(f"{subject}: running averages", sigma, found_sigma)


def test_the_learning_rate_and_weight_decay_of_every_parameter_and_running_average():
    case = load_case("flickr30k_32")
    multipliers, parameters = GOLDEN["multipliers"]["params"], case.parameters()
    assert len(parameters) == 152
    assert set(GOLDEN["names"]) >= set(parameters)
    modules = dict(case.network.named_modules())
    for stage in case.recipe.stages:
        groups = {
            id(p): (group["base_lr"], group["weight_decay"])
            for group in case.optimizers(stage).groups
            for p in group["params"]
        }
        for name, of_authors in GOLDEN["names"].items():
            rate, decay = multipliers[of_authors]
            if name.endswith(".running"):
                assert modules[name.removesuffix(".running")].momentum == rate
            else:
                found = groups[id(parameters[name])]
                assert found == pytest.approx((stage.optimizer.lr * rate, 1e-4 * decay))
