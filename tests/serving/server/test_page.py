"""The page in a real Chromium: a file is chosen, a question asked, the answers of both models are shown."""

import json

import numpy as np
import pytest

from caad_ds.serving.server import replies
from tests.chromium import chromium
from tests.serving.server.conftest import NAME, file_of, running, written

SEEN_WITHIN = 30  # seconds
QUESTION = "who speaks ?"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium with a microphone that hears beeps."""
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with chromium((390, 900), *fake, logs=("browser", "performance")) as driver:
        yield driver


def until(browser, found):
    """What is found once it is there."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SEEN_WITHIN).until(lambda _: found())


def ask(browser, cards: int) -> list[str]:
    """Press the button, and wait for the texts of the answers."""
    question = browser.find_element("id", "question")
    question.clear()
    question.send_keys(QUESTION)
    browser.find_element("id", "ask").click()

    def shown():
        times = [each.text for each in browser.find_elements("css selector", ".answer .time")]
        return len(times) == cards and all(" s" in each and "waiting" not in each for each in times)

    until(browser, shown)
    return [each.text for each in browser.find_elements("css selector", ".answer .text")]


@pytest.mark.slow
@pytest.mark.browser
def test_the_page(model, browser, tmp_path, monkeypatch):
    hostile = '<img src=x onerror=alert(1)> "&" a.wav'
    path = tmp_path / hostile
    path.write_bytes(file_of("one"))
    with running(model, key="sk-of-the-page", also={"other": model}, new_tokens=12) as served:
        browser.get(served.address)
        until(browser, lambda: "asks for its API key" in browser.find_element("id", "served").text)
        browser.find_element("id", "key").send_keys("sk-of-the-page\n")
        until(browser, lambda: f"{NAME} and other: clips of up to 1 s" in browser.find_element("id", "served").text)

        browser.find_element("id", "files").send_keys(str(path))
        until(browser, lambda: browser.find_elements("css selector", "#clips li"))
        assert browser.find_element("css selector", "#clips .name").text == hostile
        assert not browser.find_elements("css selector", "#clips img")
        browser.find_element("css selector", "#clips input").send_keys("hello")
        alone = [
            model.answer(file_of("one"), QUESTION, "hello", max_new_tokens=12, contrast_alpha=alpha)
            for alpha in (None, 1.0, None)
        ]
        assert ask(browser, 3) == alone and alone[0] != alone[1]
        titles = [each.text for each in browser.find_elements("css selector", ".answer h2")]
        assert titles == [NAME, NAME, "other"]
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert "sk-of-the-page" not in browser.page_source
        assert not any(each.text for each in browser.find_elements("css selector", ".answer .doubt"))

        silent = tmp_path / "silent.wav"
        silent.write_bytes(written(np.zeros(8000, np.float32)))
        browser.find_element("id", "files").send_keys(str(silent))
        until(browser, lambda: len(browser.find_elements("css selector", "#clips li")) == 2)
        ask(browser, 3)
        doubts = [each.text for each in browser.find_elements("css selector", ".answer .doubt")]
        assert len(doubts) == 3 and all(each.startswith("clip 2: silent: ") for each in doubts)
        browser.find_elements("css selector", "#clips button")[1].click()

        with monkeypatch.context() as broken:
            broken.setattr(replies, "DONE", {**replies.DONE, "body": b""})
            shown = ask(browser, 3)
            assert all(each.endswith("the answer broke off") for each in shown)

        browser.find_element("css selector", "#clips button").click()
        assert ask(browser, 2) == [model.answer([], QUESTION, max_new_tokens=12)] * 2

        browser.execute_script("""
            let asked = 0;
            const found = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = (given) => { window.microphones = ++asked; return found(given); };
            document.getElementById("record").click();
            document.getElementById("record").click();
        """)
        until(browser, lambda: browser.find_elements("css selector", "#clips li"))  # it stops at what the model takes
        assert browser.execute_script("return window.microphones") == 1
        said = ask(browser, 3)
        assert said[0] == said[2] and not browser.find_elements("css selector", ".fault")
        assert browser.find_element("id", "status").text == ""

    asked = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    outside = [url for url in urls if not url.startswith((served.address, "data:", "blob:", "chrome:"))]
    assert len(urls) > 8 and not outside
    faults = [line for line in browser.get_log("browser") if "401" not in line["message"]]
    assert not faults, "the console has errors, such as what its Content-Security-Policy forbids"
