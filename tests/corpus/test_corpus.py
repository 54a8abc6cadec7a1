import multiprocessing
import os
import pickle
import resource
import shutil
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.arrays import ADDRESS
from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.gather import RowPool, default_max_maps
from mixstream.corpus.manifest import index_json, write_json
from mixstream.errors import ShardError
from tests.corpus.shards import make_rows, write_corpus, write_domain, write_stock

MAPS_HOLD_FILES = sys.version_info < (3, 13)
NUM_ROWS = {"web": 40, "code": 3, "empty": 0, "books": 15}


def make_domains(seq_len=11, dtype=np.uint16):
    return {
        name: make_rows(n, seq_len, dtype, seed) for seed, (name, n) in enumerate(NUM_ROWS.items())
    }


@pytest.fixture(scope="module", params=[None, "zstd"])
def opened(request, tmp_path_factory):
    domains = make_domains()
    folder = tmp_path_factory.mktemp("corpus") / "c"
    write_corpus(folder, domains, compression=request.param)
    return open_corpus(folder), domains, folder


def all_addresses(domains):
    pairs = [(d, i) for d, rows in enumerate(domains.values()) for i in range(len(rows))]
    return np.array(pairs, ADDRESS)


def test_a_converted_corpus_says_what_it_is(opened):
    corpus, _, _ = opened
    assert corpus.domains == tuple(NUM_ROWS)
    assert (corpus.seq_len, corpus.dtype, corpus.end_id) == (11, np.uint16, 256)
    assert corpus.num_rows.tolist() == list(NUM_ROWS.values())
    assert {k: v.tolist() for k, v in corpus.layout.items()} == {
        "web": [7, 7, 7, 7, 7, 5],
        "code": [3],
        "empty": [],
        "books": [7, 7, 1],
    }
    assert all(v.dtype == np.int64 for v in corpus.layout.values())
    assert corpus.fingerprint == corpus.manifest.fingerprint


@settings(deadline=None)
@given(data=st.data())
def test_any_addresses_give_their_rows_in_their_order(opened, data):
    corpus, domains, _ = opened
    every = all_addresses(domains)
    picks = data.draw(st.lists(st.integers(0, len(every) - 1), max_size=80))
    block = corpus.gather(every[picks])
    assert block.dtype == np.uint16
    assert (block == np.concatenate(list(domains.values()))[picks]).all()
    assert block.shape == (len(picks), 11)
    block[:] = 0  # it is ours to change


def test_a_batch_can_go_into_a_block_of_ours_of_a_wider_dtype(opened):
    corpus, domains, _ = opened
    for dtype in (np.uint16, np.int64):
        out = np.empty((58, 11), dtype)
        assert corpus.gather(all_addresses(domains), out=out) is out
        assert (out == np.concatenate(list(domains.values()))).all()
    with pytest.raises(TypeError, match="according to the rule 'safe'"):
        corpus.gather(all_addresses(domains), out=np.empty((58, 11), np.uint8))


def test_addresses_of_another_width_are_understood(opened):
    corpus, domains, _ = opened
    wide = all_addresses(domains).astype([("domain", np.int64), ("row", np.int32)])
    assert (corpus.gather(wide) == np.concatenate(list(domains.values()))).all()


def test_a_row_is_a_read_only_view_of_its_shard(opened):
    corpus, domains, _ = opened
    row = corpus.row("books", 14)
    assert (row == domains["books"][14]).all()
    assert (row == corpus.row(3, 14)).all()
    assert not row.flags.writeable
    assert row.flags.aligned
    assert np.shares_memory(row, corpus.row("books", 14))


@pytest.mark.parametrize(
    ("domain", "row", "message"),
    [
        (4, 0, "no domain 4: the corpus has 4, from 0 on"),
        (-1, 0, "no domain -1: the corpus has 4"),
        (-(2**31), 0, "no domain -2147483648"),
        (0, 40, "no row 40 in domain 'web': it has 40, from 0 on"),
        (0, -1, "no row -1 in domain 'web'"),
        (1, -1, "no row -1 in domain 'code'"),
        (2, 0, "no row 0 in domain 'empty': it has 0"),
        (3, 15, "no row 15 in domain 'books'"),
        (1, 2**63 - 1, "no row 9223372036854775807 in domain 'code'"),
        (3, -(2**63), "no row -9223372036854775808 in domain 'books'"),
    ],
)
def test_an_address_of_no_row_is_refused_and_named(opened, domain, row, message):
    corpus, domains, _ = opened
    corpus.gather(all_addresses(domains))  # all shards are mapped
    addresses = np.append(all_addresses(domains), np.array([(domain, row)], ADDRESS))
    for asked in (corpus, pickle.loads(pickle.dumps(corpus))):
        with pytest.raises(ShardError, match=message):
            asked.gather(addresses)
        with pytest.raises(ShardError, match=message):
            asked.row(domain, row)


def test_an_unknown_domain_name_lists_those_that_exist(opened):
    corpus, _, _ = opened
    with pytest.raises(ShardError, match="no domain 'wiki'; the corpus holds web, code, empty"):
        corpus.row("wiki", 0)


def pool_of(corpus, max_maps):
    shards = corpus.pool._domains
    return RowPool(shards, seq_len=corpus.seq_len, dtype=corpus.dtype, max_maps=max_maps)


@pytest.mark.parametrize("max_maps", [1, 2, 3, 9, 10])
def test_no_more_shards_are_mapped_than_allowed_whatever_is_asked(opened, max_maps):
    corpus, domains, _ = opened
    every, rows = all_addresses(domains), np.concatenate(list(domains.values()))
    pool = pool_of(corpus, max_maps)
    rng = np.random.default_rng(max_maps)
    for size in (1, 2, 3, 58, 5, 58, 1, 2):
        picks = rng.permutation(58)[:size]
        assert (pool.gather(every[picks]) == rows[picks]).all()
        assert (pool.row(0, 39) == domains["web"][39]).all()
        assert pool.num_maps <= max_maps
    assert pool.num_maps > 0


def test_the_shard_that_was_used_last_stays(opened):
    corpus, _, _ = opened
    pool = pool_of(corpus, 2)
    for row in (0, 7, 0, 14):
        pool.gather(np.array([(0, row)], ADDRESS))
    assert sorted(pool._maps) == [1, 3]


def test_nothing_is_opened_before_it_is_touched(opened):
    _, _, folder = opened
    fresh = open_corpus(folder)
    assert fresh.pool.num_maps == 0
    fresh.gather(np.array([(3, 0), (3, 6)], ADDRESS))
    assert fresh.pool.num_maps == 1


@pytest.fixture
def few_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (400, 400))


def test_maps_leave_file_descriptors_to_others(few_files):
    assert default_max_maps() == (100 if MAPS_HOLD_FILES else 4096)


@pytest.mark.parametrize("num_domains", [100, 101])
def test_more_domains_than_maps_are_told_with_the_mend(tmp_path, few_files, caplog, num_domains):
    write_domain(tmp_path / "a", make_rows(1, 4))
    open_corpus({f"d{number}": tmp_path / "a" for number in range(num_domains)})
    is_told = MAPS_HOLD_FILES and num_domains > 100
    what, mend = "has 101 domains, but this process maps 100 shards", "ulimit -n 404"
    assert (what in caplog.text, mend in caplog.text) == (is_told, is_told)


def test_a_map_holds_no_file_where_python_can_leave_it_out(opened):
    _, domains, folder = opened
    corpus = open_corpus(folder)
    before = len(os.listdir("/dev/fd"))
    corpus.gather(all_addresses(domains))
    num_files = len(os.listdir("/dev/fd")) - before
    assert num_files == (corpus.pool.num_maps if MAPS_HOLD_FILES else 0)


def gathered(corpus, addresses, answers):
    answers.put(corpus.gather(addresses))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_corpus_goes_to_another_process(opened, method):
    corpus, domains, _ = opened
    every = all_addresses(domains)
    corpus.gather(every[:5])
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    with corpus.pool._lock:  # as another thread of ours might hold it at the fork
        child = context.Process(target=gathered, args=(corpus, every, answers))
        child.start()
    assert (answers.get(timeout=60) == np.concatenate(list(domains.values()))).all()
    child.join()


def test_a_pickle_holds_no_rows_and_opens_them_again(opened):
    corpus, domains, _ = opened
    corpus.gather(all_addresses(domains))
    twin = pickle.loads(pickle.dumps(corpus))
    assert twin.pool.num_maps == 0
    assert twin.fingerprint == corpus.fingerprint
    assert (twin.gather(all_addresses(domains)) == corpus.gather(all_addresses(domains))).all()


def test_threads_may_gather_while_shards_come_and_go(opened):
    corpus, domains, _ = opened
    every, rows = all_addresses(domains), np.concatenate(list(domains.values()))
    pool, faults = pool_of(corpus, 2), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            picks = rng.integers(0, 58, 9)
            if not (pool.gather(every[picks]) == rows[picks]).all():
                faults.append(picks)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


STOCK = {
    "narrow": ({"tokens": "ndarray:uint16:11"}, np.uint16),
    "wide": ({"tokens": "ndarray:int64:11"}, np.int64),
    "foundry": ({"tokens": "bytes"}, np.int64),
    "dynamic": ({"tokens": "ndarray:int32", "source": "str"}, np.int32),
}


def test_folders_of_the_stock_writer_open_together(tmp_path):
    domains = {}
    for name, (columns, dtype) in STOCK.items():
        domains[name] = make_rows(30, 11, dtype, seed=len(domains))
        write_stock(tmp_path / name, domains[name], columns, compression="zstd")
    domains["ours"] = make_rows(9, 11)
    write_domain(tmp_path / "ours", domains["ours"])
    domains["none"] = make_rows(0, 11)
    write_domain(tmp_path / "none", domains["none"])
    corpus = open_corpus({name: tmp_path / name for name in domains}, end_id=0)
    assert (corpus.dtype, corpus.seq_len, corpus.end_id) == (np.int64, 11, 0)
    assert corpus.manifest is None
    every = np.random.default_rng(0).permutation(all_addresses(domains))
    wanted = np.stack([list(domains.values())[d][i] for d, i in every.tolist()])
    assert (corpus.gather(every) == wanted).all()
    for name in domains:
        for i in range(len(domains[name])):
            row = corpus.row(name, i)
            assert row.dtype == np.int64
            assert (row == domains[name][i]).all()
            assert not row.flags.writeable
            assert row.flags.aligned


def test_one_folder_is_one_domain_of_its_name(tmp_path):
    write_stock(tmp_path / "web", make_rows(30, 11), {"tokens": "ndarray:uint16:11"})
    corpus = open_corpus(str(tmp_path / "web"))
    assert (corpus.domains, corpus.end_id, corpus.manifest) == (("web",), None, None)


def test_a_cache_takes_the_raw_shards(tmp_path):
    write_domain(tmp_path / "web", make_rows(30, 11), compression="zstd")
    corpus = open_corpus(tmp_path / "web", cache=tmp_path / "cache")
    corpus.gather(np.array([(0, 0), (0, 29)], ADDRESS))
    assert len(list((tmp_path / "cache").rglob("*.mds"))) == 2
    assert list((tmp_path / "web").glob("*.mds")) == []


def test_a_folder_without_a_corpus_says_what_to_give(tmp_path):
    with pytest.raises(ShardError, match=r"holds neither corpus\.json nor index\.json. Give a"):
        open_corpus(tmp_path)


def test_an_unfinished_conversion_says_to_run_it_again(tmp_path):
    (tmp_path / ".mixstream").mkdir()
    with pytest.raises(ShardError, match="Run the same convert command again"):
        open_corpus(tmp_path)


def test_no_domains_are_no_corpus(tmp_path):
    with pytest.raises(ShardError, match="no domains to open"):
        open_corpus({})
    write_json(tmp_path / "index.json", index_json([]))
    with pytest.raises(ShardError, match=r"no one length \(none has a row\)"):
        open_corpus(tmp_path)


def test_rows_of_two_lengths_do_not_open_together(tmp_path):
    write_domain(tmp_path / "a", make_rows(3, 4))
    write_domain(tmp_path / "b", make_rows(3, 5))
    with pytest.raises(ShardError, match=r"no one length \(a: 4, b: 5\)"):
        open_corpus({"a": tmp_path / "a", "b": tmp_path / "b"})


def test_dtypes_that_no_integer_holds_do_not_open_together(tmp_path):
    for name in ("uint64", "int64"):
        rows = make_rows(3, 4, np.dtype(name))
        write_stock(tmp_path / name, rows, {"tokens": f"ndarray:{name}:4"})
    with pytest.raises(ShardError, match=r"no integer dtype holds .* \(int64, uint64\)"):
        open_corpus({name: tmp_path / name for name in ("uint64", "int64")})


def test_another_end_id_than_the_manifest_says_is_refused(opened):
    _, _, folder = opened
    assert open_corpus(folder, end_id=256).end_id == 256
    with pytest.raises(ShardError, match="says that the end-of-text id is 256, not 3"):
        open_corpus(folder, end_id=3)


def test_files_of_two_conversions_do_not_mix(tmp_path):
    write_corpus(tmp_path / "c", make_domains())
    write_domain(tmp_path / "other", make_rows(40, 11, seed=77))
    shutil.rmtree(tmp_path / "c" / "web")
    (tmp_path / "other").rename(tmp_path / "c" / "web")
    with pytest.raises(ShardError, match=r"have fingerprint .*, but corpus.json says"):
        open_corpus(tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "web")
    write_domain(tmp_path / "c" / "web", make_rows(41, 11))
    with pytest.raises(ShardError, match=r"web/index\.json counts 41 rows, but .* 40"):
        open_corpus(tmp_path / "c")


def test_a_shard_cut_short_is_an_error_and_the_others_go_on(tmp_path):
    domains = make_domains()
    write_corpus(tmp_path / "c", domains)
    corpus = open_corpus(tmp_path / "c")
    os.truncate(tmp_path / "c" / "web" / "shard.00002.mds", 300)
    with pytest.raises(ShardError, match=r"shard\.00002\.mds has 300 bytes, but its index says"):
        corpus.gather(np.array([(0, 0), (0, 14), (3, 0)], ADDRESS))
    block = corpus.gather(np.array([(0, 0), (3, 0)], ADDRESS))
    assert (block == np.stack([domains["web"][0], domains["books"][0]])).all()


def test_a_shard_of_another_length_than_its_corpus_is_refused(tmp_path):
    for name, n in (("a", 9), ("b", 5)):
        write_stock(tmp_path / name, make_rows(n, n, np.int64), {"tokens": "bytes"})
    corpus = open_corpus({"a": tmp_path / "a"})
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(ShardError, match=r"shard\.00000\.mds"):
        corpus.row("a", 0)


def test_rows_on_one_grid_and_off_it_gather_alike(tmp_path):
    """Rows of a power of two, from a page on, are one array; a stock shard ends that."""
    domains = {"ours": make_rows(140, 512), "stock": make_rows(30, 512, seed=1)}
    write_domain(tmp_path / "ours", domains["ours"], rows_per_shard=70)
    write_stock(tmp_path / "stock", domains["stock"], {"tokens": "ndarray:uint16:512"})
    corpus = open_corpus({name: tmp_path / name for name in domains})
    ours, every = np.array([(0, i) for i in range(139, -1, -1)], ADDRESS), all_addresses(domains)
    assert (corpus.gather(ours) == domains["ours"][::-1]).all()
    assert corpus.pool._pitch == 1024
    assert (corpus.gather(every) == np.concatenate(list(domains.values()))).all()
    assert corpus.pool._pitch == 1
    assert (corpus.gather(ours) == domains["ours"][::-1]).all()
