"""Texts -> points on the unit sphere: hashed words and a truncated SVD, or a model of sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixstream.corpus.jsonfile import wanted
from mixstream.errors import RecipeError, ShardError

__all__ = [
    "Arrays",
    "Embedding",
    "HashedWords",
    "Points",
    "SentenceModel",
    "fit_hashed_words",
    "open_embedding",
]

Points: TypeAlias = NDArray[np.float32]
"""(n, D) float32, each of length 1, or all 0 for a text without a word."""

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""What of a model is kept as arrays."""

MAX_CHARACTERS = 20_000
"""Of a text, from its beginning on, that an embedding reads."""

# A word; Chinese and Japanese, which leave no spaces, by the character; any other sign by itself.
_WORDS = r"(?u)[^\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]|[^\w\s]"

_SKLEARN = "needs scikit-learn: pip install 'mixstream[cluster]', or 'scikit-learn>=1.4'."
_PROBE = ("A line of English.", "Ein Satz auf Deutsch.", "def one(): return 1", "床前明月光")


class Embedding(Protocol):
    """Texts to points; saved as a few settings and arrays."""

    def embed(self, texts: Sequence[str]) -> Points:
        """(n, D) points of n texts; each depends on its own text alone."""
        ...

    def settings(self) -> dict[str, str | int]:
        """JSON-able, with the key "kind"."""
        ...

    def arrays(self) -> Arrays:
        """What else is needed to embed more texts."""
        ...


class HashedWords:
    """TF-IDF of words and pairs of words, hashed to columns, times the directions of an SVD.

    Args:
        inverse_frequency: (F,) float32, the weight of each column.
        directions: (D, F) float32, from `fit_hashed_words`.
    """

    kind = "hashed words"

    def __init__(self, inverse_frequency: NDArray[np.float32], directions: Points):
        self._inverse_frequency, self._directions = inverse_frequency, directions

    def embed(self, texts: Sequence[str]) -> Points:
        """(n, D) points."""
        counts = hashed_counts(texts, self._directions.shape[1])
        return _unit(_weighted(counts, self._inverse_frequency) @ self._directions.T)

    def settings(self) -> dict[str, str | int]:
        """The kind alone: all else are arrays."""
        return {"kind": self.kind}

    def arrays(self) -> Arrays:
        """Both arrays."""
        return {"inverse_frequency": self._inverse_frequency, "directions": self._directions}


def fit_hashed_words(
    texts: Sequence[str], *, dimensions: int = 128, num_columns: int = 2**16, seed: int = 0
) -> HashedWords:
    """An embedding of texts like these, without any download.

    Words and pairs of neighbouring words (Chinese and Japanese by the character) are hashed to
    columns by MurmurHash3, counted as 1 + log n, weighted by log((1 + N) / (1 + N_column)) + 1 and
    scaled to length 1; then come the first right singular vectors of that matrix.

    Args:
        texts: N of them; a sample of some 10,000 is enough.
        dimensions: D; fewer where N is smaller.
        num_columns: F.
        seed: of the randomized SVD.

    Raises:
        RecipeError: scikit-learn is not installed, or the texts hold fewer than two words in all.

    Source: scikit-learn's HashingVectorizer and TruncatedSVD (Halko et al. 2011), together known
    as latent semantic analysis (Deerwester et al. 1990).
    """
    counts = hashed_counts(texts, num_columns)
    in_texts = np.bincount(counts.indices, minlength=num_columns)
    inverse = (np.log((1 + len(texts)) / (1 + in_texts)) + 1).astype(np.float32)
    weighted = _weighted(counts, inverse)
    most = min(weighted.shape[0], int((in_texts > 0).sum())) - 1
    if most < 1:
        raise RecipeError(
            f"{len(texts)} documents hold too few words to tell them apart; give more of them."
        )
    from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped, import-not-found, unused-ignore]  # fmt: skip

    svd = TruncatedSVD(min(dimensions, most), algorithm="randomized", random_state=seed)
    svd.fit(weighted)
    return HashedWords(inverse, np.ascontiguousarray(svd.components_, dtype=np.float32))


def hashed_counts(texts: Sequence[str], num_columns: int) -> Any:
    """(n, F) scipy CSR float32: how often each hashed word or pair of words stands in each text."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped, import-not-found, unused-ignore]  # fmt: skip
    except ImportError as error:
        raise RecipeError(f"the embedding by hashed words {_SKLEARN}") from error
    vectorizer = HashingVectorizer(
        token_pattern=_WORDS,
        ngram_range=(1, 2),
        n_features=num_columns,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    return vectorizer.transform([text[:MAX_CHARACTERS] for text in texts])


def _weighted(counts: Any, inverse_frequency: NDArray[np.float32]) -> Any:
    """TF-IDF rows of length 1."""
    from sklearn.preprocessing import normalize  # type: ignore[import-untyped, import-not-found, unused-ignore]  # fmt: skip

    weighted = counts.copy()
    weighted.data = (1 + np.log(weighted.data)) * inverse_frequency[weighted.indices]
    return normalize(weighted, copy=False)


class SentenceModel:
    """A sentence-transformers model from a local folder.

    Args:
        path: the model's folder; nothing is downloaded.
        probe: (4, D) what the model made of four fixed texts when the clusters were fitted; None
            for a new one.

    Raises:
        RecipeError: sentence-transformers is not installed, the folder is no model, or it is not
            the model of the probe.
    """

    kind = "sentence model"

    def __init__(self, path: str, probe: Points | None = None):
        self._path = path
        if not Path(path).is_dir():
            raise RecipeError(
                f"no sentence model at {path!r}; give the folder of one that is on this machine "
                f"(--embedding FOLDER), or leave it out for hashed words."
            )
        try:
            from sentence_transformers import SentenceTransformer  # type: ignore[import-untyped, import-not-found, unused-ignore]  # fmt: skip
        except ImportError as error:
            raise RecipeError(
                "a sentence model needs sentence-transformers: pip install sentence-transformers."
            ) from error
        try:
            self._model = SentenceTransformer(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RecipeError(f"{path!r} is no model of sentence-transformers: {error}.") from error
        self._probe = self.embed(_PROBE)
        if probe is not None and not (
            probe.shape == self._probe.shape and np.allclose(probe, self._probe, atol=1e-2)
        ):
            raise RecipeError(
                f"{path!r} is not the sentence model that these clusters were fitted with; "
                f"give that one (--embedding FOLDER)."
            )

    def embed(self, texts: Sequence[str]) -> Points:
        """(n, D) points."""
        cut = [text[:MAX_CHARACTERS] for text in texts]
        return _unit(self._model.encode(cut, convert_to_numpy=True, show_progress_bar=False))

    def settings(self) -> dict[str, str | int]:
        """Where the model lay."""
        return {"kind": self.kind, "path": self._path}

    def arrays(self) -> Arrays:
        """The probe, by which another model is told from this."""
        return {"probe": self._probe}


def open_embedding(
    settings: Mapping[str, object], arrays: Arrays, *, path: str | None, where: str
) -> Embedding:
    """The embedding of saved settings and arrays.

    Args:
        settings: of an Embedding.
        arrays: of the same.
        path: where a sentence model lies now; None looks where it lay.
        where: the file they came from, for errors.

    Raises:
        RecipeError: a sentence model is not there, or is another one; or a path where none is used.
        ShardError: the settings or arrays are damaged.
    """
    kind = wanted(settings, "kind", str, where)
    if kind == SentenceModel.kind:
        return SentenceModel(path or wanted(settings, "path", str, where), arrays.get("probe"))
    if path is not None:
        raise RecipeError(
            f"--embedding is {path!r}, but the clusters of {where} were fitted with {kind}; "
            f"leave it out."
        )
    inverse, directions = (arrays.get(key) for key in ("inverse_frequency", "directions"))
    if kind != HashedWords.kind or inverse is None or directions is None:
        raise ShardError(f"{where}: no embedding of kind {kind!r} is whole there; cluster again.")
    return HashedWords(inverse, directions)


def _unit(points: NDArray[Any]) -> Points:
    """Each row at length 1; a row of zeros stays."""
    points = np.asarray(points, dtype=np.float32)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.where(norms > 0, norms, 1), dtype=np.float32)
