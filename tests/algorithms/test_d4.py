import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms import d4, d4_kept
from mixstream.algorithms.d4 import prototypes_dropped, semantic_duplicates_dropped
from mixstream.errors import WeightsError
from tests.algorithms.support import oracle

THREE = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


def documents(seed, num, num_clusters):
    """Embeddings, labels and centroids, some documents twice."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(num, 3))
    points[num // 2 :] = points[: num - num // 2] + 0.05 * random.normal(size=(num - num // 2, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, random.integers(0, num_clusters, num), random.normal(size=(num_clusters, 3))


def test_d4_by_hand():
    assert semantic_duplicates_dropped(THREE, [0, 0, 0], [[1, 0]], eps=0.1).tolist() == [0, 2]
    assert prototypes_dropped(THREE[1:], [0, 0], [[1, 0]], keep=0.5).tolist() == [1]
    assert d4_kept(THREE, [0, 0, 0], [[1, 0]], eps=0.1, keep=0.5).tolist() == [2]
    assert semantic_duplicates_dropped(THREE, [0, 1, 0], np.eye(2), eps=0.1).tolist() == [0, 1, 2]


def test_d4_equals_two_independent_derivations():
    case = oracle("d4_mini")
    arrays = np.array(case["embeddings"]), case["labels"], case["centroids"]
    kept = semantic_duplicates_dropped(*arrays, eps=case["eps"])
    assert kept.tolist() == case["kept"]
    assert d4_kept(*arrays, eps=case["eps"], keep=0.5).tolist() == case["R_proto_0_5"]
    left = arrays[0][kept], np.array(case["labels"])[kept], case["centroids"]
    order = case["most_to_least_distant_after_dedup"]
    for number in range(1, len(kept) + 1):
        farthest = prototypes_dropped(*left, keep=number / len(kept))
        assert sorted(order[:number]) == kept[farthest].tolist()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 60), clusters=st.integers(1, 4))
def test_a_document_stays_if_none_before_it_is_like_it(seed, num, clusters):
    points, labels, middles = documents(seed, num, clusters)
    near = [points[i] @ middles[labels[i]] / np.linalg.norm(middles[labels[i]]) for i in range(num)]
    expected = [
        i
        for i in range(num)
        if not any(
            labels[j] == labels[i] and (near[j], j) < (near[i], i) and points[i] @ points[j] > 0.99
            for j in range(num)
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixstream.algorithms.d4._BLOCK", 7)
        found = semantic_duplicates_dropped(points, labels, middles, eps=0.01)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": [[1.0], [1.0], [1.0]]}, r"shape \(3, 1\) and centroids \(1, 2\)"),
        ({"embeddings": [[np.nan, 0.0]] * 3}, "give finite"),
        ({"labels": [0, 0]}, r"labels have shape \(2,\)"),
        ({"labels": [0, 0, 1]}, r"give one cluster in \[0, 1\)"),
        ({"labels": [0.0, 0.0, 0.0]}, "dtype float64"),
        ({"embeddings": [[2.0, 0.0]] * 3}, "is not of length 1"),
        ({"centroids": [[0.0, 0.0]]}, "a centroid is 0"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"keep": 0.0}, r"keep is 0.0; it must be in \(0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    whole = {"embeddings": THREE, "labels": [0, 0, 0], "centroids": [[1.0, 0.0]]}
    with pytest.raises(WeightsError, match=message):
        d4.d4_kept(**whole | {"eps": 0.1, "keep": 0.5} | changes)
