import json
import os
from dataclasses import replace

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mixstream.corpus import shard
from mixstream.corpus.index import read_index
from mixstream.corpus.layout import map_shard, read_layout
from mixstream.corpus.shard import Columns, FileEntry, ShardEntry, shard_header, write_shard
from mixstream.errors import ShardError
from tests.corpus.shards import make_rows, write_domain, write_stock


def read_back(path, entry):
    layout, rows = map_shard(path, entry)
    return np.ascontiguousarray(rows).view(layout.dtype)


def entry_of(content, num_rows, encoding="ndarray:uint16:4", size=8):
    raw = FileEntry(name="s.mds", num_bytes=len(content))
    columns = Columns(names=("tokens",), encodings=(encoding,), sizes=(size,))
    return ShardEntry(num_rows=num_rows, raw=raw, columns=columns)


def a_shard(num_rows=3, seq_len=4, dtype=np.uint16):
    rows = make_rows(num_rows, seq_len, dtype)
    content = shard_header(num_rows, seq_len, dtype) + rows.tobytes()
    return rows, content, entry_of(content, num_rows)


@given(
    num_rows=st.integers(1, 300),
    seq_len=st.integers(1, 300),
    dtype=st.sampled_from(["uint16", "uint32"]),
)
def test_a_header_ends_on_its_boundary_and_its_offsets_name_every_row(num_rows, seq_len, dtype):
    header = shard_header(num_rows, seq_len, dtype)
    row_bytes = seq_len * np.dtype(dtype).itemsize
    large = num_rows * row_bytes >= 1 << 16
    assert len(header) % (4096 if large else 64) == 0
    words = np.frombuffer(header[: 4 * (num_rows + 2)], "<u4").astype(np.int64)
    assert words[0] == num_rows
    assert (words[1:] == len(header) + row_bytes * np.arange(num_rows + 1)).all()
    text = header[4 * (num_rows + 2) :]
    assert json.loads(text)["column_encodings"] == [f"ndarray:{dtype}:{seq_len}"]


@given(num_rows=st.integers(1, 20), seq_len=st.integers(1, 40), dtype=st.sampled_from("HI"))
def test_a_written_shard_reads_back_from_its_bytes(num_rows, seq_len, dtype):
    rows = make_rows(num_rows, seq_len, np.dtype(dtype))
    content = shard_header(num_rows, seq_len, dtype) + rows.tobytes()
    size = seq_len * rows.itemsize
    entry = entry_of(content, num_rows, f"ndarray:{rows.dtype.name}:{seq_len}", size)
    layout = read_layout(content, entry)
    assert (layout.num_rows, layout.seq_len, layout.row_stride) == (num_rows, seq_len, size)
    assert content[layout.first_row_offset :] == rows.tobytes()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # streaming/base/stream.py
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_stock_readers_read_every_row(tmp_path, compression, dtype):
    from streaming import LocalDataset, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    rows = make_rows(40, 33, dtype)
    entries = write_domain(tmp_path / "web", rows, compression=compression)
    assert (tmp_path / "web" / "shard.00000.mds.zst").exists() == (compression == "zstd")
    clean_stale_shared_memory()
    stock = StreamingDataset(local=str(tmp_path / "web"), validate_hash="xxh3_64", batch_size=1)
    assert all((stock[i]["tokens"] == rows[i]).all() for i in range(40))
    local = LocalDataset(str(tmp_path / "web"))  # reads raw files only: those of the line above
    assert len(local) == 40
    assert all((local[i]["tokens"] == rows[i]).all() for i in range(40))
    assert stock.shards[0].raw_data.hashes == dict(entries[0].raw.hashes)


def test_an_entry_states_sizes_and_checksums_of_both_files(tmp_path):
    rows = make_rows(9, 500)
    raw = write_shard(tmp_path / "a.mds", rows)
    packed = write_shard(tmp_path / "b.mds", rows, compression="zstd", level=7)
    content = (tmp_path / "a.mds").read_bytes()
    assert raw.raw.num_bytes == packed.raw.num_bytes == len(content)
    assert raw.raw.hashes == packed.raw.hashes == (("xxh3_64", xxhash.xxh3_64_hexdigest(content)),)
    zipped = (tmp_path / "b.mds.zst").read_bytes()
    assert packed.compression == "zstd:7"
    assert packed.zip == FileEntry(
        name="b.mds.zst",
        num_bytes=len(zipped),
        hashes=(("xxh3_64", xxhash.xxh3_64_hexdigest(zipped)),),
    )
    assert not (tmp_path / "b.mds").exists()


def test_wider_rows_are_written_as_the_dtype_that_was_asked_for(tmp_path):
    rows = make_rows(5, 8, np.int64)
    entry = write_shard(tmp_path / "s.mds", rows, dtype="uint16")
    assert read_back(tmp_path / "s.mds", entry).dtype == np.uint16
    assert (read_back(tmp_path / "s.mds", entry) == rows).all()


@pytest.mark.parametrize("bad", [-1, 65536])
def test_an_id_out_of_range_is_refused_before_the_cast(tmp_path, bad):
    rows = make_rows(5, 8, np.int64)
    rows[2, 3] = bad
    with pytest.raises(ShardError, match=r"run from -?\d+ to \d+, but uint16 holds 0 to 65535"):
        write_shard(tmp_path / "s.mds", rows, dtype="uint16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (np.zeros((0, 4), np.uint16), {}, "a shard of 0 rows of 4 tokens holds nothing"),
        (np.zeros(4, np.uint16), {}, r"rows of shape \(4,\) and dtype uint16"),
        (np.zeros((2, 4)), {}, "dtype float64; a shard takes an"),
        (np.zeros((2, 4), np.int64), {}, "token ids of dtype int64; shards hold uint16 or"),
        (np.zeros((2, 4), np.uint16), {"compression": "gz"}, "compression 'gz' at level 3"),
        (
            np.zeros((2, 4), np.uint16),
            {"compression": "zstd", "level": 99},
            "compression 'zstd' at level 99",
        ),
    ],
)
def test_rows_that_make_no_shard_are_refused(tmp_path, rows, settings, message):
    with pytest.raises(ShardError, match=message):
        write_shard(tmp_path / "s.mds", rows, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_beyond_its_uint32_offsets_is_refused():
    with pytest.raises(ShardError, match=r"1048576 rows of 4096 bytes make .* end at 4294967295"):
        shard_header(1 << 20, 2048, np.uint16)


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard.os, "fsync", full)
    with pytest.raises(ShardError, match=r"cannot write .*s\.mds: No space left on device"):
        write_shard(tmp_path / "s.mds", make_rows(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_file_takes_the_permissions_that_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write_shard(tmp_path / "s.mds", make_rows(2, 2))
    finally:
        os.umask(old)
    assert (tmp_path / "s.mds").stat().st_mode & 0o777 == 0o640


FOREIGN = [
    *[(f"ndarray:{d}:9", d) for d in ("uint8", "uint16", "uint32", "uint64", "int16", "int32")],
    ("ndarray:int64:9", "int64"),
    ("ndarray:int32", "int32"),
    ("bytes", "int64"),
]


@pytest.mark.parametrize(("encoding", "dtype"), FOREIGN)
@pytest.mark.parametrize(
    "beside", [{}, {"id": "int"}, {"source": "str"}, {"source": "str", "lang": "str"}]
)
def test_shards_of_the_stock_writer_are_read(tmp_path, encoding, dtype, beside):
    rows = make_rows(30, 9, np.dtype(dtype))
    columns = {"tokens": encoding} | beside
    write_stock(tmp_path / "web", rows, columns)
    index = read_index(tmp_path / "web")
    entries = [index.entry(i) for i in range(len(index.num_rows))]
    found = [read_back(tmp_path / "web" / entry.raw.name, entry) for entry in entries]
    assert found[0].dtype == np.dtype(dtype)
    assert (np.concatenate(found) == rows).all()


@pytest.mark.parametrize("seq_len", [255, 256, 70000])
def test_a_stated_shape_of_any_width_is_skipped(tmp_path, seq_len):
    rows = make_rows(3, seq_len, np.int32)
    write_stock(tmp_path / "web", rows, {"tokens": "ndarray:int32"}, size_limit=None)
    entry = read_index(tmp_path / "web").entry(0)
    assert (read_back(tmp_path / "web" / entry.raw.name, entry) == rows).all()


def test_rows_of_different_lengths_are_refused(tmp_path):
    from streaming import MDSWriter

    with MDSWriter(columns={"tokens": "bytes"}, out=str(tmp_path / "web")) as writer:
        for n in (4, 4, 5):
            writer.write({"tokens": bytes(8 * n)})
    entry = read_index(tmp_path / "web").entry(0)
    with pytest.raises(ShardError, match="row 2 takes 44 bytes and row 0 takes 36"):
        read_layout(tmp_path / "web" / entry.raw.name, entry)


def test_columns_that_share_a_sample_out_otherwise_are_refused(tmp_path):
    from streaming import MDSWriter

    columns = {"a": "str", "tokens": "bytes", "z": "str"}
    with MDSWriter(columns=columns, out=str(tmp_path / "web")) as writer:
        for a, z in (("xx", "y"), ("x", "yy")):
            writer.write({"a": a, "tokens": bytes(16), "z": z})
    entry = read_index(tmp_path / "web").entry(0)
    with pytest.raises(ShardError, match="beside 'tokens' differ in size between row 0 and row 1"):
        read_layout(tmp_path / "web" / entry.raw.name, entry)


@pytest.mark.parametrize(
    ("names", "encoding", "message"),
    [
        (("tokens",), "pkl", r"encoding 'pkl'. mixstream reads a column 'tokens'"),
        (("tokens",), "ndarray", r"encoding 'ndarray'. mixstream reads"),
        (("tokens",), "ndarray:float32:4", r"encoding 'ndarray:float32:4'"),
        (("tokens",), "ndarray:uint16:2,2", r"encoding 'ndarray:uint16:2,2'"),
        (("tokens",), "ndarray:uint16:-4", r"encoding 'ndarray:uint16:-4'"),
        (("text",), "str", r"its columns are text. mixstream reads a column 'tokens'"),
    ],
)
def test_other_encodings_are_refused_by_name(names, encoding, message):
    _, content, entry = a_shard()
    columns = Columns(names=names, encodings=(encoding,), sizes=(8,))
    with pytest.raises(ShardError, match=message):
        read_layout(content, replace(entry, columns=columns))


def patched(content, at, value):
    return content[:at] + np.uint32(value).tobytes() + content[at + 4 :]


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 4, "its header says 4 rows, its index 3"),
        (0, 0, "its header says 0 rows, its index 3"),
        (0, 2**32 - 1, "its header says 4294967295 rows, its index 3"),
        (4, 0, "offsets run from 0 to"),
        (4, 2**32 - 1, "offsets run from 4294967295 to"),
        (8, 2**32 - 1, "or run backwards"),
        (12, 260, "or run backwards|row 1 takes"),
        (16, 2**32 - 1, "to 4294967295 in a file of"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(at, value, message):
    _, content, entry = a_shard()
    with pytest.raises(ShardError, match=message):
        read_layout(patched(content, at, value), entry)


@given(at=st.integers(0, 255), value=st.integers(0, 255), short=st.integers(0, 300))
def test_any_damage_to_a_header_is_an_error_or_reads_inside_the_file(at, value, short):
    _, content, entry = a_shard()
    damaged = bytearray(content)
    damaged[at] = value
    damaged = bytes(damaged[: len(damaged) - short])
    try:
        layout = read_layout(damaged, entry)
    except ShardError:
        return
    last = layout.first_row_offset + (layout.num_rows - 1) * layout.row_stride
    assert last + layout.row_bytes <= entry.raw.num_bytes


def test_a_count_beyond_the_file_is_refused():
    content = np.uint32(1000).tobytes() * 3
    with pytest.raises(ShardError, match="the offsets of 1000 rows take 4008 bytes, but there"):
        read_layout(content, entry_of(content, 1000))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'{"column', b'["column', "the text in its header is no JSON"),
        (b"uint16:4", b"uint16:9", "its header names the columns .*uint16:9.*, its index"),
    ],
)
def test_a_header_text_of_another_corpus_is_refused(old, new, message):
    _, content, entry = a_shard()
    with pytest.raises(ShardError, match=message):
        read_layout(content.replace(old, new), entry)


def test_a_header_text_nested_as_deep_as_json_may_be_is_refused():
    _, content, entry = a_shard()
    words = np.frombuffer(content[:20], "<u4").copy()
    words[1:] += 2048
    text = content[20:256].rstrip().replace(b'"tokens"', b"[" * 1000 + b"]" * 1000)
    deep = words.tobytes() + text.ljust(2048 + 236) + content[256:]
    raw = replace(entry.raw, num_bytes=len(deep))
    with pytest.raises(ShardError, match=r"its header names the columns \[\[\[\["):
        read_layout(deep, replace(entry, raw=raw))


def test_a_header_text_beyond_reason_is_refused():
    _, content, entry = a_shard()
    words = np.frombuffer(content[:20], "<u4").copy()
    words[1:] += 1 << 21
    long = words.tobytes() + content[20:256].ljust((1 << 21) + 236) + content[256:]
    raw = replace(entry.raw, num_bytes=len(long))
    with pytest.raises(ShardError, match="a header text of 2097388 bytes"):
        read_layout(long, replace(entry, raw=raw))


def test_columns_that_do_not_fill_a_row_are_refused():
    _, content, entry = a_shard()
    content = content.replace(b'"column_sizes": [8]', b'"column_sizes": [6]')
    columns = replace(entry.columns, sizes=(6,))
    with pytest.raises(ShardError, match="row 0 takes 8 bytes, but its columns tokens add up to 6"):
        read_layout(content, replace(entry, columns=columns))


def test_a_row_that_is_not_of_the_length_its_encoding_says_is_refused():
    _, content, entry = a_shard()
    content = content.replace(b"ndarray:uint16:4", b"ndarray:uint16:5")
    columns = replace(entry.columns, encodings=("ndarray:uint16:5",))
    with pytest.raises(ShardError, match="8 bytes of tokens, which is no row of 5 uint16 ids"):
        read_layout(content, replace(entry, columns=columns))


def test_a_row_of_two_axes_is_refused(tmp_path):
    from streaming import MDSWriter

    with MDSWriter(columns={"tokens": "ndarray:int32"}, out=str(tmp_path / "web")) as writer:
        writer.write({"tokens": np.zeros((2, 3), np.int32)})
    entry = read_index(tmp_path / "web").entry(0)
    with pytest.raises(ShardError, match="row 0 is an array of 2 axes"):
        read_layout(tmp_path / "web" / entry.raw.name, entry)


def test_the_first_bytes_alone_do_not_do_where_samples_state_several_sizes(tmp_path):
    write_stock(tmp_path / "w", make_rows(30, 9, np.int64), {"tokens": "bytes", "source": "str"})
    entry = read_index(tmp_path / "w").entry(0)
    start = (tmp_path / "w" / entry.raw.name).read_bytes()[:-100]
    with pytest.raises(ShardError, match="2 columns state sizes; give the path"):
        read_layout(start, entry)


@pytest.mark.parametrize("found", [0, 100, 10**5])
def test_a_file_of_another_size_is_refused_before_it_is_mapped(tmp_path, found):
    path = tmp_path / "s.mds"
    entry = write_shard(path, make_rows(3, 4))
    os.truncate(path, found)
    message = rf"s\.mds has {found} bytes, but its index says {entry.raw.num_bytes}"
    with pytest.raises(ShardError, match=message):
        map_shard(path, entry)
    with pytest.raises(ShardError, match=message):
        read_layout(path, entry)


def test_a_missing_file_is_named(tmp_path):
    entry = write_shard(tmp_path / "s.mds", make_rows(3, 4))
    with pytest.raises(ShardError, match=r"cannot open shard .*t\.mds: No such file"):
        read_layout(tmp_path / "t.mds", entry)


def test_mapped_rows_cannot_be_written(tmp_path):
    path = tmp_path / "s.mds"
    entry = write_shard(path, make_rows(3, 4))
    assert not map_shard(path, entry)[1].flags.writeable
