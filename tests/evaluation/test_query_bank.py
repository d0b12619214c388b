import numpy as np

from dualpath.evaluation.query_bank import normalise_by_bank
from tests.conftest import run_cli


def unit(generator, rows, dim=6):
    vectors = generator.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_both_directions_rank_by_the_inverted_softmax():
    """A query's answer is what is most surely its own among all queries of the bank."""
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


def test_a_large_temperature_changes_nothing():
    generator = np.random.default_rng(1)
    images, texts = unit(generator, 5), unit(generator, 7)
    # The mean nearness to a bank that lies all around is the same for everything.
    bank = np.concatenate([texts, -texts])
    ranked, queries = normalise_by_bank(images, texts, np.concatenate([images, -images]), bank, 1e3)
    assert np.allclose(ranked @ queries.T, images @ texts.T, atol=1e-3)


def test_evaluation_by_a_bank_says_so(bundle, shapes, cache):
    plain = run_cli("evaluate", bundle, "--data", shapes, "--cache", cache)
    ranked = run_cli(
        "evaluate", bundle, "--data", shapes, "--cache", cache, "--query-bank", "train"
    )
    assert "re-ranked by train" in ranked.stdout
    assert plain.stdout != ranked.stdout
    unknown = run_cli("evaluate", bundle, "--data", shapes, "--cache", cache, "--query-bank", "x")
    assert unknown.returncode == 1
    assert "split 'x' has no image" in unknown.stderr
