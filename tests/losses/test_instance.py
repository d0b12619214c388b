import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualpath.losses.instance import InstanceClassifier, instance_loss


def test_plain_logits_by_hand():
    features = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # logits: (1, 2, 3) and (0, 1, 1)
    first = math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 3
    second = math.log(1 + 2 * math.e) - 0
    loss = instance_loss(features, weight, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_normalised_logits_by_hand():
    features = torch.tensor([[3.0, 4.0]])
    weight = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    # cosines 0.6 and 0.8, scaled by 10
    loss = instance_loss(features, weight, torch.tensor([1]), logit_scale=10.0)
    assert loss.item() == pytest.approx(math.log(math.exp(6) + math.exp(8)) - 8, rel=1e-5)


def test_rows_without_a_class_add_nothing_and_count_in_the_mean():
    features, weight = torch.randn(3, 4), torch.randn(5, 4)
    loss = instance_loss(features, weight, torch.tensor([2, -1, 0]))
    of_others = instance_loss(features[[0, 2]], weight, torch.tensor([2, 0]))
    torch.testing.assert_close(loss, of_others * 2 / 3)
    assert instance_loss(features, weight, torch.tensor([-1, -1, -1])).item() == 0


@pytest.mark.parametrize("logit_scale", [None, 16.0])
def test_gradients_agree_with_finite_differences(logit_scale):
    torch.manual_seed(0)
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([1, 4, 1])
    assert torch.autograd.gradcheck(
        lambda f, w: instance_loss(f, w, ids, logit_scale=logit_scale), (features, weight)
    )


@given(st.integers(0, 10_000), st.floats(0.1, 50.0))
def test_normalised_logits_do_not_depend_on_the_length_of_features(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    ids = torch.randint(7, (4,), generator=generator)
    torch.testing.assert_close(
        instance_loss(features, weight, ids, logit_scale=8.0),
        instance_loss(features * factor, weight * 3, ids, logit_scale=8.0),
    )


@given(st.integers(0, 10_000))
def test_the_order_of_a_batch_and_the_numbers_of_classes_do_not_change_the_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    ids = torch.randint(6, (5,), generator=generator)
    order = torch.randperm(5, generator=generator)
    numbers = torch.randperm(6, generator=generator)
    renumbered = torch.empty_like(weight)
    renumbered[numbers] = weight
    torch.testing.assert_close(
        instance_loss(features, weight, ids),
        instance_loss(features[order], renumbered, numbers[ids[order]]),
    )


def test_both_encoders_share_one_classifier():
    torch.manual_seed(0)
    classifier = InstanceClassifier(8, torch.arange(10))
    image, text = torch.randn(4, 8), torch.randn(6, 8)
    image_ids, text_ids = torch.arange(4), torch.tensor([0, 0, 1, 2, -1, 9])
    image_loss, text_loss = classifier(image, text, image_ids, text_ids, logit_scale=4.0)
    torch.testing.assert_close(
        image_loss, instance_loss(image, classifier.weight, image_ids, logit_scale=4.0)
    )
    torch.testing.assert_close(
        text_loss, instance_loss(text, classifier.weight, text_ids, logit_scale=4.0)
    )
    (image_loss + text_loss).backward()
    assert (classifier.weight.grad.abs().sum(dim=1) > 0).all()


def test_dropout_is_applied_before_the_classifier_in_training_only():
    classifier = InstanceClassifier(64, torch.arange(3))
    batch = torch.ones(2, 64), torch.ones(2, 64), torch.tensor([0, 1]), torch.tensor([0, 1])
    torch.manual_seed(0)
    assert classifier(*batch, dropout=0.5) != classifier(*batch)
    classifier.eval()
    assert classifier(*batch, dropout=0.5) == classifier(*batch)
    assert classifier.weight.abs().max() <= 0.1 * math.sqrt(3 / 64)


def sampled(sample_rate, **options):
    torch.manual_seed(0)
    return InstanceClassifier(8, torch.arange(40), sample_rate=sample_rate, **options).double()


BATCH = torch.arange(4), torch.tensor([0, 0, 1, 2, -1, 39])


def features():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (4, 6))


@pytest.mark.parametrize("logit_scale", [None, 4.0])
def test_a_sampled_softmax_is_over_the_classes_of_the_batch_and_others(logit_scale):
    classifier = sampled(0.25)
    image, text = features()
    torch.manual_seed(3)
    losses = classifier(image, text, *BATCH, logit_scale=logit_scale)
    sum(losses).backward()
    gradient = classifier.weight.grad.coalesce()
    rows = gradient.indices()[0]
    assert len(rows) == 10
    assert {0, 1, 2, 3, 39} <= set(rows.tolist())
    columns = {int(row): place for place, row in enumerate(rows)}
    for loss, x, ids in zip(losses, (image, text), BATCH, strict=True):
        own = torch.tensor([columns.get(int(i), -1) for i in ids])
        expected = instance_loss(x, classifier.weight[rows].detach(), own, logit_scale=logit_scale)
        torch.testing.assert_close(loss, expected)


def test_a_sample_of_all_classes_gives_the_whole_instance_loss():
    image, text = features()
    whole, most = sampled(1.0), sampled(0.9999)
    torch.testing.assert_close(
        torch.stack(most(image, text, *BATCH, logit_scale=4.0)),
        torch.stack(whole(image, text, *BATCH, logit_scale=4.0)),
    )


def test_each_step_draws_other_classes_and_evaluation_uses_all_classes():
    classifier = sampled(0.25)
    image, text = features()
    torch.manual_seed(3)
    assert classifier(image, text, *BATCH)[0] != classifier(image, text, *BATCH)[0]
    classifier.eval()
    assert classifier(image, text, *BATCH)[0] == instance_loss(image, classifier.weight, BATCH[0])


def test_a_projection_makes_the_classifier_smaller():
    classifier = sampled(1.0, projection_dim=3)
    image, text = features()
    assert classifier.weight.shape == (40, 3)
    loss, _ = classifier(image, text, *BATCH)
    expected = instance_loss(classifier.projection(image), classifier.weight, BATCH[0])
    torch.testing.assert_close(loss, expected)


def test_separate_classifiers_do_not_share_weights_and_clusters_are_classes():
    torch.manual_seed(0)
    class_of = torch.tensor([0, 1, 0])  # instances 0 and 2 are one cluster
    classifier = InstanceClassifier(4, class_of, shared=False)
    image, text = torch.randn(3, 4), torch.randn(2, 4)
    image_loss, text_loss = classifier(image, text, torch.arange(3), torch.tensor([2, -1]))
    torch.testing.assert_close(image_loss, instance_loss(image, classifier.weight, class_of))
    expected = instance_loss(text[:1], classifier.weights()[1], torch.tensor([0]))
    torch.testing.assert_close(text_loss, expected / 2)
    assert classifier.weight.shape == (2, 4)


def test_a_bias_is_added_to_the_logit_of_each_class():
    torch.manual_seed(0)
    classifier = InstanceClassifier(8, torch.arange(5), bias=True)
    assert classifier.bias.shape == (5, 1)
    assert not classifier.bias.any()
    image, text, ids = torch.randn(4, 8), torch.randn(3, 8), torch.tensor([4, 0, 2, 2])
    with torch.no_grad():
        classifier.bias.uniform_(-2, 2)
    image_loss, text_loss = classifier(image, text, ids, ids[:3])
    for features, loss in ((image, image_loss), (text, text_loss)):
        logits = features @ classifier.weight.T + classifier.bias[:, 0]
        expected = torch.nn.functional.cross_entropy(logits, ids[: len(features)])
        torch.testing.assert_close(loss, expected)
    (image_loss + text_loss).backward()
    assert classifier.bias.grad.abs().min() > 0
    assert "bias" in classifier.row_names()  # checkpoints divide it among the processes


def test_a_bias_of_zero_does_not_change_the_loss():
    torch.manual_seed(0)
    with_bias = InstanceClassifier(8, torch.arange(5), bias=True)
    torch.manual_seed(0)
    without = InstanceClassifier(8, torch.arange(5))
    x, ids = torch.randn(4, 8), torch.arange(4)
    assert with_bias(x, x, ids, ids) == without(x, x, ids, ids)
    assert without.bias is None
    assert list(without.state_dict()) == ["weight"]


@pytest.mark.parametrize("options", [{"shared": False}, {"sample_rate": 0.5}, {"num_heads": 2}])
def test_a_bias_needs_one_shared_classifier_over_all_classes(options):
    with pytest.raises(ValueError, match="a bias needs a shared classifier"):
        InstanceClassifier(8, torch.arange(5), bias=True, **options)
