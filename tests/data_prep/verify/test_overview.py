"""The overview page shows the content of shards, for any metadata, and stays small."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from caad_ds import cli
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack
from data_prep.verify.contents import Contents, Tally
from data_prep.verify.overview import page, panel
from data_prep.verify.verify import verify

SCRIPT = "<script>alert('x')</script>"
LONG = "Supercalifragilistic" * 400


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def shards(tmp_path, tone) -> Path:
    """Two clips with three prompts each and metadata of the worst kind, and a clip that is rejected."""
    records = []
    for number in range(6):
        clip = tone(f"{number % 2}.wav", 0.2 + 0.1 * (number % 2))
        content = f"<start_audio><|AUDIO|><end_audio>{number}?"
        records.append(
            {
                "id": f"clip.{number}",
                "audios": [{"path": str(clip)}],
                "messages": [{"role": "user", "content": content}],
                "response": "one two three" + " more" * number,
                "source": "corpus & sons",
                "metadata": {
                    SCRIPT: '"><img src=http://127.0.0.1/x onerror=alert(1)>',
                    "name": LONG,
                    "language": ("Ελληνικά", "‮中文‬\ud800\x1b[31m")[number % 2],
                    "snr_db": 1.25 * number,
                    "gender": ("female", "male")[number % 2],
                    "prompt": {
                        "condition": "faithful",
                        "attribute": ("gender", "snr")[number == 0],
                        "question": "left out",
                        "kind": "describe",
                    },
                },
            }
        )
    records.append({**records[0], "id": "absent", "audios": [{"path": str(tmp_path / "a b/absent.wav")}]})
    # Escaped, since a lone surrogate cannot be written as UTF-8.
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_manifest(tmp_path / "eval.jsonl", [{**records[1], "metadata": {}}])
    return tmp_path


def test_the_page_shows_what_is_there_and_runs_and_loads_nothing(shards, capsys):
    write_packable(shards)
    status = cli.main(
        [
            "prep",
            "verify",
            str(shards / "out"),
            "--against",
            str(shards / "eval.jsonl"),
            "--overview",
            str(shards / "o.html"),
        ]
    )
    assert status == 1 and f"overview: {shards / 'o.html'}" in capsys.readouterr().out
    html = (shards / "o.html").read_text(encoding="utf-8")
    found = Page(html)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "base"}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    sources = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert len(sources) == 3 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    pictures = [base64.b64decode(source.partition(",")[2]).decode() for source in sources]
    assert all(picture.rstrip().endswith("</svg>") and "samples" in picture for picture in pictures)
    assert "default-src 'none'" in html and "http://" not in html.replace("http://127.0.0.1/x", "")
    for shown in [
        "3 faults",
        "its audio is held out",
        "samples 6",
        "min 3, median 6, mean 5.5, p95 8, max 8",
        "corpus & sons 6 100.0%",
        "faithful 6",
        "gender 5 83.3%",
        "female 3 50.0%",
        "Ελληνικά 3",
        "中文",
        SCRIPT,
        "2 of 2 audios have several prompts",
        "clip%2E0 3 prompts",
        "does not decode: there is no such file 1",
    ]:
        assert shown in found.text
    assert "left out" not in found.text and "\x1b" not in html and LONG[:80] not in found.text


def write_packable(folder: Path) -> None:
    """Pack, with a metadata text that JSON can hold and UTF-8 cannot."""
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    for row in rows:
        row["metadata"]["language"] = row["metadata"]["language"].replace("\ud800", "")
    write_manifest(folder / "m.jsonl", rows)
    pack(folder / "m.jsonl", folder / "out")


def test_a_text_that_is_no_unicode_is_counted():
    contents = Contents()
    contents.add(
        {"response": "a", "metadata": {"\ud800": "\ud800x", "big": 10**400, "none": float("nan"), "flag": True}}
    )
    assert list(contents.attributes) == ["?", "big", "none", "flag"]
    assert list(contents.attributes["?"].counts) == ["?x"]
    assert "true" in contents.attributes["flag"].counts


def test_a_prompt_that_describe_did_not_write_is_an_attribute():
    contents = Contents()
    recorded = {"kind": "describe", "condition": "none", "question": "What?"}
    for metadata in ({"prompt": "mine"}, {"prompt": recorded, "kind": "mine"}):
        contents.add({"response": "a", "metadata": metadata})
    assert {name: list(tally.counts) for name, tally in contents.attributes.items()} == {
        "prompt": ["mine"],
        "kind": ["mine"],
    }
    assert list(contents.answers["kind"].counts) == ["describe"]


def test_the_page_does_not_grow_with_the_corpus(shards):
    write_packable(shards)
    found = verify(shards / "out")
    sizes = []
    for count in (1_500, 6_000):
        for number in range(count):
            values = {f"key {number}": number, "speaker": f"speaker {number}", "snr": number / 7, "text": LONG}
            found.contents.add({"response": "word " * (number % 97), "metadata": values})
            found.reasons.add(f"reason {number}")
            found.faults.append(f"fault {number} {LONG}")
        sizes.append(len(page(found)))
    assert sizes[1] < 1.02 * sizes[0] < 150_000
    assert "and more than 76 more attributes" in page(found)


def test_a_panel_has_few_bars_and_its_others_make_up_the_rest():
    tally = Tally()
    for number in range(3_000):
        tally.add(f"value {number}")
        tally.add("often")
    shown = panel("values", tally)
    assert [bar.label for bar in shown.bars[:2]] == ["often", "value 0"] and len(shown.bars) == 9
    assert shown.bars[-1].label == "others (992 and more)" and sum(bar.count for bar in shown.bars) == 6_000
    assert shown.bars[0].width == 100.0 == pytest.approx(sum(bar.share for bar in shown.bars))


def test_numbers_are_shown_as_ranges_in_their_order():
    tally = Tally()
    for number in range(100):
        tally.add(float(number), 2)
    shown = panel("numbers", tally)
    assert [bar.label for bar in shown.bars[:2]] == ["0 to 12.4", "12.4 to 24.8"]
    assert len(shown.bars) == 8 and sum(bar.count for bar in shown.bars) == 200


def test_a_page_replaces_nothing_but_a_page(shards, capsys):
    write_packable(shards)
    before = (shards / "out/train-000000.tar").read_bytes()
    assert cli.main(["prep", "verify", str(shards / "out"), "--overview", str(shards / "out/train-000000.tar")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert (shards / "out/train-000000.tar").read_bytes() == before


FRAME = """<iframe src="o.html" style="border:0; width:{width}px; height:900px"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const pictures = [...page.images].map(image => image.complete && image.naturalWidth > 0 && image.clientWidth);
  document.title = JSON.stringify([page.documentElement.scrollWidth, pictures, page.title]);
}};
</script>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(shards, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs chromium")
    write_packable(shards)
    cli.main(["prep", "verify", str(shards / "out"), "--overview", str(shards / "o.html")])
    (shards / "frame.html").write_text(FRAME.format(width=width))
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--dump-dom",
    ]
    profile = f"--user-data-dir={shards / 'profile'}"
    ended = subprocess.run(
        [browser, *options, profile, (shards / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search("<title>(.*)</title>", ended.stdout)
    assert title, ended.stderr
    wide, pictures, name = json.loads(title.group(1))
    assert wide == width and name.startswith("out")
    assert len(pictures) == 3 and all(250 < picture < 420 for picture in pictures)
