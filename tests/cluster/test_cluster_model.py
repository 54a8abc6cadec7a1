import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.algorithms import ImportanceSampling, hierarchical_histogram
from mixstream.cluster import fit_clusters, fit_hashed_words, open_clusters
from mixstream.errors import RecipeError, ShardError
from tests.cluster.conftest import TOPICS, texts_of

ALL = [text for topic in TOPICS for text in texts_of(topic, 30)]


@pytest.fixture(scope="module")
def embedding():
    return fit_hashed_words(ALL, dimensions=8, num_columns=2**10)


@pytest.fixture(scope="module")
def flat(embedding):
    return fit_clusters(ALL, embedding, 3)


@pytest.fixture(scope="module")
def deep(embedding):
    return fit_clusters(ALL, embedding, (3, 4))


def test_topics_become_clusters(flat):
    places = flat.assign(ALL).reshape(3, 30)
    assert all(len(set(own)) == 1 for own in places.tolist())
    assert sorted(places[:, 0].tolist()) == [0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.sampled_from([*ALL, "", "sea court"]), max_size=6))
def test_a_text_goes_to_the_same_cluster_in_any_company(flat, deep, texts):
    for model in (flat, deep):
        alone = [int(model.assign([text])[0]) for text in texts]
        assert model.assign(texts).tolist() == alone


def test_names_are_in_order_as_folders_are_and_say_the_parent(flat, deep, embedding):
    assert flat.names == ("c0", "c1", "c2")
    assert flat.parents.tolist() == [0, 1, 2]
    assert deep.names[:5] == ("c0-0", "c0-1", "c0-2", "c0-3", "c1-0")
    assert [f"c{parent}" for parent in deep.parents] == [name[:2] for name in deep.names]
    many = fit_clusters(ALL, embedding, 12)
    assert list(many.names) == sorted(many.names)
    assert many.names[7] == "c07"


def test_two_levels_split_the_coarse_clusters(deep):
    places = deep.assign(ALL)
    coarse = deep.parents[places].reshape(3, 30)
    assert all(len(set(own)) == 1 for own in coarse.tolist())
    assert len(set(places.tolist())) > 6


def test_a_histogram_feeds_importance_sampling(flat, deep):
    target = [*texts_of("sea", 30, seed=1), *texts_of("law", 10, seed=1)]
    counts = flat.histogram(iter(target))
    assert tuple(counts) == flat.names
    assert sum(counts.values()) == 40
    weights = ImportanceSampling(3, domains=flat.names).update(list(counts.values()))
    assert sorted(weights.tolist()) == [0, 0.25, 0.75]
    fine = np.array(list(deep.histogram(target).values()), dtype=float)
    generic = np.array(list(deep.histogram(ALL).values()), dtype=float)
    blended = hierarchical_histogram(fine, generic, deep.parents, concentration=5.0)
    assert sorted(np.bincount(deep.parents, blended).tolist()) == pytest.approx([0, 0.25, 0.75])


@pytest.mark.parametrize("name", ["flat", "deep"])
def test_a_saved_model_assigns_alike_and_is_the_same_bytes_each_time(name, tmp_path, request):
    model = request.getfixturevalue(name)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        model.save(tmp_path / folder)
    for file in ("model.json", "model.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = open_clusters(tmp_path / "a")
    assert again.names == model.names
    texts = [*ALL, *texts_of("law", 9, seed=3), ""]
    assert np.array_equal(again.assign(texts), model.assign(texts))


def test_a_damaged_model_is_refused(flat, tmp_path):
    with pytest.raises(ShardError, match=r"cannot read .*model\.json"):
        open_clusters(tmp_path)
    flat.save(tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())

    def refused(message, **changes):
        (tmp_path / "model.json").write_text(json.dumps(described | changes))
        with pytest.raises(ShardError, match=message):
            open_clusters(tmp_path)

    refused("is of version 9, this mixstream reads 1; cluster again", version=9)
    refused("is not the file that model.json was written with", sha256="0" * 64)
    refused("model.json and model.npz do not fit", clusters_by_level=[4])
    refused("key 'clusters' is 0, not from 1", clusters_by_level=[0, 3])
    refused("key 'embedding' is None, not a dict", embedding=None)
    content = io.BytesIO()
    np.savez(content, centres=np.array([{"a": 1}], dtype=object))
    (tmp_path / "model.npz").write_bytes(content.getvalue())
    refused(
        "cannot read .*model.npz: Object arrays cannot be loaded when allow_pickle=False",
        sha256=hashlib.sha256(content.getvalue()).hexdigest(),
    )
    (tmp_path / "model.npz").unlink()
    refused("cannot read .*model.npz")


@pytest.mark.parametrize("wanted", [91, 0, (10, 10)])
def test_more_clusters_than_documents_are_refused(embedding, wanted):
    with pytest.raises(RecipeError, match="90 documents cannot make"):
        fit_clusters(ALL, embedding, wanted)
