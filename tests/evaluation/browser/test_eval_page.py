"""report.html in a real browser: it fits a phone, asks for nothing, runs no model text, and its filters work."""

import json

import pytest

from evaluation.commands import report
from tests.evaluation import fabricated
from tests.evaluation.browser.chromium import Browser, program
from tests.evaluation.fabricated import Made

pytestmark = pytest.mark.skipif(program() is None, reason="no chromium or chrome on PATH")
MADE = {"aime24": Made(12, 0.5), "mine <b>": Made(9, 0.5)}
NOT_RUN = (
    "typeof window.pwned === 'undefined' && document.title.startsWith('Evaluation of') "
    "&& !document.querySelector('#list img')"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    place = tmp_path_factory.mktemp("alone")
    label = "4B <img src=x onerror=window.pwned=1> " + "long" * 40
    fabricated.write_run(place / "run", label, MADE, n=8, hostile=True, contaminated=True)
    return report.build([place / "run"], place / "out").page


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    place = tmp_path_factory.mktemp("many")
    fabricated.write_run(place / "base", "base", MADE, n=4, truncated=0.4)
    for name in ("RPG-URKL", "GRPO"):
        fabricated.write_series(
            place / name, name, (10, 20, 30), benchmarks=MADE, n=4, hostile=True, log=name != "GRPO"
        )
    return report.build([place], place / "out").page


@pytest.fixture(params=["alone", "many"])
def page(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1600, False)])
def test_it_fits_and_is_quiet(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    wide = browser.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.requests.count(page.resolve().as_uri()) == 1
    assert browser.evaluate(NOT_RUN)


def test_nothing_but_scrollers_is_wider_than_a_phone(browser, page):
    browser.open(page, 390)
    wide = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') "
        "&& e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"
    )
    assert wide == []


def test_figures_are_legible_on_a_phone(browser, page):
    browser.open(page, 390)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('.panel svg text')].map(e => parseFloat(getComputedStyle(e).fontSize) "
        "* e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert len(sizes) > 20
    assert min(sizes) >= 11
    left = browser.evaluate("[...document.querySelectorAll('.panel')].map(e => e.getBoundingClientRect().left)")
    assert len(set(left)) == 1  # one column


def test_figures_stand_out_on_dark(browser, page):
    browser.open(page, 1440, dark=True)
    fill = browser.evaluate("getComputedStyle(document.querySelector('.panel svg text')).fill")
    assert sum(int(part) for part in fill.removeprefix("rgb(").removesuffix(")").split(",")) > 600


def test_every_sample_opens_without_running(browser, alone):
    browser.open(alone, 1000)
    browser.evaluate("while (!document.getElementById('more').hidden) document.getElementById('more').click()")
    browser.evaluate("document.querySelectorAll('.sample').forEach(e => { e.open = true; })")
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    assert browser.evaluate("document.querySelectorAll('.sample .response').length") == 21 * 4
    assert browser.evaluate(NOT_RUN)
    assert browser.problems == []
    texts = browser.evaluate("[...document.querySelectorAll('.response')].map(e => e.textContent)")
    assert any("</script><script>window.pwned=1" in text for text in texts)
    assert any("⟨U+202E⟩gnp.exe⟨U+202C⟩" in text for text in texts)
    assert any("NUL ␀ here, bell ␇" in text for text in texts)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1000


@pytest.mark.parametrize("width", [390, 1200])
def test_a_cell_filters_the_samples(browser, many, width):
    browser.open(many, width)
    cell = 'button.cell[data-b="aime24"][data-p="aime24-I-03"][data-r="base"]'
    words = browser.evaluate(f"document.querySelector({json.dumps(cell)}).getAttribute('aria-label')")
    browser.click(cell)
    assert browser.evaluate("document.getElementById('count').textContent").startswith("4 of ")
    names = browser.evaluate("[...document.querySelectorAll('.sample summary')].map(e => e.textContent)")
    assert len(names) == 4
    assert all("aime24-I-03" in name and "base" in name for name in names)
    assert browser.evaluate("document.getElementById('cell-words').textContent").startswith(words)
    browser.click("#filters button[type=reset]")
    assert browser.evaluate("document.getElementById('f-problem').value") == ""


def test_filters_and_counts_agree_with_the_data(browser, many):
    browser.open(many, 1200)
    data = browser.evaluate("JSON.parse(document.getElementById('data').textContent)")

    def choose(field, value):
        browser.evaluate(
            f"(() => {{ const e = document.getElementById('f-{field}'); e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change')); })()"
        )
        browser.evaluate("new Promise(done => setTimeout(done, 250))")
        return int(browser.evaluate("document.getElementById('count').textContent").split(" of ")[0].replace(",", ""))

    samples = data["samples"]
    assert choose("verdict", "truncated") == sum(s["reason"] == "truncated" for s in samples) > 0
    assert choose("verdict", "!") == sum(not s["correct"] for s in samples)
    assert choose("verdict", "") == len(samples) == 5 * 21 * 4
    wanted = "mine <b>"
    assert choose("benchmark", wanted) == sum(data["problems"][s["problem"]]["benchmark"] == wanted for s in samples)
    assert choose("text", "ONERROR=") == sum(
        "onerror=" in s["text"].lower() and data["problems"][s["problem"]]["benchmark"] == wanted for s in samples
    )
    assert choose("run", "0") <= 36


def test_tables_and_figures_need_no_script(browser, many):
    browser.open(many, 390, script=False)
    # DevTools still evaluates while the page's own scripts are off.
    assert browser.evaluate("document.querySelectorAll('table tbody tr').length") > 10
    assert browser.evaluate("document.querySelectorAll('.panel svg').length") > 6
    assert browser.evaluate("document.querySelectorAll('.sample').length") == 0
    assert browser.evaluate("document.getElementById('filters').hidden")
    assert "JavaScript" in browser.evaluate("document.querySelector('noscript').textContent")


def test_the_policy_refuses_what_is_not_the_pages_own(browser, alone):
    browser.open(alone, 1000)
    browser.evaluate(
        "(() => { const s = document.createElement('script');"
        "try { s.textContent = 'window.pwned = 1'; document.body.append(s); } catch (e) {} "
        "try { document.body.innerHTML += '<img src=x onerror=\"window.pwned=1\">'; } catch (e) {} })()"
    )
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    assert browser.evaluate("typeof window.pwned") == "undefined"


def test_rates_are_words_too(browser, alone):
    browser.open(alone, 390)
    labels = browser.evaluate("[...document.querySelectorAll('button.cell')].map(e => e.getAttribute('aria-label'))")
    assert len(labels) == 21
    assert all(" of 8 correct (" in label for label in labels)
