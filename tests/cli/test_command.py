"""The command line, from the outside: arguments in, tables and exit codes out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixstream.cli import main
from mixstream.cli.draw import parsed_weights
from mixstream.cli.table import table
from mixstream.errors import WeightsError


@pytest.fixture
def raw(tmp_path) -> Path:
    """Two domains: three documents and an empty one, and one document."""
    for name, texts in {"web": ["one", "two", "", "three"], "code": ["x = 1"]}.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "raw" / name / "a.jsonl").write_text(lines)
    return tmp_path / "raw"


@pytest.fixture
def corpus(raw, tmp_path, capsys) -> Path:
    out = tmp_path / "corpus"
    assert main(["convert", str(raw), str(out), "--tokenizer", "bytes", "--seq-len", "8"]) == 0
    capsys.readouterr()
    return out


def test_convert_prints_what_became_of_every_document(raw, tmp_path, capsys):
    arguments = ["convert", str(raw), str(tmp_path / "out"), "--tokenizer", "bytes"]
    assert main([*arguments, "--seq-len", "8"]) == 0
    printed = capsys.readouterr()
    web = next(line for line in printed.out.splitlines() if line.startswith("web"))
    # three documents, 11 bytes and 3 end ids in 2 rows of 8, one document dropped
    assert web.split() == ["web", "3", "2", "14", "2", "11", "1", web.split()[7], "1", "empty", "1"]
    assert f"dropped from web: 1 empty, first at {raw / 'web' / 'a.jsonl'}:3" in printed.out
    assert "web: unit 0, 2 rows" in printed.err


def test_quiet_prints_nothing(raw, tmp_path, capsys):
    arguments = ["convert", str(raw), str(tmp_path / "out"), "--tokenizer", "bytes", "--quiet"]
    assert main([*arguments, "--seq-len", "8"]) == 0
    assert capsys.readouterr() == ("", "")


def test_convert_without_a_tokenizer_says_how_to_give_one(raw, tmp_path, capsys):
    assert main(["convert", str(raw), str(tmp_path / "out"), "--seq-len", "8"]) == 1
    assert "no tokenizer; give --tokenizer" in capsys.readouterr().err


def test_raw_may_be_left_out_where_domains_are_named(raw, tmp_path, capsys):
    arguments = ["convert", str(tmp_path / "out"), "--tokenizer", "bytes", "--seq-len", "8"]
    assert main([*arguments, "--domain", f"all={raw}/*/*.jsonl"]) == 0
    assert "all" in capsys.readouterr().out


def test_a_domain_that_is_no_pair_is_refused(tmp_path, capsys):
    arguments = ["convert", str(tmp_path / "out"), "--tokenizer", "bytes", "--seq-len", "8"]
    assert main([*arguments, "--domain", "web"]) == 1
    assert "--domain 'web' is not NAME=GLOB" in capsys.readouterr().err


def test_the_command_line_wins_over_the_recipe(raw, tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('raw = "raw"\ntokenizer = "bytes"\nseq_len = 4\n')
    arguments = ["convert", str(tmp_path / "out"), "--recipe", str(recipe), "--seq-len", "16"]
    assert main(arguments) == 0
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "rows of 16 uint16" in capsys.readouterr().out


def test_raw_beside_the_domains_of_a_recipe_is_refused(raw, tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('tokenizer = "bytes"\nseq_len = 4\n[domains]\nall = "raw/*/*"\n')
    assert main(["convert", str(raw), str(tmp_path / "out"), "--recipe", str(recipe)]) == 1
    assert "leave RAW out, or name the domains here" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "out"), "--recipe", str(recipe)]) == 0


def test_inspect_decodes_rows_of_a_corpus_of_bytes(corpus, capsys):
    assert main(["inspect", str(corpus), "--show", "1", "--domain", "code"]) == 0
    assert capsys.readouterr().out.endswith("--- code:0\nx = 1\n")


def test_inspect_refuses_a_tokenizer_that_is_not_the_corpus_own(corpus, tmp_path, capsys):
    from tokenizers import Tokenizer, models

    path = tmp_path / "other.json"
    other = Tokenizer(models.BPE())
    other.add_special_tokens(["</s>"])
    other.save(str(path))
    assert main(["inspect", str(corpus), "--show", "1", "--tokenizer", str(path)]) == 1
    assert "the corpus was made with tokenizer bytes" in capsys.readouterr().err


def test_inspect_names_the_domains_there_are(corpus, capsys):
    assert main(["inspect", str(corpus), "--show", "1", "--domain", "books"]) == 1
    assert "no domain 'books'; the corpus holds code, web" in capsys.readouterr().err


def test_verify_is_silent_about_nothing(corpus, capsys):
    assert main(["verify", str(corpus)]) == 0
    shard = corpus / "web" / "shard.00000.mds"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (corpus / "code" / "shard.00000.mds").unlink()
    capsys.readouterr()
    assert main(["verify", str(corpus)]) == 1
    faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 2
    assert "code/shard.00000.mds" in faults[0]
    assert "web/shard.00000.mds" in faults[1]
    assert "checksum" in faults[1]


def test_verify_finds_a_manifest_that_lies_about_padding(corpus, capsys):
    manifest = json.loads((corpus / "corpus.json").read_text())
    manifest["domains"]["web"]["padding"] += 1
    (corpus / "corpus.json").write_text(json.dumps(manifest))
    assert main(["verify", str(corpus)]) == 1
    assert "14 tokens and 2 of padding, but corpus.json says 14 and 3" in capsys.readouterr().out


def test_verify_reads_a_compressed_shard_though_its_raw_form_lies_beside(raw, tmp_path, capsys):
    out = tmp_path / "zipped"
    arguments = ["convert", str(raw), str(out), "--tokenizer", "bytes", "--seq-len", "8"]
    assert main([*arguments, "--compression", "zstd", "--quiet"]) == 0
    assert main(["inspect", str(out), "--show", "1"]) == 0
    assert (out / "web" / "shard.00000.mds").exists()
    (out / "web" / "shard.00000.mds.zst").write_bytes(b"garbage")
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    assert "web/shard.00000.mds.zst" in capsys.readouterr().out


def test_verify_goes_on_where_an_index_is_missing(corpus, capsys):
    (corpus / "code" / "index.json").unlink()
    (corpus / "web" / "shard.00000.mds").write_bytes(b"garbage")
    assert main(["verify", str(corpus)]) == 1
    faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 2
    assert "code/index.json" in faults[0]
    assert "web/shard.00000.mds" in faults[1]


def test_verify_of_a_compressed_corpus_leaves_nothing_behind(raw, tmp_path, capsys):
    out = tmp_path / "zipped"
    arguments = ["convert", str(raw), str(out), "--tokenizer", "bytes", "--seq-len", "8"]
    assert main([*arguments, "--compression", "zstd", "--quiet"]) == 0
    before = sorted(out.rglob("*"))
    assert main(["verify", str(out)]) == 0
    assert sorted(out.rglob("*")) == before


def test_draw_prints_asked_and_drawn_shares(corpus, capsys):
    arguments = ["draw", str(corpus), "--weights", "web=3", "code=1", "--rows", "4000"]
    assert main([*arguments, "--stratum", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["code", "0.2500", "0.2500", "1,000", "1000.0000"]
    assert lines[2] == ["web", "0.7500", "0.7500", "3,000", "1500.0000"]


@pytest.mark.parametrize("option", ["--rows", "--stratum"])
def test_a_number_that_is_none_is_wrong_usage(corpus, capsys, option):
    with pytest.raises(SystemExit):
        main(["draw", str(corpus), option, "0"])
    assert f"argument {option}: '0' is not an integer of at least 1" in capsys.readouterr().err


def test_raw_and_out_may_stand_apart(raw, tmp_path, capsys):
    options = ["--tokenizer", "bytes", "--seq-len", "8", "--quiet"]
    assert main(["convert", str(raw), *options, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "corpus.json").exists()
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "out"), "more"])
    assert "unrecognized arguments: more" in capsys.readouterr().err


def test_a_domain_that_is_dropped_whole_is_told_even_in_quiet(raw, tmp_path, capsys):
    options = ["--tokenizer", "bytes", "--seq-len", "8", "--quiet", "--text-field", "content"]
    assert main(["convert", str(raw), str(tmp_path / "out"), *options]) == 0
    assert "every document of domain 'web' was dropped: no_text 4" in capsys.readouterr().err


def test_a_full_disk_behind_standard_output_is_one_line(corpus):
    command = [sys.executable, "-m", "mixstream", "inspect", str(corpus)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_draw_reads_no_shard(corpus):
    for shard in corpus.rglob("*.mds"):
        shard.unlink()
    assert main(["draw", str(corpus), "--rows", "10"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "web"], "'web' is not NAME=NUMBER"),
        (["--weights", "web=x"], "'web=x' is not NAME=NUMBER"),
        (["--weights", "web=1", "web=2"], "domain 'web' is given twice: 1.0 and 2.0"),
        (["--weights", "web=1"], "domain 'code' is missing in weights"),
    ],
)
def test_draw_names_what_is_wrong(corpus, capsys, arguments, message):
    assert main(["draw", str(corpus), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_weights_may_have_an_equals_sign_in_their_name():
    assert parsed_weights(["a=b=0.5"]) == {"a=b": 0.5}
    with pytest.raises(WeightsError, match="not NAME=NUMBER"):
        parsed_weights(["=1"])


def test_an_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("mixstream: ShardError: ")
    assert printed.count("\n") == 1


def test_wrong_usage_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert"])
    assert stop.value.code == 2
    capsys.readouterr()


def test_a_closed_pipe_is_no_error(corpus):
    command = [sys.executable, "-m", "mixstream", "inspect", str(corpus), "--show", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_a_table_without_rows_is_its_header():
    assert table(["a", "b"], []) == "a  b"


def test_convert_prints_its_report_as_json(raw, tmp_path, capsys):
    arguments = ["convert", str(raw), str(tmp_path / "out"), "--tokenizer", "bytes", "--json"]
    assert main([*arguments, "--seq-len", "8", "--packing", "pad"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(tmp_path / "out")
    web = report["domains"]["web"]
    assert (web["documents"], web["documents_cut"], web["cut_share"]) == (3, 0, 0.0)
    assert (web["tokens"], web["padding"], web["padding_share"]) == (14, 10, 10 / 24)
    assert (web["dropped"], web["dropped_tokens"]) == ({"empty": 1}, 0)
    place = raw / "web" / "a.jsonl"
    assert web["examples"] == {"empty": [f"{place}:3: 'text' is an empty string"]}


def test_convert_states_the_shares_of_cut_documents_and_padding(raw, tmp_path, capsys):
    arguments = ["convert", str(raw), str(tmp_path / "out"), "--tokenizer", "bytes"]
    assert main([*arguments, "--seq-len", "4"]) == 0
    # one|two|three with their ends: 4, 4 and 6 ids in rows of 4
    assert "web: 33.33% of documents cut, 12.50% of ids padding" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "x", "-1GiB", "infGiB"])
def test_a_memory_that_is_no_size_is_wrong_usage(raw, tmp_path, capsys, size):
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(raw), str(tmp_path / "out"), f"--memory={size}"])
    assert ended.value.code == 2
    assert f"{size!r} is no size; give bytes, or as in 4GiB" in capsys.readouterr().err


def test_memory_for_less_than_one_process_is_refused(raw, tmp_path, capsys):
    arguments = ["convert", str(raw), str(tmp_path / "out"), "--tokenizer", "bytes"]
    assert main([*arguments, "--seq-len", "8", "--memory", "1MiB"]) == 1
    assert "memory is 1,048,576 bytes, but one process may take" in capsys.readouterr().err
