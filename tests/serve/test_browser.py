"""The page in a real browser: what people click and type reaches the stream, and its pictures the screen."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHROMIUM = next(
    (
        path
        for path in (
            "/usr/lib/chromium/chromium",
            shutil.which("chromium"),
            shutil.which("google-chrome"),
        )
        if path and os.path.exists(path)
    ),
    None,
)

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium is installed: the page was not tried"
    ),
]

PIXELS = """kind => {
  const canvas = document.querySelector(`[aria-label^="Lane ${kind}, video"]`);
  if (!canvas) return null;
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const means = [];
  for (let row = 0; row < 8; row++) for (let column = 0; column < 16; column++) {
    const place = 4 * ((row + .5) * canvas.height / 8 * canvas.width + (column + .5) * canvas.width / 16 | 0);
    means.push(data[place], data[place + 1], data[place + 2]);
  }
  return means;
}"""
"""The picture of a lane, one pixel of the world each."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the shipped toy weights, started as a user starts it; stopped by Ctrl-C, it saves its state."""
    folder = tmp_path_factory.mktemp("serve")
    command = [
        sys.executable,
        "-m",
        "lightning_adastate",
        "serve",
        "--config",
        "toy/memory",
        "--port",
        "0",
    ]
    state = folder / "state.safetensors"
    root = Path(__file__).parents[2]
    # A background job begins with SIGINT ignored, and its children would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--state_out", str(state), "--seed", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
    ) as server:
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        yield url
        server.send_signal(signal.SIGINT)
        said, _ = server.communicate(timeout=60)
        assert f"saved to {state}" in said
        assert server.returncode == 130
    assert state.stat().st_size > 1000


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, with a stream that runs; no error may be left in its console."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.goto(address)
    page.wait_for_selector("canvas[data-kind=content]")
    yield page
    context.close()
    assert errors == []


def chunk(page, lane=0):
    """The chunk that a lane shows."""
    return int(page.locator(".chunk").nth(lane).inner_text().split()[1])


def wait_for_chunk(page, number, lane=0):
    """Wait until a lane shows a chunk that late."""
    page.wait_for_function(
        "([lane, number]) => Number(document.querySelectorAll('.chunk')[lane]?.textContent.split(' ')[1]) >= number",
        arg=[lane, number],
    )


def difference(page):
    """How far apart the two lanes' pictures are, in 8-bit levels; NaN while the screen still shows one alone."""
    # In one go: between two the next frame may come.
    one, two = page.evaluate(f"() => ['A', 'B'].map({PIXELS})")
    if one is None or two is None:
        return math.nan
    return sum(abs(a - b) for a, b in zip(one, two, strict=True)) / len(one)


def wait_for_difference(page, accepted, seconds=60):
    """Wait until the lanes' pictures are that far apart."""
    until = time.monotonic() + seconds
    while not accepted(found := difference(page)):
        assert time.monotonic() < until, found
        page.wait_for_timeout(100)


def begin_anew(page, seed):
    """Begin with a seed, and wait for its first chunks."""
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_role("button", name="Begin anew").click()
    page.wait_for_function(
        "() => Number(document.querySelector('.chunk').textContent.split(' ')[1]) < 5"
    )


def test_it_plays_and_measures(page):
    seen = chunk(page)
    wait_for_chunk(page, seen + 4)
    assert len(set(page.evaluate(PIXELS, "A"))) > 20  # a picture
    assert page.locator("[aria-label='Lane A, hidden state, decoded']").count() == 1
    assert page.locator(".attention rect.anchor").count() == 1
    assert [float(v) for v in page.locator(".plot .one").all_inner_texts()][3] > 0
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").wait_for()
    page.wait_for_timeout(1500)
    seen = chunk(page)
    page.wait_for_timeout(1500)
    assert chunk(page) == seen
    page.get_by_role("button", name="Go on").click()
    wait_for_chunk(page, seen + 1)


def test_a_branch_shows_the_same_until_its_prompt_and_anchor_change_and_restore_undoes_it(page):
    begin_anew(page, 11)
    wait_for_chunk(page, 4)
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Restore chunk").first.wait_for()
    page.get_by_role("button", name="Branch").click()
    page.locator("[aria-label='Lane B, video']").wait_for()
    wait_for_difference(page, lambda levels: levels < 1.5)

    page.get_by_label("New prompt").fill("drifting quickly east")
    page.locator("#policy").select_option("recache")
    page.get_by_label("Where").select_option("B")
    page.get_by_role("button", name="Switch").click()
    page.get_by_text("B: drifting quickly east (recache)").wait_for()
    wait_for_difference(
        page, lambda levels: levels > 10
    )  # from an untouched stream of the same seed
    assert "drifting quickly east" not in page.locator(".says").first.inner_text()

    page.get_by_role("button", name=re.compile("^Restore chunk")).first.click()
    page.wait_for_function("() => document.querySelectorAll('.lane').length === 1")
    page.get_by_role("button", name="Branch").click()
    page.locator("[aria-label='Lane B, video']").wait_for()
    wait_for_difference(page, lambda levels: levels < 1.5)
    page.get_by_label("Anchor of lane B").select_option("none")
    page.get_by_text("B: anchor none").wait_for()
    wait_for_difference(page, lambda levels: levels > 3)
    page.locator("[aria-label='Lane B, hidden state, decoded']").wait_for(state="detached")
    page.get_by_text("no hidden state").wait_for()
    page.get_by_role("button", name="Close").nth(1).click()
    page.wait_for_function("() => document.querySelectorAll('.lane').length === 1")


def test_keys_do_what_they_say(page):
    page.locator("h1").click()
    page.keyboard.press("f")
    page.locator("#notes").get_by_text("flush").first.wait_for()
    page.keyboard.press("c")
    page.locator("#notes").get_by_text("cut").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("drifting slowly east")
    page.keyboard.press("Enter")
    page.locator("#notes").get_by_text("drifting slowly east (recache)").wait_for()
    page.locator(".says").first.get_by_text("drifting slowly east").wait_for()


def test_a_refused_prompt_says_why(page):
    page.get_by_label("New prompt").fill("one two three four five six seven eight nine")
    page.get_by_role("button", name="Switch").click()
    page.get_by_text("the prompt has 9 words, the most is 8").wait_for()


def test_a_phone_shows_everything_without_scrolling_sideways(browser, address):
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("canvas[data-kind=content]", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    small = page.evaluate(
        "[...document.querySelectorAll('button, select')].filter(e => e.offsetHeight && e.offsetHeight < 30).length"
    )
    assert small == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length && !e.ariaLabel).length"
    )
    assert unnamed == 0
    context.close()
