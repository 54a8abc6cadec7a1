"""The server of the live page: who may ask, and what is answered."""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

import pytest

from mixstream.cli import main
from mixstream.errors import RecipeError, StateError
from mixstream.runlog import read_run
from mixstream.watch import Watch
from mixstream.watch.server import TOKEN_HEADER
from tests.plot.logs import losses, names, write_log
from tests.watch.conftest import body_of

pytest.importorskip("starlette", reason="the live page needs the extra 'watch'")

EVEN = {"books <b>&amp;": 1, "code": 1, "web": 1}


def ask(watch, path, *, method="GET", body=None, host=None, **headers):
    """(status, headers, text) of a request to the server."""
    connection = http.client.HTTPConnection("127.0.0.1", watch.port, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Host"] = host or f"127.0.0.1:{watch.port}"
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.headers, response.read().decode()
    connection.close()
    return answer


def post(watch, body, **headers):
    headers = {TOKEN_HEADER: watch.token} | headers
    return ask(watch, f"/{watch.token}/weights", method="POST", body=body, **headers)


def answer_of(watch, request, timeout_seconds=20):
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until:
        status, _, text = ask(watch, f"/{watch.token}/answer?request={quote(request)}")
        assert status == 200
        if text != "null":
            return json.loads(text)
        time.sleep(0.05)
    pytest.fail("the run did not answer")


@pytest.fixture
def log(tmp_path):
    return write_log(
        tmp_path / "a.jsonl", domains=names(12), num_steps=500, steerable=True,
        changes=[(100, range(1, 13), "why <not>", "person")],
        planned=[(900, [1] * 12, "anneal", "schedule")],
        signals=[losses(names(12), 500, 10)],
    )  # fmt: skip


def test_the_page_is_given_to_who_knows_the_token(log, watched):
    watch = watched(log)
    status, headers, text = ask(watch, f"/{watch.token}/")
    assert status == 200
    assert "<title>mixstream watch</title>" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "an asset from elsewhere"


@pytest.mark.parametrize(
    "path", ["/", "/x/", "/{short}/", "/x/picture", "/x/answer", "/favicon.ico"]
)
def test_without_the_token_nothing_is_told(path, log, watched):
    watch = watched(log)
    status, _, text = ask(watch, path.replace("{short}", watch.token[:-1]))
    assert status == 403
    assert "open the whole address" in text
    assert "web" not in text


def test_the_server_listens_on_loopback_alone(log, watched):
    watch = watched(log)
    assert watch.url == f"http://127.0.0.1:{watch.port}/{watch.token}/"
    assert watch._socket.getsockname()[0] == "127.0.0.1"
    assert len(watch.token) >= 32
    assert watched(log).token != watch.token


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(host, log, watched):
    watch = watched(log)
    host = host.replace("{port}", str(watch.port))
    status, _, text = ask(watch, f"/{watch.token}/", host=host)
    assert (status, text) == (403, "refused: this server answers to 127.0.0.1 alone.\n")
    assert ask(watch, f"/{watch.token}/", host=f"localhost:{watch.port}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({TOKEN_HEADER: ""}, "carries the token"),
        ({TOKEN_HEADER: "guess"}, "carries the token"),
        ({"Origin": "http://evil.example"}, "comes from another page"),
        ({"Origin": "null"}, "comes from another page"),
        ({"host": "evil.example"}, "answers to 127.0.0.1 alone"),
    ],
)
def test_a_request_from_elsewhere_changes_nothing(headers, reason, run, watched):
    watch, before = watched(run.log), len(run.changes())
    status, _, text = post(watch, body_of(EVEN), **headers)
    assert status == 403
    assert reason in text
    run.wait_for_step(read_run(run.log).last_step + 30)
    assert len(run.changes()) == before


def test_a_request_for_weights_is_taken_by_the_run(run, watched):
    watch = watched(run.log)
    status, _, text = post(watch, body_of({"books <b>&amp;": 0, "code": 3, "web": 1}, "Ada"))
    assert status == 200
    answer = answer_of(watch, json.loads(text)["request"])
    assert answer["accepted"]
    change = run.changes()[-1]
    assert change["weights"] == [0, 0.75, 0.25]
    assert (change["source"], change["reason"]) == ("person", "Ada")
    assert (change["step"], change["row"]) == (answer["step"], answer["row"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (body_of({"web": 1, "code": 1}), "domain 'books <b>&amp;' is missing in weights"),
        (body_of(EVEN | {"wab": 1}), "unknown domain 'wab' in weights"),
        (body_of(EVEN | {"web": -1}), "weight of domain 'web' in weights is -1.0"),
        (body_of(EVEN | {"web": float("nan")}), "weight of domain 'web' in weights is nan"),
        (body_of(EVEN | {"web": "lots"}), "which is not one number a domain"),
        (body_of(dict.fromkeys(EVEN, 0)), "all weights in weights are 0"),
        (body_of([1, 2]), "has shape (2,)"),
        (body_of(None), "which is not one number a domain"),
        (b"[]", "the request is not {'weights': ..., 'reason': ...}"),
        (b"{", "the request is not {'weights': ..., 'reason': ...}"),
        (b" " * (2 << 20), "longer than 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_as_set_weights_refuses_it(body, message, run, watched):
    watch, before = watched(run.log), len(run.changes())
    status, _, text = post(watch, body)
    assert status == 400
    assert message in json.loads(text)["message"]
    assert len(run.changes()) == before


def test_a_run_that_is_not_steerable_refuses(closed_run, watched):
    watch, before = watched(closed_run), closed_run.read_bytes()
    status, _, text = post(watch, body_of(EVEN))
    assert status == 400
    assert "was not started with Loader(..., steerable=True)" in json.loads(text)["message"]
    assert closed_run.read_bytes() == before
    assert not list(closed_run.parent.glob("*.requests/*"))


def test_an_answer_to_a_request_of_others_is_not_told(log, watched):
    watch = watched(log)
    status, _, text = ask(watch, f"/{watch.token}/answer?request=..%2F..%2Fetc%2Fpasswd")
    assert status == 400
    assert "no such request was made here" in text


def picture_of(watch, view="all", known=""):
    status, _, text = ask(watch, f"/{watch.token}/picture?view={view}&known={known}")
    assert status == 200
    return json.loads(text)


def test_the_picture_holds_every_chart_by_group(log, watched):
    picture = picture_of(watched(log))
    assert [group["label"] for group in picture["groups"]][-1] == "4 others"
    assert len(picture["domains"]) == 12
    assert sum(domain["weight"] for domain in picture["domains"]) == pytest.approx(1)
    assert len(picture["asked"]["shares"]) == len(picture["drawn"]["shares"]) == 9
    assert len(picture["asked"]["steps"]) == len(picture["asked"]["shares"][0]) + 1
    assert [chart["name"] for chart in picture["lines"]] == ["loss", "epochs by domain"]
    assert [chart["unit"] for chart in picture["lines"]] == [
        "nats per token",
        "passes over its rows",
    ]
    assert [mark["note"] for mark in picture["marks"]] == [
        "step 100, by hand: why <not>",
        "step 900, planned by schedule: anneal",
    ]
    assert picture["now"] == 500
    assert picture["end"] > 900


def test_a_view_shows_its_steps_alone(tmp_path, watched):
    planned = [(9000, [1, 2], "", "schedule")]
    log = write_log(tmp_path / "a.jsonl", domains=names(2), num_steps=3000, planned=planned)
    watch = watched(log)
    spans = [
        (p["first"], p["end"])
        for p in (picture_of(watch, view) for view in ("delivered", "recent"))
    ]
    assert spans == [(0, 3000), (2000, 3000)]
    status, _, text = ask(watch, f"/{watch.token}/picture?view=tomorrow")
    assert status == 400
    assert "view is 'tomorrow'; give one of all, delivered, recent" in json.loads(text)["message"]


def test_what_the_page_has_painted_is_not_sent_again(log, watched):
    watch = watched(log)
    version = picture_of(watch)["version"]
    assert picture_of(watch, known=version).keys() == {"version", "seconds"}
    assert "groups" in picture_of(watch, view="delivered", known=version)
    with log.open("ab") as file:
        file.write(b'{"event":"progress","time":0,"step":501,"row":16032}\n')
    assert picture_of(watch, known=version)["now"] == 501


def test_a_log_that_is_gone_is_said_and_not_fatal(log, watched):
    watch = watched(log)
    log.rename(log.with_name("moved"))
    status, _, text = ask(watch, f"/{watch.token}/picture")
    assert status == 400
    assert "a.jsonl" in json.loads(text)["message"]
    log.with_name("moved").rename(log)
    assert picture_of(watch)["now"] == 500


def test_what_is_no_run_log_is_refused_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"event": "hello"}\n')
    with pytest.raises(StateError, match=r"a\.jsonl"):
        Watch(tmp_path / "a.jsonl")


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_the_message_says_how_to_get_it(package, log, monkeypatch):
    for name in [package, f"{package}.applications"]:
        monkeypatch.setitem(sys.modules, name, None)  # as Python marks a missing module
    with pytest.raises(RecipeError, match=r"pip install 'mixstream\[watch\]'"):
        Watch(log)


def test_the_command_serves_until_it_is_stopped(log):
    command = [sys.executable, "-m", "mixstream", "watch", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=20) as page:
            assert b"mixstream watch" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_the_command_says_that_a_port_is_taken(log, watched, capsys):
    assert main(["watch", str(log), "--port", str(watched(log).port)]) == 1
    assert "in use" in capsys.readouterr().err


SET = ["books <b>&amp;=1", "code=2", "web=1"]


def test_set_asks_and_waits_for_the_answer(run, capsys):
    assert main(["set", str(run.log), *SET, "--reason", "from a terminal", "--wait", "30"]) == 0
    change = run.changes()[-1]
    said = f"taken: felt from step {change['step']:,}, row {change['row']:,}\n"
    assert capsys.readouterr().out == said
    assert (change["weights"], change["source"]) == ([0.25, 0.5, 0.25], "person")
    assert change["reason"] == "from a terminal"


def test_set_without_wait_says_where_the_request_is(run, capsys):
    before = len(run.changes())
    assert main(["set", str(run.log), *SET]) == 0
    assert f"asked: {run.log}.requests" in capsys.readouterr().out
    run.wait_for_step(read_run(run.log).last_step + 60)
    assert len(run.changes()) == before + 1


def test_set_refuses_bad_weights_and_asks_nothing(run, capsys):
    before = len(run.changes())
    assert main(["set", str(run.log), "web=1", "code=2", "--wait"]) == 1
    assert "domain 'books <b>&amp;' is missing in weights" in capsys.readouterr().err
    assert main(["set", str(run.log), "web"]) == 1
    assert "'web' is not NAME=NUMBER" in capsys.readouterr().err
    assert len(run.changes()) == before


def test_set_refuses_a_run_that_is_not_steerable(closed_run, capsys):
    assert main(["set", str(closed_run), *SET]) == 1
    assert "was not started with Loader(..., steerable=True)" in capsys.readouterr().err


def test_set_says_where_nobody_answers(log, capsys):
    weights = [f"{name}=1" for name in names(12)]
    assert main(["set", str(log), *weights, "--wait", "1"]) == 1
    said = capsys.readouterr().err
    assert "no answer in 1 s: the run is in a long step, or not running" in said
    assert f"delete {log}.requests" in said
