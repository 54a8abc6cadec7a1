"""Pictures of runs: what they say, and that it can be read. Kept in $MIXSTREAM_TEST_PICTURES."""

import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from mixstream.cli import main
from mixstream.errors import RecipeError, StateError
from mixstream.plot import charts_of, plot
from mixstream.plot.figure import FONTS, figure_of
from mixstream.plot.groups import domain_groups
from mixstream.plot.palette import STYLES
from mixstream.runlog import read_run
from tests.plot.logs import losses, names, write_log

matplotlib = pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    named = os.environ.get("MIXSTREAM_TEST_PICTURES")
    folder = Path(named) if named else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def log_of(folder, k, *, num_steps=2000, name=None, domains=None, **settings):
    """A run with all that there is to paint."""
    chance = np.random.default_rng(k)
    alpha = 20 / np.arange(1, k + 1)
    changes = [(s, chance.dirichlet(alpha), "doremi", "code") for s in range(400, 1200, 40)]
    changes += [(1500, chance.dirichlet(alpha), "eval: 2 + 2 = $5$ & <more maths>", "person")]
    planned = [(num_steps + 300, np.ones(k), "anneal", "schedule")]
    return write_log(
        folder / f"{name or f'domains-{k}'}.jsonl",
        domains=domains or names(k),
        num_steps=num_steps,
        weights=alpha,
        changes=changes,
        planned=planned,
        signals=[losses(names(k), num_steps, 20)],
        **settings,
    )


def texts_of(svg):
    """The texts of an SVG picture."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("k", [2, 4, 12, 50])
def test_a_picture_names_domains_units_and_reasons(k, tmp_path, pictures):
    log = log_of(tmp_path, k)
    texts = texts_of(plot([log], pictures / f"domains-{k}.svg").read_bytes())
    said = "\n".join(texts)
    for title in ("asked weights", "drawn shares, window of", "loss", "epochs by domain"):
        assert title in said
    for unit in ("nats per token", "share of rows", "passes over its rows", "step"):
        assert unit in texts
    assert "1. steps 400 to 1,160, 20 changes in code: doremi" in texts
    assert "2. step 1,500, by hand: eval: 2 + 2 = $5$ & <more maths>" in texts
    assert "3. step 2,300, planned by schedule: anneal" in texts
    assert any("planned" in text for text in texts)
    named = domain_groups([charts_of(read_run(log)).mean_shares()]).named
    assert len(named) == min(k, len(STYLES))
    for name in named:  # beside both stacks and both line charts
        assert sum(text.startswith(f"{name} ") for text in texts) == 4, name
    others = k - len(named)
    assert sum(text.startswith(f"{others} others") for text in texts) == (4 if others else 0)
    if "MIXSTREAM_TEST_PICTURES" in os.environ:  # for eyes
        plot([log], pictures / f"domains-{k}.png")


@pytest.mark.parametrize("k", [4, 50])
def test_no_text_covers_another(k, tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(FONTS):
        domains = ["a domain whose name is long", *names(k)[1:]]
        logs = [log_of(tmp_path, k, name=name, domains=domains) for name in ("first", "second")]
        runs = [read_run(log) for log in logs]
        figure = figure_of([charts_of(run) for run in runs])
        FigureCanvasAgg(figure).draw()
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()]
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_visible()]
    whole = figure.bbox
    for text, box in boxes:
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, f"{text!r} is cut off"
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, f"{text!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        # boxes hold the room of letters that reach above and below; two pixels of it may meet
        assert width <= 1 or height <= 2.5, f"{one!r} lies on {other!r}"


def test_the_word_for_a_change_that_is_felt_next_stays_in_its_panel(tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    changes = [(500, [1, 3], "dga", "code")]
    log = write_log(tmp_path / "a.jsonl", domains=names(2), num_steps=500, changes=changes)
    with matplotlib.rc_context(FONTS):
        figure = figure_of([charts_of(read_run(log))])
        FigureCanvasAgg(figure).draw()
        asked = figure.axes[0]
        (word,) = [text for text in asked.texts if text.get_text().strip() == "planned"]
        assert word.get_window_extent().x1 <= asked.get_window_extent().x1


def test_every_group_is_a_band_and_a_line(tmp_path):
    figure = figure_of([charts_of(read_run(log_of(tmp_path, 50)))])
    asked, _, drawn, loss, _ = figure.axes
    assert len(asked.collections) == len(drawn.collections) == len(STYLES) + 1
    styles = [(line.get_color(), line.get_linestyle()) for line in loss.get_lines()]
    named = [style for style in styles if style[0] in {s.colour for s in STYLES}]
    assert len(set(named)) == len(STYLES)


def test_a_dot_stands_where_a_domain_begins_anew_even_if_it_is_exhausted_then(tmp_path):
    log = write_log(
        tmp_path / "a.jsonl", domains=names(2), num_steps=1000, batch_size=10, rows=[1000, 90_000],
        weights=[1, 1], max_epochs={"web": 2}, on_exhausted="redistribute",
    )  # fmt: skip
    passes = figure_of([charts_of(read_run(log))]).axes[-1]
    dots = next(
        line for line in passes.get_lines() if line.get_marker() == "o" and len(line.get_xdata())
    )
    assert dots.get_ydata().tolist() == [1, 2]
    assert dots.get_xdata() == pytest.approx([200, 400], rel=0.1)  # 5 rows a step of 1,000


def test_runs_side_by_side_have_one_scale_and_one_colour_a_domain(tmp_path, pictures):
    first = log_of(tmp_path, 4, name="doremi")
    second = write_log(
        tmp_path / "uniform.jsonl", domains=names(4)[1:], num_steps=900,
        signals=[("accuracy", None, [300, 600], [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]])],
    )  # fmt: skip
    picture = plot([first, second], pictures / "runs.svg")
    said = "\n".join(texts_of(picture.read_bytes()))
    assert said.count("this run did not log it") == 2
    assert "no unit given" in said
    assert "no change of the weights" in said
    figure = figure_of([charts_of(read_run(log)) for log in (first, second)])
    left, right = figure.axes[:6], figure.axes[6:]
    assert left[0].get_title(loc="left") == right[0].get_title(loc="left") == "asked weights"
    for one, other in zip(left, right, strict=True):
        assert one.get_xlim() == other.get_xlim() or not one.axison
        assert one.get_ylim() == other.get_ylim()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    log = log_of(tmp_path, 2)
    with pytest.raises(RecipeError, match=r"folder '.*nowhere' is not there; make it"):
        plot([log], tmp_path / "nowhere" / "mix.png")


def test_a_page_holds_all_it_needs(tmp_path):
    page = plot([log_of(tmp_path, 4)], tmp_path / "mix.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert "<?xml" not in page
    assert "<script" not in page
    assert not re.search(r'(src|href)\s*=\s*"(?!#)', page), "an address elsewhere"
    assert "eval: 2 + 2 = $5$ &amp; &lt;more maths&gt;" in page
    assert "<more maths>" not in page


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_the_same_log_gives_the_same_bytes(ending, tmp_path):
    log = log_of(tmp_path, 2)
    one, other = (plot([log], tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert one == other
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_run_of_a_million_steps_is_a_small_picture(tmp_path, pictures):
    changes = [(s, np.arange(1, 51) + s % 7, "odm", "code") for s in range(1000, 10**6, 1000)]
    log = write_log(
        tmp_path / "long.jsonl", domains=names(50), num_steps=10**6, batch_size=512,
        changes=changes, signals=[losses(names(50), 10**6, 1000)],
    )  # fmt: skip
    picture = plot([log], pictures / "long.svg").read_bytes()
    assert len(picture) < 2_000_000
    said = "\n".join(texts_of(picture))
    assert "asked weights, means of 2,000 steps" in said
    assert "loss, mean (line) and range of each 2 values" in said
    assert "epochs by domain, estimated from a sample of the draws" in said


def test_names_in_any_script_are_painted(tmp_path):
    domains = ["中文/网页", "$x_2$", "a\nb\u202eevil", "🧪"]
    log = write_log(tmp_path / "names.jsonl", domains=domains, num_steps=50)
    assert plot([log], tmp_path / "names.png").read_bytes().startswith(b"\x89PNG")
    said = "\n".join(texts_of(plot([log], tmp_path / "names.svg").read_bytes()))
    assert "中文/网页" in said
    assert "$x_2$" in said
    assert "a·b·evil" in said


def test_a_run_that_has_drawn_nothing_is_painted(tmp_path):
    log = write_log(tmp_path / "new.jsonl", domains=names(2), num_steps=0)
    said = "\n".join(texts_of(plot([log], tmp_path / "new.svg").read_bytes()))
    assert "nothing is drawn yet" in said


def test_plot_and_watch_import_nothing_heavy():
    code = "import sys, mixstream.plot, mixstream.watch, mixstream.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "torch", "streaming", "starlette", "uvicorn"} & {*done.stdout.split()}


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"ends in '.pdf'; give a name that ends in .png, .svg"):
        plot([tmp_path / "a.jsonl"], tmp_path / "mix.pdf")


def test_no_run_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no run to plot; give at least one run log"):
        plot([], tmp_path / "mix.png")


def test_without_matplotlib_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    log = write_log(tmp_path / "a.jsonl", domains=names(2), num_steps=5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python marks a missing module
    with pytest.raises(RecipeError, match=r"pip install 'mixstream\[plot\]'"):
        plot([log], tmp_path / "mix.png")
    assert not (tmp_path / "mix.png").exists()


def test_the_command_paints_and_says_where(tmp_path, capsys):
    log, out = log_of(tmp_path, 2), tmp_path / "mix.svg"
    assert main(["plot", str(log), "-o", str(out), "--steps", "100:600"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "600" in texts_of(out.read_bytes())


def test_the_command_refuses_what_is_no_run_log(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert main(["plot", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "mix.svg")]) == 1
    assert "run log" in capsys.readouterr().err
    with pytest.raises(StateError):
        plot([tmp_path / "a.jsonl"], tmp_path / "mix.svg")


@pytest.mark.parametrize("steps", ["5", "9:3", "a:b", "-1:4"])
def test_the_command_refuses_steps_that_are_no_range(steps, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["plot", "a.jsonl", "-o", "mix.svg", f"--steps={steps}"])
    assert f"{steps!r} is not A:B with A < B" in capsys.readouterr().err
