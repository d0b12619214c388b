import numpy as np
import pytest

from dualpath.errors import ClusterError
from dualpath.training.clustering import cluster_instances
from tests.conftest import small_recipe, train_quietly

FEATURES = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1], [1, 0.05]], np.float32)
INSTANCES = np.array([0, 1, 2, 3, 0])


def test_similar_instances_are_in_one_cluster():
    labels = cluster_instances(FEATURES, INSTANCES, 2, seed=0)
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_more_clusters_than_instances_are_refused():
    with pytest.raises(ClusterError, match="clusters is 5, but there are 4 training instances"):
        cluster_instances(FEATURES, INSTANCES, 5, seed=0)


def test_a_training_on_clusters_resumes_with_the_same_classes(shapes, cache, tmp_path):
    recipe = small_recipe(classifier={"clusters": 7})
    train_quietly(recipe, shapes, tmp_path, cache=cache)
    classes = np.load(tmp_path / "training" / "classes.npy")
    assert set(classes) == set(range(7))
    again = train_quietly(recipe, shapes, tmp_path, resume=True, cache=cache)
    assert again.metrics["history"]
    assert np.load(tmp_path / "training" / "classes.npy").tolist() == classes.tolist()
