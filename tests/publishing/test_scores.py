"""What a card shows of an evaluation whose scores are not MCR-BENCH's, or not of every row."""

import pytest

from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import dimensions
from caad_ds.evaluation.result_kinds.dynamic_superb import score_instances
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
    args = {
        "limited": True,
        "rows_left_out": 1,
        "temperature": 0.7,
        "seed": 3,
        "contrast_alpha": 1.0,
        "negative": "silence",
    }
    assert figures[mean].dataset_args.items() >= args.items()
    assert "on a part of its rows (--limit); 1 row left out; sampled" in figures[mean].dataset_name
    assert figures[mean].metric_value == 75.0 and figures[mean].metric_type == "accuracy"
    assert any(cell.startswith("75.0 [") for row in shown.rows for cell in row)
    assert "on a part of its rows (--limit); 1 row left out; sampled, temperature 0.7, seed 3; " in shown.setup
    assert "contrastive decoding (alpha 1, negative silence)" in shown.setup


WHOLE = {"rejected": [], "inseparable": {}, "groups": {}}


def of(**setup):
    """The scores of an evaluation, otherwise of no figures."""
    return {"setup": SETUP | setup, **WHOLE}


@pytest.mark.parametrize(
    ("setup", "text"),
    [
        ({"plausibility": 0.1}, "plausibility 0.1"),
        ({"alpha_gate": "text_certainty", "gate_m": 3.0}, "alpha_gate text_certainty, gate_m 3.0)"),
        ({"prompt": "wrapped"}, "prompts: wrapped (--prompt)"),
        ({"hint": "false ones"}, "hint false ones"),
        ({"top_k": 5}, "top_k 5"),
        ({"not yet known": 7}, "not yet known 7"),
    ],
)
def test_nothing_of_how_it_was_decoded_is_left_out(setup, text):
    assert text in module._setup(of(**setup)) and text not in module._setup(of())
    plain, other = module._args(of()), module._args(of(**setup))
    assert plain.items() <= other.items() and other.items() - plain.items() == setup.items()


def test_a_greedy_evaluation_says_so():
    greedy = dict.fromkeys(("temperature", "seed", "contrast_alpha", "negative"))
    assert module._setup(of(**greedy)).endswith("greedy decoding; answers of at most 16 tokens; float32.")
    assert module._args(of(**greedy)) == {"dtype": "float32", "max_new_tokens": 16}


def test_two_evaluations_of_one_name_and_benchmark_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "read_runs", lambda folders: None)
    names = {"a": "mine", "b": "mine", "c": "mine, seed 1", "d": "mine"}
    found = {name: of(name=each, benchmark_sha256="d" if name == "d" else "a") for name, each in names.items()}
    monkeypatch.setattr(module.RunFolder, "read_scores", lambda run: found[run.path.name])
    assert len(module.read_evaluations([tmp_path / "a", tmp_path / "c", tmp_path / "d"])) == 3
    with pytest.raises(UserError, match="both are 'mine' on one benchmark, and a card tells evaluations apart by"):
        module.read_evaluations([tmp_path / "a", tmp_path / "b"])


def test_adapters_have_no_evaluation(tmp_path):
    with pytest.raises(UserError, match="an evaluation is of a whole model"):
        scores_of({tmp_path: {"setup": SETUP}}, tmp_path)
