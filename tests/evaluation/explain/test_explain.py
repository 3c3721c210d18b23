import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from caad_ds import cli
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.explain.explain import LONGEST_ENDING, file_stems
from caad_ds.evaluation.explain.token_picture import A_PAGE, draw, visible
from caad_ds.evaluation.explain.token_text import Tokens
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.option_likelihoods import log_likelihoods
from caad_ds.generation.model import Model
from caad_ds.models.speech_lm.folder import load, save
from tests.evaluation.conftest import TEMPLATE, WORDS, tiny_parts
from tests.tolerance import assert_close

INSTRUCTIONS = """
attributes:
  gender: {name: Gender, questions: ["who speaks ?"], options: {male: the speaker is male ., female: she}}
irrelevant: [it rains]
"""


@pytest.fixture
def explain(model_folder, conflicts, tmp_path):
    def explain(*argv, out="out"):
        given = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / out, "--device", "cpu", *argv]
        return cli.main(["explain", *map(str, given)])

    return explain


def found(tmp_path, name, out="out"):
    return json.loads((tmp_path / out / f"{name}.json").read_text())


def test_a_picture_and_numbers_of_each_item(explain, tmp_path, capsys):
    assert explain("--items", "gender/0", "noise/1:adversarial", "gender/0:neutral", "--max-new-tokens", 2) == 0
    conditions = ("neutral", "faithful", "adversarial", "irrelevant")
    names = {*(f"gender_0.{condition}" for condition in conditions), "noise_1.adversarial"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}.{end}" for n in names for end in ("png", "json")}
    assert (tmp_path / "out" / "gender_0.neutral.png").read_bytes().startswith(b"\x89PNG")
    result = found(tmp_path, "noise_1.adversarial")
    assert (result["question"], result["hint"], result["gt"]) == ("how loud is it ?", "the speaker is loud .", "quiet")
    assert result["signals"] == ["p_pos", "p_neg", "target"]
    assert 1 <= len(result["positions"]) <= 2
    for position in result["positions"]:
        shown = position["tokens"]
        assert position["id"] in [t["id"] for t in shown] and 5 <= len(shown) <= 6
        assert [t["target"] for t in shown] == sorted((t["target"] for t in shown), reverse=True)
        greedy = max(shown, key=lambda t: t["p_pos"])
        assert greedy["id"] == position["id"], "the model's own greedy answer"
    assert "pictures and numbers of 5 items" in capsys.readouterr().out


@pytest.mark.numeric
def test_the_numbers_are_those_of_the_teacher_check(explain, conflicts, model_folder, terms, tmp_path):
    """Summed over the statement's positions, they are its log-likelihood under z_pos, z_neg and z_c."""
    (tmp_path / "i.yaml").write_text(INSTRUCTIONS)
    options = "--answer", "gt", "--instructions", tmp_path / "i.yaml", "--contrast-alpha", 1.5, "--negative", "silence"
    assert explain("--items", "gender/2:faithful", *options) == 0
    result = found(tmp_path, "gender_2.faithful")
    assert result["answer"].startswith("the speaker is male") and len(result["positions"]) == 6
    loaded = Model.load(model_folder, torch.device("cpu"))
    [item] = [i for row in Benchmark.load(conflicts).rows for i in row.items() if i.id == "gender/2"][1:2]
    encoded_clips = EncodedClips(loaded, [])
    expected = log_likelihoods(
        loaded, encoded_clips.encode([item]), encoded_clips, ["the speaker is male ."], ["silence"], [1.5]
    )
    own = [next(t for t in position["tokens"] if t["id"] == position["id"]) for position in result["positions"]]
    for name, signal in [("p_pos", Signal()), ("p_neg", Signal("silence")), ("target", Signal("silence", 1.5))]:
        summed = torch.tensor([t[name] for t in own], dtype=torch.float64).log().sum().item()
        assert_close(summed, expected[signal].item(), terms)


def test_plausibility_and_temperature_shape_the_target(explain, tmp_path):
    given = "--items", "gender/1:neutral", "--answer", "contrast", "--max-new-tokens", 1, "--top", 40
    explain(*given, out="plain")
    explain(*given, "--plausibility", 0.5, "--temperature", 2, out="shaped")
    plain, shaped = (found(tmp_path, "gender_1.neutral", out)["positions"][0]["tokens"] for out in ("plain", "shaped"))
    assert all(t["target"] > 0 for t in plain)
    most = max(t["p_pos"] for t in plain)
    kept = {t["id"] for t in plain if t["p_pos"] >= 0.5 * most}
    assert {t["id"] for t in shaped if t["target"] > 0} == kept
    assert max(t["p_pos"] for t in shaped) < most, "a temperature of 2 flattens"


def test_a_gate_shapes_the_target(explain, tmp_path):
    given = "--items", "gender/1:neutral", "--max-new-tokens", 3, "--top", 40, "--contrast-alpha", 4
    explain(*given, out="plain")
    explain(*given, "--alpha-gate", "text_certainty", "--gate-m", 40, out="gated")
    plain, gated = (found(tmp_path, "gender_1.neutral", out) for out in ("plain", "gated"))
    assert gated["setting"] == plain["setting"] | {"alpha_gate": "text_certainty", "gate_m": 40.0}
    for before, after in zip(plain["positions"], gated["positions"], strict=True):
        pos, neg, target = (
            torch.tensor([t[name] for t in sorted(after["tokens"], key=lambda t: t["id"])], dtype=torch.float64)
            for name in ("p_pos", "p_neg", "target")
        )
        entropy = -(neg * neg.log()).sum().item()
        alpha = 4 * max(0.0, 1 - entropy / math.log(40))
        assert 0 < alpha < 4
        expected = ((1 + alpha) * pos.log() - alpha * neg.log()).softmax(-1)
        assert (target - expected).abs().max() < 1e-4
        assert [t["target"] for t in before["tokens"]] != [t["target"] for t in after["tokens"]]


@pytest.mark.numeric
def test_a_student_stands_beside_its_teacher(explain, model_folder, terms, tmp_path):
    student, encoder, tokenizer = load(model_folder)
    with torch.no_grad():
        student.llm.get_output_embeddings().weight.mul_(0.5)
    save(tmp_path / "student", student, encoder, tokenizer)
    given = "--items", "gender/0:neutral", "--max-new-tokens", 2
    assert explain(*given, "--model", tmp_path / "student", "--teacher", model_folder, out="both") == 0
    assert explain(*given, "--model", tmp_path / "student", out="alone") == 0
    both, alone = (found(tmp_path, "gender_0.neutral", out) for out in ("both", "alone"))
    assert both["answer"] == alone["answer"], "the student's own answer"
    assert both["signals"] == ["p_pos", "p_neg", "target", "student"]
    first, by_itself = ({t["id"]: t for t in e["positions"][0]["tokens"]} for e in (both, alone))
    shared = first.keys() & by_itself.keys()
    asked, alone, taught = zip(*((first[t]["student"], by_itself[t]["p_pos"], first[t]["p_pos"]) for t in shared))
    assert_close(asked, alone, terms)
    with pytest.raises(AssertionError, match="is allowed"):
        assert_close(taught, alone, terms)  # the teacher's numbers are others


@pytest.mark.numeric
@pytest.mark.parametrize("negative", ["zero_mel", "text_only", "shuffled"])
def test_a_student_that_reads_other_prompts_stands_beside_its_teacher(
    explain, model_folder, terms, tmp_path, negative, monkeypatch
):
    """The teacher has more positions per audio and another template; probabilities are as for each model alone."""
    monkeypatch.setattr("caad_ds.evaluation.explain.explain.draw", lambda *given: [])  # the numbers are enough
    student, encoder, tokenizer = tiny_parts(num_queries=5)
    tokenizer.chat_template = TEMPLATE.replace("assistant ", "user ")
    save(tmp_path / "student", student, encoder, tokenizer)
    given = "--items", "gender/1:faithful", "--answer", "gt", "--negative", negative, "--top", 40
    assert explain(*given, "--model", tmp_path / "student", "--teacher", model_folder, out="both") == 0
    assert explain(*given, "--model", tmp_path / "student", out="student") == 0
    assert explain(*given, out="teacher") == 0
    both, *alone = (found(tmp_path, "gender_1.faithful", out) for out in ("both", "student", "teacher"))
    assert both["signals"] == ["p_pos", "p_neg", "target", "student"] and len(both["positions"]) > 1
    for positions in zip(*(result["positions"] for result in (both, *alone)), strict=True):
        here, of_student, of_teacher = ({t["id"]: t for t in position["tokens"]} for position in positions)
        assert len(here) == 40
        for theirs, name, its in [(of_student, "student", "p_pos"), *((of_teacher, n, n) for n in both["signals"][:3])]:
            assert_close([here[t][name] for t in here], [theirs[t][its] for t in here], 3 * terms)


def test_a_token_that_one_of_the_models_does_not_know_is_left_out(explain, model_folder, tmp_path, capsys):
    """An answer that holds it is not put to the teacher."""
    student, encoder, tokenizer = load(model_folder)
    snow = len(tokenizer)
    tokenizer.add_tokens(["snow"])
    save(tmp_path / "student", student, encoder, tokenizer)
    given = "--items", "gender/1:neutral", "--model", tmp_path / "student", "--teacher", model_folder
    assert explain(*given, "--answer", "gt", "--top", 40) == 0
    for position in found(tmp_path, "gender_1.neutral")["positions"]:
        [entry] = [token for token in position["tokens"] if token["id"] == snow]
        assert entry["p_pos"] == entry["target"] == entry["student"] == 0
    (tmp_path / "i.yaml").write_text(INSTRUCTIONS.replace("she", "snow"))
    assert explain(*given, "--answer", "gt", "--instructions", tmp_path / "i.yaml") == 3
    assert f"gender/1: answer: it holds 'snow' ({snow}), which is another token to the" in capsys.readouterr().err


def test_a_silent_clip_is_explained_and_named(explain, conflicts, capsys):
    soundfile.write(conflicts / "gender" / "audio" / "0.wav", np.zeros(8000), 16000)
    assert explain("--items", "gender/0", "--max-new-tokens", 1) == 0
    said = capsys.readouterr().err
    assert "1 row is asked about audio that training would not take" in said and said.count("gender/0: audio") == 1


def test_mistakes_and_bad_clips(explain, conflicts, model_folder, tmp_path, capsys):
    def refused(*argv):
        assert explain(*argv) == 2
        return capsys.readouterr().err

    assert "--items gender/77: no such item in the benchmark; one is gender/" in refused("--items", "gender/77")
    assert "--contrast-alpha -1" in refused("--items", "gender/0", "--contrast-alpha", -1)
    (tmp_path / "i.yaml").write_text(INSTRUCTIONS)
    assert "give --answer gt" in refused("--items", "gender/0", "--instructions", tmp_path / "i.yaml")
    message = refused("--items", "noise/0:neutral", "--answer", "gt", "--instructions", tmp_path / "i.yaml")
    assert "no statement for 'loud' of noise" in message
    shutil.copytree(model_folder, tmp_path / "other")
    words = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    known = words["model"]["vocab"]
    words["model"]["vocab"] = known | {word: len(known) - 1 - known[word] for word in WORDS}
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(words))
    assert "have different vocabularies of answers" in refused("--items", "gender/0", "--teacher", tmp_path / "other")
    (conflicts / "gender" / "audio" / "0.wav").write_bytes(b"not audio")
    assert explain("--items", "gender/0:neutral", "gender/1:neutral", "--max-new-tokens", 2, out="rest") == 3
    assert {p.stem for p in (tmp_path / "rest").iterdir()} == {"gender_1.neutral"}
    assert "gender/0: audio" in capsys.readouterr().err
    assert explain("--items", "gender/0", "gender/1:neutral", "--max-new-tokens", 2, out="rest") == 3
    said = capsys.readouterr()
    assert said.err.count("gender/0: audio") == 1 and "1 row was left out" in said.err, "one row, not its conditions"
    assert "pictures and numbers of 1 item " in said.out


def test_a_row_that_was_rejected_is_reported_with_its_reason(explain, conflicts, capsys):
    rows = json.loads((conflicts / "gender" / "gender.json").read_text())
    del rows[2]["gt"]
    (conflicts / "gender" / "gender.json").write_text(json.dumps(rows))
    for name in ("gender/2", "gender/2:adversarial"):
        assert explain("--items", name) == 2
        stderr = capsys.readouterr().err
        assert f"--items {name}: the benchmark's row cannot be used" in stderr and "gt" in stderr
    assert explain("--items", "gender/2", "gender/1:neutral", "--max-new-tokens", 2) == 3
    said = capsys.readouterr()
    assert "gender/2: gt is missing" in said.err and "pictures and numbers of 1 item " in said.out


def test_no_two_items_share_a_file():
    """Nor on a file system that knows no case; a slash is `_` where that is no other id's name."""
    of = {"a/b": "a", "a_b": None, "a": "b", "A/1": None, "a/1": None, "gender/0": "neutral", "é" * 200: "adversarial"}
    items = [Item(name, "a", condition, (), (), "q", "g") for name, condition in of.items()]
    names = file_stems([*items, Item("gender/0", "a", "faithful", (), (), "q", "g")])
    assert len({name.lower() for name in names.values()}) == len(items) + 1
    assert all(len(name) <= 255 - LONGEST_ENDING for name in names.values())
    assert names["gender/0:neutral"] == "gender_0.neutral" and names["a/b:a"] == "a%2Fb.a"


def test_more_tokens_than_there_are(explain, tmp_path):
    assert explain("--items", "gender/0:neutral", "--max-new-tokens", 1, "--top", 100000) == 0
    [position] = found(tmp_path, "gender_0.neutral")["positions"]
    assert len(position["tokens"]) == 40, "the whole vocabulary"


def test_tokens_of_byte_level_bpe_are_reported_as_text():
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, "Ġm", "Ċ!"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "m"), ("Ċ", "!")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = Tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>"))
    ids = tokens.tokenizer(" mé", add_special_tokens=False)["input_ids"]
    assert [tokens(i) for i in ids] == [" m", "<0xC3>", "<0xA9>"]
    assert tokens(vocabulary["Ċ!"]) == "\n!" and tokens(tokens.tokenizer.eos_token_id) == "<eos>"
    assert tokens(100000) == "<100000>", "a padded vocabulary has more ids than tokens"


def test_text_in_the_picture_is_visible():
    assert visible(" male") == "␣male" and visible("\n") == "⏎"
    assert visible("你") == "\\u4f60", "no empty boxes for what the font lacks"
    assert visible("extraordinarily long") == "extraordinari…"


@pytest.mark.filterwarnings("error")
def test_long_answers_go_on_in_another_picture(tmp_path):
    token = {"id": 7, "text": " $x^2_$", "p_pos": 0.5, "p_neg": 0.25, "target": 1.0}
    setting = {"answer": "own", "contrast_alpha": 1, "negative": "silence", "plausibility": 0.1, "temperature": 2.0}
    explained = {
        "id": "a/1", "condition": "neutral", "question": "WWWWWW $ " * 30, "hint": None, "gt": "x", "model": "m",
        "teacher": None, "setting": setting, "answer": "$ " * 200, "signals": ["p_pos", "p_neg", "target"],
        "positions": [{"id": 7, "text": token["text"], "tokens": [token]}] * (A_PAGE + 1),
    }  # fmt: skip
    paths = draw(explained, tmp_path / "a_1.neutral")
    assert [p.name for p in paths] == ["a_1.neutral.png", "a_1.neutral.2.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    assert (imread(paths[1])[:, -1, :3] == 1).all(), "the question ends before the edge"
    explained["positions"] = explained["positions"][:1]
    assert draw(explained, tmp_path / "a_1.neutral") == paths[:1] and not paths[1].exists(), "no page of another answer"
