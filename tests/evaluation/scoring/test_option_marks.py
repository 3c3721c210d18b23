import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.evaluation.scoring.matching import disagreement_counts, disagreements, verdicts
from caad_ds.evaluation.scoring.option_marks import enumerated, spelled_out

QUESTION = "How does the speaker feel? A. happy B. sad C. very angry"
# No single letter, which would be a mark, and no word that joins options or introduces them.
OTHERS = {"or", "and", "following", "option", "options", "choice", "choices", "answer", "answers"}
word = st.text(string.ascii_lowercase, min_size=2, max_size=7).filter(lambda w: w not in OTHERS)
options = st.lists(st.lists(word, min_size=1, max_size=3).map(" ".join), min_size=2, max_size=6, unique=True)
STYLES = ["({}) ", "{}) ", "{}. ", "{}: "]
ALPHABETS = [string.ascii_uppercase, string.ascii_lowercase, "123456"]
JOINTS = [" ", ", ", "; ", "\n", ", or "]


def listing(options, style, alphabet, joint):
    return joint.join(style.format(mark) + option for mark, option in zip(alphabet, options, strict=False))


@given(
    options,
    st.sampled_from(STYLES),
    st.sampled_from(ALPHABETS),
    st.sampled_from(JOINTS),
    st.sampled_from(["", ".", "?"]),
)
def test_a_marked_list_is_found_whatever_its_style(options, style, alphabet, joint, end):
    question = f"What do you hear? {listing(options, style, alphabet, joint)}{end}"
    assert enumerated(question) == dict(zip(alphabet, options, strict=False))


@given(
    options,
    st.sampled_from(["Choose from: ", "The options are ", "Select one of the following: ", "Choices: "]),
    st.booleans(),
)
def test_an_introduced_list_is_numbered(options, introduction, with_or):
    *first, last = options
    text = ", ".join(first) + (", or " if with_or else ", ") + last
    assert list(enumerated(f"What is it? {introduction}{text}.").values()) == options


@given(options, st.sampled_from(STYLES), st.sampled_from(ALPHABETS), st.data())
def test_a_mark_is_read_as_its_option_and_an_option_stays(options, style, alphabet, data):
    listed = enumerated(f"Which? {listing(options, style, alphabet, ' ')}")
    k = data.draw(st.integers(0, len(options) - 1))
    form = data.draw(
        st.sampled_from(["{}", "({})", "{}.", " {})", "Option {}", "The answer is {}.", "**{}**", "choice ({})"])
    )
    mark = data.draw(st.sampled_from([alphabet[k], alphabet[k].lower()]))
    assert options[k] in spelled_out(form.format(mark), listed)
    assert not any(o in spelled_out(form.format(mark), listed).split() for o in options if o not in options[k])
    assert spelled_out(options[k], listed) == options[k]


@given(st.text(max_size=30))
def test_where_nothing_is_enumerated_nothing_is_resolved(answer):
    listed = enumerated("Is the speaker male or female?")
    assert listed == {} and spelled_out(answer, listed) == answer


@given(st.text("ABab12.:()[] \n,?", max_size=40), st.text("ABab12.:()[] \n", max_size=12))
def test_no_question_and_no_answer_is_too_odd(question, answer):
    listed = enumerated(question)
    assert all(listed.values()) and len(listed) != 1
    assert isinstance(spelled_out(answer, listed), str)


@pytest.mark.parametrize(
    "question",
    [
        "Which one of the speakers talks, and when?",
        "Is it 1.5 or 2.5 s long?",
        "Answer in one word.",
        "A. Is it loud?",
        "",
    ],
)
def test_what_is_no_list_is_not_taken_for_one(question):
    assert enumerated(question) == {}


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("Option 2", "sad"),
        ("b", "sad"),
        ("B\n\nShe cries.", "sad \n\nShe cries."),
        ("Option 7", "Option 7"),
        ("option 1 or option 2", "happy or sad"),
        ("The answer is a man", "The answer is a man"),
        ("A man speaks", "A man speaks"),
        ("2.5 seconds", "2.5 seconds"),
        ("3", "very angry"),
    ],
)
def test_marks_in_answers(answer, meant):
    assert spelled_out(answer, enumerated(QUESTION)) == meant


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("2", "2"),
        ("3.", "3."),
        ("Option 2", "2"),
        ("The answer is 2.", "The 2."),
        ("2. There are two.", "2  There are two."),
        ("B", "3"),
        ("1", "1"),
        ("2 or 3", "2 or 3"),
    ],
)
def test_a_number_that_is_itself_an_option_is_no_place(answer, meant):
    assert spelled_out(answer, enumerated("How many speakers? Choose from: 2, 3, 4.")) == meant
    assert spelled_out("Option 2", enumerated("How many? 1) 2 2) 3 3) 4")) == "3", "a mark that is written counts first"


@pytest.mark.parametrize("form", ["{}) or {})", "({}) ({})", "{}. or {}.", "option {} or {}", "The answer is {}, {}.",
                                  "{}, {}", "Both {} and {}", "({}) and ({}), I think", "{} or option {} is right",
                                  "Options: {}/{}"])  # fmt: skip
def test_joined_marks_name_several_options(form):
    said = form.format("B", "C")
    assert "sad or very angry" in spelled_out(said, enumerated(QUESTION))
    for label in ("sad", "very angry"):
        assert not verdicts(said, label, ["happy", "sad", "very angry"], QUESTION)["option"]


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("B, I think", "B, I think"),
        ("B or a man", "B or a man"),
        ("B. A man cries", "sad  A man cries"),
        ("2 or 3 people", "2 or 3 people"),
        ("B or Z.", "B or Z."),
    ],
)
def test_what_only_looks_like_joined_marks(answer, meant):
    assert spelled_out(answer, enumerated(QUESTION)) == meant


@pytest.mark.parametrize(
    "question",
    [
        "The answer should be one of: happy; sad; neutral",
        "The answer must be one of the following: happy, sad or neutral.",
        "The answer can be one of happy, sad, neutral.",
    ],
)
def test_the_longest_introduction_counts(question):
    assert list(enumerated(question).values()) == ["happy", "sad", "neutral"]


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        ("B", "sad", (False, False, True)),
        ("B", "happy", (False, False, False)),
        ("B. happy", "happy", (True, True, False)),
        ("sad", "sad", (True, True, True)),
        ("happy or sad", "sad", (True, False, False)),
        ("Option 1 or option 2", "sad", (False, False, False)),
        ("sad", "B", (False, False, True)),
        ("angry", "very angry", (False, False, False)),
    ],
)
def test_verdicts_of_the_rules(prediction, label, expected):
    found = verdicts(prediction, label, ["sad", label], QUESTION)
    assert (found["right"], found["strict"], found["option"]) == expected


def test_disagreements_are_listed_and_counted():
    said = [verdicts(answer, "sad", [], QUESTION) for answer in ("B", "sad", "happy or sad", "loud")]
    assert disagreements(said) == [said[0], said[2]]
    counts = disagreement_counts(said)
    assert counts["option, not strict"] == counts["right, not strict"] == counts["right, not option"] == 1
    assert counts["option, not lenient"] == counts["right, not lenient"] == 1
    assert sum(counts.values()) == 6
