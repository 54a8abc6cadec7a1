"""Corpora in a real S3 API behind a proxy that spoils answers: right rows, or the right error."""

import threading
import time

import numpy as np
import pytest

from mixstream.corpus.corpus import open_corpus
from mixstream.errors import (
    ShardCorruptError,
    ShardError,
    ShardForbiddenError,
    ShardMissingError,
    ShardUnreachableError,
)
from tests.corpus.conftest import all_rows, time_limit, tree
from tests.corpus.shards import make_rows, write_corpus, write_stock
from tests.servers.faults import FaultProxy

SEQ_LEN = 512
NUM_ROWS = {"web": 21, "code": 9}
"""7 rows a shard, 1 kB a row: 3 and 2 shards of 7 kB, less the last."""

IMPATIENT = {"timeout_seconds": 1.5, "retry_seconds": 3.0}


def make_domains():
    return {
        name: make_rows(n, SEQ_LEN, seed=seed) for seed, (name, n) in enumerate(NUM_ROWS.items())
    }


@pytest.fixture
def proxy(s3_server, s3_keys, monkeypatch):
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture(scope="module")
def buckets(s3_server, tmp_path_factory):
    """The same corpus in two buckets, raw and compressed: {form: (URL, rows, its local folder)}."""
    made = {}
    for form in ("raw", "zstd"):
        folder = tmp_path_factory.mktemp(form) / "made"
        domains = make_domains()
        write_corpus(folder, domains, compression=None if form == "raw" else form)
        s3_server.upload(folder, new_bucket(s3_server, form), "runs/corpus/")
        made[form] = (f"s3://remote-{form}/runs/corpus", domains, folder)
    return made


def new_bucket(server, name):
    return server.make_bucket(f"remote-{name}")


@pytest.fixture(params=["raw", "zstd"])
def remote(request, buckets, proxy):
    return buckets[request.param][:2]


@pytest.fixture
def raw_remote(buckets, proxy):
    return buckets["raw"][:2]


def assert_right(corpus, domains):
    for name, rows in domains.items():
        np.testing.assert_array_equal(all_rows(corpus, name), rows)


def hidden(folder):
    """What a fetch leaves behind; `.usage` is there to stay."""
    return [name for name in tree(folder) if "/." in name]


def test_a_remote_corpus_is_read_and_only_its_manifest_and_indexes_at_open(remote, proxy, tmp_path):
    url, domains = remote
    corpus = open_corpus(url, cache=tmp_path / "cache")
    assert proxy.num_requests() == 3
    assert proxy.num_requests(path=r"\.mds") == 0
    assert_right(corpus, domains)
    assert proxy.num_requests(path=r"\.mds") == 5
    assert_right(corpus, domains)
    assert_right(open_corpus(url + "/", cache=tmp_path / "cache"), domains)
    assert proxy.num_requests(path=r"\.mds") == 5, "the cache was warm"
    assert hidden(tmp_path / "cache") == []


def test_one_folder_and_a_mapping_of_folders_open_as_well(buckets, proxy, tmp_path):
    url, domains, folder = buckets["raw"]
    corpus = open_corpus(f"{url}/web", cache=tmp_path / "cache")
    assert (corpus.domains, corpus.end_id) == (("web",), 256)
    assert_right(corpus, {"web": domains["web"]})
    mixed = open_corpus({"far": f"{url}/code", "near": folder / "web"}, cache=tmp_path / "cache")
    assert_right(mixed, {"far": domains["code"], "near": domains["web"]})


@pytest.mark.parametrize("hashes", [[], ["sha1"]])
@pytest.mark.parametrize("compression", [None, "zstd:3"])
def test_corpora_of_the_stock_writer_are_read_and_missing_checksums_are_told(
    s3_server, proxy, tmp_path, caplog, hashes, compression
):
    rows = make_rows(40, 64, np.uint32)
    settings = {"hashes": hashes, "compression": compression, "size_limit": 4000}
    write_stock(tmp_path / "web", rows, {"tokens": "ndarray:uint32"}, **settings)
    bucket = new_bucket(s3_server, time.monotonic_ns())
    s3_server.upload(tmp_path / "web", bucket)
    corpus = open_corpus({"web": f"s3://{bucket}"}, cache=tmp_path / "cache")
    np.testing.assert_array_equal(all_rows(corpus, "web"), rows)
    assert ("names no checksum for" in caplog.text) == (hashes == [])


FAULTS = {
    "one reset": [("reset", {"after_bytes": 900})],
    "five resets": [("reset", {"after_bytes": 900, "times": 5})],
    "some 503s": [("status", {"status": 503, "times": 4})],
    "one flipped bit": [("flip", {"after_bytes": 5000})],
    "a truncated object": [
        ("truncate", {"after_bytes": 3000}),
        ("truncate", {"after_bytes": 3000, "method": "HEAD"}),
    ],
    "a stall": [("stall", {"after_bytes": 2000})],
}
MORE_FAULTS = {
    "refused before the answer": [("refuse", {"method": "HEAD", "times": 2})],
    "one 503": [("status", {"status": 503})],
    "slow down": [("status", {"status": 429})],
    "a truncated answer": [("truncate", {"after_bytes": 3000})],
    "a trickle": [("trickle", {"bytes_per_second": 200})],
}


def read_through(faults, name, case):
    """Open and read a corpus while the proxy spoils a file of one domain; everything is right."""
    remote, proxy, cache = case
    for kind, settings in faults:
        small = {"after_bytes": 100} if name == "index.json" and "after_bytes" in settings else {}
        proxy.add(kind, rf"web/{name}", **(settings | small))
    url, domains = remote
    with time_limit(40):
        assert_right(open_corpus(url, cache=cache, **IMPATIENT), domains)
    assert proxy.faults[0].times == 0
    assert hidden(cache) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_time_and_no_row(raw_remote, proxy, tmp_path, fault):
    read_through(FAULTS[fault], "shard", (raw_remote, proxy, tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS | MORE_FAULTS)
@pytest.mark.parametrize("name", ["shard", "index.json"])
def test_that_holds_for_every_fault_and_file(buckets, proxy, tmp_path, fault, name):
    if name == "index.json" and "flip" in fault:
        pytest.skip("an index has no checksum: see the tests of what it may not say")
    case = (buckets["zstd"][:2], proxy, tmp_path / "cache")
    read_through((FAULTS | MORE_FAULTS)[fault], name, case)


def open_with(raw_remote, tmp_path, **settings):
    return open_corpus(raw_remote[0], cache=tmp_path / "cache", **(IMPATIENT | settings))


def test_a_missing_object_is_named_at_once(raw_remote, proxy, tmp_path):
    corpus = open_with(raw_remote, tmp_path)
    proxy.add("status", r"shard\.00001", method="HEAD", status=404)
    message = r"web/shard\.00001\.mds is not there \(1 attempt\): HTTP 404 .*upload"
    with pytest.raises(ShardMissingError, match=message):
        all_rows(corpus, "web")
    assert_right(corpus, raw_remote[1])  # the error was passing, the corpus stays usable


def test_a_corpus_that_is_not_there_is_named(raw_remote, tmp_path):
    bucket = raw_remote[0].split("/")[2]
    with pytest.raises(ShardMissingError, match=rf"s3://{bucket}/other/corpus\.json is not there"):
        open_corpus(f"s3://{bucket}/other", cache=tmp_path / "cache")
    with pytest.raises(ShardMissingError, match=r"no-such-bucket/corpus\.json is not there"):
        open_corpus("s3://no-such-bucket", cache=tmp_path / "cache")


def test_a_wrong_secret_is_told_from_a_missing_object(
    s3_server, raw_remote, proxy, tmp_path, monkeypatch
):
    key, secret = s3_server.check_keys_from_now_on()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        assert_right(open_with(raw_remote, tmp_path), raw_remote[1])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        message = (
            r"corpus\.json may not be read \(1 attempt\): HTTP 403 .*Check the key, the secret"
        )
        with pytest.raises(ShardForbiddenError, match=message):
            open_with(raw_remote, tmp_path)
    finally:
        s3_server.check_no_keys()


def test_without_any_key_it_is_the_keys_that_are_missing(raw_remote, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ShardForbiddenError, match="NoCredentialsError: Unable to locate cred"):
        open_with(raw_remote, tmp_path)


def test_settings_that_do_not_work_are_not_tried_again(raw_remote, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    message = r"cannot be read with what is installed or set here \(1 attempt\): ProfileNotFound"
    with pytest.raises(ShardError, match=message):
        open_with(raw_remote, tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "found"),
    [
        ("flip", {"after_bytes": 5000}, "bytes are 7[0-9]{3} with checksum .* but its index says"),
        ("truncate", {"after_bytes": 3000}, "bytes are 3000 with checksum .* says 7[0-9]{3} with"),
    ],
)
def test_an_object_that_stays_damaged_is_fetched_again_then_named(
    raw_remote, proxy, tmp_path, kind, settings, found
):
    corpus = open_with(raw_remote, tmp_path)
    for method in ("GET", "HEAD"):
        proxy.add(kind, r"web/shard\.00002", method=method, times=99, **settings)
    message = rf"shard\.00002\.mds is damaged in storage: of 3 attempts 3 brought.*{found}"
    with pytest.raises(ShardCorruptError, match=message):
        all_rows(corpus, "web")
    assert proxy.num_requests(path=r"shard\.00002") == 3
    assert hidden(tmp_path / "cache") == []


def test_an_object_larger_than_its_index_says_is_refused(s3_server, buckets, proxy, tmp_path):
    bucket = new_bucket(s3_server, "large")
    s3_server.upload(buckets["raw"][2], bucket)
    s3_server.client().put_object(Bucket=bucket, Key="web/shard.00000.mds", Body=bytes(1 << 20))
    corpus = open_corpus(f"s3://{bucket}", cache=tmp_path / "cache", **IMPATIENT)
    with pytest.raises(ShardCorruptError, match=r"shard\.00000\.mds is damaged in storage"):
        all_rows(corpus, "web")


def test_storage_that_never_answers_is_given_up_in_time(raw_remote, proxy, tmp_path):
    corpus = open_with(raw_remote, tmp_path, timeout_seconds=1.0, retry_seconds=1.0)
    proxy.add("stall", r"web/shard\.00001", times=99, after_bytes=50)
    message = r"could not be fetched in [2-9] attempts over .* s; .*TimeoutError: .*retry_seconds="
    started = time.monotonic()
    with time_limit(30), pytest.raises(ShardUnreachableError, match=message):
        all_rows(corpus, "web")
    assert time.monotonic() - started < 15.0
    assert hidden(tmp_path / "cache") == []


@pytest.mark.slow
def test_a_server_that_is_away_for_three_seconds_is_waited_for(s3_server, raw_remote, tmp_path):
    corpus = open_with(raw_remote, tmp_path, retry_seconds=15.0)
    s3_server.stop()
    timer = threading.Timer(3.0, s3_server.start)
    timer.start()
    with time_limit(40):
        assert_right(corpus, raw_remote[1])
    timer.join()


def test_a_bad_shard_is_skipped_if_that_is_asked_for(raw_remote, proxy, tmp_path, caplog):
    url, domains = raw_remote
    for method in ("GET", "HEAD"):
        proxy.add("status", r"web/shard\.00001", method=method, times=99, status=404)
    for rank in range(2):  # caches of their own, the same rows
        corpus = open_corpus(url, cache=tmp_path / f"{rank}", on_bad_shard="skip", **IMPATIENT)
        expected = domains["web"].copy()
        expected[7:14] = expected[14:21]
        assert_right(corpus, {"web": expected, "code": domains["code"]})
    assert "skipped shard 1 of domain 'web' (7 rows), of which shard 2 is read" in caplog.text


def test_a_shard_that_nothing_can_stand_for_raises(raw_remote, proxy, tmp_path):
    corpus = open_with(raw_remote, tmp_path, on_bad_shard="skip")
    proxy.add("status", r"code/shard\.00000", method="HEAD", times=99, status=404)
    with pytest.raises(ShardCorruptError, match=r"shard 0 of domain 'code' cannot be skipped: no"):
        all_rows(corpus, "code")
    with pytest.raises(ValueError, match="on_bad_shard is 'drop'; choose 'raise' or 'skip'"):
        open_with(raw_remote, tmp_path, on_bad_shard="drop")


def test_unreachable_storage_is_never_skipped(raw_remote, proxy, tmp_path):
    corpus = open_with(raw_remote, tmp_path, on_bad_shard="skip", retry_seconds=0.5)
    proxy.add("refuse", r"web/shard\.00001", method="HEAD", times=99)
    with pytest.raises(ShardUnreachableError):
        all_rows(corpus, "web")


def test_a_remote_corpus_wants_a_cache(raw_remote):
    with pytest.raises(ShardError, match=r"is remote: name a local folder .*cache='/nvme/mix'"):
        all_rows(open_corpus(raw_remote[0]), "web")
