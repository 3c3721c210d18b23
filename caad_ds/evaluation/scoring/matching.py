"""Matching rules, which decide whether an answer is right: Dynamic-SUPERB's, stricter ones, and a lenient one."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations

from caad_ds.evaluation.scoring.asserted_option import Mention, asserts, names
from caad_ds.evaluation.scoring.normalization import (
    BARE,
    BARE_CANONICAL,
    CANONICAL,
    EXACT,
    Reading,
    Token,
    canonical,
    lowered,
    tokens,
    words,
)
from caad_ds.evaluation.scoring.option_marks import marks, spelled_out

RULES = ("right", "strict", "option", "lenient")
# Increased whenever a rule changes any verdict: scores of different versions are not compared.
VERSION = 3

# How a rule finds options in an answer: by which readings, and whether spaces and hyphens in an option count.
Ways = tuple[tuple[Reading, bool], ...]
STRICT: Ways = ((EXACT, True), (BARE, True))
LENIENT: Ways = (*STRICT, (EXACT, False), (CANONICAL, False), (BARE_CANONICAL, False))

PAUSES = frozenset(",;:/|.\n")  # these occur in no spelling of a single option


def verdicts(
    prediction: str, label: str, options: Iterable[str], question: str, choices: Sequence[str] = ()
) -> dict[str, bool]:
    """Return whether a prediction is right by each of RULES.

    right: the published rule, `matches`. strict: `matches_strictly` among the options of the subset and those that the
    question enumerates. option: strict, after option marks ("B", "Option 2") are replaced by the options. lenient:
    `matches_leniently` among the same options as strict. If the ordered `choices` are known, marks refer to them, and
    the question is not parsed.
    """
    listed = marks(question, choices)
    known = {*options, *listed.values()}

    def resolved(text: str) -> str:
        return spelled_out(text, listed, within=bool(choices))

    return {
        "right": matches(prediction, label),
        "strict": matches_strictly(prediction, label, known),
        "option": matches_strictly(resolved(prediction), resolved(label), map(resolved, known)),
        "lenient": matches_leniently(prediction, label, known, question),
    }


def disagreements(predictions: Iterable[dict], rules: Iterable[str] = RULES) -> list[dict]:
    """Return the predictions on which the rules disagree."""
    return [p for p in predictions if len({p[rule] for rule in rules}) > 1]


def disagreement_counts(predictions: list[dict], rules: Iterable[str] = RULES) -> dict[str, int]:
    """Count, for each pair of rules, how often the first says right and the second wrong: `first, not second`."""
    pairs = [pair for two in combinations(rules, 2) for pair in (two, two[::-1])]
    return {f"{a}, not {b}": sum(p[a] and not p[b] for p in predictions) for a, b in pairs}


def inseparable(options: Iterable[str]) -> dict[str, list[list[str]]]:
    """Return, by rule, the sets of different options that it does not separate; rules without such sets are omitted.

    Options that differ only in case or outer punctuation are spellings of one answer and not listed.
    """
    options = sorted(set(options))
    alike: dict[str, dict[tuple, dict[str, str]]] = {rule: defaultdict(dict) for rule in RULES}
    for option in options:
        exact = tuple(token.text for token in tokens(option))
        for rule in RULES:
            key = words(option) if rule == "right" else exact
            alike[rule][key].setdefault(option.casefold().strip(" .,;:!?'\""), option)
    found = {rule: [[*names.values()] for names in sets.values() if len(names) > 1] for rule, sets in alike.items()}
    return {rule: sets for rule, sets in found.items() if sets}


def matches(prediction: str, label: str) -> bool:
    """Return whether the label's words occur contiguously in the prediction, both normalised.

    An answer that lists every option is right by this rule: compare with `matches_strictly`.
    """
    answer, wanted = words(prediction), words(label)
    return bool(wanted) and any(answer[k : k + len(wanted)] == wanted for k in range(len(answer) - len(wanted) + 1))


def matches_strictly(prediction: str, label: str, options: Iterable[str]) -> bool:
    """Return whether the label is the only option that the prediction names, and the published rule agrees.

    Options are compared by all their tokens (normalization.py). One that occurs only inside a longer option ("fast" in
    "very fast") is not named.
    """
    return matches(prediction, label) and _names_only(prediction, label, options, STRICT)


def matches_leniently(prediction: str, label: str, options: Iterable[str], question: str = "") -> bool:
    """Return whether the label is the only option named, in any spelling of numbers, units and brackets.

    Options that differ only in the spelling of numbers or units ("2" and "2.0") must be named exactly. Numbers are
    whole: "twenty one" and "two thousand" name neither 1 nor 2. An answer that does not assert the option
    (asserted_option.py) is wrong.
    """
    return _asserted(prediction, frozenset({*options, label}), question) == _exact(label)


@lru_cache(1 << 12)
def named(prediction: str, options: tuple[str, ...], question: str, choices: tuple[str, ...] = ()) -> str | None:
    """Return the only option that an answer names, by words or by mark; None if it names none, or several.

    Marks refer to `choices`, as in `verdicts`.
    """
    listed = marks(question, choices)
    known = frozenset({*options, *listed.values()})
    for text in dict.fromkeys([prediction, spelled_out(prediction, listed, within=bool(choices))]):
        asserted = _asserted(text, known, question)
        if found := [option for option in options if _exact(option) == asserted]:
            return found[0]
    return None


def _asserted(prediction: str, options: frozenset[str], question: str = "") -> str | None:
    """Return the exact tokens of the only option that a prediction names and asserts, or None."""
    parts = [(token.start, token.end, "") for token in canonical(prediction)]
    spans, text = _mentions(prediction, options, LENIENT, parts), lowered(prediction)
    found = [mention for mention in spans if mention[2] and names(text, mention)]
    named_options = {option for _, _, option in found}
    return named_options.pop() if len(named_options) == 1 and asserts(prediction, found, question) else None


def _names_only(prediction: str, label: str, options: Iterable[str], ways: Ways) -> bool:
    wanted = _exact(label)
    found = _mentions(prediction, frozenset({*options, label}), ways)
    return bool(wanted) and {option for _, _, option in found} == {wanted}


def _mentions(prediction: str, options: frozenset[str], ways: Ways, others: Iterable[Mention] = ()) -> list[Mention]:
    """Find the mentions of options in the prediction, except those inside longer mentions or longer `others`."""
    spans, text = [*others], lowered(prediction)
    for reading, spaced in ways:
        index = _index(options, reading, spaced)
        longest = max(map(len, index), default=0)
        answer = reading.of_answer(prediction)
        for start in range(len(answer)):
            key, end, alone = "", answer[start].start, True
            for count, token in enumerate(answer[start:], 1):
                key = _joined(key, token.text, spaced)
                alone &= token.text in index
                if len(key) > longest or not (spaced or PAUSES.isdisjoint(text[end : token.start])):
                    break
                end = token.end
                if key in index and (spaced or count == 1 or not alone):  # "A B" names two, and not AB
                    spans.append((answer[start].start, token.end, index[key]))
    return [
        (first, last, option)
        for first, last, option in spans
        if not any(a <= first and last <= b and b - a > last - first for a, b, _ in spans)
    ]


@lru_cache(1 << 10)
def _index(options: frozenset[str], reading: Reading, spaced: bool) -> dict[str, str]:
    """Map each option's tokens in a reading to its exact tokens; ambiguous ones are omitted."""
    found: dict[str, set[str]] = defaultdict(set)
    for option in options:
        found[_row(reading.of_option(option), spaced)].add(_exact(option))
    return {key: exact.pop() for key, exact in found.items() if key and len(exact) == 1}


def _exact(text: str) -> str:
    return _row(tokens(text), spaced=True)


def _row(parts: Iterable[Token], spaced: bool) -> str:
    key = ""
    for token in parts:
        key = _joined(key, token.text, spaced)
    return key


def _joined(key: str, text: str, spaced: bool) -> str:
    """Append a token to a key; without spaces "nonnative" equals "non-native", but digits stay separate."""
    apart = key and (spaced or (key[-1].isdigit() and text[0].isdigit()))
    return f"{key} {text}" if apart else key + text
