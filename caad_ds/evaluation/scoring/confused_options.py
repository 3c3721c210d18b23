"""Sets of options that a matching rule takes for one answer, for a benchmark."""

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.scoring.matching import inseparable
from caad_ds.evaluation.scoring.option_marks import enumerated

NAMED = 3  # sets of options per line


def unseparated(benchmark: Benchmark) -> dict[str, dict[str, list[list[str]]]]:
    """Return, by rule and subset, the sets of options (labels and those in questions) that the rule confuses."""
    options = {subset: set(labels) for subset, labels in benchmark.options.items()}
    for subset, question in {(item.subset, item.question) for item in benchmark.items if not item.choices}:
        options[subset].update(enumerated(question).values())
    found: dict[str, dict[str, list[list[str]]]] = {}
    choices = {(item.subset, item.choices) for item in benchmark.items if item.choices}
    for subset, candidates in sorted([*options.items(), *choices], key=lambda pair: (pair[0], sorted(pair[1]))):
        for rule, sets in inseparable(candidates).items():
            known = found.setdefault(rule, {}).setdefault(subset, [])
            known += [names for names in sets if names not in known]
    return found


def unseparated_notes(found: dict[str, dict[str, list[list[str]]]]) -> list[str]:
    """Describe these sets, a line per rule and subset."""
    lines = []
    for rule, subsets in found.items():
        for subset, sets in subsets.items():
            named = "; ".join(", ".join(map(repr, names)) for names in sets[:NAMED])
            more = f" and {len(sets) - NAMED} more (scores.json)" if len(sets) > NAMED else ""
            lines.append(f"{subset}: the rule {rule} takes for one answer: {named}{more}.")
    return lines
