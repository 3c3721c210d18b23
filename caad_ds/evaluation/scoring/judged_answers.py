"""The answers of a benchmark as the rules of matching judge them, and the options that these cannot separate.

Verdicts are made when an evaluation is scored, from the texts of its answers: a run folder that an earlier version
judged by other rules is judged again by the same `caad-ds evaluate`, which asks nothing again.
"""

from collections.abc import Callable

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.evaluation.scoring.matching import inseparable
from caad_ds.evaluation.scoring.option_marks import enumerated

NAMED = 3  # sets of options to a line


def judged(benchmark: Benchmark, sha256: Callable[[Clip], str]) -> Callable[[dict], dict]:
    """What adds to a prediction its verdicts, and as `clips` by what it is known that items share one.

    A clip is known by the hash of its bytes, whatever it is called. A prediction of no item stays as it is.
    """
    items = {item.id: item for item in benchmark.items}

    def of(prediction: dict) -> dict:
        item = items.get(prediction["id"])
        if item is None:
            return prediction
        clips = [sha256(clip)[:16] for clip in item.clips]
        own = benchmark.verdicts(item, prediction["prediction"])
        return {**prediction, **own, "clips": [clip for clip in clips if clip]}

    return of


def unseparated(benchmark: Benchmark) -> dict[str, dict[str, list[list[str]]]]:
    """By rule and subset the sets of options, of labels and questions, that the rule takes for one."""
    options = {subset: set(labels) for subset, labels in benchmark.options.items()}
    for subset, question in {(item.subset, item.question) for item in benchmark.items if not item.choices}:
        options[subset].update(enumerated(question).values())
    found: dict[str, dict[str, list[list[str]]]] = {}
    own = {(item.subset, item.choices) for item in benchmark.items if item.choices}
    for subset, ours in sorted([*options.items(), *own], key=lambda each: (each[0], sorted(each[1]))):
        for rule, sets in inseparable(ours).items():
            known = found.setdefault(rule, {}).setdefault(subset, [])
            known += [each for each in sets if each not in known]
    return found


def unseparated_notes(found: dict[str, dict[str, list[list[str]]]]) -> list[str]:
    """What to say of them, a line for each rule and subset."""
    lines = []
    for rule, subsets in found.items():
        for subset, sets in subsets.items():
            named = "; ".join(", ".join(map(repr, each)) for each in sets[:NAMED])
            more = f" and {len(sets) - NAMED} more (scores.json)" if len(sets) > NAMED else ""
            lines.append(f"{subset}: the rule {rule} takes for one answer: {named}{more}.")
    return lines
