"""The live page in a real browser: headless Chromium over a Loader that runs."""

import json
import shutil
import time

import pytest

import mixstream
from mixstream.runlog import read_run, request_weights
from tests.plot.logs import losses, names, write_log
from tests.watch.conftest import body_of

pytest.importorskip("starlette", reason="the live page needs the extra 'watch'")
webdriver = pytest.importorskip("selenium.webdriver", reason="the browser needs selenium")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no chromium and chromedriver here: apt-get install chromium chromium-driver",
    ),
]
WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1500,1300")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def opened(browser, watched):
    """Opens the page of a log; nothing may be wrong in the browser's console in the end."""

    def open_page(log):
        browser.get(watched(log).url)
        until(lambda: browser.execute_script("return shown !== null"))
        return browser

    browser.get_log("browser")
    yield open_page
    faults = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    # the browser tells of a refused request for weights (400), too
    assert [entry for entry in faults if "/weights" not in entry["message"]] == []
    browser.get("about:blank")


def until(is_true, what="the page did not come so far"):
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        if is_true():
            return
        time.sleep(0.05)
    pytest.fail(f"{what} in {WAIT_SECONDS} s")


def text_of(browser, selector):
    return browser.find_element("css selector", selector).text


def count(browser, selector):
    return len(browser.find_elements("css selector", selector))


def set_weight(browser, domain, text):
    """Types into the field of a domain, as a person does."""
    box = browser.find_element("css selector", f'tr[data-domain="{domain}"] input[type="text"]')
    box.clear()
    box.send_keys(text)


def slide(browser, domain, value):
    """Moves the slider of a domain by its keys."""
    keys = webdriver.Keys
    box = browser.find_element("css selector", f'tr[data-domain="{domain}"] input[type="range"]')
    box.send_keys(keys.HOME if value == 0 else keys.END)
    assert float(box.get_attribute("value")) == value


def click_apply(browser):
    browser.find_element("id", "apply").click()


def test_charts_appear_and_follow_the_run(run, opened, pictures):
    page = opened(run.log)
    assert count(page, "#asked polygon.band") == 3
    assert count(page, "#drawn polygon.band") == 3
    assert [
        f.text.splitlines()[0] for f in page.find_elements("css selector", "#lines figure")
    ] == [
        "loss, nats per token",
        "epochs by domain, passes over its rows",
    ]
    assert count(page, "#lines polyline.line") == 6
    assert "books <b>&amp;" in text_of(page, "#asked svg"), "a name is text, never markup"
    assert not scrolls_sideways(page, "#steer")
    first = page.execute_script("return shown.now")
    until(lambda: page.execute_script("return shown.now") > first + 20, "the charts stood still")
    assert text_of(page, "#state").startswith("step ")
    page.save_screenshot(str(pictures / "watch.png"))


def test_a_slider_changes_the_mixture_of_the_running_loader(run, opened, pictures):
    page = opened(run.log)
    before = len(run.changes())
    slide(page, "web", 0)
    slide(page, "code", 1)
    set_weight(page, "books <b>&amp;", "1")
    assert [row.text for row in page.find_elements("css selector", "td.share:last-child")] == [
        "50 %",
        "50 %",
        "0.0 %",
    ]
    page.find_element("id", "reason").send_keys("too much web")
    click_apply(page)
    until(lambda: text_of(page, "#answer").startswith("taken: felt from step "), "no answer")
    change = run.changes()[-1]
    assert len(run.changes()) == before + 1
    assert change["weights"] == [0.5, 0.5, 0]
    assert (change["source"], change["reason"]) == ("person", "too much web")
    assert f"step {change['step']:,}, row {change['row']:,}" in text_of(page, "#answer")
    until(lambda: "by hand: too much web" in text_of(page, "#marks"), "the change is not shown")
    run.wait_for_step(change["step"] + 60)
    until(lambda: page.execute_script("return shown.drawn.shares[2].at(-1)") < 0.05, "web is drawn")
    page.save_screenshot(str(pictures / "watch-steered.png"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("-1", "weight of domain 'web' in weights is -1.0; give a finite number of at least 0."),
        ("lots", "'lots' is text"),
        ("", "'' is text"),
    ],
)
def test_a_bad_request_is_refused_and_changes_nothing(typed, message, run, opened, pictures):
    page = opened(run.log)
    before = len(run.changes())
    set_weight(page, "web", typed)
    click_apply(page)
    until(lambda: "refused, nothing is changed" in text_of(page, "#answer"), "no refusal")
    assert message in text_of(page, "#answer")
    run.wait_for_step(read_run(run.log).last_step + 30)
    assert len(run.changes()) == before
    page.save_screenshot(str(pictures / "watch-refused.png"))


def test_the_sliders_follow_the_run_until_a_person_takes_one(run, opened):
    page = opened(run.log)
    field = 'tr[data-domain="code"] input[type="text"]'

    def shown():
        return page.find_element("css selector", field).get_attribute("value")

    request_weights(run.log, [1, 2, 1], "elsewhere")
    until(lambda: shown() == "0.5", "the slider did not follow")
    set_weight(page, "web", "7")
    request_weights(run.log, [1, 8, 1], "elsewhere")
    until(lambda: text_of(page, 'tr[data-domain="code"] td:nth-child(2)') == "80 %")
    assert shown() == "0.5"
    page.find_element("id", "reset").click()
    assert shown() == "0.8"


def test_a_run_that_is_not_steerable_can_only_be_looked_at(closed_run, opened, pictures):
    page = opened(closed_run)
    assert "can be watched, not steered" in text_of(page, "#closed").replace("\n", " ")
    assert not page.find_element("id", "apply").is_enabled()
    page.save_screenshot(str(pictures / "watch-closed.png"))


def test_another_page_cannot_steer_the_run(run, browser, watched, tmp_path):
    watch, before = watched(run.log), len(run.changes())
    body = json.dumps(body_of({"web": 1, "code": 0, "books <b>&amp;": 0}).decode())
    (tmp_path / "evil.html").write_text(
        "<title>asking</title><script>"
        f"fetch('{watch.url}weights', {{method: 'POST', mode: 'no-cors', body: {body}}})"
        ".then(() => { document.title = 'sent' }, () => { document.title = 'failed' })</script>"
    )
    browser.get(f"file://{tmp_path}/evil.html")
    until(lambda: browser.title in ("sent", "failed"))
    browser.get(f"http://127.0.0.1:{watch.port}/")
    assert "refused: open the whole address" in text_of(browser, "body")
    run.wait_for_step(read_run(run.log).last_step + 30)
    assert len(run.changes()) == before


def test_fifty_domains_and_a_plan_fit_the_page(tmp_path, opened, pictures):
    log = write_log(
        tmp_path / "fifty.jsonl", domains=names(50), num_steps=20_000, steerable=True,
        weights=[1 / (1 + i) for i in range(50)],
        changes=[(4000, [1 / (2 + i) for i in range(50)], "less web", "person")],
        planned=[(26_000, [1] * 50, "anneal", "schedule")],
        signals=[losses(names(50), 20_000, 50)],
    )  # fmt: skip
    page = opened(log)
    assert count(page, "#asked polygon.band") == 9
    assert "42 others" in text_of(page, "#asked svg")
    assert "planned" in text_of(page, "#asked svg")
    assert count(page, "#domains tr") == 50
    for figure in page.find_elements("css selector", "#charts figure"):
        assert not overlapping(page, figure)
    assert not scrolls_sideways(page, "#steer")
    page.save_screenshot(str(pictures / "watch-50.png"))
    page.set_window_size(600, 1300)
    try:
        for figure in page.find_elements("css selector", "#charts figure"):
            assert not overlapping(page, figure)
        assert not scrolls_sideways(page, "html")
        assert not scrolls_sideways(page, "#steer")
        page.save_screenshot(str(pictures / "watch-narrow.png"))
    finally:
        page.set_window_size(1500, 1300)


def scrolls_sideways(page, selector):
    element = page.find_element("css selector", selector)
    return page.execute_script(
        "return arguments[0].scrollWidth > arguments[0].clientWidth + 1", element
    )


def overlapping(page, figure):
    """Texts of a chart that lie on each other."""
    return page.execute_script(
        """
        const texts = [...arguments[0].querySelectorAll("text")];
        const boxes = texts.map((text) => [text.textContent, text.getBBox()]);
        const found = [];
        boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
          const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
          const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
          if (width > 1 && height > 2) found.push([one, other]);
        }));
        return found;
        """,
        figure,
    )


def test_the_sliders_are_those_of_the_corpus_that_the_run_goes_on_over(
    corpus_path, tmp_path, opened
):
    log, names = tmp_path / "grown.jsonl", ("code", "web", "books <b>&amp;")
    before, after = (
        mixstream.open_corpus({name: corpus_path / name for name in chosen})
        for chosen in (names[:2], names[1:])
    )
    loader = mixstream.Loader(before, batch_size=4, run_log=log, steerable=True)
    next(iter(loader))
    state = loader.state_dict()
    page = opened(log)
    assert sliders(page) == ["code", "web"]
    set_weight(page, "code", "0.25")
    going_on = mixstream.Loader(after, batch_size=4, run_log=log, steerable=True)
    going_on.load_state_dict(state, on_retired="redistribute")
    batches = iter(going_on)
    next(batches)
    until(lambda: sliders(page) == ["web", "books <b>&amp;"], "the old sliders stayed")
    assert "code left the corpus" in text_of(page, "#marks")
    set_weight(page, "books <b>&amp;", "3")
    click_apply(page)
    until(lambda: next(batches) and text_of(page, "#answer").startswith("taken"), "no answer")
    assert going_on.weights.tolist() == [0.25, 0.75]


def sliders(browser):
    return browser.execute_script("return rows().map(({ name }) => name)")
