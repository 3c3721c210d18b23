"""Checks that reject unusable answers of Stage 1: rules, most of them patterns in a YAML file."""

import hashlib
import re
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_yaml

CHECKS = ("checks_sha256", "max_words")  # settings of an output that do not influence what the engine answers
DEFAULT = Path(__file__).with_name("answer_checks.yaml")


class AnswerChecks:
    """The rules of a YAML file (rule -> regular expressions), and `empty` and `over_long` (above `max_words` words)."""

    def __init__(self, path: Path = DEFAULT, max_words: int | None = None) -> None:
        self.max_words = max_words
        rules = read_yaml(path, dict[str, list[str]])
        self.settings = dict(zip(CHECKS, (hashlib.sha256(repr(rules).encode()).hexdigest(), max_words), strict=True))
        self._patterns = [(rule, _compiled(text, rule, path)) for rule, texts in rules.items() for text in texts]

    def reason(self, response: str) -> str:
        """Return why an answer is rejected, starting with the rule's name; "" if it is not."""
        if not response.strip():
            return "empty: there is no text"
        words = len(response.split())
        if self.max_words and words > self.max_words:
            return f"over_long: {words} words are more than {self.max_words}"
        plain = response.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        found = ((rule, pattern.search(plain)) for rule, pattern in self._patterns)
        return next((f"{rule}: it says {match[0]!r:.80}" for rule, match in found if match), "")


def rule_of(reason: str) -> str:
    """Return the rule that a reason names."""
    return reason.partition(":")[0]


def _compiled(text: str, rule: str, path: Path) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"{path}: {rule}: {text!r} is no regular expression ({error})") from error
