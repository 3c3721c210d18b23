"""Text is read in one place: byte order marks, line endings, and bytes that are no text."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.config.deepspeed_settings import deepspeed_config
from caad_ds.config.reading import load_config
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.scoring.llm_judge import Judge
from caad_ds.models.architecture import read_architecture
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.text import TextError, read_lines, read_text
from data_prep.annotate.classes import read_scales
from data_prep.common.manifest import load_manifest
from data_prep.split import read_rules
from data_prep.stage1.answer_checks import AnswerChecks
from tests.root import ROOT

BOM = b"\xef\xbb\xbf"
ROW = dict.fromkeys(("gt", "neutral", "faithful", "adversarial", "irrelevant"), "yes") | {"audio": "a.wav"}


def mcr(path: Path) -> object:
    folder = path.parent / "SER"
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "audio" / "a.wav").touch()
    (folder / "SER.json").write_bytes(path.read_bytes())
    benchmark = Benchmark.load(path.parent)
    return [row.gt for row in benchmark.rows], benchmark.rejected


def superb(path: Path) -> object:
    (path.parent / "a.wav").touch()
    benchmark = DynamicSuperb.load(path)
    return [item.gt for item in benchmark.items], benchmark.rejected


JSONL_ROW = {"audios": ["a.wav"], "messages": [{"role": "user", "content": "é?"}], "label": "no", "category": "DS@X"}
DEEPSPEED = {"zero_optimization": {"stage": 3}}
INSTRUCTIONS = "attributes:\n  g:\n    name: Gé\n    questions: [Who]\n    options: {m: A man., f: A woman.}\n"
READERS = {
    "config": ("a.yaml", "run:\n  name: é\n", lambda path: load_config_error(path)),
    "instructions": ("a.yaml", INSTRUCTIONS, Instructions.load),
    "rules": ("a.yaml", "- {name: a, hash_of: level}\n- {name: b/c, hash_of: é}\n", read_rules),
    "scales": ("a.yaml", "pitch: {of: hz, labels: [é, b], thresholds: [1]}\n", read_scales),
    "checks": ("a.yaml", "leak:\n- é\n- b\n", lambda path: AnswerChecks(path).reason("be é")),
    "json": ("a.json", '{\n"a": "é"}\n', lambda path: read_json(path, "write it again")),
    "deepspeed": ("a.json", json.dumps(DEEPSPEED, indent=1), lambda path: deepspeed_config(str(path))),
    "architecture": ("a.json", '{\n"model_type": "llama"\n}\n', read_architecture),
    "manifest": ("a.jsonl", '{"id": "é", "audios": [{"path": "a.wav"}]}\n{"id": "b", "audios": [{"path": "b"}]}\n',
                 load_manifest),
    "mcr-bench": ("rows", json.dumps([ROW, ROW], indent=1), mcr),
    "dynamic-superb": ("a.jsonl", f"{json.dumps(JSONL_ROW, ensure_ascii=False)}\n{json.dumps(JSONL_ROW)}\n", superb),
    "judge": ("judge.jsonl", '{"key": "é", "verdict": true}\n{"key": "b", "verdict": null}\n',
              lambda path: Judge("m", "http://localhost", "k", 1, path)._known()),
}  # fmt: skip


def load_config_error(path: Path) -> str:
    """A config with a name only is incomplete; the error says what is missing."""
    with pytest.raises(UserError) as caught:
        load_config(path)
    if isinstance(caught.value, TextError):
        raise caught.value
    return str(caught.value)


@pytest.mark.parametrize("form", ["bom", "crlf", "both"])
@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(kind, form, tmp_path):
    name, text, read = READERS[kind]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    expected = read(path)
    changed = text.replace("\n", "\r\n") if form != "bom" else text
    path.write_bytes((BOM if form != "crlf" else b"") + changed.encode())
    assert read(path) == expected


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_is_an_error_that_names_it(kind, encoding, tmp_path):
    name, text, read = READERS[kind]
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"UTF-(16|32).*; save the file as UTF-8") as caught:
        read(path)
    assert name in str(caught.value) or kind == "mcr-bench"
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_are_reported_with_file_and_line(tmp_path):
    path = tmp_path / "a.txt"
    for end in (b"\n", b"\r\n", b"\r"):
        path.write_bytes(b"one" + end + b"caf\xe9" + end)
        with pytest.raises(TextError, match=r"a\.txt line 2: not UTF-8 text \(.*\); save the file as UTF-8"):
            read_text(path)
        with pytest.raises(TextError, match=r"a\.txt line 2: not UTF-8 text"):
            list(read_lines(path))


def test_a_row_of_a_benchmark_that_is_not_utf_8_is_listed_and_the_others_are_read(tmp_path):
    (tmp_path / "a.wav").touch()
    row = json.dumps(JSONL_ROW).encode()
    (tmp_path / "a.jsonl").write_bytes(row + b"\n" + row.replace(b"no", b"caf\xe9") + b"\n" + BOM + row + b"\n")
    benchmark = DynamicSuperb.load(tmp_path / "a.jsonl")
    assert len(benchmark.items) == 2
    [rejected] = benchmark.rejected
    assert rejected["id"] == "a.jsonl:2" and "not UTF-8 text" in rejected["reason"]


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", codec="utf-8")), min_size=1),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_lines_are_those_that_were_written(tmp_path_factory, lines, end):
    """Other characters that Python takes for line breaks, such as U+2028, are part of a line."""
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(BOM + "".join(line + end for line in lines).encode())
    assert [line for _, line in read_lines(path)] == lines
    assert read_text(path) == "".join(line + "\n" for line in lines)


READS = {"read_text", "safe_load", "safe_load_all", "loadtxt", "genfromtxt", "read_csv", "fdopen"}  # methods
OTHERS = {"os", "tarfile", "av"}  # whose `open` opens something else


def reads_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text to read it, or decodes a file's bytes by itself."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    owner = getattr(function, "value", None)
    if name == "open":
        given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        texts = [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        modes = [text for text in texts if set(text) <= set("rwabxt+")]
        if owner is not None and (getattr(owner, "id", "") in OTHERS or (given and not modes)):
            return False  # such as a method of that name
        return not set("bwax") & set(modes[0] if modes else "r")
    if name in ("decode", "loads"):
        inner = owner if name == "decode" else call.args[0]
        return isinstance(inner, ast.Call) and getattr(inner.func, "attr", "") == "read_bytes"
    if name == "load":
        return getattr(owner, "id", "") in ("json", "tomllib")
    return owner is not None and name in READS


@pytest.mark.parametrize(
    ("code", "found"),
    [("open(p)", True), ("open(p, 'r')", True), ("open(p, encoding='utf-8')", True), ("p.open()", True),
     ("p.open('rt')", True), ("json.load(f)", True), ("p.read_text('utf-8')", True), ("p.read_bytes().decode()", True),
     ("json.loads(p.read_bytes())", True), ("open(p, 'rb')", False), ("open(p, 'w')", False), ("p.open('ab')", False),
     ("read_text(p)", False), ("json.loads(read_text(p))", False), ("folder.open(setup, wanted)", False)],
)  # fmt: skip
def test_what_opens_text_is_recognised(code, found):
    assert reads_text(ast.parse(code).body[0].value) == found


@pytest.mark.parametrize("package", ["caad_ds", "data_prep", "examples", "benchmarks"])
def test_nothing_else_opens_text_to_read_it(package):
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != ROOT / "caad_ds" / "text.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and reads_text(node)
    ]
    assert not found, f"read text by caad_ds.utils.text: {', '.join(found)}"
