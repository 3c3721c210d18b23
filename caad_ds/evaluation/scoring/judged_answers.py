"""Verdicts of the matching rules on a benchmark's answers.

Verdicts are computed from the answers' texts when an evaluation is scored: rerunning the same `caad-ds evaluate`
rescores a run folder of an earlier version by the current rules, without generating answers again.
"""

from collections.abc import Callable

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip


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
