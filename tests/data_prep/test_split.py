"""Rules of `prep split`: by value, by the hash of a value, or by both."""

import pytest

from caad_ds import cli
from data_prep.split import Rule, splits_of
from tests.data_prep.lines import read


@pytest.fixture
def split(tmp_path, manifest, write_lines):
    """Runs `prep split` by rules over the eight clips, four of each gender; returns its exit status."""

    def run(rules: str) -> int:
        (tmp_path / "rules.yaml").write_text(rules)
        arguments = ["--manifest", str(manifest), "--rules", str(tmp_path / "rules.yaml"), "--out", str(tmp_path)]
        return cli.main(["prep", "split", *arguments])

    return run


def test_where_alone_is_a_rule(tmp_path, split):
    assert split("- {name: women, where: {gender: [female]}}\n- {name: men, where: {gender: [male]}}") == 0
    assert [row["id"] for row in read(tmp_path / "women.jsonl")] == ["clip1", "clip3", "clip5", "clip7"]
    assert [row["id"] for row in read(tmp_path / "men.jsonl")] == ["clip0", "clip2", "clip4", "clip6"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{name: all}", "split 'all': it takes every record; give 'where', 'hash_of' or both"),
        ("{name: a, where: {gender: [male]}, to: 0.5}", "split 'a': 'from' and 'to' divide by the hash of a key"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule, message, split, capsys):
    assert split(f"- {rule}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("values", [(17, 17.0, "17", "17.0"), ("Jos\u00e9", "Jose\u0301", "Jos\u00e9 ")])
def test_values_written_in_several_ways_are_hashed_to_one_split(values):
    rules = [Rule(name=f"r/{k}", hash_of="speaker", **{"from": k / 8, "to": (k + 1) / 8}) for k in range(8)]
    taken = [splits_of({"id": "a", "metadata": {"speaker": value}}, rules) for value in values]
    assert taken.count(taken[0]) == len(values)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gender: [women]", "'gender' holds male, female"),
        ("sex: [male]", "no record has 'sex'; the columns are accent, gender, noise, speaking_rate, voice"),
    ],
)
def test_a_split_that_takes_nothing_says_what_the_columns_hold(where, message, split, capsys):
    assert split(f"- {{name: a, where: {{{where}}}}}") == 2
    assert message in capsys.readouterr().err
