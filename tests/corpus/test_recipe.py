"""Which files make which domain, and which settings are refused."""

import os
import re
import socket
from pathlib import Path

import pytest

from mixstream.corpus.recipe import Recipe, RowSettings, domain_files, read_recipe
from mixstream.corpus.tokenizers import ByteTokenizer
from mixstream.errors import RecipeError, SourceError
from tests.corpus.conftest import make_raw, write_texts


class WideTokenizer(ByteTokenizer):
    name = "wide"
    vocab_size = 2**16 + 1


def rows(**settings):
    return RowSettings(**({"tokenizer": ByteTokenizer(), "seq_len": 8} | settings))


def found(raw, patterns=None, *, out="nowhere"):
    files = domain_files(raw, patterns, leave_out=(raw or Path()) / out)
    return {name: [each for each, _ in listed] for name, listed in files.items()}


# --- settings of rows


@pytest.mark.parametrize("name", ["seq_len", "shard_bytes", "max_document_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused(name, value):
    with pytest.raises(RecipeError, match=rf"{name} is {value}; give at least 1"):
        rows(**{name: value})


@pytest.mark.parametrize("value", [0, -7])
def test_a_unit_of_no_bytes_is_refused(value):
    with pytest.raises(RecipeError, match=rf"unit_bytes is {value}; give at least 1"):
        Recipe(rows=rows(), files={}, unit_bytes=value)


@pytest.mark.parametrize("name", ["seq_len", "shard_bytes", "max_document_bytes"])
@pytest.mark.parametrize("value", ["512", 512.0, True, None])
def test_a_size_that_is_no_whole_number_is_refused_by_name(name, value):
    with pytest.raises(RecipeError, match=rf"{name} is {value!r}.*whole number"):
        rows(**{name: value})


def test_a_shard_beyond_its_offsets_is_refused():
    with pytest.raises(RecipeError, match=r"shard_bytes 4294967296 .* offsets in a shard end at"):
        rows(shard_bytes=2**32)


def test_a_shard_whose_row_offsets_alone_would_fill_it_is_refused_before_any_work():
    rows(seq_len=2048, shard_bytes=4 * 10**9)
    with pytest.raises(RecipeError, match=r"shard_bytes 4000000000 and seq_len 1 make .*smaller"):
        rows(seq_len=1, shard_bytes=4 * 10**9)


def test_a_row_longer_than_any_shard_is_refused_before_any_work():
    with pytest.raises(RecipeError, match=r"seq_len 3000000000 make .*smaller"):
        rows(seq_len=3 * 10**9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": "tight"}, "packing is 'tight'; mixstream has 'concat', 'best_fit', 'pad'"),
        ({"compression": "gzip"}, "compression is 'gzip'; take 'zstd', or none at all"),
        ({"on_bad_document": "fix"}, "on_bad_document is 'fix'; take 'skip' or 'raise'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        rows(**settings)


def test_a_tokenizer_whose_end_id_lies_beyond_its_vocabulary_is_refused():
    class Liar(ByteTokenizer):
        name = "liar"
        vocab_size = 256

    with pytest.raises(RecipeError, match="'liar' states end_id 256, but a vocabulary of 256"):
        rows(tokenizer=Liar())


@pytest.mark.parametrize(
    ("size", "dtype"), [(257, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")]
)
def test_ids_take_two_bytes_as_long_as_the_vocabulary_fits(size, dtype):
    tokenizer = type("Sized", (ByteTokenizer,), {"vocab_size": size})()
    assert rows(tokenizer=tokenizer).dtype == dtype


def test_rows_of_a_shard_follow_its_bytes_and_are_never_none():
    assert rows(seq_len=8, shard_bytes=1).rows_per_shard == 1
    assert rows(seq_len=8, shard_bytes=47).rows_per_shard == 2
    assert rows(seq_len=8, shard_bytes=48).rows_per_shard == 3
    assert rows(seq_len=8, shard_bytes=64, tokenizer=WideTokenizer()).rows_per_shard == 2


def test_settings_that_differ_are_described_differently():
    plain = rows().described()
    for change in (
        {"seq_len": 9},
        {"packing": "best_fit"},
        {"text_field": "body"},
        {"compression": "zstd"},
        {"shard_bytes": 7},
        {"max_document_bytes": 7},
        {"on_bad_document": "raise"},
        {"tokenizer": WideTokenizer()},
    ):
        assert rows(**change).described() != plain, change
    assert rows().described() == plain


# --- folders


def test_every_sub_folder_is_a_domain_in_order_of_the_bytes_of_its_name(tmp_path):
    for name in ("web", "Code", "ärger", "a b", "中文"):
        write_texts(tmp_path / name / "x" / "b.jsonl", ["b"])
        write_texts(tmp_path / name / "a.jsonl", ["a"])
    assert list(found(tmp_path)) == ["Code", "a b", "web", "ärger", "中文"]
    assert found(tmp_path)["web"] == ["a.jsonl", "x/b.jsonl"]


def test_hidden_and_marker_folders_are_no_domains(tmp_path):
    make_raw(tmp_path, domains=1)
    for name in (".git", "_temporary"):
        write_texts(tmp_path / name / "a.jsonl", ["no"])
    assert list(found(tmp_path)) == ["domain0"]


def test_a_linked_folder_is_a_domain(tmp_path):
    make_raw(tmp_path / "elsewhere", domains=1, files=1)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "web").symlink_to(tmp_path / "elsewhere" / "domain0")
    assert found(tmp_path / "raw") == {"web": ["part0.jsonl"]}


def test_files_that_are_no_text_may_lie_beside_the_folders(tmp_path):
    make_raw(tmp_path, domains=1)
    for name in ("README.md", "LICENSE", ".hidden.jsonl", "_SUCCESS", "cut.jsonl.tmp"):
        (tmp_path / name).write_text("x")
    assert list(found(tmp_path)) == ["domain0"]


@pytest.mark.parametrize("name", ["more.jsonl", "more.jsonl.gz", "MORE.PARQUET", "book.txt"])
def test_documents_beside_the_folders_are_not_lost_in_silence(tmp_path, name):
    make_raw(tmp_path, domains=1)
    (tmp_path / name).write_text("x")
    with pytest.raises(RecipeError, match=rf"{name} lies beside the domains' folders.*--domain"):
        found(tmp_path)


def test_a_folder_without_sub_folders_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="has no sub-folders; put each domain's files into one"):
        found(tmp_path)
    write_texts(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(RecipeError, match="has no sub-folders"):
        found(tmp_path)


def test_a_domain_without_files_is_refused_and_named(tmp_path):
    make_raw(tmp_path, domains=1)
    (tmp_path / "bare" / "deep").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"domain 'bare' has no files \(hidden, \*.tmp and _\*"):
        found(tmp_path)


def test_a_missing_raw_folder_and_a_file_in_its_place_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"nope is no folder; give one with a sub-folder"):
        found(tmp_path / "nope")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match=r"file is no folder; give one with a sub-folder"):
        found(tmp_path / "file")


def test_neither_folder_nor_patterns_is_refused():
    for patterns in (None, {}):
        with pytest.raises(RecipeError, match=r"nothing to convert.*--domain name=glob"):
            found(None, patterns)


BAD_NAMES = ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b"]
BAD_NAMES += ["a\nb", "a\x1bb", "corpus.json", "a\udcff", "x" * 256, "ä" * 128]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_makes_no_folder_of_a_corpus_is_refused(tmp_path, name):
    write_texts(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(RecipeError, match=f"domain name {re.escape(repr(name))} makes no folder"):
        found(tmp_path, {name: "*.jsonl"})


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb", b"corpus.json", b"a\\b"])
def test_a_folder_whose_name_no_corpus_can_hold_is_refused(tmp_path, name):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    with open(folder + b"/a.txt", "w") as file:
        file.write("a")
    with pytest.raises(RecipeError, match="makes no folder"):
        found(tmp_path)


@pytest.mark.parametrize("name", ["index.json", "shard.00000.mds", "web.mds.zst", "a b", "ü", "_x"])
def test_odd_but_legal_names_pass(tmp_path, name):
    write_texts(tmp_path / "a.jsonl", ["a"])
    assert found(tmp_path, {name: "*.jsonl"}) == {name: ["a.jsonl"]}


def test_files_whose_names_are_not_utf8_are_listed(tmp_path):
    make_raw(tmp_path, domains=1, files=1)
    with open(os.fsencode(tmp_path) + b"/domain0/\xff.txt", "w") as file:
        file.write("a")
    assert found(tmp_path) == {"domain0": ["part0.jsonl", "\udcff.txt"]}


# --- patterns


def test_patterns_start_from_the_folder_and_may_be_many(tmp_path):
    make_raw(tmp_path)
    patterns = {"b": ["domain1/*.gz", "domain0/*.jsonl"], "a": "domain2/part*"}
    assert found(tmp_path, patterns) == {
        "a": ["part0.jsonl", "part1.jsonl.gz", "part2.jsonl.zst", "part3.parquet"],
        "b": ["domain0/part0.jsonl", "domain1/part1.jsonl.gz"],
    }


def test_a_pattern_that_matches_folders_takes_the_files_in_them(tmp_path):
    make_raw(tmp_path, files=1)
    assert found(tmp_path, {"all": "domain*"}) == {
        "all": [f"domain{i}/part0.jsonl" for i in range(3)]
    }


def test_two_stars_go_through_folders_and_take_each_file_once(tmp_path):
    write_texts(tmp_path / "a" / "b" / "c.jsonl", ["c"])
    write_texts(tmp_path / "a" / "d.jsonl", ["d"])
    for pattern in ("**", "**/*", "a/**", "**/*.jsonl", ["a", "a/b", "**/c.jsonl"]):
        assert found(tmp_path, {"x": pattern}) == {"x": ["b/c.jsonl", "d.jsonl"]}, pattern


def test_a_file_named_in_two_ways_is_read_once(tmp_path, monkeypatch):
    write_texts(tmp_path / "raw" / "a.jsonl", ["a"])
    monkeypatch.chdir(tmp_path)
    ways = ["a.jsonl", str(tmp_path / "raw" / "a.jsonl"), "./a.jsonl", "../raw/a.jsonl"]
    assert found(Path("raw"), {"x": ways}) == {"x": ["a.jsonl"]}


def test_two_stars_leave_out_hidden_marker_and_unfinished_files_as_folders_do(tmp_path):
    for name in ("good.jsonl", "_temporary/0/cut.jsonl", ".hid/a.jsonl", "_logs.jsonl"):
        write_texts(tmp_path / name, ["x"])
    (tmp_path / "cut.jsonl.tmp").write_text("{")
    for pattern in ("**", "*", "**/*.jsonl", "**/*.jsonl*"):
        assert found(tmp_path, {"x": pattern}) == {"x": ["good.jsonl"]}, pattern
    assert found(tmp_path, {"x": "_logs.jsonl"}) == {"x": ["_logs.jsonl"]}  # spelled out


def test_absolute_patterns_need_no_folder(tmp_path):
    make_raw(tmp_path, domains=1, files=2)
    assert found(None, {"x": str(tmp_path / "domain0" / "*")}) == {
        "x": ["part0.jsonl", "part1.jsonl.gz"]
    }


def test_names_of_files_do_not_depend_on_where_the_corpus_lies(tmp_path):
    for place in ("here", "there/deep"):
        make_raw(tmp_path / place)
    names = [
        found(None, {"x": str(tmp_path / place / "domain*/*")}) for place in ("here", "there/deep")
    ]
    assert names[0] == names[1]


def test_a_folder_with_glob_characters_in_its_name_is_no_pattern(tmp_path):
    raw = tmp_path / "raw [v1] *"
    write_texts(raw / "a.jsonl", ["a"])
    assert found(raw, {"x": "*.jsonl"}) == {"x": ["a.jsonl"]}


@pytest.mark.parametrize("pattern", ["nothing*", "/nonexistent/*", "domain0/*.txt", ""])
def test_a_pattern_that_matches_nothing_is_refused_and_named(tmp_path, pattern):
    make_raw(tmp_path, domains=1)
    message = re.escape(f"pattern {pattern!r} of domain 'x' matches nothing")
    with pytest.raises(RecipeError, match=message):
        found(tmp_path, {"x": ["domain0/*.jsonl", pattern]})


def test_a_pattern_that_matches_only_what_is_left_out_is_refused(tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "cut.jsonl.tmp").write_text("{")
    for pattern in ("bare", "*.tmp"):
        with pytest.raises(RecipeError, match=r"domain 'x' has no files|matches nothing"):
            found(tmp_path, {"x": pattern})
    with pytest.raises(RecipeError, match="domain 'x' has no files"):
        found(tmp_path, {"x": []})


@pytest.mark.parametrize("patterns", [5, None, True, [1], {"a": "b"}, b"x"])
def test_a_pattern_that_is_no_text_is_refused(tmp_path, patterns):
    with pytest.raises(RecipeError, match=r"domain 'x'.*give a glob pattern or a list of them"):
        found(tmp_path, {"x": patterns})


def test_a_dangling_link_or_a_socket_that_a_pattern_matches_is_an_error(tmp_path):
    from mixstream.corpus.plan import planned_units

    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone")
    files = domain_files(tmp_path, {"x": "dangling*"}, leave_out=tmp_path / "out")
    with pytest.raises(SourceError, match=r"dangling.jsonl.*No such file"):
        planned_units(Recipe(rows=rows(), files=files))


def test_a_fifo_among_the_files_is_an_error_and_no_hang(tmp_path, monkeypatch):
    make_raw(tmp_path, domains=1)
    os.mkfifo(tmp_path / "domain0" / "pipe.jsonl")
    with pytest.raises(SourceError, match=r"pipe.jsonl.*not a file but"):
        found(tmp_path)
    (tmp_path / "domain0" / "pipe.jsonl").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path / "domain0")  # a socket's path must be short
        server.bind("s.jsonl")
        with pytest.raises(SourceError, match=r"s.jsonl.*not a file but"):
            found(tmp_path)


# --- the output within the input


@pytest.mark.parametrize("out", ["out", "domain0/out", "domain0/deep/out"])
def test_the_output_is_never_read_as_input(tmp_path, out):
    make_raw(tmp_path, domains=1, files=1)
    before = found(tmp_path, out=out)
    write_texts(tmp_path / out / "web" / "shard.00000.mds.jsonl", ["ours"])
    (tmp_path / out / "corpus.json").write_text("{}")
    assert found(tmp_path, out=out) == before
    patterns = {"x": ["**"], "y": "domain0/*", "z": "*", "w": "**/*.jsonl"}
    for name, pattern in patterns.items():
        assert found(tmp_path, {name: pattern}, out=out) == {name: ["part0.jsonl"]}, pattern


# --- recipe files


def recipe(tmp_path, text, name="r.toml"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_of_a_recipe_start_from_its_folder(tmp_path):
    text = 'raw = "raw"\ntokenizer = "gpt2.json"\nseq_len = 8\n'
    settings = read_recipe(recipe(tmp_path / "r", text))
    assert settings == {
        "raw": str(tmp_path / "r" / "raw"),
        "tokenizer": str(tmp_path / "r" / "gpt2.json"),
        "seq_len": 8,
    }
    assert read_recipe(recipe(tmp_path, 'tokenizer = "bytes"')) == {"tokenizer": "bytes"}
    assert read_recipe(recipe(tmp_path, 'raw = "bytes"')) == {"raw": str(tmp_path / "bytes")}
    assert read_recipe(recipe(tmp_path, 'raw = "/data"')) == {"raw": "/data"}


@pytest.mark.parametrize("raw", [None, "raw"])
@pytest.mark.parametrize("folder", ["r", "r [v1]*"])
def test_patterns_of_a_recipe_start_from_its_raw_or_its_folder_wherever_one_stands(
    tmp_path, monkeypatch, raw, folder
):
    home = tmp_path / folder
    write_texts(home / (raw or "") / "web" / "a.jsonl", ["a"])
    text = f'raw = "{raw}"\n' if raw else ""
    path = recipe(home, text + '[domains]\nweb = "web/*"\nboth = ["web/a*", "web/*l"]\n')
    monkeypatch.chdir(tmp_path)
    for way in (path, Path(folder) / "r.toml"):
        settings = read_recipe(way)
        top = Path(settings["raw"]) if raw else None
        files = found(top, settings["domains"], out="out")
        assert files == {"both": ["a.jsonl"], "web": ["a.jsonl"]}
    monkeypatch.chdir(home)
    settings = read_recipe(Path("r.toml"))
    assert found(Path(raw) if raw else None, settings["domains"]) == files


def test_an_unknown_key_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown key 'seqlen' in recipe .*known are .*seq_len"):
        read_recipe(recipe(tmp_path, "seqlen = 8"))
    with pytest.raises(RecipeError, match="unknown key 'out'"):
        read_recipe(recipe(tmp_path, 'out = "x"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('seq_len = "8"', "seq_len in recipe .* is '8'; give a int"),
        ("seq_len = 8.5", "seq_len in recipe .* is 8.5; give a int"),
        ("seq_len = true", "seq_len in recipe .* is True; give a int"),
        ("packing = 1", "packing in recipe .* is 1; give a str"),
        ('domains = "web"', "domains in recipe .* is 'web'; give a dict"),
        ("[domains]\nweb = 5", "domains.web in recipe .* is 5; give a glob pattern or a list"),
        ("[domains]\nweb = [5]", r"domains.web in recipe .* is \[5\]; give a glob pattern"),
        ("[domains.web]\na = 'x'", "domains.web in recipe .* give a glob pattern"),
        ("[domains]\nweb = true", "domains.web in recipe .* is True; give a glob pattern"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe(tmp_path, text))


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"r.toml cannot be read as TOML.*line 1"):
        read_recipe(recipe(tmp_path, "seq_len 8"))
    with pytest.raises(RecipeError, match=r"nope.toml cannot be read as TOML.*No such file"):
        read_recipe(tmp_path / "nope.toml")
    (tmp_path / "latin.toml").write_bytes(b'raw = "\xe9"')
    with pytest.raises(RecipeError, match=r"latin.toml cannot be read as TOML.*utf-8"):
        read_recipe(tmp_path / "latin.toml")
