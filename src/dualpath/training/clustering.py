"""Classes by k-means instead of by instance, an ablation of the paper (section 5.4)."""

import numpy as np
from sklearn.cluster import KMeans

from dualpath.errors import ClusterError
from dualpath.types import IntArray, Vectors


def cluster_instances(
    features: Vectors, instance_ids: IntArray, clusters: int, seed: int
) -> IntArray:
    """Return the cluster of each instance, (instances,) int64, without unused numbers.

    Args:
        features: (images, dim) float32. An instance is the normalised mean of its images.
        instance_ids: (images,) int64, every number from 0 on.

    Raises:
        ClusterError: there are fewer instances than ``clusters``.
    """
    instances = int(instance_ids.max()) + 1
    if instances < clusters:
        raise ClusterError(
            f"classifier.clusters is {clusters:,}, but there are {instances:,} training instances; "
            "set a smaller number"
        )
    means = np.zeros((instances, features.shape[1]), np.float32)
    np.add.at(means, instance_ids, features)
    means /= np.linalg.norm(means, axis=1, keepdims=True).clip(min=1e-12)
    labels = KMeans(clusters, n_init=1, max_iter=20, random_state=seed).fit_predict(means)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
