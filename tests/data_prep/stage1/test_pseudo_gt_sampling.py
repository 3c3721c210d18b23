"""Sampled answers: drawn from the right distribution, by each record's own seed."""

import pytest
import torch

from caad_ds.utils.errors import UserError
from data_prep.stage1 import pseudo_gt
from data_prep.stage1.engines.sampling import sampler
from data_prep.stage1.engines.settings import Asking
from tests.data_prep.lines import read
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import question
from tests.tolerance import sampling

SAMPLED = ("--engine", "transformers", "--device", "cpu", "--max-new-tokens", 24, "--temperature", 0.8)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A random Llama that ends some of its answers in time."""
    return make_llm(tmp_path_factory.mktemp("talker"), eager=4)


def test_draws_follow_the_tempered_distribution_within_top_p():
    scores = torch.tensor([[2.0, 1.0, 0.0, -3.0]]).expand(4000, 4)
    drawn = sampler(0.5, 0.95, list(range(4000)), torch.device("cpu"))(None, scores).argmax(-1)
    share = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.softmax(scores[0] / 0.5, 0)
    expected[2:] = 0  # the first two hold 98 %
    expected /= expected.sum()
    assert not share[2:].any()
    assert (share - expected).abs().max() <= sampling(4000, *expected.tolist())


def test_a_row_draws_the_same_in_any_batch():
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together = sampler(1.0, 0.9, [7, 8, 9], torch.device("cpu"))
    alone = sampler(1.0, 0.9, [8], torch.device("cpu"))
    for _ in range(3):  # and at every step
        assert torch.equal(together(None, scores)[1:2], alone(None, scores[1:2]))


def test_seeds_fit_every_engine_and_differ_by_id_and_seed():
    seeds = {Asking(seed=seed).seed_of(f"clip{number}") for seed in range(3) for number in range(100)}
    assert len(seeds) == 300 and min(seeds) >= 0 and max(seeds) < 2**31


def test_a_rerun_draws_the_same_and_another_seed_does_not(tmp_path, write_lines, talker, prep):
    source = write_lines("described.jsonl", [question(number) for number in range(40)])
    texts = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        out = tmp_path / f"{name}.jsonl"
        prep(pseudo_gt, "--manifest", source, "--out", out, *SAMPLED, "--model", talker, "--seed", seed)
        texts[name] = {row["id"]: row["response"] for row in read(out)}
    assert texts["first"] == texts["again"] and len(set(texts["first"].values())) > 3
    assert texts["first"] != texts["other"]


def test_answers_drawn_otherwise_are_not_mixed_in(tmp_path, write_lines, talker, prep):
    source = write_lines("described.jsonl", [question(number) for number in range(12)])
    arguments = ("--manifest", source, "--out", tmp_path / "answered.jsonl", *SAMPLED, "--model", talker)
    prep(pseudo_gt, *arguments)
    with pytest.raises(UserError, match="made with another temperature, top_p, seed; choose"):
        prep(pseudo_gt, *arguments, "--temperature", 0)
    with pytest.raises(UserError, match="made with another seed; choose another --out"):
        prep(pseudo_gt, *arguments, "--seed", 1)
    with pytest.raises(UserError, match="made with another block, batch_size; choose"):
        prep(pseudo_gt, *arguments, "--batch-size", 4)


@pytest.mark.parametrize(
    "wrong", [("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "0"), ("--top-p", "2")]
)
def test_wrong_sampling_is_an_argument_error(tmp_path, prep, capsys, wrong):
    with pytest.raises(SystemExit):
        prep(pseudo_gt, "--manifest", tmp_path, "--out", tmp_path / "o.jsonl", *SAMPLED, *wrong)
    assert f"argument {wrong[0]}: {wrong[1]} is" in capsys.readouterr().err
