"""What a card shows of an evaluation whose scores are not MCR-BENCH's, or not of every row."""

import pytest

from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb_scores import score_instances
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import dimensions
from caad_ds.publishing import scores as module
from caad_ds.publishing.scores import scores_of
from caad_ds.utils.errors import UserError

SETUP = {
    "name": "mine", "benchmark": "dynamic-superb", "benchmark_sha256": "b" * 64, "model_sha256": "m",
    "dtype": "float32", "max_new_tokens": 16, "temperature": 0.7, "seed": 3, "top_p": None, "contrast_alpha": 1.0,
    "negative": "silence",
}  # fmt: skip


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder that is taken for the model of hash m."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(module, "model_hash", lambda folder: "m")
    return tmp_path


def test_instances_and_their_mean(model):
    instance, dimension = next(iter(dimensions().items()))
    rows = [
        {"id": f"{n}", "subset": instance, "clips": [], "right": n < 6, "strict": n < 6, "lenient": n < 6}
        for n in range(8)
    ]
    scores = {"setup": SETUP, "rejected": [{"id": "9"}], "inseparable": {}, "limited": True, **score_instances([rows])}
    [shown] = scores_of({model: scores}, model)
    figures = {result.metric_name: result for result in shown.results}
    mean = next(name for name in figures if name.startswith("mean of 1 of"))
    assert figures.keys() == {mean, next(name for name in figures if name.startswith(f"{dimension} ("))}
    assert figures[mean].metric_value == 75.0 and figures[mean].metric_type == "accuracy"
    assert any(cell.startswith("75.0 [") for row in shown.rows for cell in row)
    assert "on a part of its rows (--limit); 1 row left out; sampled, temperature 0.7, seed 3; " in shown.setup
    assert "contrastive decoding (alpha 1, negative silence)" in shown.setup


def test_adapters_have_no_evaluation(tmp_path):
    with pytest.raises(UserError, match="an evaluation is of a whole model"):
        scores_of({tmp_path: {"setup": SETUP}}, tmp_path)
