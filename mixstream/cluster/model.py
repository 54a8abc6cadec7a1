"""Texts -> the cluster of each; a target set -> its histogram; the model <-> its two files."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mixstream.arrays import Counts
from mixstream.cluster.embedding import Arrays, Embedding, Points, open_embedding
from mixstream.cluster.kmeans import Centres, fit_centres, fit_tree, nearest
from mixstream.corpus.jsonfile import count, read_object, wanted, write_json
from mixstream.corpus.shard import write_whole
from mixstream.errors import RecipeError, ShardError

__all__ = ["ClusterModel", "fit_clusters", "open_clusters"]

FORMAT_VERSION = 1
MODEL_FOLDER = "_clusters"
"""Beside the clusters; convert passes over names that begin with an underscore."""
_TEXTS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class ClusterModel:
    """What assigns any text to a cluster, by the same rule for corpus and targets."""

    embedding: Embedding
    """Texts to points."""
    coarse: Centres
    """The only level, or the upper of two."""
    inside: tuple[Centres, ...] = ()
    """The clusters inside each coarse one, where there are two levels."""

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) the domain of each cluster, in order: "c017", or "c01-003" with two levels."""
        if not self.inside:
            wide = len(str(len(self.coarse.points) - 1))
            return tuple(f"c{index:0{wide}}" for index in range(len(self.coarse.points)))
        wide = len(str(len(self.inside) - 1))
        deep = max(len(str(len(fine.points) - 1)) for fine in self.inside)
        return tuple(
            f"c{parent:0{wide}}-{index:0{deep}}"
            for parent, fine in enumerate(self.inside)
            for index in range(len(fine.points))
        )

    @property
    def parents(self) -> Counts:
        """(K,) int64, the coarse cluster of each, for `algorithms.hierarchical_histogram`."""
        if not self.inside:
            return np.arange(len(self.coarse.points))
        return np.repeat(np.arange(len(self.inside)), [len(fine.points) for fine in self.inside])

    def assign(self, texts: Sequence[str]) -> Counts:
        """(n,) int64, the index in `names` of each text's cluster."""
        if not texts:
            return np.empty(0, dtype=np.int64)
        return self.assign_points(self.embedding.embed(texts))

    def assign_points(self, points: Points) -> Counts:
        """(n,) int64, the same of points that are embedded already."""
        places = nearest(points, self.coarse)
        if not self.inside:
            return places
        first = np.cumsum([0, *(len(fine.points) for fine in self.inside)])
        found = np.empty_like(places)
        for parent in np.unique(places).tolist():
            own = places == parent
            found[own] = first[parent] + nearest(points[own], self.inside[parent])
        return found

    def histogram(self, texts: Iterable[str]) -> dict[str, int]:
        """Texts of a target set in each cluster, by its name; all K names, in order.

        What `algorithms.ImportanceSampling` eats:
        `update([histogram[name] for name in loader.domains])`.
        """
        stream, found = iter(texts), Counter[int]()
        while block := list(islice(stream, _TEXTS_AT_ONCE)):
            found.update(self.assign(block).tolist())
        return {name: found[index] for index, name in enumerate(self.names)}

    def save(self, folder: Path) -> None:
        """Writes model.npz and then model.json, each whole or not at all; the folder must exist."""
        arrays = {f"embedding.{key}": value for key, value in self.embedding.arrays().items()}
        levels = (self.coarse, *self.inside)
        arrays["centres"] = np.concatenate([level.points for level in levels])
        arrays["prices"] = np.concatenate([level.prices for level in levels])
        content = io.BytesIO()
        np.savez(content, **arrays)  # zlib would take a second for a twentieth of 34 MB
        write_whole(folder / "model.npz", [content.getvalue()])
        write_json(
            folder / "model.json",
            {
                "version": FORMAT_VERSION,
                "embedding": self.embedding.settings(),
                "clusters_by_level": [len(level.points) for level in levels],
                "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            },
        )


def fit_clusters(
    texts: Sequence[str],
    embedding: Embedding,
    num_clusters: int | tuple[int, int],
    *,
    balanced: bool = True,
    seed: int = 0,
) -> ClusterModel:
    """A model of clusters from a sample of texts.

    Args:
        texts: the sample; some hundred a cluster are good.
        embedding: texts to points.
        num_clusters: K; or (coarse, fine in each), two levels, for thousands.
        balanced: whether clusters shall hold about as many of the texts each.
        seed: of k-means.

    Raises:
        RecipeError: fewer texts than clusters, or scikit-learn is not installed.
    """
    levels = (num_clusters,) if isinstance(num_clusters, int) else num_clusters
    if min(levels) < 1 or int(np.prod(levels)) > len(texts):
        raise RecipeError(
            f"{len(texts)} documents cannot make {' x '.join(map(str, levels))} clusters; ask for "
            f"at least one, and at most a cluster a document."
        )
    blocks = range(0, len(texts), _TEXTS_AT_ONCE)
    points = np.concatenate([embedding.embed(texts[at : at + _TEXTS_AT_ONCE]) for at in blocks])
    if len(levels) == 1:
        return ClusterModel(embedding, fit_centres(points, levels[0], balanced=balanced, seed=seed))
    coarse, inside = fit_tree(points, *levels, balanced=balanced, seed=seed)
    return ClusterModel(embedding, coarse, tuple(inside))


def open_clusters(path: str | Path, *, embedding: str | None = None) -> ClusterModel:
    """The model that `mixstream cluster` saved.

    Args:
        path: the folder that it wrote, or the `_clusters` in it.
        embedding: where its sentence model lies now, if it has one and it was moved.

    Raises:
        ShardError: a file is missing, damaged or of another version.
        RecipeError: its sentence model is not there, or is another.
    """
    folder = Path(path)
    if (folder / MODEL_FOLDER).is_dir():
        folder /= MODEL_FOLDER
    file = folder / "model.json"
    values = read_object(file)
    if values.get("version") != FORMAT_VERSION:
        raise ShardError(
            f"{file} is of version {values.get('version')!r}, this mixstream reads "
            f"{FORMAT_VERSION}; cluster again."
        )
    arrays = _read_arrays(folder / "model.npz", wanted(values, "sha256", str, str(file)))
    sizes = wanted(values, "clusters_by_level", list, str(file))
    counts = [count({"clusters": size}, "clusters", str(file), least=1) for size in sizes]
    centres, prices = arrays.get("centres"), arrays.get("prices")
    if centres is None or prices is None or not len(centres) == len(prices) == sum(counts):
        raise ShardError(f"{folder}: model.json and model.npz do not fit; cluster again.")
    ends = np.cumsum(counts)[:-1]
    levels = [
        Centres(points, price)
        for points, price in zip(np.split(centres, ends), np.split(prices, ends), strict=True)
    ]
    found = open_embedding(
        wanted(values, "embedding", dict, str(file)),
        {key[10:]: value for key, value in arrays.items() if key.startswith("embedding.")},
        path=embedding,
        where=str(folder),
    )
    return ClusterModel(found, levels[0], tuple(levels[1:]))


def _read_arrays(file: Path, sha256: str) -> Arrays:
    """The arrays of an npz file without pickles, checked against the hash."""
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ShardError(f"cannot read {file}: {error}. Cluster again.") from error
    raise ShardError(f"{file} is not the file that model.json was written with; cluster again.")
