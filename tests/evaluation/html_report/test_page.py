"""The page in a real browser: no external resources, audio, filters, keyboard use."""

import json
import time

import numpy as np
import pytest

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.comparison.compare import compare
from caad_ds.evaluation.html_report.report import report
from caad_ds.evaluation.tables_and_plots.tables import percent
from caad_ds.generation.decoding_settings import gate_name
from tests.chromium import chromium
from tests.evaluation.html_report.conftest import ITEMS, NASTY, SYSTEMS, make_items, make_world, write_run, write_tokens

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NEUTRAL, FALSE = CONDITIONS.index("neutral"), CONDITIONS.index("adversarial")
WITHIN = 10  # seconds


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Run folders with their page: `o.html` with embedded audio, `beside.html` with a folder of audio."""
    world = make_world(tmp_path_factory.mktemp("page") / "world")
    write_tokens(world.root / "run0" / "tokens", world.items[2])
    report(world.runs, world.root / "o.html")
    report(world.runs, world.root / "beside.html", embed_mb=0)
    return world


@pytest.fixture(scope="module")
def driver():
    """A headless Chromium."""
    with chromium((1400, 1000), logs=("browser",)) as driver:
        yield driver


@pytest.fixture
def page(driver, world):
    """The page, freshly opened from disk; its console stays without errors."""
    driver.get((world.root / "o.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []


def find(page, selector):
    return page.find_element("css selector", selector)


def press(page, *keys):
    from selenium.webdriver.common.keys import Keys

    find_focus = page.switch_to.active_element
    find_focus.send_keys(*(getattr(Keys, key, key) for key in keys))


def until(page, condition, what):
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def listed(page) -> list[str]:
    """The ids of all items in the list, which is scrolled through."""
    steps = """
      const done = arguments[0], list = document.getElementById("list"), found = new Map();
      list.scrollTop = 0;
      const step = () => requestAnimationFrame(() => requestAnimationFrame(() => {
        for (const row of list.querySelectorAll(".row:not([hidden])"))
          found.set(Number(row.getAttribute("aria-posinset")), row.querySelector(".id").textContent);
        const before = list.scrollTop;
        list.scrollTop += 200;
        if (list.scrollTop > before) step();
        else done([...found].sort((a, b) => a[0] - b[0]).map((each) => each[1]));
      }));
      step();
    """
    return page.execute_async_script(steps)


def rows_of(world) -> list[str]:
    return list(dict.fromkeys(item.id for item in world.items))


def cell_of(page, system, row, column):
    cards = page.find_elements("css selector", "#flips .matrix")
    return cards[list(SYSTEMS).index(system)].find_elements("tag name", "button")[2 * row + column]


def choose(page, field, value):
    from selenium.webdriver.support.ui import Select

    Select(find(page, f"#{field}")).select_by_visible_text(value)


def test_a_flip_cell_leaves_exactly_its_items(page, world):
    names = rows_of(world)
    assert listed(page) == names
    right = world.right["run0"]
    for row in range(2):
        for column in range(2):
            cell = cell_of(page, "teacher", row, column)
            cell.click()
            here = (right[NEUTRAL] == (row == 0)) & (right[FALSE] == (column == 0))
            assert listed(page) == [name for name, is_here in zip(names, here) if is_here]
            assert cell.text.split() == [str(here.sum()), f"{100 * here.mean():.1f}%"]
            assert cell.get_attribute("aria-pressed") == "true"
    cell.click()
    assert listed(page) == names and cell.get_attribute("aria-pressed") == "false"


def test_the_cells_show_the_figures_of_the_table(page, world):
    head = [each.text for each in page.find_elements("css selector", "#scores thead th")]
    for k, system in enumerate(SYSTEMS):
        line = page.find_elements("css selector", f"#scores tbody tr:nth-child({k + 1}) > *")
        shown = {name: each.text.split("\n")[0].split(" ")[0].rstrip("*") for name, each in zip(head, line)}
        assert cell_of(page, system, 0, 1).text.split()[1] == f"{shown['tir_all']}%"
        foot = page.find_elements("css selector", "#flips .matrix")[k].find_elements("css selector", "p")[-1].text
        assert foot == f"shift {shown['shift']}"


def test_percentages_are_rounded_as_in_the_tables(page):
    counts = [(part, whole) for whole in (40, 400, 1200) for part in range(whole + 1)]
    shown = page.execute_script("return arguments[0].map(([part, whole]) => percent(part / whole))", counts)
    assert shown == [percent(part / whole) for part, whole in counts]


def test_of_several_seeds_any_or_one_is_chosen(page, world):
    names, first, second = rows_of(world), world.right["run2"], world.right["run3"]
    lost = [each[NEUTRAL] & ~each[FALSE] for each in (first, second)]
    cell_of(page, "caad", 0, 1).click()
    assert listed(page) == [name for name, one, other in zip(names, *lost) if one or other]
    assert "in any of its runs" in find(page, "#uncell").text
    union, mean = (lost[0] | lost[1]).sum(), sum(map(np.sum, lost)) / 2
    cell = cell_of(page, "caad", 0, 1)
    assert cell.text.split("\n")[-1] == f"mean; {union} in any run" and len(listed(page)) == union
    assert f"{union} items; on average over the runs {mean:g}, " in cell.get_attribute("aria-label")
    assert "mean" not in cell_of(page, "teacher", 0, 1).text
    choose(page, "seed", "2")
    assert listed(page) == names
    card = page.find_elements("css selector", "#flips .matrix")[-1]
    assert "mean" not in card.text
    assert card.find_element("tag name", "h3").text == "caad"
    card.find_elements("tag name", "button")[1].click()
    assert listed(page) == [name for name, is_lost in zip(names, lost[1]) if is_lost]


def test_filters_leave_what_they_say(page, world):
    names, right = rows_of(world), world.right
    choose(page, "subset", "noise")
    assert listed(page) == names[ITEMS // 2 :]
    assert cell_of(page, "teacher", 0, 0).text.split()[0] == str(
        (right["run0"][NEUTRAL] & right["run0"][FALSE])[ITEMS // 2 :].sum()
    )
    choose(page, "subset", "all")
    choose(page, "condition", "adversarial")
    choose(page, "whose", "teacher")
    choose(page, "verdict", "wrong")
    wrong = [name for name, is_right in zip(names, right["run0"][FALSE]) if not is_right]
    assert listed(page) == wrong
    choose(page, "rule", "lenient")  # which takes the first item for wrong, and judges the others alike
    assert listed(page) == list(dict.fromkeys([names[0], *wrong]))
    choose(page, "rule", "strict")
    assert listed(page) == names
    choose(page, "verdict", "right")
    assert listed(page) == [] and "No item is left" in find(page, "#item").text
    find(page, "#clear").click()
    find(page, "#search").send_keys('QUESTION "it\'s" 17')
    assert listed(page) == [names[17]]
    find(page, "#clear").click()
    find(page, "#explained").click()
    assert listed(page) == [world.items[2].id]


def test_two_systems_against_each_other(page, world):
    choose(page, "condition", "irrelevant")
    c = CONDITIONS.index("irrelevant")
    find(page, "#pair").find_elements("tag name", "button")[2].click()
    other = next(folder for folder in list(world.right)[1:2])
    wanted = ~world.right["run0"][c] & world.right[other][c]
    assert listed(page) == [name for name, is_wanted in zip(rows_of(world), wanted) if is_wanted]


def test_a_benchmark_without_conditions_has_the_matrix_of_two_systems(driver, tmp_path):
    items, rng = make_items(tmp_path, conditions=(None,)), np.random.default_rng(0)
    right = [rng.random((1, ITEMS)) < 0.6 for _ in "ab"]
    for name, is_right in zip("ab", right):
        write_run(tmp_path / name, name, items, is_right, benchmark="dynamic-superb")
    report([tmp_path / "a", tmp_path / "b"], tmp_path / "o.html")
    driver.get((tmp_path / "o.html").as_uri())
    assert not find(driver, "#flips-section").is_displayed() and not find(driver, "#condition").is_displayed()
    only_a = right[0][0] & ~right[1][0]
    cell = find(driver, "#pair").find_elements("tag name", "button")[1]
    assert cell.text.split()[0] == str(only_a.sum())
    cell.click()
    assert listed(driver) == [item.id for item, is_here in zip(items, only_a) if is_here]
    assert driver.get_log("browser") == []


def explained_at(driver, page):
    driver.get(page.as_uri())
    find(driver, "#explained").click()
    section = find(driver, "#item .tokens")
    legend = [each.text for each in section.find_elements("css selector", ".legend span")]
    return section.find_element("css selector", "p").text, legend


def test_tokens_are_reported_with_their_settings_as_in_the_picture(driver, world, tmp_path):
    """With the condition only if there is one."""
    asked, legend = explained_at(driver, world.root / "o.html")
    assert asked == "adversarial; teacher; answer (right answer, forced): word"
    assert legend == ["p_pos: with audio", "p_neg: without it (zero_mel)", "contrastive target, alpha 1"]
    items = make_items(tmp_path, conditions=(None,), count=4)
    write_run(tmp_path / "a", "a", items, np.ones((1, 4), dtype=bool), benchmark="dynamic-superb")
    write_tokens(tmp_path / "a" / "tokens", items[2])
    [file] = (tmp_path / "a" / "tokens").iterdir()
    content = json.loads(file.read_text())
    content["setting"] |= {"answer": "contrast", "plausibility": 0.1, "temperature": 2.0}
    content["setting"] |= {"alpha_gate": "text_certainty", "gate_m": 3.0, "contrast_alpha": 1.5, "negative": "silence"}
    file.write_text(json.dumps(content))
    report([tmp_path / "a"], tmp_path / "o.html")
    asked, legend = explained_at(driver, tmp_path / "o.html")
    assert asked == "teacher; answer (own, contrastive decoding): word"
    gate = gate_name("text_certainty", 3.0)
    assert gate and legend[1:] == [
        "p_neg: without it (silence)",
        f"contrastive target, alpha 1.5{gate}, plausibility 0.1, all at temperature 2",
    ]
    assert driver.get_log("browser") == []


def test_significant_differences_are_marked(page, world):
    """As in the tables of `compare`; a star beside the cell."""
    found = compare(world.runs)
    texts = [each.text.split("\n")[0] for each in page.find_elements("css selector", "#scores tbody td")]
    marked = sum(bool(figure["significant"]) for columns in found.tested.values() for figure in columns.values())
    assert sum(text.endswith("*") for text in texts) == marked


def test_a_long_prompt_is_a_paragraph_with_its_lines(driver, tmp_path):
    """The question of a described benchmark is a complete prompt; none of its lines is used as a heading."""
    prompt = "Listen.\n\nWho speaks?\n  (A) a man\n  (B) a woman\n" + "Answer by a letter alone. " * 20
    items = [Item(**{**vars(item), "question": prompt}) for item in make_items(tmp_path, conditions=(None,), count=4)]
    write_run(tmp_path / "a", "a", items, np.ones((1, 4), dtype=bool), benchmark="dynamic-superb")
    report([tmp_path / "a"], tmp_path / "o.html")
    driver.get((tmp_path / "o.html").as_uri())
    question = find(driver, "#item .question")
    assert question.text.split("\n")[:4] == ["Listen.", "", "Who speaks?", "  (A) a man"]
    assert question.tag_name == "p" and find(driver, "#item h3").text == items[0].id
    assert driver.execute_script("const [a] = arguments; return a.scrollWidth <= a.clientWidth", find(driver, "#item"))


@pytest.mark.parametrize("name", ["o.html", "beside.html"])
def test_audio_plays(driver, world, name):
    driver.get((world.root / name).as_uri())
    find(driver, "#list").click()
    press(driver, "HOME", " ")
    until(driver, lambda: driver.execute_script("return document.querySelector('audio').currentTime") > 0, "silence")
    assert driver.execute_script("return document.querySelector('audio').error") is None
    assert driver.get_log("browser") == []


def test_texts_of_data_stay_texts(page, world):
    find(page, "#list").click()
    press(page, "HOME")
    shown = find(page, "#item").get_property("textContent")
    assert f"question 0 {NASTY}" in shown and "onerror='hacked = 1'>" in shown
    assert page.execute_script("return typeof hacked") == "undefined"
    assert page.execute_script("return document.querySelectorAll('img, iframe, script').length") == 3


def test_nothing_can_be_asked_of_the_outside(driver, world):
    driver.get((world.root / "o.html").as_uri())
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    tried = """
      const done = arguments[0];
      const script = document.createElement("script");
      script.textContent = "var injected = 1";
      document.body.append(script);
      fetch("http://127.0.0.1:9/").then(() => done("asked"), (error) => done([String(error), typeof injected]));
    """
    error, injected = driver.execute_async_script(tried)
    assert "Failed to fetch" in error and injected == "undefined"
    assert "Content Security Policy" in json.dumps(driver.get_log("browser"))


def test_everything_is_reached_by_keyboard(page, world):
    page.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    wanted = {"list", "search", "subset", "condition", "rule", "whose", "verdict", "explained", "clear", "seed"}
    wanted |= {"pair-a", "pair-b"}
    reached, cells, kinds = set(), 0, set()
    for _ in range(80):
        press(page, "TAB")
        now = page.switch_to.active_element
        reached.add(now.get_attribute("id"))
        kinds.add(now.tag_name)
        cells += now.get_attribute("data-cell") is not None
    assert wanted <= reached and {"audio", "summary"} <= kinds
    assert cells >= 4 * (len(SYSTEMS) + 1)
    page.execute_script("arguments[0].focus()", cell_of(page, "teacher", 0, 1))
    press(page, "ENTER")
    lost = world.right["run0"][NEUTRAL] & ~world.right["run0"][FALSE]
    ours = [name for name, is_lost in zip(rows_of(world), lost) if is_lost]
    assert listed(page) == ours
    page.execute_script("document.getElementById('list').focus()")
    for key, place in (("HOME", 0), ("ARROW_DOWN", 1), ("END", len(ours) - 1), ("ARROW_UP", len(ours) - 2)):
        press(page, key)
        active = find(page, f"#{find(page, '#list').get_attribute('aria-activedescendant')}")
        assert active.get_attribute("aria-selected") == "true" and ours[place] in active.text
        assert ours[place] in find(page, "#item").text
    press(page, "ENTER")
    assert page.switch_to.active_element.get_attribute("id") == "item"
    press(page, "ESCAPE")
    assert page.switch_to.active_element.get_attribute("id") == "list"


def test_names_and_roles_are_reported(page):
    unnamed = """
      const named = (each) => each.getAttribute("aria-label") || each.labels?.length || each.textContent.trim();
      return [...document.querySelectorAll("button, select, input, audio, [role=listbox], [role=region]")]
        .filter((each) => each.checkVisibility() && !named(each)).map((each) => each.outerHTML);
    """
    assert page.execute_script(unnamed) == []
    assert "wrong with the false one: " in cell_of(page, "teacher", 0, 1).get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_too(driver, world, scheme):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    try:
        driver.get((world.root / "o.html").as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") == 390
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(16, 21, 27)") == (scheme == "dark")
        assert not find(driver, "#item").is_displayed()
        driver.execute_script("document.getElementById('list').scrollIntoView()")
        driver.find_elements("css selector", ".row")[1].click()
        assert find(driver, "#item").is_displayed() and find(driver, "#item audio").is_displayed()
        find(driver, "#back").click()
        assert not find(driver, "#item").is_displayed()
        assert driver.get_log("browser") == []
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_tokens_have_bars_as_long_as_their_probabilities(page, world):
    find(page, "#explained").click()
    bars = page.find_elements("css selector", ".position .bar")
    assert [bar.text for bar in bars] == ["0.25", "0.13", "0.75"]
    widths = [bar.find_element("tag name", "i").size["width"] for bar in bars]
    assert widths[2] == pytest.approx(3 * widths[0], abs=1.5)
    assert NASTY.split(" ")[0].replace(" ", "\u2423") in find(page, ".token").text
