"""An index read all shards at once says what one read shard by shard says, or is not read so."""

import copy
import gc
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus.index import _NOT_PLAIN, _examined_index, _plain_index, index_json, index_of
from mixstream.corpus.jsonfile import brief, no_collection, read_object
from mixstream.corpus.shard import write_shard
from mixstream.errors import ShardError
from tests.corpus.shards import make_rows, write_domain, write_stock

FOLDER = Path("web")
KEYS = (
    ("format",),
    ("samples",),
    ("compression",),
    ("column_names",),
    ("column_sizes",),
    ("raw_data",),
    ("raw_data", "basename"),
    ("raw_data", "bytes"),
    ("raw_data", "hashes"),
    ("raw_data", "hashes", "xxh3_64"),
    ("zip_data",),
    ("zip_data", "basename"),
    ("zip_data", "bytes"),
)
VALUES = (
    None,
    True,
    0,
    -1,
    7,
    2**40,
    2**70,
    7.0,
    "",
    "..",
    "a/b",
    "ä",
    "shard.00000.mds",
    "shard.00099.mds",
    "zstd",
    [],
    {},
    ["tokens"],
    [8],
    [8.0],
    [True],
    {"md5": "0"},
    {"xxh3_64": 3},
)


def shards_of(tmp_path, compression=None):
    entries = write_domain(tmp_path / "web", make_rows(30, 4), compression=compression)
    return copy.deepcopy(index_json(entries)["shards"])


def plain(value):
    """As JSON gives it back."""
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def as_read(shards):
    return [{key: plain(value) for key, value in shard.items()} for shard in shards]


def assert_equal(one, other):
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.tolist() == theirs.tolist(), field.name
        else:
            assert mine == theirs, field.name


@pytest.fixture(scope="module", params=[None, "zstd"])
def shards(request, tmp_path_factory):
    return as_read(shards_of(tmp_path_factory.mktemp("index"), request.param))


def test_ours_are_read_at_once(shards):
    assert_equal(_plain_index(shards, FOLDER), _examined_index(shards, FOLDER))


@pytest.mark.parametrize("hashes", [[], ["xxh3_64"], ["sha1"]])
def test_those_of_the_stock_writer_are_read_at_once(tmp_path, hashes):
    columns = {"tokens": "ndarray:uint16:4"}
    write_stock(tmp_path / "web", make_rows(30, 4), columns, hashes=hashes, size_limit=99)
    found = read_object(tmp_path / "web" / "index.json")["shards"]
    assert len(found) > 1
    assert_equal(_plain_index(found, FOLDER), _examined_index(found, FOLDER))


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(KEYS), st.sampled_from((*VALUES, KeyError))),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_read_at_once_is_what_is_read_one_by_one(shards, changes):
    changed = copy.deepcopy(shards)
    for number, keys, value in changes:
        at = changed[number]
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, dict):
            if value is KeyError:
                at.pop(keys[-1], None)
            else:
                at[keys[-1]] = copy.deepcopy(value)
    try:
        found = _plain_index(changed, FOLDER)
    except (*_NOT_PLAIN, ShardError):
        return
    assert_equal(found, _examined_index(changed, FOLDER))


@pytest.mark.parametrize("sizes", [([8], [8.0]), ([1], [True])])
def test_equal_sizes_of_another_type_are_refused(shards, sizes):
    changed = copy.deepcopy(shards)
    for number, shard in enumerate(changed):
        shard["column_sizes"] = sizes[number == 2]
    with pytest.raises(ShardError, match=r"shard 2: columns .* make no sense"):
        index_of({"version": 2, "shards": changed}, FOLDER)


def test_the_collector_is_on_again_after_an_index_and_after_a_bad_one(shards):
    index_of({"version": 2, "shards": shards}, FOLDER)
    assert gc.isenabled()
    with pytest.raises(ShardError, match="shard 0: key 'samples'"):
        index_of({"version": 2, "shards": [shards[0] | {"samples": -1}]}, FOLDER)
    assert gc.isenabled()
    gc.disable()
    try:
        index_of({"version": 2, "shards": shards}, FOLDER)
        assert not gc.isenabled(), "who switched it off finds it so"
    finally:
        gc.enable()


def test_a_process_forked_meanwhile_collects():
    with no_collection():
        assert not gc.isenabled()
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


def test_a_bad_shard_is_named(shards):
    changed = copy.deepcopy(shards)
    changed[3]["samples"] = -1
    with pytest.raises(ShardError, match=r"shard 3: key 'samples' is -1"):
        index_of({"version": 2, "shards": changed}, FOLDER)


@pytest.mark.parametrize("keys", KEYS)
def test_a_value_nested_as_deep_as_json_may_be_is_refused_by_name(shards, keys):
    changed = copy.deepcopy(shards)
    at = changed[2]
    for key in keys[:-1]:
        at[key] = at.get(key) or copy.deepcopy(changed[2]["raw_data"])
        at = at[key]
    at[keys[-1]] = orjson.loads("[" * 1000 + "]" * 1000)
    with pytest.raises(ShardError, match=r"shard 2\b.*\[\[\[.*\.\.\."):
        index_of({"version": 2, "shards": changed}, FOLDER)


@given(
    value=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_a_value_in_a_message_has_at_most_80_letters(value):
    assert len(brief(value)) <= 80
    assert len(brief("x" * 10**6)) <= 80


def test_an_index_without_shards_is_read(tmp_path):
    assert len(index_of({"version": 2, "shards": []}, FOLDER).num_rows) == 0


def test_a_name_that_stands_twice_is_refused(tmp_path):
    entry = write_shard(tmp_path / "shard.00000.mds", make_rows(3, 4))
    shards = as_read(index_json([entry, entry])["shards"])
    with pytest.raises(ShardError, match=r"2 shards are named 'shard\.00000\.mds'"):
        index_of({"version": 2, "shards": shards}, FOLDER)
