import numpy as np

from dualpath.evaluation.query_bank import normalise_by_bank


def unit(generator, rows, dim=6):
    vectors = generator.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_both_directions_rank_by_the_inverted_softmax():
    generator = np.random.default_rng(0)
    images, texts = unit(generator, 9), unit(generator, 21)
    bank_images, bank_texts = unit(generator, 13), unit(generator, 33)
    ranked_images, ranked_texts = normalise_by_bank(images, texts, bank_images, bank_texts)
    scores = ranked_images @ ranked_texts.T
    temperature = 0.05
    cosines = (images @ texts.T).astype(np.float64)
    of_images = np.exp(cosines / temperature)
    by_captions = of_images / np.exp(images @ bank_texts.T / temperature).sum(1)[:, None]
    by_images = of_images / np.exp(bank_images @ texts.T / temperature).sum(0)
    assert (scores.argsort(axis=0) == by_captions.argsort(axis=0)).all()  # images of a caption
    assert (scores.argsort(axis=1) == by_images.argsort(axis=1)).all()  # captions of an image


def test_a_large_temperature_leaves_the_scores_unchanged():
    generator = np.random.default_rng(1)
    images, texts = unit(generator, 5), unit(generator, 7)
    # The mean nearness to a symmetric bank is the same for all vectors.
    bank = np.concatenate([texts, -texts])
    ranked, queries = normalise_by_bank(images, texts, np.concatenate([images, -images]), bank, 1e3)
    assert np.allclose(ranked @ queries.T, images @ texts.T, atol=1e-3)
