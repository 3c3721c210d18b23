import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.evaluation.matching import matches, matches_strictly

OPTIONS = ["male", "female", "fast", "very fast"]


@pytest.mark.parametrize(
    ("prediction", "label", "lenient", "strict"),
    [
        ("The speaker is Female.", "female", True, True),
        ("The speaker is female.", "male", False, False),
        ("Male or female, I cannot tell.", "male", True, False),
        ("female... yes, female!", "Female", True, True),
        ("very fast", "fast", True, False),
        ("very fast", "very fast", True, True),
        ("very fast, I mean fast", "very fast", True, False),
        ("very, very fast", "very fast", True, True),
        ("very loud and fast", "very fast", False, False),
        ("(female)", "female", False, False),
        ("", "male", False, False),
    ],
)
def test_rules(prediction, label, lenient, strict):
    assert matches(prediction, label) is lenient
    assert matches_strictly(prediction, label, OPTIONS) is strict


def test_an_answer_that_lists_every_option_is_right_by_the_published_rule_only():
    everything = " ".join(OPTIONS)
    assert all(matches(everything, label) for label in OPTIONS)
    assert not any(matches_strictly(everything, label, OPTIONS) for label in OPTIONS)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=8), st.sampled_from(["a", "b", "a b", "b a"]))
def test_strictly_right_is_right_and_an_option_alone_is_both(said, label):
    options = ["a", "b", "a b", "b a"]
    prediction = " ".join(said)
    if matches_strictly(prediction, label, options):
        assert matches(prediction, label)
    assert matches(label, label) and matches_strictly(label, label, options)
