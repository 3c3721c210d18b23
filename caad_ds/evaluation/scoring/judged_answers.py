"""Verdicts of the matching rules on a benchmark's answers, and the options that the rules cannot separate.

Verdicts are computed from the answers' texts when an evaluation is scored: rerunning the same `caad-ds evaluate`
rescores a run folder of an earlier version by the current rules, without generating answers again.
"""

from collections.abc import Callable

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.evaluation.scoring.matching import inseparable
from caad_ds.evaluation.scoring.option_marks import enumerated

NAMED = 3  # sets of options per line


def judged(benchmark: Benchmark, sha256: Callable[[Clip], str]) -> Callable[[dict], dict]:
    """Return a function that adds to a prediction its verdicts, and `clips`, the hashes of its clips' bytes.

    Items with the same hash share a clip. A prediction of an unknown item is unchanged.
    """
    items = {item.id: item for item in benchmark.items}

    def of(prediction: dict) -> dict:
        item = items.get(prediction["id"])
        if item is None:
            return prediction
        clips = [sha256(clip)[:16] for clip in item.clips]
        verdicts = benchmark.verdicts(item, prediction["prediction"])
        return {**prediction, **verdicts, "clips": [clip for clip in clips if clip]}

    return of


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
