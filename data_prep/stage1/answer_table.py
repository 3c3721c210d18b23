"""Statistics of Stage 1's answers by attribute and wording of the question, printed and stored beside the output."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from caad_ds.data.record import Record
from caad_ds.evaluation.scoring.matching import named
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_json
from data_prep.common.jsonl import Rejected
from data_prep.common.prompt_metadata import OPTIONS, prompt_of
from data_prep.stage1.answer_checks import rule_of
from data_prep.stage1.answers import RejectedAnswer

RIGHT, ANOTHER, NEITHER = "right", "another", "none or several"
NAMED = (RIGHT, ANOTHER, NEITHER)
MOST = 1000  # wordings that are counted separately
OTHERS = ("others", f"those after the first {MOST:,}")
EXAMPLES = 2  # of each problem with a wording
LONGEST = 400  # characters of an answer in an example
SHOWN_ROWS, SHOWN_EXAMPLES, SHOWN_WIDTH = 40, 12, 100
LEGEND = (
    "right: the answer names the right label alone; another: one other option; none or several: no option, or more "
    "than one; by the rule lenient of evaluation. Rejected answers are counted by rule."
)


@dataclass
class Wording:
    """Counts for one question: records, rejected ones by rule, labels `named` in answers; examples of each problem."""

    records: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict]] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return self.records - self.rejected.total()

    def add_problem(self, kind: str, label: str, response: str) -> None:
        """Keep an example; only the first EXAMPLES different ones are kept."""
        kept, example = self.examples.setdefault(kind, []), {"label": label, "answer": response[:LONGEST]}
        if len(kept) < EXAMPLES and example not in kept:
            kept.append(example)


class AnswerTable:
    """Counts of outcomes by attribute (or kind of prompt) and question, for at most MOST questions.

    `rules` counts the rejected records by rule, including lines that are not records.
    """

    def __init__(self) -> None:
        self.rules: Counter[str] = Counter()
        self._wordings: dict[tuple[str, str], Wording] = {}

    def add(self, item: Record | Rejected, outcome: Record | Rejected) -> None:
        """Count an item of the manifest by its outcome: the record with its response, or a `Rejected`."""
        rule = rule_of(outcome.reason) if isinstance(outcome, Rejected) else ""
        if rule:
            self.rules[rule] += 1
        if isinstance(item, Rejected):
            return
        prompt = prompt_or_none(item)
        label = prompt.get("label", "")
        wording = self._wording(prompt)
        wording.records += 1
        if isinstance(outcome, Rejected):
            wording.rejected[rule] += 1
            wording.add_problem(rule, label, outcome.response if isinstance(outcome, RejectedAnswer) else "")
        elif label and (options := prompt.get(OPTIONS)):
            response = outcome.get("response") or ""
            found = named(response, tuple(options), prompt["question"])
            what = RIGHT if found == label else NEITHER if found is None else ANOTHER
            wording.named[what] += 1
            if what != RIGHT:
                wording.add_problem(what, label, response)

    def _wording(self, prompt: dict) -> Wording:
        key = (prompt.get("attribute") or prompt["kind"], prompt["question"]) if prompt else ("", "")
        if key not in self._wordings and len(self._wordings) >= MOST:
            key = OTHERS
        return self._wordings.setdefault(key, Wording())

    def content(self) -> dict:
        """Return the table as it is stored: a row per question, `named` empty if its options are unknown."""
        rows = [
            {
                "about": about,
                "question": question,
                "records": wording.records,
                "answered": wording.answered,
                "rejected": dict(sorted(wording.rejected.items())),
                "named": {what: wording.named[what] for what in NAMED} if wording.named else {},
                "examples": dict(sorted(wording.examples.items())),
            }
            for (about, question), wording in sorted(self._wordings.items())
        ]
        return {"rejected": dict(sorted(self.rules.items())), "questions": rows}

    def save(self, out: Path) -> None:
        """Write the table beside an output."""
        write_json(table_path(out), self.content())

    def show(self, out: Path) -> None:
        """Print the table with examples of problems; of very many questions only those with the most problems."""
        from caad_ds.evaluation.tables_and_plots.tables import percent, show
        from caad_ds.utils.terminal_table import Table  # these take seconds to import

        rows = sorted(self.content()["questions"], key=_trouble, reverse=True)[:SHOWN_ROWS]
        rows.sort(key=lambda row: (row["about"], row["question"]))
        rules = sorted({rule for row in rows for rule in row["rejected"]})
        cells = [
            [
                f"{row['about']}: {row['question']}" if row["question"] else "messages of its own",
                f"{row['records']:,}",
                f"{row['answered']:,}",
                *(f"{row['rejected'].get(rule, 0):,}" for rule in rules),
                *(percent(row["named"][what] / row["answered"] if row["named"] else None) for what in NAMED),
            ]
            for row in rows
        ]
        examples = _examples(rows)
        hidden = len(self._wordings) > len(rows) or len(examples) > SHOWN_EXAMPLES
        show(
            Table(
                "Stage 1 by question",
                ["question", "records", "answered", *rules, *(f"{what} %" for what in NAMED)],
                cells,
            ),
            LEGEND,
            *(["Examples of what is wrong:"] if examples else []),
            *examples[:SHOWN_EXAMPLES],
            *([f"All questions and examples are in {table_path(out)}"] if hidden else []),
        )


def table_path(out: Path) -> Path:
    """Return the path of an output's table."""
    return out.with_suffix(".questions.json")


def prompt_or_none(record: Record) -> dict:
    """Return what `prep describe` recorded about a record's prompt, {} if it holds something else."""
    try:
        return prompt_of(record)
    except UserError:  # the engines reject the record, and say why
        return {}


def _trouble(row: dict) -> int:
    return row["records"] - row["answered"] + sum(row["named"].get(what, 0) for what in (ANOTHER, NEITHER))


def _examples(rows: list[dict]) -> list[str]:
    """Return a line per example: the first of every question and problem, then the second ones."""
    lines: list[list[str]] = [[] for _ in range(EXAMPLES)]
    for row in rows:
        for problem, examples in row["examples"].items():
            for number, example in enumerate(examples):
                label = f" (right: {example['label']})" if example["label"] else ""
                answer = " ".join(example["answer"].split())
                said = f"{answer[:SHOWN_WIDTH]}{'...' if len(answer) > SHOWN_WIDTH else ''}" or "no text"
                lines[number].append(f"  {problem}: {row['question']}{label} -> {said}")
    return [line for same in lines for line in same]
