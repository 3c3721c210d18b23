import json
import shutil

import numpy as np
import pytest
import soundfile

from caad_ds.evaluation import evaluate
from caad_ds.evaluation.commands import compare
from caad_ds.evaluation.scoring.matching import matches
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from tests.command import run_command
from tests.evaluation.conftest import scores


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_predictions_and_scores(run, tmp_path, capsys):
    assert run("--name", "teacher") == 0
    predictions = lines(tmp_path / "run")
    assert len({(p["id"], p["condition"]) for p in predictions}) == len(predictions) == 7 * 4
    assert all(p["right"] == matches(p["prediction"], p["gt"]) for p in predictions)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["name"] == "teacher" and scores["rejected"] == []
    assert {name: group["items"] for name, group in scores["groups"].items()} == {"all": 7, "gender": 4, "noise": 3}
    out, err = capsys.readouterr()
    assert "adversarial" in out and "28/28" in err


def test_a_clip_that_training_would_not_take_is_asked_about_and_reported(run, tmp_path, conflicts, capsys):
    soundfile.write(conflicts / "gender" / "audio" / "0.wav", np.zeros(8_000), 16_000)
    soundfile.write(conflicts / "noise" / "audio" / "1.wav", np.zeros(8_000), 16_000)
    assert run() == 0
    assert len(lines(tmp_path / "run")) == 7 * 4
    rows = [json.loads(line) for line in (tmp_path / "run" / "doubtful.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["gender/0", "noise/1"]
    said = capsys.readouterr().err
    assert "2 rows are asked about audio that training would not take (all in doubtful.jsonl)" in said
    assert said.count("gender/0: audio") == 1 and "0.wav: silent: all its samples are alike" in said
    assert run() == 0
    assert "2 rows are asked about audio" in capsys.readouterr().err, "a finished run says so again"


def test_answers_of_an_earlier_version_are_judged_anew_and_not_asked_again(run, tmp_path, monkeypatch):
    """Whose lines lack rules and clips, and whose verdicts may be other ones."""
    assert run() == 0
    file, expected = tmp_path / "run" / "predictions.jsonl", scores(tmp_path / "run")
    now = file.read_text()
    old = [{**p, "right": not p["right"], "strict": True} for p in lines(tmp_path / "run")]
    old = [{key: value for key, value in p.items() if key not in ("lenient", "clips")} for p in old]
    file.write_text("".join(json.dumps(p) + "\n" for p in old))
    (tmp_path / "run" / "scores.json").write_text(json.dumps({**expected, "matching": None, "groups": {}}))
    monkeypatch.setattr(evaluate, "decode", None)
    assert run() == 0
    assert file.read_text() == now and scores(tmp_path / "run") == expected


def test_a_clip_is_known_by_its_bytes(run, conflicts, tmp_path):
    """Of two subsets, under two names: as `prep conflict-benchmark` writes what several questions are about."""
    shutil.copy(conflicts / "gender" / "audio" / "0.wav", conflicts / "noise" / "audio" / "2.wav")
    assert run() == 0
    clips = {p["id"]: p["clips"] for p in lines(tmp_path / "run")}
    assert clips["gender/0"] == clips["noise/2"] != clips["gender/1"]
    groups = scores(tmp_path / "run")["groups"]
    assert {name: (group["items"], group["clips"]) for name, group in groups.items()} == {
        "all": (7, 6), "gender": (4, 4), "noise": (3, 3),
    }  # fmt: skip


def test_options_that_a_rule_cannot_separate_are_reported(run, conflicts, tmp_path, capsys):
    file = conflicts / "noise" / "noise.json"
    rows = json.loads(file.read_text())
    for row, gt in zip(rows, ("-5 dB", "5 dB", "rock/pop"), strict=True):
        row["gt"] = gt
    rows[0]["neutral"] = "Which one? (a) rock pop (b) jazz"
    file.write_text(json.dumps(rows))
    assert run() == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "noise: the rule right takes for one answer: '-5 dB', '5 dB'; 'rock pop', 'rock/pop'." in out
    assert "noise: the rule lenient takes for one answer: 'rock pop', 'rock/pop'." in out and "gender: the" not in out
    found = scores(tmp_path / "run")
    assert found["inseparable"]["strict"] == {"noise": [["rock pop", "rock/pop"]]}
    assert "TIR_adv" in found["definitions"]["shift"] and "TIR_adv" not in found["definitions"]["tir_all_adversarial"]


def test_a_gate_is_part_of_what_an_evaluation_is(run, tmp_path):
    """Without a gate, the setup is as in versions before gates."""
    gate, named = ("--alpha-gate", "text_certainty", "--gate-m", 40), ("--contrast-alpha", 4, "--name", "one")
    assert run(*named) == run(*named, *gate, out="gated") == run("--contrast-alpha", 4, *gate, out="called") == 0
    setups = [json.loads((tmp_path / out / "setup.json").read_text()) for out in ("run", "gated", "called")]
    assert setups[1] == setups[0] | {"alpha_gate": "text_certainty", "gate_m": 40.0} and "gate_m" not in setups[0]
    assert setups[2]["name"].endswith(" + CD 4 zero_mel text_certainty 40")
    plain, gated = ([p["prediction"] for p in lines(tmp_path / out)] for out in ("run", "gated"))
    assert plain != gated
    with pytest.raises(UserError, match="alpha_gate was None, is text_certainty, gate_m was None, is 40"):
        run(*named, *gate)
    with pytest.raises(UserError, match="alpha_gate was text_certainty, is None"):
        run(*named, out="gated")


def test_a_killed_run_goes_on_where_it_was(run, tmp_path, monkeypatch):
    run(out="whole")
    file = tmp_path / "run" / "predictions.jsonl"
    file.parent.mkdir()
    for name in ("setup.json", "predictions.jsonl"):
        (file.parent / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:9]) + kept[9][:20])
    asked = []
    monkeypatch.setattr(evaluate, "decode", spy(evaluate.decode, asked))
    assert run() == 0
    assert sum(asked) == 28 - 9
    assert file.read_text().splitlines(keepends=True) == kept
    assert scores(file.parent) == scores(tmp_path / "whole")


def spy(function, sizes):
    def called(lm, batch, **kwargs):
        sizes.append(len(batch.keys))
        return function(lm, batch, **kwargs)

    return called


def test_a_changed_setup_does_not_resume(run, tmp_path):
    run()
    with pytest.raises(UserError, match="max_new_tokens was 16, is 4"):
        run("--max-new-tokens", 4)
    with pytest.raises(UserError, match="contrast_alpha was None, is 1"):
        run("--contrast-alpha", 1)
    with pytest.raises(UserError, match="benchmark_sha256"):
        run("--limit", 1)


def test_contrastive_decoding_is_a_setup_of_its_own(run, tmp_path, model_folder):
    run()
    assert run("--contrast-alpha", 2, "--negative", "text_only", out="cd") == 0
    setup = json.loads((tmp_path / "cd" / "setup.json").read_text())
    assert setup["name"] == f"{model_folder.name} + CD 2 text_only"
    plain, contrasted = ([p["prediction"] for p in lines(tmp_path / out)] for out in ("run", "cd"))
    assert plain != contrasted


def test_sampling_is_a_setup_of_its_own_and_its_seeds_share_a_name(run, tmp_path):
    sampled = "--temperature", 1.5, "--top-p", 0.9, "--name", "drawn"
    run()
    for seed in (1, 2):
        assert run(*sampled, "--seed", seed, out=f"seed{seed}") == 0
    answers = [[p["prediction"] for p in lines(tmp_path / out)] for out in ("run", "seed1", "seed2")]
    assert answers[0] != answers[1] != answers[2]
    with pytest.raises(UserError, match="seed was 1, is 2"):
        run(*sampled, "--seed", 2, out="seed1")
    assert run_command(compare, tmp_path / "seed1", tmp_path / "seed2", "--out", tmp_path / "table") == 0
    assert json.loads((tmp_path / "table" / "table.json").read_text())["systems"]["drawn"]["all"]["runs"] == 2


def test_a_default_that_is_given_makes_no_second_seed(run, tmp_path):
    assert run("--temperature", 1, "--name", "drawn", out="a") == 0
    assert run("--temperature", 1, "--name", "drawn", "--seed", 0, "--top-p", 1, out="b") == 0
    with pytest.raises(UserError, match="one model, decoding and seed; a run counts once"):
        run_command(compare, tmp_path / "a", tmp_path / "b")


def test_a_run_is_called_by_its_folder_not_by_the_model_within(tmp_path, model_folder, run):
    shutil.copytree(model_folder, tmp_path / "my_run" / "model")
    assert run("--model", tmp_path / "my_run" / "model") == 0
    assert json.loads((tmp_path / "run" / "setup.json").read_text())["name"] == "my_run"


def test_bad_rows_are_listed_and_the_rest_is_scored(run, conflicts, tmp_path, capsys):
    (conflicts / "gender" / "audio" / "0.wav").write_bytes(b"not audio")
    (conflicts / "noise" / "audio" / "1.wav").unlink()
    soundfile.write(conflicts / "noise" / "audio" / "2.wav", [0.1] * 16000 * 2, 16000)
    assert run() == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert {row["id"] for row in scores["rejected"]} == {"gender/0", "noise/1", "noise/2"}
    assert scores["groups"]["all"]["items"] == 4
    err = capsys.readouterr().err
    assert "3 rows were left out" in err and "noise/2: audio" in err and "2 s exceed" in err
    assert run() == 3


def test_rows_that_make_no_prompt_are_listed_and_the_rest_is_scored(run, conflicts, tmp_path, capsys):
    for name, key, text in (("gender", "adversarial", "it <eos> rains"), ("noise", "text", "half \ud83d")):
        path = conflicts / name / f"{name}.json"
        rows = json.loads(path.read_text())
        rows[1][key] = text
        path.write_text(json.dumps(rows))
    assert run() == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert {row["id"] for row in scores["rejected"]} == {"gender/1", "noise/1"}
    assert scores["groups"]["all"]["items"] == 5
    reason = "record gender/1:adversarial: its user message 1 holds '<eos>', which is a control token of the tokenizer"
    assert reason in capsys.readouterr().err


def test_rows_that_leave_no_room_for_an_answer_are_named(run, tmp_path):
    with pytest.raises(UserError, match=r"no item could be evaluated .*prompt and answer take \d+ tokens, the model"):
        run("--max-new-tokens", 5000)


def test_user_mistakes(run, model_folder, conflicts, tmp_path):
    with pytest.raises(UserError, match="--contrast-alpha -1"):
        run("--contrast-alpha", -1)
    with pytest.raises(UserError, match="--plausibility: belongs"):
        run("--plausibility", 0.1)
    with pytest.raises(UserError, match="--alpha-gate text_certainty: weakens a contrast; give a contrast alpha"):
        run("--alpha-gate", "text_certainty")
    with pytest.raises(UserError, match=r"--gate-m 3\.0: belongs to an alpha gate"):
        run("--contrast-alpha", 1, "--gate-m", 3)
    with pytest.raises(UserError, match=r"--gate-m 1\.0: give a finite number above 1"):
        run("--contrast-alpha", 1, "--alpha-gate", "text_certainty", "--gate-m", 1)
    with pytest.raises(UserError, match="leave it out for greedy"):
        run("--temperature", 0)
    with pytest.raises(UserError, match="--top-p: belongs to sampling"):
        run("--top-p", 0.9)
    with pytest.raises(UserError, match="--top-p 1"):
        run("--temperature", 1, "--top-p", 1.5)
    with pytest.raises(UserError, match="--device tpu9"):
        run("--device", "tpu9")
    for clip in conflicts.glob("*/audio/*.wav"):
        clip.write_bytes(b"")
    with pytest.raises(UserError, match="no item could be evaluated"):
        run()


def test_compare_groups_seeds_and_saves_table_and_picture(run, tmp_path, capsys):
    run("--name", "greedy", out="a")
    for out in ("b1", "b2"):
        run("--name", "contrast", "--contrast-alpha", 1, out=out)
    retrain(tmp_path / "b2")
    flip(tmp_path / "b2" / "predictions.jsonl")
    runs = [tmp_path / name for name in ("a", "b1", "b2")]
    assert run_command(compare, *runs, "--out", tmp_path / "table", "--title", "Demo") == 0
    saved = json.loads((tmp_path / "table" / "table.json").read_text())
    assert [g["all"]["runs"] for g in saved["systems"].values()] == [1, 2]
    assert saved["systems"]["greedy"] == json.loads((tmp_path / "a" / "scores.json").read_text())["groups"]
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| runs | neutral | faithful | adversarial | irrelevant | shift | tir_all | gender adv | noise adv |" in text
    assert "| contrast | 2 |" in text and "one of few voices are not independent" in text
    assert saved["systems"]["contrast"]["all"]["accuracy_neutral"]["deviation"] == pytest.approx(2**-0.5 / 7)
    assert (tmp_path / "table" / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "contrast" in capsys.readouterr().out


def retrain(folder):
    """As if another model had given these answers."""
    scores = json.loads((folder / "scores.json").read_text())
    scores["setup"]["model_sha256"] = "another"
    (folder / "scores.json").write_text(json.dumps(scores))


def flip(file):
    """Another seed's answer to one item."""
    first, *rest = file.read_text().splitlines(keepends=True)
    prediction = json.loads(first)
    file.write_text(json.dumps({**prediction, "right": not prediction["right"]}) + "\n" + "".join(rest))


def test_compare_refuses_unlike_or_unfinished_runs(run, make_benchmark, tmp_path):
    run(out="a")
    run(out="b", benchmark=make_benchmark("other", {"gender": 2}))
    with pytest.raises(UserError, match=r"b and .*a: evaluated on different contents of the benchmark"):
        run_command(compare, tmp_path / "a", tmp_path / "b")
    run("--name", "twin", out="c")
    with pytest.raises(UserError, match=r"c and .*a: one model, decoding and seed"):
        run_command(compare, tmp_path / "a", tmp_path / "c")
    for alpha in (1, 2):
        run("--contrast-alpha", alpha, "--name", "CD", out=f"cd{alpha}")
    with pytest.raises(UserError, match="decodes otherwise"):
        run_command(compare, tmp_path / "cd1", tmp_path / "cd2")
    (tmp_path / "b" / "scores.json").unlink()
    with pytest.raises(UserError, match="finish the run"):
        run_command(compare, tmp_path / "b")


def test_what_must_be_known_of_compared_runs_is_noted(run, conflicts, tmp_path, capsys):
    (conflicts / "noise" / "audio" / "1.wav").unlink()
    run(out="a")
    run("--max-new-tokens", 4, "--name", "short", out="b")
    assert run_command(compare, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "table") == 3
    assert f"1 row left out in {tmp_path / 'a'}, 1 row left out in {tmp_path / 'b'}" in capsys.readouterr().err
    table, saved = ((tmp_path / "table" / name).read_text() for name in ("table.md", "table.json"))
    for note in json.loads(saved)["notes"]:
        assert note in table
    assert "Over 6 items." in table and f"1 row left out in {tmp_path / 'b'}." in table
    assert f"--max-new-tokens differs: 16 in {tmp_path / 'a'}, 4 in {tmp_path / 'b'}." in table


def test_lines_that_two_starts_doubled_are_scored_once(run, tmp_path):
    run()
    before, file = scores(tmp_path / "run"), tmp_path / "run" / "predictions.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept + kept[:10]))
    assert run() == 0
    assert scores(tmp_path / "run") == before


def test_files_that_are_not_the_evaluations_stay(run, tmp_path):
    run()
    copy = tmp_path / "run" / "predictions.before.jsonl"
    copy.write_text('{"mine": 1}\n')
    assert run() == 0 and copy.read_text() == '{"mine": 1}\n'
    kept = {file.name: file.read_bytes() for file in copy.parent.iterdir() if file.name != "setup.json"}
    (copy.parent / "setup.json").unlink()
    with pytest.raises(UserError, match=r"run: holds predictions.jsonl but no setup.json; use another --out"):
        run()
    (copy.parent / "predictions.jsonl").unlink()
    with pytest.raises(UserError, match=r"run: holds scores.json but no setup.json"):
        run()
    assert {file.name for file in copy.parent.iterdir()} == kept.keys() - {"predictions.jsonl"}


def test_a_run_folder_has_one_writer(run, tmp_path):
    with sole_writer(tmp_path / "run"), pytest.raises(UserError, match=r"another process is writing .*run: wait"):
        run()
    assert run() == 0 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("out", ["/proc/absent", "/dev/null/below"])
def test_a_folder_that_cannot_be_made_is_named(run, out):
    with pytest.raises(UserError, match=r"cannot be written \(.*\): write elsewhere"):
        run(out=out)


def test_answers_that_another_process_took_away_are_missed(run, tmp_path, monkeypatch):
    def lose(*args, **kwargs):
        (tmp_path / "run" / "predictions.jsonl").write_text("")
        return decode(*args, **kwargs)

    decode = evaluate.decode
    monkeypatch.setattr(evaluate, "decode", lose)
    with pytest.raises(UserError, match="of 7 items have no answer; start the same command again"):
        run()


def test_scores_go_as_soon_as_something_is_left_to_answer(run, tmp_path, monkeypatch):
    run()
    file = tmp_path / "run" / "predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:9]))
    monkeypatch.setattr(evaluate, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(path.name for path in file.parent.iterdir()) == ["items.jsonl", "predictions.jsonl", "setup.json"]


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_tasks_of_slurm_that_do_not_know_of_each_other_are_reported(run, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    run()
    assert "SLURM_NTASKS is 2, but WORLD_SIZE is not set" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("contrast", [[], ["--contrast-alpha", 1, "--negative", "silence"]])
def test_cuda_gives_the_answers_of_the_cpu(run, tmp_path, contrast):
    run(*contrast, out="cpu")
    run(*contrast, "--device", "cuda", out="cuda")
    cpu, cuda = ([p["prediction"] for p in lines(tmp_path / out)] for out in ("cpu", "cuda"))
    assert cpu == cuda
    assert run(*contrast, "--device", "cuda", "--dtype", "bfloat16", out="bfloat16") == 0


def test_a_run_is_taken_for_its_model_and_gives_its_name(run, model_folder, tmp_path, capsys):
    shutil.copytree(model_folder, tmp_path / "caad" / "model")
    assert run("--model", tmp_path / "caad", "--limit", 1) == 0
    output = capsys.readouterr()
    assert f"{tmp_path / 'caad'} is a run's folder; its model is {tmp_path / 'caad' / 'model'}" in output.err
    assert "caad-ds: loading PyTorch and transformers" in output.err
    assert "caad: percentages" in output.out and "evaluating caad" in output.err
