"""Raw files behind a real S3 API and a proxy that spoils requests: the bytes of local ones, or an
error that says why there are none."""

import glob
import os
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.cli.command import main
from mixstream.corpus import remote_file
from mixstream.corpus.convert import convert
from mixstream.corpus.corpus import open_corpus
from mixstream.corpus.domain_files import domain_files
from mixstream.corpus.remote import RemotePath
from mixstream.corpus.remote_file import RemoteFile
from mixstream.corpus.remote_listing import _fits, matching_files
from mixstream.corpus.storage import StorageSettings
from mixstream.errors import RecipeError, SourceError
from tests.corpus.conftest import make_blocks_small, make_raw, time_limit, tree, write_texts
from tests.servers.faults import FaultProxy

SETTINGS = {"tokenizer": "bytes", "seq_len": 16, "shard_bytes": 4096, "unit_bytes": 4000}
IMPATIENT = StorageSettings(timeout_seconds=1.5, retry_seconds=2.0, first_wait_seconds=0.05)
numbers = count()


@pytest.fixture
def tmp_path(memory_path):
    return memory_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    make_blocks_small(monkeypatch, IMPATIENT)


@pytest.fixture
def proxy(s3_server, s3_keys, monkeypatch):
    with FaultProxy(s3_server.address) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def raw(tmp_path):
    """Local files, of every kind; one of them large enough to be cut into parts."""
    made = make_raw(tmp_path / "raw", domains=2, documents=20)
    for name in ("_SUCCESS", ".hidden.jsonl", "x.jsonl.tmp", "_temporary/a.jsonl"):
        write_texts(made / "domain0" / "a.jsonl", ["never"]).rename(
            _beside(made / "domain0" / name)
        )
    return made


def _beside(path):
    path.parent.mkdir(exist_ok=True)
    return path


@pytest.fixture
def bucket(raw, s3_server, proxy):
    """The same files in a bucket, below a prefix."""
    name = s3_server.make_bucket(f"input-{next(numbers)}")
    s3_server.upload(raw, name, "some/raw/")
    s3_server.client().put_object(Bucket=name, Key="some/raw/domain1/", Body=b"")  # as consoles do
    return name


def without_times(files):
    """A corpus but for inputs.json, which holds when each input was changed."""
    return {name: content for name, content in files.items() if name != "inputs.json"}


@pytest.fixture
def local(raw, tmp_path):
    convert(raw, tmp_path / "local", **SETTINGS, provenance=True)
    return without_times(tree(tmp_path / "local"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_gives_the_bytes_that_the_same_files_give_here(
    bucket, local, tmp_path, workers, proxy
):
    convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True,
            workers=workers)  # fmt: skip
    assert without_times(tree(tmp_path / "out")) == local
    assert proxy.num_requests("GET", "never|hidden|SUCCESS|tmp") == 0


def test_large_jsonl_is_read_in_parts_and_each_part_asks_for_its_own_bytes(
    s3_server, proxy, tmp_path, monkeypatch
):
    monkeypatch.setattr("mixstream.corpus.plan.MIN_PART_BYTES", 1000)
    name = s3_server.make_bucket(f"input-{next(numbers)}")
    write_texts(tmp_path / "raw" / "web" / "a.jsonl", [f"{n} äö {'x' * n}" for n in range(150)])
    s3_server.upload(tmp_path / "raw", name)
    convert(tmp_path / "raw", tmp_path / "local", **SETTINGS)
    report = convert(f"s3://{name}", tmp_path / "out", **SETTINGS)
    assert report.domains["web"].documents == 150
    assert without_times(tree(tmp_path / "out")) == without_times(tree(tmp_path / "local"))
    size = (tmp_path / "raw" / "web" / "a.jsonl").stat().st_size
    sent = sum(r.num_bytes for r in proxy.requests if r.path.startswith(f"/{name}/web/a"))
    assert size < sent < 3.5 * size, "each of several parts reads the whole file"


PATTERNS = {
    "a*/*.jsonl": ["one.jsonl"],
    "**/*.jsonl": ["a1/deep/er.jsonl", "a1/one.jsonl", "b/two.jsonl", "top.jsonl"],
    "b": ["two.jsonl", "x.txt"],
    "**": ["a1/deep/er.jsonl", "a1/one.jsonl", "b/two.jsonl", "b/x.txt", "top.jsonl"],
    "a1/[a-o]*.jsonl": ["one.jsonl"],
    "_marked/*.jsonl": ["m.jsonl"],
    "?/*.txt": ["x.txt"],
    "b/two.jsonl": ["two.jsonl"],
    "a1/**/*.jsonl": ["deep/er.jsonl", "one.jsonl"],
}


def test_patterns_match_what_they_match_in_a_folder(s3_server, proxy, tmp_path):
    names = ("top.jsonl", "a1/one.jsonl", "a1/deep/er.jsonl", "b/two.jsonl", "b/x.txt",
             "_marked/m.jsonl", ".h/n.jsonl", "b/.o.jsonl", "b/p.jsonl.tmp")  # fmt: skip
    for name in names:
        write_texts(tmp_path / "raw" / name.replace(".tmp", ""), ["a text"])
        if name.endswith(".tmp"):
            (tmp_path / "raw" / name[:-4]).rename(tmp_path / "raw" / name)
    bucket = s3_server.make_bucket(f"input-{next(numbers)}")
    s3_server.upload(tmp_path / "raw", bucket, "deep/in/")
    for pattern, expected in PATTERNS.items():
        here = domain_files(tmp_path / "raw", {"d": pattern}, leave_out=tmp_path / "out")
        url = f"s3://{bucket}/deep/in"
        there = domain_files(RemotePath(url), {"d": pattern}, leave_out=tmp_path / "out")
        absolute = domain_files(None, {"d": [f"{url}/{pattern}"]}, leave_out=tmp_path / "out")
        names = [name for name, _ in here["d"]]
        assert [name for name, _ in there["d"]] == names == expected
        assert absolute == there
        assert [file.stat().st_size for _, file in there["d"]] == [
            path.stat().st_size for _, path in here["d"]
        ]


part = st.sampled_from(["a", "b", "ab", ".a", "_a", "x.jsonl", "y.jsonl"])
pattern_part = st.sampled_from(["a", "*", "?", "a*", "[ab]*", "**", ".*", "*.jsonl", "_a"])


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.lists(part, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8),
    pattern=st.lists(pattern_part, min_size=1, max_size=3).map("/".join),
)
def test_a_pattern_fits_what_python_s_glob_finds(names, pattern):
    with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for name in sorted(names, key=len):
            path = Path(folder, name)
            if not any(each.is_file() for each in path.parents) and not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        listed = glob.glob(pattern, root_dir=folder, recursive=True)
        found = {each.rstrip("/") for each in listed if os.path.exists(f"{folder}/{each}")}
        there = [path.relative_to(folder) for path in Path(folder).rglob("*")]
        asked = pattern.split("/")
        fitting = {
            str(path)
            for path in there
            if _fits(path.parts, asked, is_folder=Path(folder, path).is_dir())
        }
        assert fitting == found - {""}


def test_domains_may_be_here_and_there_but_each_in_one_place(bucket, raw, tmp_path):
    here, there = str(raw / "domain0" / "*.parquet"), f"s3://{bucket}/some/raw/domain1/*.jsonl"
    report = convert(None, tmp_path / "out", domains={"a": here, "b": there}, **SETTINGS)
    assert (report.domains["a"].documents, report.domains["b"].documents) == (20, 19)
    with pytest.raises(RecipeError, match="of domain 'a' are partly here and partly in remote"):
        convert(None, tmp_path / "x", domains={"a": [here, there]}, **SETTINGS)
    two = [RemotePath("s3://one/a"), RemotePath("s3://two/a")]
    with pytest.raises(RecipeError, match=r"'b' are of 2 places \(s3://one, s3://two\); name"):
        matching_files("b", two, None)


def test_a_corpus_within_the_raw_bucket_is_no_input(bucket, tmp_path):
    raw, settings = f"s3://{bucket}/some/raw", {**SETTINGS, "unit_bytes": 10**6}
    for _ in range(2):
        report = convert(raw, f"{raw}/corpus", **settings, work_folder=tmp_path / "w")
        assert list(report.domains) == ["domain0", "domain1"]


FAULTS = {
    "refused connections": ("refuse", {"times": 2}),
    "a connection that is cut": ("reset", {"times": 2, "after_bytes": 30}),
    "some 503s": ("status", {"status": 503, "times": 2}),
    "a stall": ("stall", {"after_bytes": 30}),
    "an answer that ends too early": ("truncate", {"after_bytes": 30}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_time_and_no_byte(bucket, local, tmp_path, proxy, fault):
    kind, settings = FAULTS[fault]
    paths = ("part0.jsonl$", "part2.jsonl.zst$", "part3.parquet$", "list-type")
    if kind == "stall":
        paths = paths[1:2]
    for path in paths if kind != "truncate" else paths[:3]:
        proxy.add(kind, path, **settings)
    with time_limit(60):
        convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True)
    assert all(fault.times < settings.get("times", 1) for fault in proxy.faults)
    assert without_times(tree(tmp_path / "out")) == local


def test_a_bit_that_flips_on_the_way_is_read_again_or_told_and_never_kept(
    bucket, local, tmp_path, proxy, monkeypatch
):
    proxy.add("flip", "part2.jsonl.zst$", after_bytes=40)
    proxy.add("flip", "part0.jsonl$", after_bytes=40)
    with pytest.raises(SourceError, match=r"part[02]\.jsonl.*(two readings gave two|damaged zstd)"):
        convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True)
    monkeypatch.setattr(remote_file, "_FIRST_BYTES", 10**6)  # of one block: mended as it is read
    proxy.faults.clear()
    flips = [proxy.add("flip", f"part{n}.*l", after_bytes=40 + n) for n in range(4)]
    convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True)
    assert without_times(tree(tmp_path / "out")) == local
    assert sum(flip.times for flip in flips) < len(flips)


def test_a_store_whose_digests_are_none_of_the_bytes_is_believed_after_a_second_look(
    bucket, proxy, monkeypatch
):
    monkeypatch.setattr(remote_file, "_WITHOUT_DIGESTS", set())
    ((_, file),) = matching_files("d", [RemotePath(f"s3://{bucket}/**/domain0/*.gz")], None)
    content = file.open().read()
    strange = RemoteFile(file.remote, file.num_bytes, 0, file.version, "md5:" + 32 * "0")
    proxy.requests.clear()
    assert strange.open().read() == content
    first = proxy.num_requests("GET", "gz")
    assert strange.open().read() == content
    assert proxy.num_requests("GET", "gz") == first * 3 // 2, "it was asked again, once"


def test_a_store_that_is_away_is_named_and_waited_for_no_longer_than_asked(
    bucket, tmp_path, proxy, local, caplog
):
    proxy.add("status", "part2.jsonl.zst$", times=10**6)
    message = r"part2\.jsonl\.zst: cannot be read \(unreachable; \d+ attempts over .*503.*finished"
    with time_limit(60), pytest.raises(SourceError, match=message):
        convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True)
    assert "attempt 1 failed (HTTP 503" in caplog.text
    proxy.faults.clear()
    convert(f"s3://{bucket}/some/raw", tmp_path / "out", **SETTINGS, provenance=True)
    assert without_times(tree(tmp_path / "out")) == local


def test_an_object_that_changes_in_the_middle_is_told(bucket, s3_server, proxy):
    ((_, file),) = matching_files("d", [RemotePath(f"s3://{bucket}/some/raw/domain0/*.gz")], None)
    stream = file.open(buffering=100)
    stream.read(300)
    key = "some/raw/domain0/part1.jsonl.gz"
    s3_server.client().put_object(Bucket=bucket, Key=key, Body=b"x" * file.num_bytes)
    with pytest.raises(SourceError, match=r"part1.* no more what it was when this conversion li"):
        file.open().read()
    s3_server.client().delete_object(Bucket=bucket, Key=key)
    with pytest.raises(SourceError, match=r"part1.*cannot be read \(missing; 1 attempt .* back"):
        file.open().read()


def test_streams_seek_and_read_as_files_do(bucket, raw):
    ((_, file),) = matching_files(
        "d", [RemotePath(f"s3://{bucket}/some/raw/domain0/*.jsonl")], None
    )
    content = (raw / "domain0" / "part0.jsonl").read_bytes()
    stream = file.open(buffering=50)
    for place in (0, 63, 64, 65, 1563, 1564, 1565, len(content) - 1, len(content), 5):
        stream.seek(place)
        assert stream.read(99) == content[place : place + 99]
    stream.seek(-7, 2)
    assert (stream.read(), stream.read(1)) == (content[-7:], b"")


def test_what_cannot_be_listed_is_named(proxy, tmp_path, s3_server, bucket):
    def refused(message, raw=None, error=RecipeError, **more):
        with pytest.raises(error, match=message):
            convert(raw, tmp_path / "out", **SETTINGS, **more)

    refused(r"s3://no-such/x: cannot be listed \(missing; 1 a.*Name a bucket", "s3://no-such/x",
            error=SourceError)  # fmt: skip
    refused(r"s3://.*/nothing has no sub-folders; put each", f"s3://{bucket}/nothing")
    refused(r"domain0/part0\.jsonl lies beside the domains'", f"s3://{bucket}/some/raw/domain0")
    refused(r"pattern 's3://.*/none/\*' of domain 'd' matches nothing", domains={"d":
            f"s3://{bucket}/none/*"})  # fmt: skip
    refused(r"oci://b/x cannot be listed; .* and from s3://, gs://, sftp://, hf://", "oci://b/x")
    refused(r"has a scheme that cannot be read", "ftp://b/x")
    s3_server.client().put_object(Bucket=bucket, Key="some/raw/stray.jsonl", Body=b"{}")
    refused(r"stray\.jsonl lies beside the domains' folders", f"s3://{bucket}/some/raw")
    s3_server.client().delete_object(Bucket=bucket, Key="some/raw/stray.jsonl")
    s3_server.client().put_object(Bucket=bucket, Key="some/raw/domain0/a.csv", Body=b"{}")
    refused(r"a\.csv: mixstream does not know this end", f"s3://{bucket}/some/raw",
            error=SourceError)  # fmt: skip


def test_a_changed_object_of_a_finished_corpus_is_told_by_its_etag(bucket, s3_server, tmp_path):
    raw, out = f"s3://{bucket}/some/raw", tmp_path / "out"
    convert(raw, out, **SETTINGS)
    key = "some/raw/domain0/part0.jsonl"
    client = s3_server.client()
    content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    time.sleep(1.1)  # times of S3 are of whole seconds
    client.put_object(Bucket=bucket, Key=key, Body=content)
    convert(raw, out, on_progress=pytest.fail, **SETTINGS)  # put again, and the same
    client.put_object(Bucket=bucket, Key=key, Body=content.replace(b"0/0/0", b"9/9/9"))
    for check in ("time", "content"):
        with pytest.raises(RecipeError, match=r"domain0/part0.jsonl has another content"):
            convert(raw, out, check=check, **SETTINGS)
    convert(raw, out, check="size", on_progress=pytest.fail, **SETTINGS)


def test_file_urls_are_folders(raw, tmp_path, local):
    convert(f"file://{raw}", f"file://{tmp_path}/out", **SETTINGS, provenance=True)
    assert without_times(tree(tmp_path / "out")) == local
    one = {"a": f"file://{raw}/domain0/*.parquet"}
    report = convert(None, tmp_path / "one", domains=one, **SETTINGS)
    assert report.domains["a"].documents == 20


def test_a_recipe_file_names_urls_as_they_are(bucket, tmp_path):
    (tmp_path / "r.toml").write_text(
        f'tokenizer = "bytes"\nseq_len = 16\n[domains]\na = "s3://{bucket}/some/raw/domain0/*.gz"\n'
    )
    assert main(["convert", str(tmp_path / "out"), f"--recipe={tmp_path}/r.toml", "--quiet"]) == 0
    (tmp_path / "s.toml").write_text(
        f'raw = "s3://{bucket}/some"\n'
        'tokenizer = "bytes"\nseq_len = 16\n[domains]\na = "raw/*0/*.parquet"\n'
    )
    assert main(["convert", str(tmp_path / "b"), f"--recipe={tmp_path}/s.toml", "--quiet"]) == 0

    made = [open_corpus(tmp_path / name).manifest for name in ("out", "b")]
    assert [manifest.domains["a"].documents for manifest in made] == [20, 20]
