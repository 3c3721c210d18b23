"""Matching rules by name, for `matching` in a description.

label     the label's words occur contiguously in the answer (Dynamic-SUPERB's published rule, matching.py)
option    the label is the only option that the answer names, by words or mark (this project's; matching.py)
lenient   the same in any spelling of numbers, units and brackets, and asserted (this project's; matching.py)
exact     the answer equals the label, both after Whisper's basic normaliser (case, punctuation, white space)
mmau      the answer has all words of the label, and no word that only other choices have (MMAU's published rule)
yes_no    yes or no, detected by fixed phrases (the published rule of the audio object hallucination set)
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

from caad_ds.evaluation.scoring.matching import verdicts
from caad_ds.evaluation.scoring.normalization import words

RuleName = Literal["label", "option", "lenient", "exact", "mmau", "yes_no"]
NEEDS_CHOICES = ("option", "lenient", "mmau")
# In the published order: the first one found in the answer decides; case-sensitive.
SAYS = (
    ("yes", ("Yes", "yes")),
    ("no", ("No", "there is no", "does not contain", "doesn't contain")),
    ("yes", ("contain",)),
    ("no", ("not", "unable", "can't")),
)
WORD = re.compile(r"\w+")


def judged(
    rule: RuleName, answer: str, label: str, options: Iterable[str], question: str, choices: Sequence[str] = ()
) -> dict:
    """Return the verdicts of all matching rules (`matching.verdicts`), with that of `rule` as `right`.

    For `yes_no` also `said`: "yes", "no", or None for neither.
    """
    options = list(options)
    found: dict = verdicts(answer, label, options, question, choices)
    if rule == "yes_no":
        said = said_of(answer)
        return {**found, "right": said == label, "said": said}
    if rule in OWN:
        return {**found, "right": OWN[rule](answer, label, options)}
    return found if rule == "label" else {**found, "right": found[rule]}


def can_match(rule: RuleName, label: str) -> bool:
    """Return whether an answer can be right by a rule, given this label."""
    return bool(_set(label) if rule == "mmau" else words(label))


def said_of(answer: str) -> str | None:
    """Return what a yes-no answer says, by the published rule: "yes", "no", or None."""
    return next((said for said, parts in SAYS if any(part in answer for part in parts)), None)


def is_exactly(answer: str, label: str, options: Iterable[str]) -> bool:
    """Return whether the answer equals the label, both normalised."""
    return bool(words(label)) and words(answer) == words(label)


def matches_mmau(answer: str, label: str, options: Iterable[str]) -> bool:
    """Return whether the answer has all words of the label, and none that only other choices have.

    A choice with exactly the label's words is not another one.
    """
    answer_words, wanted = _set(answer), _set(label)
    others: frozenset[str] = frozenset().union(*(_set(option) for option in options if _set(option) != wanted))
    return bool(answer_words) and wanted <= answer_words and answer_words.isdisjoint(others - wanted)


OWN: dict[str, Callable[[str, str, Iterable[str]], bool]] = {"exact": is_exactly, "mmau": matches_mmau}


@lru_cache(1 << 14)
def _set(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))
