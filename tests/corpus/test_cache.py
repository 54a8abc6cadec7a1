import multiprocessing
import os
from dataclasses import replace

import pytest
import zstandard

from mixstream.corpus import shard
from mixstream.corpus.cache import ShardStore
from mixstream.corpus.cache_folder import CacheFolder
from mixstream.corpus.index import read_index
from mixstream.corpus.shard import write_shard
from mixstream.errors import ShardError
from tests.corpus.shards import make_rows, write_stock


@pytest.fixture
def packed(tmp_path):
    """A folder with one compressed shard, its entry, and the bytes of its raw form."""
    rows = make_rows(50, 40)
    (tmp_path / "web").mkdir()
    write_shard(tmp_path / "raw.mds", rows)
    entry = write_shard(tmp_path / "web" / "s.mds", rows, compression="zstd")
    return tmp_path / "web", entry, (tmp_path / "raw.mds").read_bytes()


def raw_shard_path(folder, entry, cache=None):
    return ShardStore(None if cache is None else CacheFolder(cache)).path(folder, entry)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_raw_shard_is_used_where_it_lies(tmp_path):
    entry = write_shard(tmp_path / "s.mds", make_rows(5, 4))
    assert raw_shard_path(tmp_path, entry, tmp_path / "cache") == tmp_path / "s.mds"
    assert names(tmp_path) == ["s.mds"]


def test_a_compressed_shard_is_decompressed_once_beside_itself(packed):
    folder, entry, raw = packed
    path = raw_shard_path(folder, entry)
    assert (path, path.read_bytes()) == (folder / "s.mds", raw)
    assert names(folder) == ["s.mds", "s.mds.zst"]
    number = path.stat().st_ino
    assert raw_shard_path(folder, entry).stat().st_ino == number


def test_a_cache_keeps_corpora_and_conversions_apart(packed, tmp_path):
    folder, entry, raw = packed
    cache = tmp_path / "deep" / "cache"
    other = tmp_path / "other" / "web"
    other.mkdir(parents=True)
    twin = write_shard(other / "s.mds", make_rows(50, 40, seed=1), compression="zstd")
    again = write_shard(folder / "s.mds", make_rows(50, 40, seed=2), compression="zstd", level=4)
    first = raw_shard_path(other, twin, cache)
    second = raw_shard_path(folder, again, cache)
    write_shard(folder / "s.mds", make_rows(50, 40), compression="zstd")
    third = raw_shard_path(folder, entry, cache)
    assert len({first, second, third}) == 3
    assert first.parent != second.parent == third.parent
    assert third.read_bytes() == raw
    assert names(folder) == ["s.mds.zst"]


def test_what_an_interrupted_reader_left_is_made_again(packed):
    folder, entry, raw = packed
    (folder / "s.mds").write_bytes(raw[:100])
    assert raw_shard_path(folder, entry).read_bytes() == raw


def decompress(folder, entry, start, answers):
    start.wait()
    answers.put(raw_shard_path(folder, entry).read_bytes())


def test_processes_may_race_for_one_shard(packed):
    folder, entry, raw = packed
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    arguments = (folder, entry, start, answers)
    racers = [context.Process(target=decompress, args=arguments) for _ in range(6)]
    for racer in racers:
        racer.start()
    start.set()
    assert all(answers.get(timeout=30) == raw for _ in racers)
    for racer in racers:
        racer.join()
    assert names(folder) == ["s.mds", "s.mds.zst"]


def test_a_corrupt_shard_names_both_checksums(packed):
    folder, entry, _ = packed
    path = folder / "s.mds.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    wanted = entry.zip.hashes[0][1]
    with pytest.raises(ShardError, match=rf"checksum [0-9a-f]{{16}}, but .* with {wanted}"):
        raw_shard_path(folder, entry)
    assert names(folder) == ["s.mds.zst"]


def test_a_short_shard_names_both_sizes(packed):
    folder, entry, _ = packed
    os.truncate(folder / "s.mds.zst", 99)
    message = rf"compressed bytes are 99 with .*, but its index says {entry.zip.num_bytes} with"
    with pytest.raises(ShardError, match=message):
        raw_shard_path(folder, entry)


def test_content_that_is_not_what_the_index_says_is_refused_without_a_zip_hash_too(packed):
    folder, entry, raw = packed
    other = bytearray(raw)
    other[-1] ^= 1
    content = zstandard.compress(bytes(other))
    (folder / "s.mds.zst").write_bytes(content)
    entry = replace(entry, zip=replace(entry.zip, num_bytes=len(content), hashes=()))
    with pytest.raises(
        ShardError, match=f"decompressed bytes are .* with {entry.raw.hashes[0][1]}"
    ):
        raw_shard_path(folder, entry)
    assert names(folder) == ["s.mds.zst"]


def test_a_zip_bomb_stops_at_the_size_of_the_index(packed):
    folder, entry, raw = packed
    content = zstandard.compress(bytes(1 << 28))
    (folder / "s.mds.zst").write_bytes(content)
    entry = replace(entry, zip=replace(entry.zip, num_bytes=len(content), hashes=()))
    with pytest.raises(ShardError, match=f"decompresses to more than the {len(raw)} bytes"):
        raw_shard_path(folder, entry)
    assert names(folder) == ["s.mds.zst"]


def test_a_file_that_is_no_zstd_is_refused(packed):
    folder, entry, _ = packed
    (folder / "s.mds.zst").write_bytes(b"nonsense")
    entry = replace(entry, zip=replace(entry.zip, num_bytes=8, hashes=()))
    with pytest.raises(ShardError, match=r"s\.mds\.zst is no zstd file"):
        raw_shard_path(folder, entry)


def test_a_missing_compressed_shard_is_named(packed):
    folder, entry, _ = packed
    (folder / "s.mds.zst").unlink()
    with pytest.raises(ShardError, match=r"neither .*s\.mds\.zst nor .*s\.mds is there"):
        raw_shard_path(folder, entry)


def test_a_full_disk_names_the_path_and_the_mend(packed, monkeypatch):
    folder, entry, _ = packed

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard.os, "fsync", full)
    message = r"cannot decompress .*s\.mds\.zst to .*No space left .*open_corpus\(..., cache="
    with pytest.raises(ShardError, match=message):
        raw_shard_path(folder, entry)
    assert names(folder) == ["s.mds.zst"]


def test_a_cache_that_is_no_folder_is_named(packed, tmp_path):
    folder, entry, _ = packed
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match=r"cannot write .*file.*cache="):
        raw_shard_path(folder, entry, tmp_path / "file")


@pytest.mark.parametrize("hashes", [[], ["md5"], ["sha1", "xxh64"]])
def test_compressed_shards_of_the_stock_writer_are_read(tmp_path, hashes):
    columns = {"tokens": "ndarray:uint16:40"}
    settings = {"compression": "zstd:7", "hashes": hashes}
    write_stock(tmp_path / "web", make_rows(50, 40), columns, **settings)
    entry = read_index(tmp_path / "web").entry(1)
    assert raw_shard_path(tmp_path / "web", entry).stat().st_size == entry.raw.num_bytes


def test_another_compression_is_refused_by_name(tmp_path):
    columns = {"tokens": "ndarray:uint16:40"}
    write_stock(tmp_path / "web", make_rows(50, 40), columns, compression="gz")
    entry = read_index(tmp_path / "web").entry(0)
    with pytest.raises(ShardError, match="is compressed with 'gz'; mixstream reads zstd"):
        raw_shard_path(tmp_path / "web", entry)
