"""Answers to questions whose choices are known: by words or by letter, whatever the prompt looks like."""

import pytest

from caad_ds.evaluation.scoring.matching import named
from caad_ds.evaluation.scoring.matching_rules import judged

CITIES = ("New York", "Boston", "St. Louis")
EVENTS = ("A dog barks, and a car passes.", "Nothing is heard", "The man speaks. Then a dog barks.")
WHO = "Who is louder, (A) or (B)?"
LISTED = ("({}) {}\n", "[{}] {}\n", "{} - {}\n", "{}.{}\n", "{}. {} ", "{}: {} ")


def right(answer, label, choices, prompt):
    return judged("option", answer, label, choices, prompt, choices)["right"]


@pytest.mark.parametrize("listed", LISTED)
@pytest.mark.parametrize("choices", [CITIES, EVENTS, ("hall", "yard", "hall and yard"), ("no. 1", "no. 2", "1, 2")])
@pytest.mark.parametrize("question", ["Which is it?", WHO, "Choose from: red, green or blue."])
def test_a_letter_is_the_choice_in_that_place(listed, choices, question):
    prompt = f"{question}\n" + "".join(listed.format("ABC"[k], choice) for k, choice in enumerate(choices))
    for k, label in enumerate(choices):
        for answer in ("ABC"[k], f"({'ABC'[k]}) {label}", f"It is ({'ABC'[k]}).", f"The answer is {'ABC'[k]}.", label):
            said = {choice for choice in choices if right(answer, choice, choices, prompt)}
            assert said == {label}, answer
            assert named(answer, choices, prompt, choices) == label, answer


@pytest.mark.parametrize("answer", ["D", "A or B", "(A) Boston", "It is (B), not (A)", ""])
def test_no_choice_or_several_are_wrong(answer):
    assert not any(right(answer, city, CITIES, WHO) for city in CITIES)


def test_numbers_and_words_of_choices_are_no_marks():
    assert not right("3", "four", ("two", "three", "four", "five"), WHO)
    assert not right("Type (A)", "Type O", ("Type O", "Type A"), WHO)


def test_a_choice_that_is_a_letter_is_its_own_mark():
    assert right("The answer is A.", "A", ("B", "A", "both"), WHO) and right("(C)", "both", ("B", "A", "both"), WHO)
