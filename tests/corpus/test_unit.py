"""A unit is cut from files by name and size alone, and is whole or absent."""

import os
from collections import Counter

import numpy as np
import pytest

from mixstream.corpus.plan import planned_units
from mixstream.corpus.recipe import Recipe, RowSettings, domain_files
from mixstream.corpus.shard_writer import shard_name
from mixstream.corpus.tokenizers import ByteTokenizer
from mixstream.corpus.unit import read_unit_report, run_unit
from mixstream.errors import RecipeError, ShardError, SourceError
from tests.corpus.conftest import make_raw, tree, write_texts


class Stripping(ByteTokenizer):
    """Texts of white space become no ids."""

    name = "stripping"

    def encode_utf8(self, texts):
        return super().encode_utf8([text.strip() for text in texts])


def broken(how):
    """A tokenizer that breaks one promise."""

    class Broken(ByteTokenizer):
        name = "broken"

        def encode_utf8(self, texts):
            ids, lengths = super().encode_utf8(texts)
            return how(ids, lengths)

    return Broken()


def settings(**changes):
    return RowSettings(**({"tokenizer": ByteTokenizer(), "seq_len": 8} | changes))


def units_of(raw, unit_bytes=100, **changes):
    files = domain_files(raw, None, leave_out=raw / "out")
    return planned_units(Recipe(rows=settings(**changes), files=files, unit_bytes=unit_bytes))


def one_unit(tmp_path, *texts, name="a.jsonl"):
    write_texts(tmp_path / "raw" / "web" / name, texts)
    (unit,) = units_of(tmp_path / "raw", 2**30)
    return unit


# --- the plan


def write_sizes(folder, *sizes):
    folder.mkdir(parents=True)
    for i, size in enumerate(sizes):
        (folder / f"{i:03}.txt").write_bytes(b"x" * size)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([40, 40, 20, 1], [[0, 1, 2], [3]]),
        ([100, 100], [[0], [1]]),
        ([500, 1, 500], [[0], [1], [2]]),
        ([0, 0, 0], [[0, 1, 2]]),
        ([100, 0, 0, 1], [[0, 1, 2], [3]]),
        ([101], [[0]]),
    ],
)
def test_files_are_cut_into_units_in_order_and_none_is_left_out(tmp_path, sizes, expected):
    write_sizes(tmp_path / "web", *sizes)
    units = units_of(tmp_path)
    assert [[int(path.stem) for path in unit.files] for unit in units] == expected
    assert [unit.index for unit in units] == list(range(len(units)))
    assert [unit.num_bytes for unit in units] == [sum(sizes[i] for i in part) for part in expected]


def test_no_unit_spans_two_domains(tmp_path):
    write_sizes(tmp_path / "a", 1, 1)
    write_sizes(tmp_path / "b", 1)
    assert [(u.domain, u.index, len(u.files)) for u in units_of(tmp_path)] == [
        ("a", 0, 2),
        ("b", 0, 1),
    ]


def test_a_digest_tells_units_apart_and_does_not_know_the_folder(tmp_path):
    for place in ("here", "there"):
        make_raw(tmp_path / place)
        for path in (tmp_path / place).rglob("*.*"):
            os.utime(path, ns=(10**18, 10**18))
    here, there = (units_of(tmp_path / place) for place in ("here", "there"))
    assert [unit.digest for unit in here] == [unit.digest for unit in there]
    assert len({unit.digest for unit in here}) == len(here)


def test_a_digest_follows_settings_size_time_and_name_of_each_file(tmp_path):
    write_sizes(tmp_path / "web", 10, 10)
    first = tmp_path / "web" / "000.txt"
    seen = [units_of(tmp_path)[0].digest]
    seen.append(units_of(tmp_path, seq_len=9)[0].digest)
    seen.append(units_of(tmp_path, text_field="body")[0].digest)
    os.utime(first, ns=(5, 5))
    seen.append(units_of(tmp_path)[0].digest)
    first.write_bytes(b"x" * 11)
    os.utime(first, ns=(5, 5))
    seen.append(units_of(tmp_path)[0].digest)
    first.rename(first.with_name("0.txt"))
    seen.append(units_of(tmp_path)[0].digest)
    (tmp_path / "web").rename(tmp_path / "code")
    seen.append(units_of(tmp_path)[0].digest)
    assert len(set(seen)) == len(seen)


def test_a_file_that_vanished_is_an_error_that_names_it(tmp_path):
    write_sizes(tmp_path / "web", 10, 10)
    files = domain_files(tmp_path, None, leave_out=tmp_path / "out")
    (tmp_path / "web" / "001.txt").unlink()
    with pytest.raises(SourceError, match=r"001\.txt: cannot be read \(No such file"):
        planned_units(Recipe(rows=settings(), files=files))


# --- a run


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_the_report_that_is_read_is_the_one_that_was_made(tmp_path, packing, compression):
    unit = one_unit(tmp_path, "one", "", "three " * 9, "four")
    made = run_unit(
        unit, settings(packing=packing, compression=compression, shard_bytes=32), tmp_path / "u"
    )
    assert read_unit_report(tmp_path / "u") == made
    assert (made.documents, made.dropped) == (3, {"empty": 1})
    assert made.text_bytes == 3 + 54 + 4
    assert made.tokens == made.text_bytes + 3 == made.rows * 8 - made.padding
    ending = ".zst" if compression else ""
    names = {f"{shard_name(i)}{ending}" for i in range(len(made.shards))}
    assert tree(tmp_path / "u").keys() == names | {"index.json", "unit.json"}
    assert all(shard.num_rows == 2 for shard in made.shards[:-1])


def test_dropped_documents_are_named_three_for_each_reason_and_all_counted(tmp_path):
    unit = one_unit(tmp_path, *["", "a"] * 9)
    report = run_unit(unit, settings(), tmp_path / "u")
    assert report.dropped == {"empty": 9}
    expected = [(0, line, "'text' is an empty string") for line in (1, 3, 5)]
    assert report.examples == {"empty": expected}
    assert report.records == [18]


def test_what_an_unfinished_try_left_is_gone_and_until_the_end_there_is_no_report(tmp_path):
    unit = one_unit(tmp_path, "text")
    run_unit(unit, settings(), tmp_path / "fresh")
    (tmp_path / "u" / "deep").mkdir(parents=True)
    (tmp_path / "u" / ".shard.00007.mds.1-a.tmp").write_text("half")
    assert read_unit_report(tmp_path / "u") is None
    assert read_unit_report(tmp_path / "nowhere") is None
    run_unit(unit, settings(), tmp_path / "u")
    assert tree(tmp_path / "u") == tree(tmp_path / "fresh")


def test_a_unit_without_documents_is_finished_and_has_no_rows(tmp_path):
    unit = one_unit(tmp_path, "", "")
    report = run_unit(unit, settings(), tmp_path / "u")
    assert read_unit_report(tmp_path / "u") == report
    assert (report.rows, report.tokens, report.dropped) == (0, 0, {"empty": 2})


def test_the_same_unit_gives_the_same_bytes_twice(tmp_path):
    unit = one_unit(tmp_path, *map(str, range(99)), name="a.parquet")
    for name in "ab":
        run_unit(unit, settings(packing="best_fit", compression="zstd"), tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_folder_that_cannot_be_written_is_a_shard_error(tmp_path):
    unit = one_unit(tmp_path, "text")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShardError, match=r"cannot write .*file"):
        run_unit(unit, settings(), tmp_path / "file" / "u")


# --- tokenizers that are no good


def test_texts_of_no_ids_are_counted_as_no_tokens(tmp_path):
    unit = one_unit(tmp_path, " ", "a ", "\n\t", "b")
    report = run_unit(unit, settings(tokenizer=Stripping()), tmp_path / "u")
    assert (report.documents, report.dropped, report.tokens) == (2, {"no_tokens": 2}, 4)
    assert report.text_bytes == 3
    assert report.examples == {"no_tokens": [(0, 1, ""), (0, 3, "")]}


BROKEN = {
    "id beyond the vocabulary": (
        lambda ids, lengths: (ids + 200, lengths),
        "tokenizer 'broken' gave id 320, but states a vocabulary of 257; mend its encode or",
    ),
    "negative id": (
        lambda ids, lengths: (ids.astype(np.int64) - 117, lengths),
        "tokenizer 'broken' gave id -20, but",
    ),
    "end id inside": (
        lambda ids, lengths: (np.full_like(ids, 256), lengths),
        "gave its own end-of-text id 256 inside a text",
    ),
    "end id at the end": (
        lambda ids, lengths: (np.append(ids, np.uint32(256)), lengths + np.array([0, 0, 1])),
        "gave its own end-of-text id 256 inside a text",
    ),
    "too few counts": (
        lambda ids, lengths: (ids, np.array([len(ids)])),
        "tokenizer 'broken' gave 12 ids, but 1 counts that sum to 12, for 3 texts",
    ),
    "counts that do not add up": (
        lambda ids, lengths: (ids, lengths + 1),
        "tokenizer 'broken' gave 12 ids, but 3 counts that sum to 15, for 3",
    ),
    "negative count": (
        lambda ids, lengths: (ids, lengths + np.array([9, -9, 0])),
        "tokenizer 'broken' gave 12 ids, but 3 counts some negative, for 3",
    ),
    "no integers": (
        lambda ids, lengths: (ids.astype(np.float64), lengths),
        "tokenizer 'broken' gave ids of dtype float64",
    ),
    "lists": (
        lambda ids, lengths: (ids.tolist(), lengths.tolist()),
        "tokenizer 'broken' gave .*list",
    ),
    "a block": (
        lambda ids, lengths: (ids.reshape(3, 4), lengths),
        r"tokenizer 'broken' gave .*shape \(3, 4\)",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_tokenizer_that_breaks_a_promise_is_refused_and_nothing_is_finished(tmp_path, how):
    change, message = BROKEN[how]
    unit = one_unit(tmp_path, "text", "more", "last")
    with pytest.raises(RecipeError, match=message):
        run_unit(unit, settings(tokenizer=broken(change)), tmp_path / "u")
    assert read_unit_report(tmp_path / "u") is None


def test_a_vocabulary_that_is_stated_too_small_is_noticed_at_its_first_id(tmp_path):
    class Small(ByteTokenizer):
        name = "small"
        vocab_size = 100
        end_id = 99

    unit = one_unit(tmp_path, "~")
    with pytest.raises(RecipeError, match="tokenizer 'small' gave id 126, but states a vocab"):
        run_unit(unit, settings(tokenizer=Small()), tmp_path / "u")


def test_wide_ids_survive_in_four_bytes(tmp_path):
    class Wide(ByteTokenizer):
        name = "wide"
        vocab_size = 2**32
        end_id = 2**32 - 1

        def encode_utf8(self, texts):
            ids, lengths = super().encode_utf8(texts)
            return (ids * 2**24).astype(np.uint32), lengths

    report = run_unit(one_unit(tmp_path, "az"), settings(tokenizer=Wide()), tmp_path / "u")
    (shard,) = report.shards
    assert shard.columns.encodings == ("ndarray:uint32:8",)
    row = np.frombuffer((tmp_path / "u" / shard.raw.name).read_bytes()[-32:], "<u4")
    assert Counter(row.tolist()) == {97 * 2**24: 1, 122 * 2**24: 1, 2**32 - 1: 6}
