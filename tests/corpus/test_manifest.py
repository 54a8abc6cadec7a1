import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus.manifest import (
    fingerprint,
    index_json,
    read_index,
    read_manifest,
    write_json,
    write_manifest,
)
from mixstream.errors import ShardError
from tests.corpus.shards import make_manifest, make_rows, write_domain, write_stock

SHARDS = st.lists(
    st.tuples(
        st.integers(0, 2**32), st.integers(0, 2**32), st.from_regex(r"xxh3_64:[0-9a-f]{16}\Z")
    ),
    max_size=4,
)


def test_a_manifest_comes_back_as_it_went_with_its_domains_in_order(tmp_path):
    manifest = make_manifest({"web": 3, "code": 0, "a book": 9})
    write_manifest(tmp_path, manifest)
    found = read_manifest(tmp_path)
    assert found == manifest
    assert list(found.domains) == ["web", "code", "a book"]
    write_manifest(tmp_path, replace(manifest, compression="zstd"))
    assert read_manifest(tmp_path).compression == "zstd"


def test_equal_values_give_equal_bytes_that_name_no_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "one" / "x.json", {"b": 1, "a": {"d": "ü", "c": None}})
    write_json(tmp_path / "two" / "x.json", {"a": {"c": None, "d": "ü"}, "b": 1})
    first, second = ((tmp_path / name / "x.json").read_bytes() for name in ("one", "two"))
    assert first == second
    rows = make_rows(20, 5)
    for name in ("one", "two"):
        write_domain(tmp_path / name / "web", rows, compression="zstd")
    first, second = ((tmp_path / name / "web/index.json").read_bytes() for name in ("one", "two"))
    assert first == second
    assert b"tmp" not in first


def edited(folder, path, value, name="corpus.json"):
    """Set, or with `...` remove, one key of a JSON file."""
    top = json.loads((folder / name).read_text())
    *parents, last = path
    inner = top
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (folder / name).write_text(json.dumps(top))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "key 'format' is 2, but this version .* format 1. Install the version"),
        (["seq_len"], ..., r"corpus\.json: key 'seq_len' is missing. The file is damaged"),
        (["seq_len"], "4", "key 'seq_len' is '4', not a int"),
        (["seq_len"], True, "key 'seq_len' is True, not a int"),
        (["seq_len"], 0, "key 'seq_len' is 0, not from 1 to"),
        (["dtype"], "int64", "key 'dtype' is 'int64', not uint16 or uint32"),
        (["compression"], 3, "key 'compression' is 3, not a str"),
        (["tokenizer", "end_id"], -1, "tokenizer: key 'end_id' is -1, not from 0"),
        (["domains", "web"], [], r"domains: key 'web' is \[\], not a dict"),
        (["domains", "web", "rows"], -5, "domain 'web': key 'rows' is -5"),
        (["domains", "web", "dropped", "empty"], "x", "domain 'web', dropped: key 'empty' is 'x'"),
        (["domain_order"], ["web"], "key 'domain_order' is .'web'., but 'domains' names code"),
        (["domain_order"], ["web", 3], "key 'domain_order' is"),
    ],
)
def test_a_wrong_value_names_file_key_value_and_mend(tmp_path, path, value, message):
    write_manifest(tmp_path, make_manifest({"web": 3, "code": 4}))
    edited(tmp_path, path, value)
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("key", ["format", "seq_len", "dtype", "domains", "domain_order"])
def test_a_value_nested_as_deep_as_json_may_be_is_named(tmp_path, key):
    write_manifest(tmp_path, make_manifest({"web": 3, "code": 4}))
    edited(tmp_path, [key], "here")
    text = (tmp_path / "corpus.json").read_text()
    (tmp_path / "corpus.json").write_text(text.replace('"here"', "[" * 1000 + "]" * 1000))
    with pytest.raises(ShardError, match=rf"key '{key}' is \[\[\["):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../web", "a/b", "..", "", "a\\b", "a\n", "x" * 300])
def test_a_domain_name_cannot_lead_out_of_the_corpus(tmp_path, name):
    write_manifest(tmp_path, make_manifest({name: 3}))
    with pytest.raises(ShardError, match="is not that of a file in this folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no JSON"),
        (b"[1]", r"holds \[1\] where an object should be"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_file_that_is_no_object_is_refused(tmp_path, content, message):
    (tmp_path / "corpus.json").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ShardError, match=r"cannot read .*corpus\.json: No such file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_an_index_gives_back_the_entries_it_was_made_of(tmp_path, compression):
    entries = write_domain(tmp_path / "web", make_rows(20, 5), compression=compression)
    index = read_index(tmp_path / "web")
    assert [index.entry(i) for i in range(3)] == entries
    assert index.num_rows.tolist() == [7, 7, 6]
    assert index_json(entries)["version"] == 2


def test_an_index_without_shards_is_an_empty_domain(tmp_path):
    write_json(tmp_path / "index.json", index_json([]))
    index = read_index(tmp_path)
    assert len(index.num_rows) == len(index.raw_names) == 0
    assert index.contents() == []


def test_our_entry_has_the_keys_of_the_stock_writer(tmp_path):
    settings = {"compression": "zstd:3", "hashes": ["xxh3_64"]}
    rows = make_rows(20, 5)
    write_stock(tmp_path / "a", rows, {"tokens": "ndarray:uint16:5"}, **settings)
    ours = index_json(write_domain(tmp_path / "b", rows, compression="zstd"))["shards"][0]
    stock = json.loads((tmp_path / "a" / "index.json").read_text())["shards"][0]
    assert ours.keys() == stock.keys()
    assert ours["raw_data"].keys() == stock["raw_data"].keys()
    different = {key for key in ours if json.dumps(ours[key]) != json.dumps(stock[key])}
    assert different == {"raw_data", "zip_data", "size_limit", "samples"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 3, "key 'version' is 3; mixstream reads 2"),
        (["shards"], {}, "key 'shards' is {}, not a list"),
        (["shards", 0], 7, "shard 0: key 'shard' is 7, not a dict"),
        (["shards", 0, "format"], "csv", "key 'format' is 'csv', not mds"),
        (["shards", 1, "samples"], -1, "shard 1: key 'samples' is -1, not from 0"),
        (["shards", 1, "raw_data", "bytes"], 2**32, "raw_data: key 'bytes' is 4294967296"),
        (["shards", 0, "raw_data", "basename"], "../x.mds", "the name '../x.mds' is not"),
        (["shards", 0, "raw_data", "basename"], "g/x.mds", "merged from sub-folders, open them"),
        (["shards", 0, "raw_data", "basename"], "/etc/x", "the name '/etc/x' is not"),
        (["shards", 0, "raw_data", "hashes"], {"xxh3_64": 1}, "key 'xxh3_64' is 1, not a str"),
        (["shards", 0, "column_sizes"], [-10], r"sizes \(-10,\) make no sense"),
        (["shards", 0, "column_sizes"], [], "make no sense"),
        (["shards", 0, "column_names"], [3], "make no sense"),
        (["shards", 1, "column_encodings"], ["bytes"], "shard 1 has columns .*Open them as two"),
    ],
)
def test_a_wrong_value_in_an_index_is_refused(tmp_path, path, value, message):
    write_domain(tmp_path / "web", make_rows(20, 5))
    edited(tmp_path / "web", path, value, "index.json")
    with pytest.raises(ShardError, match=message):
        read_index(tmp_path / "web")


def test_a_raw_corpus_and_its_compressed_version_have_one_fingerprint(tmp_path):
    rows = make_rows(20, 5)
    found = []
    for name, compression in (("raw", None), ("packed", "zstd")):
        write_domain(tmp_path / name, rows, compression=compression)
        found.append(fingerprint(5, "uint16", {"web": read_index(tmp_path / name).contents()}))
    assert found[0] == found[1]
    assert len(found[0]) == 16


@given(
    a=st.dictionaries(st.text(max_size=3), SHARDS), b=st.dictionaries(st.text(max_size=3), SHARDS)
)
def test_fingerprints_differ_where_contents_names_or_order_do(a, b):
    same = list(a.items()) == list(b.items())
    assert (fingerprint(8, "uint16", a) == fingerprint(8, "uint16", b)) == same
    assert fingerprint(8, "uint16", a) != fingerprint(9, "uint16", a)
    assert fingerprint(8, "uint16", a) != fingerprint(8, "uint32", a)
