"""Whether an answer is right: Dynamic-SUPERB's rule, stricter ones beside it, and one that reads more spellings."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from itertools import combinations

from caad_ds.evaluation.scoring.assertion import Mention, asserts, names
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
)
from caad_ds.evaluation.scoring.option_marks import marks, spelled_out

RULES = ("right", "strict", "option", "lenient")
# Raised whenever a rule judges anything otherwise: scores by other rules are not compared.
VERSION = 3

# How a rule finds options in an answer: by which readings, and whether spaces and hyphens inside an option count.
Ways = tuple[tuple[Reading, bool], ...]
STRICT: Ways = ((EXACT, True), (BARE, True))
LENIENT: Ways = (*STRICT, (EXACT, False), (CANONICAL, False), (BARE_CANONICAL, False))

PAUSES = frozenset(",;:/|.\n")  # what no spelling of one option has inside


def verdicts(
    prediction: str, label: str, options: Iterable[str], question: str, choices: Sequence[str] = ()
) -> dict[str, bool]:
    """Whether a prediction is right by each of RULES.

    right: the published rule, `matches`. strict: `matches_strictly` among the subset's options and those that the
    question enumerates. option: strict, after marks of options ("B", "Option 2") are replaced by the options. lenient:
    `matches_leniently` among the options of strict. Where the question's `choices` are known, in their order, marks are
    theirs and nothing is read out of the question.
    """
    listed = marks(question, choices)
    known = {*options, *listed.values()}

    def meant(text: str) -> str:
        return spelled_out(text, listed, within=bool(choices))

    return {
        "right": matches(prediction, label),
        "strict": matches_strictly(prediction, label, known),
        "option": matches_strictly(meant(prediction), meant(label), map(meant, known)),
        "lenient": matches_leniently(prediction, label, known, question),
    }


def disagreements(predictions: Iterable[dict], rules: Iterable[str] = RULES) -> list[dict]:
    """The predictions about which not all rules agree."""
    return [p for p in predictions if len({p[rule] for rule in rules}) > 1]


def disagreement_counts(predictions: list[dict], rules: Iterable[str] = RULES) -> dict[str, int]:
    """For each pair of rules, how often the first says right and the second wrong: `first, not second`."""
    pairs = [pair for two in combinations(rules, 2) for pair in (two, two[::-1])]
    return {f"{a}, not {b}": sum(p[a] and not p[b] for p in predictions) for a, b in pairs}


@cache
def _normaliser() -> Callable[[str], str]:
    """Whisper's basic normaliser, which the published rule takes."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer  # takes seconds to import

    return BasicTextNormalizer()


def inseparable(options: Iterable[str]) -> dict[str, list[list[str]]]:
    """By rule the sets of different options that it takes for one; rules that separate all are left out.

    Options that differ in case or outer punctuation alone are one answer in two spellings, and are not listed.
    """
    options = sorted(set(options))
    alike: dict[str, dict[tuple, dict[str, str]]] = {rule: defaultdict(dict) for rule in RULES}
    for option in options:
        exact = tuple(token.text for token in tokens(option))
        for rule in RULES:
            key = words(option) if rule == "right" else exact
            alike[rule][key].setdefault(option.casefold().strip(" .,;:!?'\""), option)
    found = {rule: [[*each.values()] for each in sets.values() if len(each) > 1] for rule, sets in alike.items()}
    return {rule: sets for rule, sets in found.items() if sets}


@lru_cache(1 << 14)
def words(text: str) -> tuple[str, ...]:
    """The words of a text after Whisper's basic normaliser (lower case, no punctuation, no bracketed parts)."""
    return tuple(_normaliser()(text).split())


def matches(prediction: str, label: str) -> bool:
    """Whether the label's words occur contiguously in the prediction, both normalised.

    An answer that lists every option is right by this rule: read it beside `matches_strictly`.
    """
    said, wanted = words(prediction), words(label)
    return bool(wanted) and any(said[k : k + len(wanted)] == wanted for k in range(len(said) - len(wanted) + 1))


def matches_strictly(prediction: str, label: str, options: Iterable[str]) -> bool:
    """Whether the label is the only option that the prediction names, and the published rule agrees.

    Options are told apart by all that they hold (reading.py). One that occurs only inside a longer option ("fast" in
    "very fast") is not named.
    """
    return matches(prediction, label) and _names_only(prediction, label, options, STRICT)


def matches_leniently(prediction: str, label: str, options: Iterable[str], question: str = "") -> bool:
    """Whether the label is the only option that the prediction names, in brackets, words for numbers, units or not.

    Options that only another spelling of numbers or units tells apart ("2" and "2.0") are named by their own alone.
    Numbers are whole: "twenty one" and "two thousand" name neither 1 nor 2. An answer that does not assert the option,
    as English does (assertion.py), is wrong.
    """
    return _asserted(prediction, frozenset({*options, label}), question) == _exact(label)


@lru_cache(1 << 12)
def named(prediction: str, options: tuple[str, ...], question: str, choices: tuple[str, ...] = ()) -> str | None:
    """The one of the options that an answer names, by words or by its mark; None where it names none, or several.

    Marks are those of `choices`, as in `verdicts`.
    """
    listed = marks(question, choices)
    known = frozenset({*options, *listed.values()})
    for text in dict.fromkeys([prediction, spelled_out(prediction, listed, within=bool(choices))]):
        said = _asserted(text, known, question)
        if found := [option for option in options if _exact(option) == said]:
            return found[0]
    return None


def _asserted(prediction: str, options: frozenset[str], question: str = "") -> str | None:
    """The exact tokens of the one option that a prediction names and asserts, or None."""
    parts = [(token.start, token.end, "") for token in canonical(prediction)]
    spans, text = _mentions(prediction, options, LENIENT, parts), lowered(prediction)
    found = [mention for mention in spans if mention[2] and names(text, mention)]
    said = {option for _, _, option in found}
    return said.pop() if len(said) == 1 and asserts(prediction, found, question) else None


def _names_only(prediction: str, label: str, options: Iterable[str], ways: Ways) -> bool:
    wanted = _exact(label)
    found = _mentions(prediction, frozenset({*options, label}), ways)
    return bool(wanted) and {option for _, _, option in found} == {wanted}


def _mentions(prediction: str, options: frozenset[str], ways: Ways, others: Iterable[Mention] = ()) -> list[Mention]:
    """Where the prediction names options, as their exact tokens in a row; not inside longer ones or longer `others`."""
    spans, text = [*others], lowered(prediction)
    for reading, spaced in ways:
        index = _index(options, reading, spaced)
        longest = max(map(len, index), default=0)
        said = reading.of_answer(prediction)
        for start in range(len(said)):
            key, end, alone = "", said[start].start, True
            for count, token in enumerate(said[start:], 1):
                key = _joined(key, token.text, spaced)
                alone &= token.text in index
                if len(key) > longest or not (spaced or PAUSES.isdisjoint(text[end : token.start])):
                    break
                end = token.end
                if key in index and (spaced or count == 1 or not alone):  # "A B" names two, and not AB
                    spans.append((said[start].start, token.end, index[key]))
    return [
        (first, last, option)
        for first, last, option in spans
        if not any(a <= first and last <= b and b - a > last - first for a, b, _ in spans)
    ]


@lru_cache(1 << 10)
def _index(options: frozenset[str], reading: Reading, spaced: bool) -> dict[str, str]:
    """The exact tokens of each option by its tokens in a reading; what these do not tell apart is left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for option in options:
        found[_row(reading.of_option(option), spaced)].add(_exact(option))
    return {key: exact.pop() for key, exact in found.items() if key and len(exact) == 1}


def _exact(text: str) -> str:
    return _row(tokens(text), spaced=True)


def _row(said: Iterable[Token], spaced: bool) -> str:
    key = ""
    for token in said:
        key = _joined(key, token.text, spaced)
    return key


def _joined(key: str, text: str, spaced: bool) -> str:
    """Tokens in a row; without spaces, "nonnative" is "non-native", but digits do not run together."""
    apart = key and (spaced or (key[-1].isdigit() and text[0].isdigit()))
    return f"{key} {text}" if apart else key + text
