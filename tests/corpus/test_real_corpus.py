"""../shared/corpus, 27 MB of real text in all shapes: to rows and back, and to stock readers."""

import hashlib
import json
import re
import warnings

import numpy as np
import pytest

from mixstream import convert, open_corpus
from mixstream.corpus.files import list_files
from mixstream.corpus.sources import read_documents
from mixstream.corpus.verify import corpus_faults
from tests.corpus.conftest import (
    SHARED,
    all_rows,
    assert_counts_are_exact,
    documents_of,
    expected_pieces,
    pieces_of,
    stream,
    tree,
)

RAW = SHARED / "corpus"
LICENSES = RAW / "LICENSES.md"
pytestmark = pytest.mark.skipif(not LICENSES.is_file(), reason="../shared/corpus is not here")
UNITS = {"shard_bytes": 2**20, "unit_bytes": 2**20}


def stated():
    """{domain: (documents, bytes, sha256)}, and the same counts from the table above them."""
    text = LICENSES.read_text(encoding="utf-8")
    lines = re.findall(r"^(\w+) +(\d+) docs +(\d+) bytes +([0-9a-f]{64})$", text, re.MULTILINE)
    table = re.findall(r"^\| (\w+) \|[^|]*\|[^|]+\| ([\d,]+) \| ([\d,]+) \|", text, re.MULTILINE)
    counts = {name: (int(documents), int(num_bytes)) for name, documents, num_bytes, _ in lines}
    numbers = {row[0]: tuple(int(each.replace(",", "")) for each in row[1:]) for row in table}
    assert {name: numbers[name] for name in counts} == counts
    assert len(counts) == 12
    return {name: (*counts[name], digest) for name, _, _, digest in lines}


def raw_texts(domain):
    return [document.text for file in list_files(RAW / domain) for document in read_documents(file)]


CASES = [(512, "concat", None), (2048, "concat", "zstd"), (512, "best_fit", "zstd")]
CASES += [(2048, "best_fit", None)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def converted(request, tmp_path_factory):
    """(folder, settings) of the whole corpus in bytes."""
    seq_len, packing, compression = request.param
    settings = UNITS | {"seq_len": seq_len, "packing": packing, "compression": compression}
    folder = tmp_path_factory.mktemp("real") / "corpus"
    convert(RAW, folder, tokenizer="bytes", **settings)
    return folder, settings


def test_every_document_of_every_domain_is_counted_to_the_byte(converted):
    corpus = open_corpus(converted[0])
    assert sorted(corpus.domains) == sorted(stated())
    for name, (documents, num_bytes, _) in stated().items():
        entry = corpus.manifest.domains[name]
        assert (entry.documents, entry.text_bytes, dict(entry.dropped)) == (
            documents,
            num_bytes,
            {},
        )
        assert entry.tokens == num_bytes + documents
    assert_counts_are_exact(corpus)


def test_the_texts_come_back_byte_for_byte(converted):
    folder, settings = converted
    corpus = open_corpus(folder)
    for name, (documents, num_bytes, digest) in stated().items():
        rows = all_rows(corpus, name)
        if settings["packing"] == "concat":
            found = documents_of(rows, 256)
            texts = [ids.astype(np.uint8).tobytes() for ids in found]
            assert len(texts) == documents
            assert hashlib.sha256(b"".join(text + b"\0" for text in texts)).hexdigest() == digest
            ids = stream(rows, 256)
            concatenated = ids[ids != 256].astype(np.uint8).tobytes()
            assert concatenated == "".join(raw_texts(name)).encode()
            assert len(concatenated) == num_bytes
        else:
            sources = [np.frombuffer(text.encode(), np.uint8) for text in raw_texts(name)]
            assert pieces_of(rows, 256) == expected_pieces(sources, settings["seq_len"], 256)


def test_verify_finds_no_fault(converted):
    assert list(corpus_faults(converted[0])) == []


def test_two_workers_write_the_same_bytes(converted, tmp_path):
    folder, settings = converted
    convert(RAW, tmp_path / "w2", tokenizer="bytes", workers=2, **settings)
    again, once = tree(tmp_path / "w2"), tree(folder)
    cached = {name for name in once.keys() - again.keys() if name.endswith(".mds")}
    assert settings["compression"] == "zstd" or not cached  # raw forms that reading left beside
    assert {name: each for name, each in once.items() if name not in cached} == again


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A byte-level BPE of 16,384 ids, trained on a part of every domain."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2**14,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text[:4000] for name in stated() for text in raw_texts(name)[::7]]
    tokenizer.train_from_iterator(texts, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [512, 2048])
def test_a_trained_vocabulary_of_16k_gives_every_domain_back(trained, tmp_path, seq_len):
    from mixstream.corpus.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(trained)
    assert tokenizer.vocab_size == 2**14
    convert(RAW, tmp_path / "out", tokenizer=trained, seq_len=seq_len, workers=seq_len // 512)
    corpus = open_corpus(tmp_path / "out")
    assert_counts_are_exact(corpus)
    for name, (documents, num_bytes, digest) in stated().items():
        entry = corpus.manifest.domains[name]
        assert (entry.documents, entry.text_bytes, dict(entry.dropped)) == (
            documents,
            num_bytes,
            {},
        )
        found = documents_of(all_rows(corpus, name), corpus.end_id)
        assert sum(map(len, found)) + documents == entry.tokens
        texts = [tokenizer.decode(ids) for ids in found]
        joined = b"".join(text.encode() + b"\0" for text in texts)
        assert hashlib.sha256(joined).hexdigest() == digest
    whole = tokenizer.decode(stream(all_rows(corpus, "recipes"), corpus.end_id))
    assert whole == "".join(raw_texts("recipes"))


@pytest.mark.slow
def test_workers_change_no_byte_of_a_trained_vocabulary_either(trained, tmp_path):
    domains = {name: f"{name}/**" for name in ("recipes", "math_tex", "i18n_tldr", "formal_mm")}
    settings = {"seq_len": 512, "domains": domains, "unit_bytes": 2**17, "packing": "best_fit"}
    for workers in (1, 2):
        convert(RAW, tmp_path / f"w{workers}", tokenizer=trained, workers=workers, **settings)
    assert tree(tmp_path / "w1") == tree(tmp_path / "w2")


# files that the stock library leaves for the garbage collector to close
left_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def streaming():
    """The stock library; the warnings are those of its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import streaming
        import streaming.base.util
    streaming.base.util.clean_stale_shared_memory()
    yield streaming
    streaming.base.util.clean_stale_shared_memory()


@left_open
@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_stock_readers_read_every_row_as_we_do(streaming, tmp_path, packing, compression):
    from streaming.base.format.mds.reader import MDSReader

    out, names = tmp_path / "out", ("recipes", "math_tex", "med_qa")
    settings = UNITS | {"shard_bytes": 2**16, "packing": packing, "compression": compression}
    domains = {name: f"{name}/**" for name in names}
    convert(RAW, out, tokenizer="bytes", seq_len=512, domains=domains, **settings)
    corpus = open_corpus(out, cache=tmp_path / "cache")
    for name in names:
        ours = all_rows(corpus, name)
        dataset = streaming.StreamingDataset(local=str(out / name), batch_size=1, shuffle=False)
        theirs = [dataset[i]["tokens"] for i in range(len(dataset))]
        np.testing.assert_array_equal(np.stack(theirs), ours)
        assert theirs[0].dtype == np.uint16
        in_order = np.stack([sample["tokens"].copy() for sample in dataset])
        np.testing.assert_array_equal(in_order, ours)
        index = json.loads((out / name / "index.json").read_text())
        assert len(index["shards"]) > 2
        read = []
        for shard in index["shards"]:
            reader = MDSReader.from_json(str(out / name), None, shard)
            assert reader.validate(allow_unsafe_types=False) is None
            read += [reader.get_item(i)["tokens"] for i in range(len(reader))]
        np.testing.assert_array_equal(np.stack(read), ours)


@left_open
@pytest.mark.slow
def test_a_stock_local_dataset_reads_four_byte_ids_of_one_short_shard(streaming, tmp_path):
    from tests.corpus.test_convert import Wide

    (tmp_path / "raw" / "web").mkdir(parents=True)
    (tmp_path / "raw" / "web" / "a.txt").write_text("wide ids")
    convert(tmp_path / "raw", tmp_path / "out", tokenizer=Wide(), seq_len=5)
    dataset = streaming.LocalDataset(local=str(tmp_path / "out" / "web"))
    rows = np.stack([dataset[i]["tokens"] for i in range(len(dataset))])
    assert rows.dtype == np.uint32
    np.testing.assert_array_equal(rows, all_rows(open_corpus(tmp_path / "out"), "web"))
