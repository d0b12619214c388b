import math

import pytest

from dualpath.losses.contrastive import contrastive_loss
from tests.losses.batches import CAPTIONS, IMAGES, ONE_EACH


def test_contrastive_loss_by_hand():
    loss = contrastive_loss(IMAGES, CAPTIONS, ONE_EACH, ONE_EACH, temperature=0.5)
    cosines = CAPTIONS @ IMAGES.T / 0.5
    expected = 0.0
    for i in range(3):
        expected += math.log(sum(math.exp(v) for v in cosines[i])) - cosines[i, i]
        expected += math.log(sum(math.exp(v) for v in cosines[:, i])) - cosines[i, i]
    assert loss.item() == pytest.approx(float(expected) / 6, rel=1e-9)
