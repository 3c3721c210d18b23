import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from caad_ds.config.objective_section import CHECKED_NEGATIVES, NEGATIVES
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.commands import check_teacher as command_line
from caad_ds.evaluation.teacher_check import check_teacher
from caad_ds.evaluation.teacher_check import probe as probe_module
from caad_ds.evaluation.teacher_check.answer_options import Options
from caad_ds.evaluation.teacher_check.check_journal import CheckJournal
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.generalisation import HEARD, UNKNOWN
from caad_ds.evaluation.teacher_check.option_likelihoods import entropy, log_likelihoods, shared, whole
from caad_ds.evaluation.teacher_check.probe import Probe
from caad_ds.evaluation.teacher_check.teacher_answers import answers, shared_prompts, whole_prompts
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.model import Model
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.utils.errors import UserError
from tests.command import run_command
from tests.tolerance import assert_close

STATEMENTS = ["the speaker is male .", "female"]
INSTRUCTIONS = """
attributes:
  gender:
    name: Gender
    questions: [who speaks]
    options: {male: the speaker is male ., female: the speaker is female .}
  noise:
    name: Noise
    questions: [how loud is it]
    options: {loud: it is loud ., quiet: it is quiet .}
irrelevant: [it rains .]
"""
POS, NEG, CONTRAST = Signal(), Signal("silence"), Signal("silence", 1.0)


@pytest.fixture
def instructions(tmp_path):
    path = tmp_path / "instructions.yaml"
    path.write_text(INSTRUCTIONS)
    return path


@pytest.fixture
def loaded(model_folder):
    return Model.load(model_folder, torch.device("cpu"))


@pytest.fixture
def rows(conflicts):
    return Benchmark.load(conflicts).rows


def encoded_items(loaded, rows, negatives=()):
    """Return the items of two rows, and their encoded clips."""
    encoded_clips = EncodedClips(loaded, negatives, [item for row in rows for item in row.items()])
    return encoded_clips.encode([item for row in rows[:2] for item in row.items()]), encoded_clips


@pytest.mark.numeric
@torch.no_grad()
def test_likelihoods_equal_one_statement_at_a_time(loaded, rows, terms):
    items, encoded_clips = encoded_items(loaded, rows)
    found = log_likelihoods(loaded, items, encoded_clips, STATEMENTS, ["silence"], [1.0])
    assert found[CONTRAST].shape == (8, 2)
    outputs, llm, clips = encoded_clips.outputs(items), loaded.lm.generator, loaded.clips()
    for i in (0, 5):
        for k, statement in enumerate(STATEMENTS):
            batch = clips.answered(clips.encode([items[i]]), [statement])
            z_pos, z_neg = (
                llm(inputs_embeds=e.inputs_embeds).logits[0, e.answer_rows]
                for e in (
                    merge_audio(loaded.lm.module, batch, outputs[i // 4 : i // 4 + 1]),
                    loaded.lm.embedded(clips.negative([items[i]], batch, "silence")),
                )
            )
            for signal, z in ((POS, z_pos), (NEG, z_neg), (CONTRAST, 2 * z_pos - z_neg)):
                expected = z.log_softmax(-1)[torch.arange(len(batch.targets)), batch.targets].sum()
                largest = 3 * len(z) * max(z_pos.abs().max(), z_neg.abs().max()).item()
                assert_close(found[signal][i, k].item(), expected, terms, largest)


@pytest.mark.numeric
@torch.no_grad()
def test_under_shuffled_an_item_is_asked_about_another_clip(loaded, rows, terms):
    """Whichever it is, the likelihoods are those of hearing it in the place of the item's own."""
    items, encoded_clips = encoded_items(loaded, rows, ["shuffled"])
    found = log_likelihoods(loaded, items, encoded_clips, STATEMENTS, ["shuffled"], [1.0])
    others = [row.clip for row in rows]
    for k, item in enumerate(items):
        clips = [replace(clip, text=item.clips[0].text) for clip in others if clip != item.clips[0]]
        swapped = [replace(item, clips=(clip,)) for clip in clips]
        hearing = EncodedClips(loaded, ["shuffled"])
        z_pos = log_likelihoods(loaded, hearing.encode(swapped), hearing, STATEMENTS, [], [])[POS]
        z_neg = found[Signal("shuffled")][k]
        nearest = np.abs(z_pos - z_neg).max(-1).argmin()
        assert_close(z_neg, z_pos[nearest], terms, 5 * 6 * np.abs(z_neg).max())


@pytest.mark.numeric
def test_what_prompts_have_in_common_is_run_once_and_changes_nothing(loaded, rows, terms):
    items, encoded_clips = encoded_items(loaded, rows)
    given = [*STATEMENTS, "the speaker is female ."], CHECKED_NEGATIVES, [0.5, 2.0]
    run = []
    layer = loaded.lm.generator.model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, given: run.append(given[0].shape))
    with torch.no_grad():
        expected = whole(loaded, items, encoded_clips, *given)
        positions, run[:] = sum(rows * length for rows, length, _ in run), []
        found = shared(loaded, items, encoded_clips, *given)
    hook.remove()
    assert list(found) == list(expected)
    for signal, values in expected.items():
        assert_close(found[signal], values, terms, 5 * 6 * values.abs().max().item())
    assert sum(rows * length for rows, length, _ in run) < positions / 2.5


def test_entropy():
    assert entropy(np.log([[0.5, 0.5], [0.2, 0.2]]) - 50) == pytest.approx([np.log(2)] * 2)
    assert entropy(np.array([[0.0, -800.0]])) == pytest.approx([0.0])


def probe(loaded, conflicts, instructions, negatives=("silence",)):
    options = Options(Benchmark.load(conflicts), Instructions.load(instructions))
    return Probe(loaded, negatives, [1.0], options, CheckJournal(None, {}), 16, 4)


def test_decoded_metrics_count_the_answers_that_match(loaded, conflicts, instructions, monkeypatch):
    """Stands in for the answers: right but for adversarial text without a contrast."""

    def answers(loaded, items, encoded_clips, wanted, negatives, max_new_tokens):
        assert max_new_tokens == 4
        return {s: ["neither" if s == POS and i.condition == "adversarial" else i.gt for i in items] for s in wanted}

    monkeypatch.setattr("caad_ds.evaluation.teacher_check.probe.answers", answers)
    rows = Benchmark.load(conflicts).rows
    table = check_teacher.decoded_metrics(probe(loaded, conflicts, instructions), rows, 1.0)
    for group, items in (("all", 7), ("gender", 4), ("noise", 3)):
        assert {table[s][group]["items"] for s in (POS, CONTRAST)} == {items}
        found = [table[s][group]["accuracy_adversarial"]["value"] for s in (POS, CONTRAST)]
        assert found == [0, 1]
        assert table[POS][group]["accuracy_irrelevant"]["value"] == 1


@pytest.mark.parametrize(
    ("prefill", "negatives"), [(shared_prompts, CHECKED_NEGATIVES), (whole_prompts, NEGATIVES)]
)  # fmt: skip
def test_answers_of_several_signals_are_those_of_one_at_a_time(loaded, rows, prefill, negatives):
    items, encoded_clips = encoded_items(loaded, rows, negatives)
    assert encoded_clips.shares is (prefill is shared_prompts)
    wanted = [POS, *(Signal(name, 1.5) for name in negatives)]
    found = answers(loaded, items, encoded_clips, wanted, negatives, 6)
    prompts = encoded_clips.clips.prompts(items)
    for signal in wanted:
        contrasted = second = None
        if signal.negative is not None:
            contrasted, second = (
                Contrast(1.5, signal.negative),
                encoded_clips.clips.negative(items, prompts, signal.negative),
            )
        alone = decode(loaded.lm, prompts, max_new_tokens=6, contrasted=contrasted, negative=second)
        assert found[signal] == alone
    assert len({tuple(texts) for texts in found.values()}) > 2, "the signals answer otherwise"


def command(*argv):
    return run_command(command_line, *argv)


def test_command(model_folder, conflicts, instructions, tmp_path, capsys):
    rows = json.loads((conflicts / "noise" / "noise.json").read_text())
    (conflicts / "noise" / "noise.json").write_text(json.dumps([*rows, {**rows[0], "gt": "deafening"}]))
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--batch-size", 16]
    soundfile.write(conflicts / "noise" / "audio" / "1.wav", np.zeros(8_000), 16_000)
    out = tmp_path / "check.json"
    assert command(*arguments, "--instructions", instructions, "--out", out) == 3
    result = json.loads(out.read_text())
    assert len(result["signals"]) == 1 + 4 * (1 + 3)
    assert {s["groups"]["all"]["items"] for s in result["signals"]} == {7}
    assert [row["id"] for row in result["rejected"]] == ["noise/3"]
    assert [row["id"] for row in result["doubtful"]] == ["noise/1"]
    printed, err = (" ".join(part.split()) for part in capsys.readouterr())
    assert "1 row is asked about audio that training would not take" in err and "1.wav: silent: all" in err
    decoded = [(s["negative"], s["alpha"]) for s in result["decoded"]]
    alpha = result["verdict"]["alpha"] or 2.0
    assert (
        decoded == [(None, None), *((negative, alpha) for negative in CHECKED_NEGATIVES)]
        and "greedy answers" in printed
    )
    assert "z_neg text_only" in printed and "gender n/f/a/i" in printed and result["verdict"]["lines"][-1] in printed
    assert "7/7" in err


def test_an_interrupted_check_goes_on(model_folder, conflicts, instructions, tmp_path, capsys, monkeypatch):
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--instructions", instructions]
    arguments += ["--negatives", "silence", "text_only", "--batch-size", 4, "--max-new-tokens", 3, "--out"]
    assert command(*arguments, tmp_path / "whole.json") == 0
    out, asked = tmp_path / "check.json", []
    real = {name: getattr(probe_module, name) for name in ("log_likelihoods", "answers")}

    def stopping(name, after):
        def once_more(loaded, items, *rest):
            asked.extend(item.id for item in items if item.condition == "neutral")
            if len(asked) > after:
                raise KeyboardInterrupt
            return real[name](loaded, items, *rest)

        monkeypatch.setattr(probe_module, name, once_more)

    journal = tmp_path / "check.json.partial.jsonl"
    for name, after in (("log_likelihoods", 5), ("answers", 2)):
        stopping(name, after)
        with pytest.raises(KeyboardInterrupt):
            command(*arguments, out)
        monkeypatch.setattr(probe_module, name, real[name])
        assert not out.exists()
        with open(journal, "a") as file:
            file.write('{"stage": "cut')
        asked.clear()
    with pytest.raises(UserError, match=r"partial.jsonl: it was made with another alphas; choose another --out"):
        command(*arguments, out, "--alphas", 3)
    capsys.readouterr()
    stopping("log_likelihoods", 0)  # nothing of this is left to ask
    assert command(*arguments, out) == 0
    printed, err = capsys.readouterr()
    assert "resuming after 7 rows" in err and "so far" not in printed
    assert json.loads(out.read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert not journal.exists()


def test_a_check_that_goes_on_asks_in_the_same_batches(
    model_folder, make_benchmark, instructions, tmp_path, monkeypatch
):
    """Sums are rounded otherwise in other batches: neither a row that cannot be heard nor a batch of which a part is
    known moves the others."""
    benchmark = make_benchmark("damaged", {"gender": 6})
    (benchmark / "gender" / "audio" / "0.wav").write_bytes(b"no audio")
    arguments = ["--model", model_folder, "--benchmark", benchmark, "--device", "cpu", "--instructions", instructions]
    arguments += ["--negatives", "silence", "--alphas", 1, "--batch-size", 8, "--max-new-tokens", 1, "--out"]
    batches, real = [], probe_module.log_likelihoods

    def stopping(loaded, items, *rest):
        batches.append([item.id for item in items if item.condition == "neutral"])
        if len(batches) > stop_after:
            raise KeyboardInterrupt
        return real(loaded, items, *rest)

    monkeypatch.setattr(probe_module, "log_likelihoods", stopping)
    stop_after = 9
    assert command(*arguments, tmp_path / "whole.json") == 3
    whole = batches.copy()
    stop_after = 2
    batches.clear()
    with pytest.raises(KeyboardInterrupt):
        command(*arguments, tmp_path / "check.json")
    journal = tmp_path / "check.json.partial.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # the second batch lost a row
    stop_after = 9
    batches.clear()
    assert command(*arguments, tmp_path / "check.json") == 3
    assert whole == [["gender/1"], ["gender/2", "gender/3"], ["gender/4", "gender/5"]]
    assert batches == whole[1:]
    assert (tmp_path / "check.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_table_grows_with_each_attribute(model_folder, conflicts, instructions, capsys):
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--instructions", instructions]
    assert command(*arguments, "--negatives", "silence", "--alphas", 1, "--max-new-tokens", 1) == 0
    printed, err = capsys.readouterr()
    assert printed.count("so far, 4 of 7 rows") == 1 and "z_neg silence n" in printed
    assert "nothing is kept without --out" in err


def test_training_clips_are_asked_about(model_folder, conflicts, instructions, make_benchmark, tmp_path):
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--instructions", instructions]
    arguments += ["--negatives", "silence", "--alphas", 1, "--max-new-tokens", 1, "--out", tmp_path / "check.json"]
    with pytest.raises(UserError, match=r"has 7 clips that are in .* too"):
        command(*arguments, "--train-benchmark", conflicts)
    other = make_benchmark("training", {"gender": 12})
    for k in range(12):
        soundfile.write(other / "gender" / "audio" / f"{k}.wav", np.full(8000, 0.1 + 0.01 * k), 16_000)
    assert command(*arguments, "--train-benchmark", other) == 0
    result = json.loads((tmp_path / "check.json").read_text())["verdict"]
    assert set(result["findings"]) == {"gender", "noise"} and result["findings"]["noise"] in (HEARD, UNKNOWN)


def test_rows_of_training_clips_that_cannot_be_used_are_listed(
    model_folder, conflicts, instructions, make_benchmark, tmp_path, capsys
):
    """One without an answer, one of an answer that is no option, and one whose clip does not decode."""
    other = make_benchmark("training", {"gender": 6})
    for k in range(6):
        soundfile.write(other / "gender" / "audio" / f"{k}.wav", np.full(8000, 0.1 + 0.01 * k), 16_000)
    (other / "gender" / "audio" / "5.wav").write_bytes(b"no audio")
    file = other / "gender" / "gender.json"
    lines = json.loads(file.read_text())
    del lines[3]["gt"]
    lines[4]["gt"] = "robot"
    file.write_text(json.dumps(lines))
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--instructions", instructions]
    arguments += ["--negatives", "silence", "--alphas", 1, "--max-new-tokens", 1, "--out", tmp_path / "check.json"]
    assert command(*arguments, "--train-benchmark", other) == 3
    rejected = {row["id"]: row["reason"] for row in json.loads((tmp_path / "check.json").read_text())["rejected"]}
    assert list(rejected) == ["gender/3", "gender/4", "gender/5"]
    assert all(reason.startswith("--train-benchmark: ") for reason in rejected.values())
    assert "3 rows were left out" in capsys.readouterr().err


def test_user_mistakes(model_folder, conflicts, instructions, tmp_path):
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--device", "cpu", "--instructions"]
    with pytest.raises(UserError, match="--alphas 0: give"):
        command(*arguments, instructions, "--alphas", 0)
    Path(instructions).write_text(INSTRUCTIONS.replace("  noise:", "  pitch:"))
    with pytest.raises(UserError, match="has no attribute noise"):
        command(*arguments, instructions)


@pytest.mark.gpu
def test_cuda_gives_the_figures_of_the_cpu(model_folder, conflicts, instructions, tmp_path):
    arguments = ["--model", model_folder, "--benchmark", conflicts, "--instructions", instructions]
    for device in ("cpu", "cuda"):
        assert command(*arguments, "--device", device, "--out", tmp_path / device) == 0
    cpu, cuda = (json.loads((tmp_path / device).read_text()) for device in ("cpu", "cuda"))
    assert cpu["verdict"] == cuda["verdict"]
    assert command(*arguments, "--device", "cuda", "--dtype", "bfloat16") == 0
