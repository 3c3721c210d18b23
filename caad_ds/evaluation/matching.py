"""Whether an answer is right: Dynamic-SUPERB's rule, and a strict one beside it."""

from collections.abc import Iterable

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

_normalise = BasicTextNormalizer()


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
