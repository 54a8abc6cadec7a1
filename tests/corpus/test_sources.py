"""Every file of ../shared/nasty, and the kinds git cannot hold, end as their notes say."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.corpus.file_bytes import described, read_bytes
from mixstream.corpus.files import KINDS, shown
from mixstream.corpus.sources import (
    REASONS,
    BadDocument,
    Document,
    FileKind,
    file_kind,
    list_files,
    read_documents,
)
from mixstream.errors import RecipeError, SourceError

SHARED = Path(__file__).resolve().parents[3] / "shared"
NASTY = SHARED / "nasty"
needs_nasty = pytest.mark.skipif(not NASTY.is_dir(), reason="../shared/nasty is not here")
needs_corpus = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/corpus is not here")

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

BAD = {
    "enc/invalid_utf8.jsonl": {"invalid_utf8": [2]},
    "enc/overlong_and_cesu.jsonl": {"invalid_utf8": [2]},
    "enc/nul_bytes.jsonl": {"broken_json": [2]},
    "enc/nul_block.jsonl": {"broken_json": [4]},
    "json/broken_lines.jsonl": {
        "broken_json": [2, 4, 5, 12, 13],
        "not_an_object": [7, 8, 9, 10],
    },
    "json/truncated_last_line.jsonl": {"broken_json": [4]},
    "json/null_and_wrong_types.jsonl": {"no_text": [2], "text_not_a_string": [3, 4, 5, 6, 7]},
    "json/empty_docs.jsonl": {"empty": [2]},
    "json/deep_nesting.jsonl": {"broken_json": [1]},
    "parquet/text_is_binary.parquet": {"invalid_utf8": [2]},
    "zst/bomb_256mib_line.jsonl.zst": {"too_long": [1]},
}
"""Bad documents by reason, and where they stand."""

REFUSED = {
    "enc/utf16le.jsonl": r"at byte 0 of the file the bytes look like UTF-16 text \(ff fe 7b 00\)",
    "json/pretty_printed.jsonl": r"pretty_printed.jsonl:1: a JSON array or a pretty-printed object",
    "gz/truncated.jsonl.gz": r"cut short: it ends at byte 27,623 in the middle of the gzip member",
    "gz/bitflip.jsonl.gz": r"damaged gzip member at or after byte 32,768",
    "gz/not_gzip.jsonl.gz": r"says gzip, but at byte 0 .* the bytes look like JSON text. Rename",
    "zst/truncated.jsonl.zst": r"cut short: it ends at byte 26,354 in the middle of the zstd frame",
    "parquet/truncated_middle.parquet": r"before byte 73,008, cannot be read .* Fetch or write",
    "parquet/text_is_int.parquet": r"column 'text' is of type int64, no text; .* 'id' \(string\)",
    "parquet/no_text_column.parquet": r"no column called 'text'; it has 'id', 'content'. Name",
    "parquet/jsonl_named.parquet": r"says parquet, but at byte 0 the bytes look like JSON text",
    "fs/no_ending": r"does not know this ending; it reads .jsonl, .* Rename the file",
}
"""Files that raise, and what they say."""

UNUSUAL_COUNTS = {"json/empty_docs.jsonl": 5, "zst/bomb_256mib_line.jsonl.zst": 0}
"""Good documents where our stated policy gives another count than index.json's own reader."""

LEFT_OUT = {"fs/.hidden.jsonl", "fs/part-00000.jsonl.tmp", "fs/_SUCCESS"}


def nasty_files():
    index = NASTY / "index.json"
    return json.loads(index.read_text()) if index.is_file() else []


def split(documents):
    good, bad = [], []
    for document in documents:
        (good if isinstance(document, Document) else bad).append(document)
    return good, bad


def jsonl(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def good_texts(path, **options):
    good, bad = split(read_documents(path, **options))
    assert bad == []
    return [document.text for document in good]


@pytest.mark.parametrize("entry", nasty_files(), ids=lambda entry: entry["file"])
def test_every_nasty_file_ends_as_its_note_says(entry):
    name = entry["file"]
    path = NASTY / name
    if name in LEFT_OUT:
        assert path not in list_files(NASTY / "fs")
    elif name in REFUSED:
        with pytest.raises(SourceError, match=REFUSED[name]) as caught:
            list(read_documents(path))
        assert str(path) in str(caught.value)
    else:
        good, bad = split(read_documents(path))
        expected = BAD.get(name, {})
        places = {(reason, at) for reason, lines in expected.items() for at in lines}
        separator = " record " if path.suffix == ".parquet" else ":"
        assert {(b.reason, b.source) for b in bad} == {
            (reason, f"{path}{separator}{at}") for reason, at in places
        }
        assert len(bad) == len(places)
        assert len(good) == UNUSUAL_COUNTS.get(name, entry["good_docs"])


@needs_nasty
@pytest.mark.parametrize("name", sorted(BAD))
def test_raise_stops_at_the_first_bad_document_and_names_its_place(name):
    first = min(min(lines) for lines in BAD[name].values())
    with pytest.raises(SourceError, match=rf"(:| record ){first}: \w+: .*Mend the document"):
        list(read_documents(NASTY / name, on_bad_document="raise"))


@needs_nasty
def test_texts_of_nasty_files_are_kept_to_the_byte():
    text = (NASTY / "enc/crlf_inside_text.txt").read_bytes()
    assert good_texts(NASTY / "enc/crlf_inside_text.txt") == [text.decode()]
    assert "\0" in split(read_documents(NASTY / "enc/nul_bytes.jsonl"))[0][1].text
    lines = (NASTY / "enc/noncharacters_controls.jsonl").read_text().splitlines()
    assert good_texts(NASTY / "enc/noncharacters_controls.jsonl") == [json.loads(lines[0])["text"]]
    assert [
        document.text for document in split(read_documents(NASTY / "json/empty_docs.jsonl"))[0][1:4]
    ] == [" ", "\n\n", "\u200b"]


@needs_corpus
def test_all_texts_of_the_shared_corpus_have_the_checksums_of_its_licence_page():
    listed = {
        words[0]: (int(words[1]), words[5])
        for words in map(str.split, (SHARED / "corpus/LICENSES.md").read_text().splitlines())
        if len(words) == 6 and words[2] == "docs"
    }
    assert len(listed) == 12
    for domain, (num_documents, checksum) in listed.items():
        digest = hashlib.sha256()
        texts = [
            text
            for path in list_files(SHARED / "corpus" / domain)
            for text in good_texts(path, on_bad_document="raise")
        ]
        for text in texts:
            digest.update(text.encode() + b"\0")
        assert (len(texts), digest.hexdigest()) == (num_documents, checksum), domain


# --- folders


def test_files_come_sorted_by_the_bytes_of_their_relative_path(tmp_path):
    names = ["b.txt", "a/z.txt", "a.txt", "é.txt", "Z.txt", "x.jsonl/in.txt", "a b.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    listed = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert listed == sorted(names, key=os.fsencode)


def test_hidden_marker_and_unfinished_names_are_left_out(tmp_path):
    for name in [".h.txt", ".git/x.txt", "_SUCCESS", "_temporary/x.txt", "x.TMP", "y.tmp/x.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_files(tmp_path) == []


def test_links_to_files_are_read_and_links_to_folders_are_not_followed(tmp_path):
    domain = tmp_path / "domain"
    (domain / "sub").mkdir(parents=True)
    real = jsonl(tmp_path / "real.jsonl", "hello")
    (domain / "link.jsonl").symlink_to(real)
    (domain / "sub" / "up").symlink_to(domain)
    assert list_files(domain) == [domain / "link.jsonl"]
    assert good_texts(domain / "link.jsonl") == ["hello"]
    (tmp_path / "other").symlink_to(domain)
    assert list_files(tmp_path / "other") == [tmp_path / "other" / "link.jsonl"]


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"gone.txt: a link that leads nowhere .* Mend it or"):
        list_files(tmp_path)
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "round.txt").symlink_to(tmp_path / "round.txt")
    with pytest.raises(SourceError, match=r"round.txt: a link that leads nowhere \(Too many"):
        list_files(tmp_path)


def test_a_fifo_and_a_socket_are_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    message = r"pipe.txt: not a file but a fifo, socket, device or folder"
    with pytest.raises(SourceError, match=message):
        list_files(tmp_path)
    with pytest.raises(SourceError, match=message):
        list(read_documents(tmp_path / "pipe.txt"))
    os.remove(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket is at most 108 bytes
        try:
            server.bind("s.txt")
        finally:
            os.chdir(here)
        with pytest.raises(SourceError, match=r"s.txt: not a file but a fifo"):
            list_files(tmp_path)


def test_missing_and_unreadable_places_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: cannot list this folder \(No such file"):
        list_files(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no.jsonl: cannot be read \(No such file"):
        list(read_documents(tmp_path / "no.jsonl"))
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(SourceError, match=r"d.jsonl: not a file but"):
        list(read_documents(tmp_path / "d.jsonl"))
    if os.geteuid() != 0:  # root may read everything
        jsonl(tmp_path / "locked.jsonl", "x").chmod(0)
        with pytest.raises(SourceError, match=r"locked.jsonl: cannot be read \(Permission denied"):
            list(read_documents(tmp_path / "locked.jsonl"))


@pytest.mark.parametrize(
    "name", [b"a\nb.jsonl", b"\xff\xfe.jsonl", b"x" * 240 + b".jsonl", "ü:?%20 '.jsonl".encode()]
)
def test_odd_names_are_read_and_shown_in_one_printable_line(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    jsonl(path, "hello", "")
    good, bad = split(read_documents(list_files(tmp_path)[0]))
    assert [document.text for document in good] == ["hello"]
    assert bad[0].source.isprintable()
    assert bad[0].source == f"{shown(path)}:2"
    pq.write_table(pa.table({"text": ["hello"]}), tmp_path / "t")
    (tmp_path / "t").rename(path.with_suffix(".parquet"))
    assert good_texts(path.with_suffix(".parquet")) == ["hello"]


def test_the_ending_tells_the_kind_in_upper_case_too():
    assert file_kind(Path("a.JSONL.Gz")) == FileKind("jsonl", "gzip")
    assert [file_kind(Path(f"a{ending}")) for ending in KINDS] == list(KINDS.values())
    for name in ["a.json", "a.parquet.gz", "a", "jsonl", "a.jsonl.bz2"]:
        with pytest.raises(SourceError, match=f"{name}: mixstream does not know this ending"):
            file_kind(Path(name))


# --- compressed bytes

PARTS = st.lists(st.binary(max_size=3000) | st.just(bytes(300_000)), max_size=6)


def compressed(parts, ending):
    zstd = zstandard.ZstdCompressor(level=1, write_checksum=True)
    return b"".join(map(gzip.compress if ending == "gz" else zstd.compress, parts))


@settings(max_examples=30)
@given(parts=PARTS, ending=st.sampled_from(["gz", "zst"]))
def test_all_members_and_frames_come_out(tmp_path_factory, parts, ending):
    path = tmp_path_factory.mktemp("c") / "x"
    path.write_bytes(compressed(parts, ending))
    compression = {"gz": "gzip", "zst": "zstd"}[ending]
    chunks = list(read_bytes(path, compression))
    assert b"".join(chunks) == b"".join(parts)
    assert all(0 < len(chunk) <= 2**20 for chunk in chunks)


@settings(max_examples=60)
@given(parts=PARTS, ending=st.sampled_from(["gz", "zst"]), data=st.data())
def test_a_cut_or_changed_compressed_file_never_passes_for_a_whole_one(
    tmp_path_factory, parts, ending, data
):
    path = tmp_path_factory.mktemp("c") / "x"
    whole = compressed(parts, ending)
    edges = {len(compressed(parts[:n], ending)) for n in range(len(parts) + 1)}
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    compression = {"gz": "gzip", "zst": "zstd"}[ending]
    if cut in edges:
        list(read_bytes(path, compression))  # a shorter list of whole members: none can tell
    else:
        with pytest.raises(SourceError, match="cut short: it ends at byte"):
            list(read_bytes(path, compression))


def test_zero_bytes_after_a_gzip_member_are_padding_and_other_bytes_are_not(tmp_path):
    path = tmp_path / "x.txt.gz"
    member = gzip.compress(b"hello")
    path.write_bytes(member + bytes(40_000) + member)
    assert good_texts(path) == ["hellohello"]
    path.write_bytes(member + b"rubbish")
    where = rf"at byte {len(member)} stands no gzip member; the bytes look like text. Fetch"
    with pytest.raises(SourceError, match=where):
        list(read_documents(path))


@pytest.mark.parametrize("name", [f"x{ending}" for ending in KINDS])
def test_a_file_of_no_bytes_holds_no_documents(tmp_path, name):
    (tmp_path / name).touch()
    assert list(read_documents(tmp_path / name)) == []


def test_a_text_file_that_opens_to_nothing_holds_no_documents(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b""))
    assert list(read_documents(tmp_path / "x.txt.gz")) == []


# --- jsonl


@settings(max_examples=50)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=20),
    ascii_only=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    ending=st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]),
)
def test_texts_come_back_as_they_were_written(tmp_path_factory, texts, ascii_only, end, ending):
    path = tmp_path_factory.mktemp("j") / f"x{ending}"
    lines = [json.dumps({"text": text}, ensure_ascii=ascii_only) + end for text in texts]
    raw = "".join(lines).encode()
    wrap = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(wrap(raw))
    assert good_texts(path) == texts


def test_python_reads_what_orjson_does_not(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"n": NaN, "text": "nan"}\n'
        '{"half": "\\ud800", "text": "half elsewhere"}\n'
        '{"text": "a \\ud83d"}\n'
        f'{{"n": {"9" * 5000}, "x": NaN, "text": "long number"}}\n'
        f'{{"x": NaN, "text": {"9" * 5000}}}\n'
    )
    good, bad = split(read_documents(path))
    assert [document.text for document in good] == ["nan", "half elsewhere", "long number"]
    assert [(document.reason, document.detail) for document in bad] == [
        ("lone_surrogate", r"\ud83d at character 2"),
        ("text_not_a_string", "'text' is a number"),
    ]


def test_details_say_what_stands_there(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b'{"text": "\xe9"}\n{"text": "a"\n[1]\n{"id": 1}\n{"text": null}\n{"text": {}}\n"a"\ntrue\n'
    )
    assert [document.detail for document in split(read_documents(path))[1]] == [
        "byte 10 of it is e9 (invalid continuation byte)",
        "Expecting ',' delimiter at character 12 of 12",
        "an array, no object",
        "key 'text' is not among 'id'",
        "key 'text' is null",
        "'text' is an object",
        "a string, no object",
        "true or false, no object",
    ]


def test_a_byte_order_mark_before_the_first_line_is_skipped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert good_texts(path) == ["a"]
    path.write_bytes(b"\xef\xbb\xbf")
    assert list(read_documents(path)) == []


def test_lines_end_at_newline_alone(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c"}\n \r\n{"text":\r"d"}', newline="")
    assert [(one.text, one.source) for one in split(read_documents(path))[0]] == [
        ("a\u2028b\u0085c", f"{path}:1"),
        ("d", f"{path}:3"),
    ]


@pytest.mark.parametrize("text", ["[", "{", "\n\n [\n", "{\n", '[{"text": "a"}]', '[\n  {"t'])
def test_one_json_value_over_many_lines_is_refused(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    line = 3 if text.startswith("\n") else 1
    with pytest.raises(SourceError, match=rf"x.jsonl:{line}: a JSON array or .* jq -c"):
        list(read_documents(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("head", "looks"),
    [
        (gzip.compress(b"x", mtime=0), "gzip"),
        (zstandard.compress(b"x"), "zstd"),
        ('{"text": "a"}\n'.encode("utf-16-be"), "UTF-16 text"),
        ('{"text": "a"}\n'.encode("utf-32"), "UTF-32 text"),
        (b"PAR1....", "Parquet"),
        (b"PK\x03\x04....", "a zip archive"),
    ],
)
def test_files_of_another_kind_under_the_name_jsonl_are_refused(tmp_path, head, looks):
    (tmp_path / "x.jsonl").write_bytes(head)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(head))
    with pytest.raises(SourceError, match=rf"at byte 0 of the file the bytes look like {looks}"):
        list(read_documents(tmp_path / "x.jsonl"))
    with pytest.raises(SourceError, match=rf"of the decompressed file the bytes look like {looks}"):
        list(read_documents(tmp_path / "x.jsonl.gz"))


def test_bytes_are_described_in_words():
    assert described(b"\x50\x2a\x4d\x18\0\0\0\0") == "zstd"
    assert described(bytes(9)) == "zero bytes"
    assert described(b"\x7fELF\x02\x01\x01\x00") == "binary data (7f 45 4c 46 02 01 01 00)"
    assert described(b"  [1]") == "JSON text"
    assert described(b"Ein Wort") == "text"


def test_lines_longer_than_the_limit_are_counted_and_the_next_is_read(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", "a" * 100, "b" * 3_000_000, "c")
    good, bad = split(read_documents(path, max_document_bytes=1000))
    assert [len(document.text) for document in good] == [100, 1]
    assert bad == [BadDocument("too_long", f"{path}:2", "3,000,012 bytes; the limit is 1,000")]
    exact = len(path.read_bytes().splitlines()[0])
    assert len(split(read_documents(path, max_document_bytes=exact))[0]) == 2
    assert len(split(read_documents(path, max_document_bytes=exact - 1))[0]) == 1


PEAK = """
import sys
from pathlib import Path
from mixstream.corpus.sources import read_documents
import zstandard

def peak_kib():  # not getrusage: its ru_maxrss begins at what the parent process held
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak_kib()
found = [getattr(one, "reason", "good") for one in
         read_documents(Path(sys.argv[1]), max_document_bytes=int(sys.argv[2]))]
print(found, (peak_kib() - before) // 1024)
"""


def peak_mib(path, max_document_bytes):
    """What reading gives, and MiB of memory it takes at most above the bare imports."""
    command = [sys.executable, "-c", PEAK, str(path), str(max_document_bytes)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found, peak = output.rsplit(" ", 1)
    return found, int(peak)


@needs_nasty
@needs_linux
def test_a_zstd_bomb_opens_in_bounded_memory():
    path = NASTY / "zst/bomb_256mib_line.jsonl.zst"
    found, peak = peak_mib(path, 2**20)
    assert found == "['too_long']"
    assert peak < 150  # 107 measured
    found, peak = peak_mib(path, 128 * 2**20)
    assert found == "['too_long']"
    assert peak < 300  # 200 measured, of which 128 are the line until it is too long


@needs_linux
def test_bombs_of_empty_lines_and_huge_holes_open_in_bounded_memory(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\n" * 2**24))
    found, peak = peak_mib(tmp_path / "x.jsonl.gz", 2**20)
    assert (found, peak < 100) == ("[]", True)
    with (tmp_path / "hole.jsonl").open("wb") as stream:
        stream.write(b'{"text": "a"}\n')
        stream.truncate(2**29)
    found, peak = peak_mib(tmp_path / "hole.jsonl", 2**20)
    assert (found, peak < 50) == ("['good', 'too_long']", True)


# --- txt


def test_a_text_file_is_one_document_and_keeps_its_byte_order_mark(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    assert list(read_documents(path)) == [Document("\ufeffa\r\nb\rc", str(path))]
    path.write_bytes(b"a\xff")
    bad = BadDocument("invalid_utf8", str(path), "byte 1 of it is ff (invalid start byte)")
    assert list(read_documents(path)) == [bad]
    path.write_bytes("a".encode("utf-16"))
    with pytest.raises(SourceError, match=r"says txt in UTF-8, but .* look like UTF-16"):
        list(read_documents(path))


def test_a_text_file_that_is_too_long_is_counted_and_its_damage_still_found(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(bytes(10**6)))
    (bad,) = read_documents(path, max_document_bytes=10**6 - 1)
    assert bad == BadDocument("too_long", str(path), "1,000,000 bytes; the limit is 999,999")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match="cut short"):
        list(read_documents(path, max_document_bytes=9))


# --- parquet


def write_parquet(path, column, **options):
    pq.write_table(pa.table({"text": column}), path, **options)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_every_kind_of_text_column_is_read_and_null_is_counted(tmp_path, kind):
    values = ["a", None, "", "ü" * 5]
    if "binary" in str(kind):
        values = [None if value is None else value.encode() for value in values]
    path = write_parquet(tmp_path / "x.parquet", pa.array(values, kind))
    assert list(read_documents(path, max_document_bytes=9)) == [
        Document("a", f"{path} record 1"),
        BadDocument("no_text", f"{path} record 2", "column 'text' is null"),
        BadDocument("empty", f"{path} record 3", "'text' is an empty string"),
        BadDocument("too_long", f"{path} record 4", "10 bytes; the limit is 9"),
    ]


def test_a_parquet_column_of_nulls_is_all_counted(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", pa.nulls(3))
    assert Counter(one.reason for one in read_documents(path)) == {"no_text": 3}


def test_a_bit_flip_in_a_parquet_page_with_a_checksum_is_found(tmp_path):
    texts = [f"text number {number}" for number in range(5000)]
    path = write_parquet(
        tmp_path / "x.parquet", texts, write_page_checksum=True, compression="none"
    )
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"text number 4000")] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"x.parquet: damaged parquet after record [\d,]+, the"):
        list(read_documents(path))


def test_two_columns_of_the_asked_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="two columns called 'text'"):
        list(read_documents(tmp_path / "x.parquet"))


# --- settings


def test_unknown_settings_and_endings_are_refused_before_the_first_document(tmp_path):
    with pytest.raises(RecipeError, match="on_bad_document is 'ignore'; give 'skip' or 'raise'"):
        read_documents(tmp_path / "x.jsonl", on_bad_document="ignore")
    with pytest.raises(SourceError, match="does not know this ending"):
        read_documents(tmp_path / "x.csv")


def test_another_field_can_hold_the_text_and_every_reason_is_listed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "a", "text": 1}\n')
    assert good_texts(path, text_field="body") == ["a"]
    assert {"text_not_a_string"} == {one.reason for one in read_documents(path)} <= set(REASONS)
    assert {reason for by_reason in BAD.values() for reason in by_reason} <= set(REASONS)
