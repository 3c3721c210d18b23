"""Rules by which an answer is right, by name: what a description's `matching` is.

label     the label's words occur in a row in the answer (Dynamic-SUPERB's published rule, matching.py)
option    the label is the only option that the answer names, by its words or its mark (our own; matching.py)
lenient   the same in other spellings of numbers, units and brackets, and asserted (our own; matching.py)
exact     the answer is the label, but for case, punctuation and white space (both after Whisper's basic normaliser)
mmau      all of the label's words are in the answer, and no word that only another choice has (MMAU's published rule)
yes_no    what the answer says, found by fixed parts of it (the published rule of the audio object hallucination set)
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

from caad_ds.evaluation.scoring.matching import verdicts, words

RuleName = Literal["label", "option", "lenient", "exact", "mmau", "yes_no"]
NEEDS_CHOICES = ("option", "lenient", "mmau")
# In the published order, the first that is in the answer decides; case counts.
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
    """The verdicts of all rules of matching (`matching.verdicts`), `right` being that of `rule`.

    By `yes_no` also `said`: "yes", "no", or None for what says neither.
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
    """Whether an answer can be right by a rule where this is the label."""
    return bool(_set(label) if rule == "mmau" else words(label))


def said_of(answer: str) -> str | None:
    """What a yes-no answer says, by the published rule: "yes", "no", or None."""
    return next((said for said, parts in SAYS if any(part in answer for part in parts)), None)


def is_exactly(answer: str, label: str, options: Iterable[str]) -> bool:
    """Whether the answer is the label, both normalised."""
    return bool(words(label)) and words(answer) == words(label)


def matches_mmau(answer: str, label: str, options: Iterable[str]) -> bool:
    """Whether the answer has all words of the label, and none that only other choices have.

    A choice of the label's very words is not another one.
    """
    said, wanted = _set(answer), _set(label)
    others: frozenset[str] = frozenset().union(*(_set(option) for option in options if _set(option) != wanted))
    return bool(said) and wanted <= said and said.isdisjoint(others - wanted)


OWN: dict[str, Callable[[str, str, Iterable[str]], bool]] = {"exact": is_exactly, "mmau": matches_mmau}


@lru_cache(1 << 14)
def _set(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))
