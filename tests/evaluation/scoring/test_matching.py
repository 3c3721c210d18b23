import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caad_ds.evaluation.scoring.matching import (
    RULES,
    inseparable,
    matches,
    matches_leniently,
    matches_strictly,
    verdicts,
)
from caad_ds.evaluation.scoring.normalization import canonical, tokens

OPTIONS = ["male", "female", "fast", "very fast"]


@pytest.mark.parametrize(
    ("prediction", "label", "published", "strict"),
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
        ("female (not male)", "female", True, False),
        ("", "male", False, False),
    ],
)
def test_rules(prediction, label, published, strict):
    assert matches(prediction, label) is published
    assert matches_strictly(prediction, label, OPTIONS) is strict


def test_an_answer_that_lists_every_option_is_right_by_the_published_rule_only():
    everything = " ".join(OPTIONS)
    assert all(matches(everything, label) for label in OPTIONS)
    assert not any(matches_strictly(everything, label, OPTIONS) for label in OPTIONS)
    assert not any(matches_leniently(everything, label, OPTIONS) for label in OPTIONS)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=8), st.sampled_from(["a", "b", "a b", "b a"]))
def test_strictly_right_is_right_and_an_option_alone_is_all_of_them(said, label):
    options = ["a", "b", "a b", "b a"]
    prediction = " ".join(said)
    if matches_strictly(prediction, label, options):
        assert matches(prediction, label)
    assert matches(label, label) and matches_strictly(label, label, options)
    assert matches_leniently(label, label, options)


# Sets of options that the published rule takes for one.
COLLAPSED = [
    ["English (US)", "English (UK)", "English"],
    ["C", "C#", "C++"],
    ["A", "A+", "A-"],
    ["-5 dB", "5 dB"],
    ["\u22125 dB", "5 dB"],
    ["1.5 s", "1 5 s"],
    ["<5 s", ">5 s", "5 s"],
    ["5 \u00b0C", "5 C", "5 %C"],
    ["1/2", "1 2", "1:2"],
    ["dog [near]", "dog [far]"],
    ["F\u266f", "F\u266d", "F"],
    ["\u0926\u093f\u0928", "\u0926\u0940\u0928"],  # vowel signs of Devanagari
    ["+5", "-5"],
    ["x = y", "x < y"],
    ["R&B", "R B"],
]


@pytest.mark.parametrize("options", COLLAPSED[:-2] + COLLAPSED[-1:], ids=str)
def test_options_that_normalisation_collapses_are_distinguished(options):
    """By every rule but the published one, which takes each for each."""
    for label in options:
        for said in options:
            for prediction in (said, f"It is {said}.", f"**{said}**"):
                found = verdicts(prediction, label, options, "Which one?")
                assert found.pop("right"), "the published rule stays"
                assert set(found.values()) == {said == label}, (prediction, label, found)


@pytest.mark.parametrize(
    ("prediction", "label"),
    [("English (UK)", "English (US)"), ("C#", "C"), ("-5 dB", "5 dB"), ("minus 5 dB", "5 dB"), ("1.5", "1")],
)
def test_what_is_no_option_of_the_benchmark_is_not_taken_for_the_label(prediction, label):
    """The other option may be one that no row's label is."""
    found = verdicts(prediction, label, [label], "Which one?")
    assert found.pop("right") and not any(found.values()), found


@pytest.mark.parametrize(
    ("prediction", "label", "options"),
    [("dog", "dog (bark)", ["dog (bark)", "cat (meow)"]), ("5", "5%", ["5%", "10%"])],
)
def test_brackets_and_units_may_be_left_out_where_nothing_else_has_the_rest(prediction, label, options):
    assert set(verdicts(prediction, label, options, "").values()) == {True}
    for other in (prediction, f"{prediction} (loud)"):
        found = verdicts(prediction, label, [*options, other], "")
        assert found["right"] and not (found["strict"] or found["option"] or found["lenient"])


YES_NO, COUNTS, LENGTHS = ["yes", "no"], ["1", "2", "3", "21", "105"], ["0.4m", "0.8m", "4m"]


@pytest.mark.parametrize(
    ("prediction", "label", "options"),
    [
        ("[no]", "no", YES_NO),
        ("(no)", "no", YES_NO),
        ("{no}", "no", YES_NO),
        ("\uff08no\uff09", "no", YES_NO),
        ("<answer>no</answer>", "no", YES_NO),
        ("[[no]]", "no", YES_NO),
        ("**no**", "no", YES_NO),
        ('"no"', "no", YES_NO),
        ("\\boxed{no}", "no", YES_NO),
        ("two", "2", COUNTS),
        ("I hear two speakers.", "2", COUNTS),
        ("[two]", "2", COUNTS),
        ("One", "1", COUNTS),
        ("The answer is one.", "1", COUNTS),
        ("twenty-one", "21", COUNTS),
        ("one hundred and five", "105", COUNTS),
        ("2.0", "2", COUNTS),
        ("2", "two", ["one", "two", "three"]),
        ("0.4 m", "0.4m", LENGTHS),
        ("0.40 metres", "0.4m", LENGTHS),
        ("zero point four meters", "0.4m", LENGTHS),
        ("point four meters", "0.4m", LENGTHS),
        ("<answer>2</answer>", "2", COUNTS),
        ("C sharp", "C#", ["C", "C#"]),
        ("I'm not sure. Male", "male", ["male", "female"]),
        ("No, male", "male", ["male", "female"]),
        ("No no it is no", "no", YES_NO),
        ("5 decibels", "5 dB", ["5 dB", "10 dB", "-5 dB"]),
        ("5dB", "5 dB", ["5 dB", "10 dB", "-5 dB"]),
        ("minus five decibels", "-5 dB", ["5 dB", "10 dB", "-5 dB"]),
        ("five percent", "5%", ["5%", "10%"]),
        ("nonnative", "non-native", ["native", "non-native"]),
        ("non-native", "nonnative", ["native", "nonnative"]),
    ],
)
def test_the_lenient_rule_reads_more_spellings(prediction, label, options):
    assert any(verdicts(prediction, label, options, "Which one?").values())
    assert matches_leniently(prediction, label, options)
    assert not any(matches_leniently(prediction, other, options) for other in options if other != label)


@pytest.mark.parametrize(
    ("prediction", "label", "options"),
    [
        ("two or three", "2", COUNTS),
        ("[yes] or [no]", "no", YES_NO),
        ("the second one", "1", COUNTS),
        ("One of them is male", "1", COUNTS),
        ("No one can tell", "1", COUNTS),
        ("twenty-one", "1", COUNTS),
        ("twenty-one", "20", [*COUNTS, "20"]),
        ("a mp3 file", "3", COUNTS),
        ("the 1990s", "1990", ["1990", "2000"]),
        ("0.4 km", "0.4m", LENGTHS),
        ("4 m", "0.4m", LENGTHS),
        ("-2", "2", COUNTS),
        ("minus two", "2", COUNTS),
        ("1 2", "12", ["12", "3"]),
        ("native", "non-native", ["native", "non-native"]),
        ("two thousand", "2", COUNTS),
        ("2 million", "2", COUNTS),
        ("two and a half", "2", COUNTS),
        ("two thirds", "2", COUNTS),
        ("twenty-one", "one", ["one", "two"]),
        ("1,2", "2", ["2", "3"]),
        ("0,4 m", "4m", LENGTHS),
        ("point four m", "4m", LENGTHS),
        ("C sharp", "C", ["C", "D"]),
        ("C\u266f", "C", ["C", "D"]),
        ("C#m", "C", ["C", "D"]),
        ("B flat", "B", ["B", "D"]),
        ("B\u266d", "B", ["B", "D"]),
        ("not male", "male", ["male", "female"]),
        ("It isn't a male voice", "male", ["male", "female"]),
        ("It isn\u02bct male", "male", ["male", "female"]),
        ("It ain't male", "male", ["male", "female"]),
        ("It's not-male", "male", ["male", "female"]),
        ("I don\u2019t think it is [male]", "male", ["male", "female"]),
        ("it is not two", "2", COUNTS),
        ("more than two", "2", COUNTS),
        ("> 2", "2", COUNTS),
        ("A, B", "AB", ["A", "B", "AB"]),
        ("A B", "AB", ["A", "B", "AB"]),
        ("", "no", YES_NO),
        ("[]", "no", YES_NO),
    ],
)
def test_the_lenient_rule_reads_no_more_than_is_said(prediction, label, options):
    assert not matches_leniently(prediction, label, options)


SEX, NOTES, LETTERS, DECIBELS = ["male", "female"], ["A", "C", "C#"], ["A", "B", "I"], ["5 dB", "10 dB"]


@pytest.mark.parametrize(
    ("prediction", "label", "options", "question"),
    [
        ("maybe yes", "yes", YES_NO, ""),
        ("Yes, possibly.", "yes", YES_NO, ""),
        ("Not sure, male", "male", SEX, ""),
        ("No idea", "no", YES_NO, ""),
        ("Male, but I'm not sure", "male", SEX, ""),
        ("It could be male", "male", SEX, ""),
        ("It's hard to tell: male", "male", SEX, ""),
        ("Male?", "male", SEX, ""),
        ("Is the voice male?", "male", SEX, ""),
        ("the opposite of male", "male", SEX, ""),
        ("anything but male", "male", SEX, ""),
        ("instead of a male", "male", SEX, ""),
        ("Male is incorrect", "male", SEX, ""),
        ("Yes is not the right answer", "yes", YES_NO, ""),
        ("non-native", "native", ["native", "foreign"], ""),
        ("2 percent", "2", COUNTS, "How many speakers are there?"),
        ("two times", "2", COUNTS, "How many speakers are there?"),
        ("2%", "2", COUNTS, ""),
        ("$2", "2", COUNTS, ""),
        ("2 seconds", "2", COUNTS, "How many speakers are there?"),
        ("2 minutes", "2", COUNTS, "How long is the clip?"),
        ("5 dB below", "5 dB", DECIBELS, ""),
        ("5 dB louder", "5 dB", DECIBELS, "What is the level?"),
        ("over 5 dB", "5 dB", DECIBELS, ""),
        ("up to two", "2", COUNTS, ""),
        ("2 or more", "2", COUNTS, ""),
        ("2+", "2", COUNTS, ""),
        ("2 to 7", "2", COUNTS, ""),
        ("7-2", "2", COUNTS, ""),
        ("one or two", "2", ["2", "3"], ""),
        ("2 point 5", "2", COUNTS, ""),
        ("0. 4 m", "4m", LENGTHS, ""),
        ("0. 4 m", "0", ["0", "1"], ""),
        ("A minor", "A", NOTES, ""),
        ("C flat", "C", NOTES, ""),
        ("C# minor", "C#", NOTES, ""),
        ("A man speaks", "A", LETTERS, ""),
        ("I think so", "I", LETTERS, ""),
        ("I'm listening", "I", LETTERS, ""),
    ],
)
def test_the_lenient_rule_takes_nothing_that_the_answer_does_not_assert(prediction, label, options, question):
    """Hedges, denials, other quantities and letters that are words."""
    found = verdicts(prediction, label, options, question)
    assert not found["lenient"]
    assert found["right"] == matches(prediction, label), "the published rule stays"


@pytest.mark.parametrize(
    ("prediction", "label", "options", "question"),
    [
        ("It is probably male.", "male", SEX, ""),
        ("I think it is a male voice", "male", SEX, ""),
        ("Male, though I'm not sure about the age.", "male", SEX, ""),
        ("Maybe male. Yes: male.", "male", SEX, ""),
        ("Is it male? Yes.", "yes", YES_NO, ""),
        ("unclear", "unclear", ["clear", "unclear"], ""),
        ("maybe", "maybe", ["yes", "no", "maybe"], ""),
        ("Yes, it is not present", "yes", YES_NO, ""),
        ("2 speakers", "2", COUNTS, "How many people talk?"),
        ("2 seconds", "2", COUNTS, "How many seconds does it last?"),
        ("two times", "2", COUNTS, "How many times does the dog bark?"),
        ("21 years old", "21", COUNTS, "How old is the speaker?"),
        ("2 seconds", "2", COUNTS, "How long is the clip?"),
        ("5 dB louder", "5 dB", DECIBELS, "How much louder is the second clip?"),
        ("about 2", "2", COUNTS, ""),
        ("2 and a dog", "2", COUNTS, ""),
        ("There are 2. 3 dogs were asked for.", "2", ["2", "4"], ""),
        ("A minor", "A minor", [*NOTES, "A minor"], ""),
        ("A minor", "minor", ["major", "minor"], ""),
        ("C", "C", NOTES, ""),
        ("A is right", "A", LETTERS, ""),
        ("Speaker A speaks louder", "A", LETTERS, ""),
        ("A man speaks, so the answer is B", "B", LETTERS, ""),
    ],
)
def test_the_lenient_rule_reads_what_an_answer_asserts(prediction, label, options, question):
    assert matches_leniently(prediction, label, options, question)


def test_spellings_that_are_options_themselves_stay_apart():
    for options in (["2", "2.0", "two"], ["5 dB", "5 decibels"], ["non native", "nonnative"]):
        for label in options:
            assert [matches_leniently(said, label, options) for said in options] == [said == label for said in options]


word = st.text(string.ascii_lowercase, min_size=2, max_size=6).filter(lambda text: canonical(text) == tokens(text))
vocabulary = st.lists(st.lists(word, min_size=1, max_size=2).map(" ".join), min_size=2, max_size=5, unique=True)
FRAMES = ["{}", "[{}]", "({})", "<answer>{}</answer>", "**{}**", '"{}"', "It is {}."]


@settings(deadline=None)
@given(vocabulary, st.data())
def test_an_answer_that_is_leniently_right_mentions_no_other_option(options, data):
    """An answer that mentions two options is wrong, whatever the surrounding words."""
    said = data.draw(st.lists(st.sampled_from([*options, "well", "or"]), max_size=4))
    prediction = data.draw(st.sampled_from(FRAMES)).format(" ; ".join(said))
    label = data.draw(st.sampled_from(options))
    mentioned = {option for option in options if option in said}
    if matches_leniently(prediction, label, options):
        assert mentioned <= {option for option in options if option in label or label in option}
    if mentioned == {label}:
        others = [option for option in options if option != label and _inside(option, prediction)]
        assert matches_leniently(prediction, label, options) or others


def _inside(option, prediction):
    """Return whether the prediction contains the option's letters, ignoring spaces."""
    return option.replace(" ", "") in "".join(letter for letter in prediction if letter.isalpha())


@settings(deadline=None)
@given(st.integers(0, 999))
def test_numbers_in_words_are_their_digits(number):
    ones = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
    ones += "sixteen seventeen eighteen nineteen".split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()

    def spelled(value):
        if value < 20:
            return ones[value]
        if value < 100:
            return tens[value // 10 - 2] + (f"-{ones[value % 10]}" if value % 10 else "")
        return f"{ones[value // 100]} hundred" + (f" and {spelled(value % 100)}" if value % 100 else "")

    assert [token.text for token in canonical(f"{spelled(number)} dB")] == [str(number), "db"]
    assert matches_leniently(f"There are ({spelled(number)}) s", f"{number} s", [str(n) for n in range(0, 999, 7)])


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=30), st.text(max_size=12), st.lists(st.text(max_size=12), max_size=3))
@example("", "\U0001e5f1", [])  # a digit since Unicode 16
def test_no_text_is_too_odd(prediction, label, options):
    found = verdicts(prediction, label, options, prediction)
    assert found["right"] or not found["strict"]
    for text in (prediction, label):
        assert all(token.text and 0 <= token.start < token.end for token in (*tokens(text), *canonical(text)))


def test_options_that_a_rule_cannot_separate_are_named():
    assert inseparable(["yes", "no"]) == {}
    assert inseparable(["Yes", "yes.", "no"]) == {}, "one answer in two spellings"
    assert inseparable(["C", "C#", "D"]) == {"right": [["C", "C#"]]}
    alike = inseparable(["rock/pop", "rock pop"])
    assert alike == {rule: [["rock pop", "rock/pop"]] for rule in RULES}
