"""Whether an answer is right: Dynamic-SUPERB's rule, and stricter ones beside it."""

from collections.abc import Iterable
from itertools import combinations

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from caad_ds.evaluation.choices import enumerated, spelled_out

RULES = ("right", "strict", "option")

_normalise = BasicTextNormalizer()


def verdicts(prediction: str, label: str, options: Iterable[str], question: str) -> dict[str, bool]:
    """Whether a prediction is right by each of RULES.

    right: the published rule, `matches`. strict: `matches_strictly` among the subset's options and those that the
    question enumerates. option: strict, after marks of options ("B", "Option 2") are replaced by the options.
    """
    listed = enumerated(question)
    known = {*options, *listed.values()}

    def meant(text: str) -> str:
        return spelled_out(text, listed)

    return {
        "right": matches(prediction, label),
        "strict": matches_strictly(prediction, label, known),
        "option": matches_strictly(meant(prediction), meant(label), map(meant, known)),
    }


def disagreements(predictions: Iterable[dict], rules: Iterable[str] = RULES) -> list[dict]:
    """The predictions about which not all rules agree."""
    return [p for p in predictions if len({p[rule] for rule in rules}) > 1]


def disagreement_counts(predictions: list[dict], rules: Iterable[str] = RULES) -> dict[str, int]:
    """For each pair of rules, how often the first says right and the second wrong: `first, not second`."""
    pairs = [pair for two in combinations(rules, 2) for pair in (two, two[::-1])]
    return {f"{a}, not {b}": sum(p[a] and not p[b] for p in predictions) for a, b in pairs}


def words(text: str) -> list[str]:
    """The words of a text after Whisper's basic normaliser (lower case, no punctuation, no bracketed parts)."""
    return _normalise(text).split()


def matches(prediction: str, label: str) -> bool:
    """Whether the label's words occur contiguously in the prediction, both normalised.

    An answer that lists every option is right by this rule: read it beside `matches_strictly`.
    """
    return bool(_occurrences(words(prediction), words(label)))


def matches_strictly(prediction: str, label: str, options: Iterable[str]) -> bool:
    """Whether the label is the only option that the prediction names.

    An option that occurs only inside a longer option ("fast" in "very fast") is not named.
    """
    return named(prediction, {*options, label}) == {tuple(words(label))}


def named(prediction: str, options: Iterable[str]) -> set[tuple[str, ...]]:
    """The options, as tuples of normalised words, that the prediction names."""
    said = words(prediction)
    wanted = [words(option) for option in options]
    spans = [(start, start + len(option), option) for option in wanted for start in _occurrences(said, option)]
    return {
        tuple(option)
        for first, last, option in spans
        if not any(a <= first and last <= b and b - a > last - first for a, b, _ in spans)
    }


def _occurrences(said: list[str], wanted: list[str]) -> list[int]:
    if not wanted:
        return []
    return [i for i in range(len(said) - len(wanted) + 1) if said[i : i + len(wanted)] == wanted]
