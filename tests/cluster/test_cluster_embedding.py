import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.cluster.embedding import (
    HashedWords,
    SentenceModel,
    fit_hashed_words,
    hashed_counts,
    open_embedding,
)
from mixstream.errors import RecipeError, ShardError
from tests.cluster.conftest import TOPICS, texts_of

ALL = [text for topic in TOPICS for text in texts_of(topic, 30)]


@pytest.fixture(scope="module")
def embedding():
    return fit_hashed_words(ALL, dimensions=8, num_columns=2**12)


def test_words_and_pairs_are_counted_and_chinese_by_the_character():
    counts = hashed_counts(["one two one", "床前明", "Mond, Mond", ""], 2**16)
    assert sorted(counts[0].data.tolist()) == [1, 1, 1, 2]  # two, one two, two one; one
    assert counts[1].nnz == 5, "three characters and two pairs"
    assert counts[2].nnz == 4, "mond, the comma, and both pairs"
    assert counts[3].nnz == 0


def test_columns_weigh_more_the_fewer_texts_hold_them():
    model = fit_hashed_words(["sea", "sea wave", "law law"], dimensions=2, num_columns=2**10)
    weights = model.arrays()["inverse_frequency"]
    column = {word: hashed_counts([word], 2**10).indices[0] for word in ("sea", "wave", "law")}
    assert weights[column["sea"]] == pytest.approx(np.log(4 / 3) + 1)
    assert weights[column["wave"]] == pytest.approx(np.log(4 / 2) + 1)
    assert weights[column["law"]] == pytest.approx(np.log(4 / 2) + 1), "texts, not words"


def test_points_have_length_one_but_for_a_text_without_words(embedding):
    points = embedding.embed([*ALL, "", "   "])
    assert points.dtype == np.float32
    assert np.linalg.norm(points[:-2], axis=1) == pytest.approx(1, abs=1e-5)
    assert not points[-2:].any()


def test_texts_of_a_topic_lie_together(embedding):
    points = np.stack([embedding.embed(texts_of(topic, 30, seed=1)) for topic in TOPICS])
    inside = [float((own @ own.T).mean()) for own in points]
    across = [float((points[i] @ points[j].T).mean()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(inside) > max(across) + 0.3


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.sampled_from([*ALL, "", "sea court"]), min_size=1, max_size=6))
def test_a_point_depends_on_its_own_text_alone(embedding, texts):
    alone = np.concatenate([embedding.embed([text]) for text in texts])
    assert embedding.embed(texts) == pytest.approx(alone, abs=1e-6)


def test_a_fit_is_a_function_of_its_texts_and_seed():
    first, second = (fit_hashed_words(ALL, dimensions=4, num_columns=2**10) for _ in range(2))
    for key, value in first.arrays().items():
        assert np.array_equal(value, second.arrays()[key])


def test_too_few_words_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(RecipeError, match="1 documents hold too few words"):
        fit_hashed_words(["sea"])
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(
        RecipeError, match=r"needs scikit-learn: pip install 'mixstream\[cluster\]'"
    ):
        fit_hashed_words(ALL)


def test_settings_and_arrays_give_the_embedding_back(embedding):
    again = open_embedding(embedding.settings(), embedding.arrays(), path=None, where="here")
    assert np.array_equal(again.embed(ALL), embedding.embed(ALL))
    assert isinstance(again, HashedWords)
    with pytest.raises(RecipeError, match="--embedding is 'x', but the clusters of here"):
        open_embedding(embedding.settings(), embedding.arrays(), path="x", where="here")
    with pytest.raises(ShardError, match="here: no embedding of kind 'hashed words' is whole"):
        open_embedding(embedding.settings(), {}, path=None, where="here")


def test_a_sentence_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no sentence model at"):
        SentenceModel(str(tmp_path / "none"))


def test_without_sentence_transformers_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RecipeError, match="pip install sentence-transformers"):
        SentenceModel(str(tmp_path))


def write_sentence_model(folder, seed):
    """A BERT of one layer and random numbers, as sentence-transformers saves it."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer, models

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(TOPICS.values()).split()]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    parts = [models.Transformer(str(folder / "bert")), models.Pooling(16)]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "model"))
    return str(folder / "model")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # other people's, on import
def test_a_local_sentence_model_embeds_and_is_told_from_another(tmp_path):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    paths = [write_sentence_model(tmp_path / str(seed), seed) for seed in (1, 2)]
    model = SentenceModel(paths[0])
    points = model.embed(["sea wave", "court", ""])
    assert points.shape == (3, 16)
    assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-5)
    kept = json.loads(json.dumps(model.settings()))
    again = open_embedding(kept, model.arrays(), path=None, where="here")
    assert again.embed(["court"]) == pytest.approx(points[1:2], abs=1e-5)
    with pytest.raises(RecipeError, match="is not the sentence model that these clusters were"):
        open_embedding(kept, model.arrays(), path=paths[1], where="here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="is no model of sentence-transformers"):
        SentenceModel(str(tmp_path / "empty"))
