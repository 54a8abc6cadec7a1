"""Documents without domains -> clusters, one domain each (CRISP): `mixstream cluster`.

A target set is assigned to the same clusters; its histogram is what importance sampling samples by.
"""

from mixstream.cluster.embedding import HashedWords, SentenceModel, fit_hashed_words
from mixstream.cluster.model import ClusterModel, fit_clusters, open_clusters
from mixstream.cluster.write import ClusterReport, cluster_documents

__all__ = [
    "ClusterModel",
    "ClusterReport",
    "HashedWords",
    "SentenceModel",
    "cluster_documents",
    "fit_clusters",
    "fit_hashed_words",
    "open_clusters",
]
