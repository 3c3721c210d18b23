"""External modules: found by dotted names; one line about what is wrong with one."""

import pytest

from caad_ds.cli import main
from caad_ds.utils.errors import UserError
from caad_ds.utils.plugins import load_plugin, plugin_module
from data_prep.annotate import annotators
from data_prep.ingest import sources


@pytest.fixture(autouse=True)
def theirs(tmp_path, monkeypatch):
    """A package `theirs` with one valid module, one with a missing dependency, and one with a syntax error."""
    modules = {"whole": "load = 'me'", "needs": "import not_installed", "broken": "def load(:"}
    (tmp_path / "theirs").mkdir()
    for name, text in modules.items():
        (tmp_path / f"theirs/{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_module_and_a_name_in_it():
    assert load_plugin("theirs.whole").load == load_plugin("theirs.whole:load") == "me"
    assert plugin_module("thing", "theirs.whole", "package", [], ["load"]).load == "me"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", "thing 'plain': there is none of that name; take one of a, b, or package.module of your own"),
        ("absent.module", "No module named 'absent'); add the folder that it lies in to PYTHONPATH"),
        ("theirs.absent", "No module named 'theirs.absent'); add the folder"),
        ("theirs.needs", "it cannot be imported (ModuleNotFoundError: No module named 'not_installed')"),
        ("theirs.broken", "it cannot be imported (SyntaxError: "),
        ("theirs.whole", "it has no KEYS; the head of package says what it needs"),
        (".", "it cannot be imported ("),
    ],
)
def test_what_is_wrong_is_reported_in_a_line(name, expected):
    with pytest.raises(UserError) as caught:
        plugin_module("thing", name, "package", ["a", "b"], ["load", "KEYS"])
    message = str(caught.value)
    assert message.startswith(f"thing {name!r}: ") and expected in message and "\n" not in message
    assert ("PYTHONPATH" in message) is ("absent" in name)


@pytest.mark.parametrize(
    ("get", "lacking"),
    [
        (sources.get, "source 'theirs.whole': it has neither records nor rows"),
        (annotators.get, "annotator 'theirs.whole': it has no KEYS"),
    ],
)
def test_each_kind_says_what_it_lacks(get, lacking):
    with pytest.raises(UserError, match=lacking):
        get("theirs.whole")


def test_an_engine_that_is_none(capsys):
    asked = ["prep", "pseudo-gt", "--manifest", "m.jsonl", "--out", "o.jsonl", "--engine"]
    assert main([*asked, "transformer"]) == 2
    assert "--engine: there is no 'transformer'; take one of template, transformers, " in capsys.readouterr().err
    assert main([*asked, "absent.engine"]) == 2
    assert "--engine 'absent.engine': it cannot be imported" in capsys.readouterr().err
