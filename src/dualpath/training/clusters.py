"""Classes by k-means instead of by instance, an ablation of the paper (section 5.4)."""

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans


class ClusterError(ValueError):
    """More clusters were asked for than there are instances."""


def cluster_instances(
    features: npt.NDArray[np.float32],
    instance_ids: npt.NDArray[np.int64],
    clusters: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Return the cluster of each instance, (instances,) int64, without unused numbers.

    Args:
        features: (pictures, dim) float32; an instance is the mean of its pictures, normalised.
        instance_ids: (pictures,) int64, every number from 0 on.

    Raises:
        ClusterError: there are fewer instances than ``clusters``.
    """
    instances = int(instance_ids.max()) + 1
    if instances < clusters:
        raise ClusterError(
            f"classifier.clusters is {clusters:,}, and there are {instances:,} instances to "
            "train on; ask for fewer"
        )
    means = np.zeros((instances, features.shape[1]), np.float32)
    np.add.at(means, instance_ids, features)
    means /= np.linalg.norm(means, axis=1, keepdims=True).clip(min=1e-12)
    labels = KMeans(clusters, n_init=1, max_iter=20, random_state=seed).fit_predict(means)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
