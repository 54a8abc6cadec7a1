import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mixstream
from mixstream.cluster import cluster_documents, open_clusters
from mixstream.cluster.write import ClusterSettings, ReadSettings, _sample
from mixstream.corpus.sources import Document, read_documents
from mixstream.errors import RecipeError, SourceError
from tests.cluster.conftest import TOPICS, texts_of

SMALL = ClusterSettings(num_clusters=3, dimensions=8)


def texts_in(folder: Path) -> Counter[str]:
    files = sorted(folder.glob("c*/*"))
    found = (each for file in files for each in read_documents(file))
    return Counter(each.text for each in found)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_each_document_lands_in_one_cluster_or_in_a_counted_reason(raw, tmp_path):
    report = cluster_documents(raw, tmp_path / "out", SMALL)
    assert texts_in(tmp_path / "out") == Counter(
        text for topic in TOPICS for text in texts_of(topic, 30)
    )
    assert report.dropped == {"broken_json": 1, "empty": 1}
    assert list(report.documents.values()) == [30, 30, 30]
    assert sum(report.text_bytes.values()) == sum(
        len(text.encode()) for topic in TOPICS for text in texts_of(topic, 30)
    )
    assert json.loads((tmp_path / "out/_clusters/report.json").read_text())["dropped"] == {
        "broken_json": 1,
        "empty": 1,
    }


@pytest.mark.parametrize("out", ["out/", "./out//", "."])
def test_an_output_may_be_named_in_any_way(raw, tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cluster_documents(raw, out, SMALL)
    folder = (tmp_path / "here" / out).resolve()
    assert {path.name for path in folder.iterdir()} == {"_clusters", "c0", "c1", "c2"}
    assert not list(tmp_path.rglob("*unfinished"))


def test_links_to_folders_are_read_as_convert_reads_them(raw, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("a", "b"):
        (linked / name).symlink_to(raw / name)
    cluster_documents(linked, tmp_path / "out", SMALL)
    assert texts_in(tmp_path / "out") == Counter(
        text for topic in TOPICS for text in texts_of(topic, 30)
    )


def test_convert_takes_the_folder_and_makes_one_domain_a_cluster(raw, tmp_path):
    cluster_documents(raw, tmp_path / "out", SMALL)
    mixstream.convert(tmp_path / "out", tmp_path / "corpus", tokenizer="bytes", seq_len=16)
    corpus = mixstream.open_corpus(tmp_path / "corpus")
    model = open_clusters(tmp_path / "out")
    assert corpus.domains == model.names
    counts = model.histogram(texts_of("sea", 5, seed=9))
    loader = mixstream.Loader(corpus, [counts[name] for name in corpus.domains], batch_size=4)
    ids = next(iter(loader))["domain_ids"].tolist()
    assert len(set(ids)) == 1


def test_sources_say_where_a_document_stood(raw, tmp_path):
    cluster_documents(raw, tmp_path / "out", SMALL)
    lines = [
        json.loads(line)
        for file in (tmp_path / "out").glob("c*/*")
        for line in _opened(file).splitlines()
    ]
    sources = {line["source"].removeprefix(str(raw)) for line in lines}
    assert {"/a/0.jsonl:1", "/b/0.jsonl.gz:49", "/b/1.txt"} <= sources
    assert len(sources) == 90


def _opened(file: Path) -> bytes:
    import zstandard

    return (
        zstandard.ZstdDecompressor()
        .stream_reader(file.read_bytes(), read_across_frames=True)
        .readall()
    )


def test_the_same_command_writes_the_same_bytes(raw, tmp_path):
    for name in ("one", "two"):
        cluster_documents(raw, tmp_path / name, SMALL)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_little_memory_makes_more_frames_of_the_same_documents(raw, tmp_path, monkeypatch):
    cluster_documents(raw, tmp_path / "one", SMALL)
    monkeypatch.setattr("mixstream.cluster.write._MAX_HELD_BYTES", 100)
    monkeypatch.setattr("mixstream.cluster.write._DOCUMENTS_AT_ONCE", 7)
    cluster_documents(raw, tmp_path / "two", SMALL)
    one, two = ({name: _opened(tmp_path / run / name / "part-00000.jsonl.zst")
                 for name in ("c0", "c1", "c2")} for run in ("one", "two"))  # fmt: skip
    assert one == two


def test_a_damaged_file_leaves_no_output_and_the_next_run_starts_afresh(raw, tmp_path):
    cluster_documents(raw, tmp_path / "first", SMALL)
    model = open_clusters(tmp_path / "first")
    whole = (raw / "b/0.jsonl.gz").read_bytes()
    (raw / "b/0.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(SourceError, match="cut short"):
        cluster_documents(raw, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out.unfinished/c1").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out.unfinished/c1/part-00000.jsonl.zst").write_bytes(b"half a fra")
    (raw / "b/0.jsonl.gz").write_bytes(whole)
    (tmp_path / "out").mkdir()  # empty: as good as none
    cluster_documents(raw, tmp_path / "out", model=model)
    assert tree(tmp_path / "out") == tree(tmp_path / "first")
    assert not (tmp_path / "out.unfinished").exists()


def test_a_model_assigns_without_an_output(raw, tmp_path):
    cluster_documents(raw, tmp_path / "out", SMALL)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/0.txt").write_text(texts_of("law", 1, seed=4)[0])
    before = tree(tmp_path)
    model = open_clusters(tmp_path / "out")
    report = cluster_documents(tmp_path / "target", None, model=model)
    assert sorted(report.documents.values()) == [0, 0, 1]
    assert cluster_documents(tmp_path / "target/0.txt", None, model=model) == report
    assert tree(tmp_path) == before
    written = cluster_documents(tmp_path / "target", tmp_path / "cut", model=model)
    assert written == report
    assert [path.name for path in sorted((tmp_path / "cut").glob("c*"))] == [
        name for name, number in report.documents.items() if number
    ], "an empty cluster has no folder, which convert would refuse"


def test_what_cannot_be_clustered_is_refused_before_it_is_read(raw, tmp_path):
    cluster_documents(raw, tmp_path / "out", SMALL)
    model = open_clusters(tmp_path / "out")
    with pytest.raises(RecipeError, match="out is in use; name a folder that is not there"):
        cluster_documents(raw, tmp_path / "out", SMALL)
    with pytest.raises(RecipeError, match="a model is given, and settings for another one"):
        cluster_documents(raw, tmp_path / "new", SMALL, model=model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/0.jsonl").write_text('{"text": "sea wave"}\n')
    other = ReadSettings(text_field="body")
    with pytest.raises(RecipeError, match="not one document could be read; is the text field"):
        cluster_documents(tmp_path / "other", tmp_path / "new", SMALL, reading=other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="empty holds no files to read"):
        cluster_documents(tmp_path / "empty", tmp_path / "new", SMALL)
    (raw / "a/picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(SourceError, match="does not know this ending"):
        cluster_documents(raw, tmp_path / "new", SMALL)
    assert not list(tmp_path.glob("new*"))


def test_settings_out_of_range_are_refused():
    for name in ("sample", "dimensions"):
        with pytest.raises(RecipeError, match=f"{name} is 0; give at least 1"):
            ClusterSettings(**{name: 0})


def test_a_long_document_is_written_whole_though_its_beginning_decides(raw, tmp_path):
    text = " ".join(texts_of("sea", 1) * 400) + " court judge" * 9000
    (raw / "long.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    cluster_documents(raw, tmp_path / "out", SMALL)
    assert texts_in(tmp_path / "out")[text] == 1
    model = open_clusters(tmp_path / "out")
    assert model.assign([text]) == model.assign(texts_of("sea", 1))


def test_a_sample_is_of_all_documents_alike_and_a_function_of_the_seed():
    documents = [Document(str(i), "") for i in range(2000)]
    sample = _sample(iter(documents), 500, 3)
    assert len(sample) == 500
    assert sample == sorted(sample, key=int), "in the order of the files"
    assert sample == _sample(iter(documents), 500, 3)
    assert sample != _sample(iter(documents), 500, 4)
    halves = np.mean([int(text) < 1000 for text in sample])
    assert 0.4 < halves < 0.6
    assert set(_sample(iter(documents), 100, 3)) < set(sample), "a smaller one is part of it"
    assert _sample(iter(documents[:5]), 500, 3) == list("01234")
