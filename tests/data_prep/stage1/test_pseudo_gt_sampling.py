"""Sampled answers do not depend on the batch. For the sampling itself see tests/evaluation/test_decoding.py."""

import json

import pytest

from caad_ds.utils.errors import UserError
from data_prep.stage1 import pseudo_gt
from data_prep.stage1.answer_checks import CHECKS
from data_prep.stage1.engines.generation_settings import GenerationSettings
from tests.data_prep.lines import read
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import question

SAMPLED = ("--engine", "transformers", "--device", "cpu", "--max-new-tokens", 24, "--temperature", 0.8)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A random Llama that ends some of its answers in time."""
    return make_llm(tmp_path_factory.mktemp("talker"), eager=4)


def test_seeds_fit_every_engine_and_differ_by_id_and_seed():
    seeds = {GenerationSettings(seed=seed).seed_of(f"clip{number}") for seed in range(3) for number in range(100)}
    assert len(seeds) == 300 and min(seeds) >= 0 and max(seeds) < 2**31


def test_a_rerun_and_another_batch_size_draw_the_same_and_another_seed_does_not(tmp_path, write_lines, talker, prep):
    source = write_lines("described.jsonl", [question(number) for number in range(40)])
    texts = {}
    for name, seed, size in (("first", 0, 8), ("again", 0, 8), ("alone", 0, 1), ("other", 1, 8)):
        out = tmp_path / f"{name}.jsonl"
        options = ("--model", talker, "--seed", seed, "--batch-size", size)
        prep(pseudo_gt, "--manifest", source, "--out", out, *SAMPLED, *options)
        rows = read(out) + read(tmp_path / f"{name}.rejected.jsonl")
        texts[name] = {row["id"]: row["response"] for row in rows}
    assert texts["first"] == texts["again"] != texts["other"] and len(set(texts["first"].values())) > 8
    others = sum(texts["alone"][identity] != text for identity, text in texts["first"].items())
    assert others <= 2, "rounding in another batch seldom moves a boundary past the number that is drawn"


def test_answers_drawn_otherwise_are_not_mixed_in(tmp_path, write_lines, talker, prep):
    source = write_lines("described.jsonl", [question(number) for number in range(12)])
    arguments = ("--manifest", source, "--out", tmp_path / "answered.jsonl", *SAMPLED, "--model", talker)
    prep(pseudo_gt, *arguments)
    with pytest.raises(UserError, match="made with another temperature, top_p, seed, sampling; choose"):
        prep(pseudo_gt, *arguments, "--temperature", 0)
    with pytest.raises(UserError, match="made with another seed; choose another --out"):
        prep(pseudo_gt, *arguments, "--seed", 1)
    with pytest.raises(UserError, match="made with another block, batch_size; choose"):
        prep(pseudo_gt, *arguments, "--batch-size", 4)


def test_a_run_that_drew_by_an_earlier_sampler_is_not_continued(tmp_path, write_lines, talker, prep):
    source = write_lines("described.jsonl", [question(number) for number in range(24)])
    out, partial = tmp_path / "answered.jsonl", tmp_path / "answered.partial.jsonl"
    arguments = ("--manifest", source, "--out", out, *SAMPLED, "--model", talker)
    prep(pseudo_gt, *arguments)
    settings = json.loads((tmp_path / "answered.settings.json").read_text())
    out.unlink()
    before = {name: settings[name] for name in settings if name not in (*CHECKS, "sampling")}
    begun = write_lines(partial.name, [before, {"id": "clip0", "response": "Hello.", "reason": ""}]).read_bytes()
    with pytest.raises(UserError, match="made with another sampling; choose another --out"):
        prep(pseudo_gt, *arguments)
    assert partial.read_bytes() == begun


@pytest.mark.parametrize(
    "wrong", [("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "0"), ("--top-p", "2")]
)
def test_wrong_sampling_is_an_argument_error(tmp_path, prep, capsys, wrong):
    with pytest.raises(SystemExit):
        prep(pseudo_gt, "--manifest", tmp_path, "--out", tmp_path / "o.jsonl", *SAMPLED, *wrong)
    assert f"argument {wrong[0]}: {wrong[1]} is" in capsys.readouterr().err
