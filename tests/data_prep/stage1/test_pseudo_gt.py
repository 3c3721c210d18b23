"""Stage 1: template and LLM answers, rejection, and going on after a kill."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caad_ds import cli
from caad_ds.utils.errors import UserError
from data_prep.common.step_journal import step_journal
from data_prep.stage1 import pseudo_gt
from data_prep.stage1.answer_checks import AnswerChecks
from data_prep.stage1.answers import Answers
from data_prep.stage1.engines import Answer, template
from data_prep.stage1.engines.engine_options import EngineOptions
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.template import TemplateEngine
from data_prep.stage1.engines.transformers import TransformersEngine
from data_prep.stage1.textual_messages import textual_messages
from tests.data_prep.lines import read
from tests.data_prep.questions import prompt, question

FULL = Path("/dev/full")


def test_template_answers_with_the_truth_whatever_the_hint_says(tmp_path, described, prep):
    out = tmp_path / "answered.jsonl"
    prep(pseudo_gt, "--manifest", described, "--out", out, "--engine", "template")
    rows = read(out)
    assert len(rows) == 8 and {row["metadata"]["prompt"]["condition"] for row in rows} == {"adversarial"}
    assert all(row["response"] == row["metadata"]["prompt"]["statement"] for row in rows)
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_the_llm_reads_the_description_and_no_hint(described):
    record = read(described)[1]
    (message,) = textual_messages(record)
    assert message["content"] == f"{record['seed_description']}\n{record['metadata']['prompt']['question']}"


def test_foreign_messages_get_one_description_line_per_audio():
    record = {
        "id": "a",
        "audios": [{}, {}],
        "seed_description": "one\ntwo",
        "messages": [{"role": "user", "content": "<start_audio><|AUDIO|><end_audio> and <|AUDIO|>?"}],
    }
    assert textual_messages(record) == [{"role": "user", "content": "one and two?"}]
    with pytest.raises(UserError, match="1 lines for 2 audios"):
        textual_messages({**record, "seed_description": "one"})


@pytest.mark.parametrize(
    "generation",
    [GenerationSettings(max_new_tokens=24), GenerationSettings(max_new_tokens=24, temperature=0.7, top_p=0.9)],
)
def test_batched_answers_equal_those_one_by_one(tiny_llm, described, generation):
    records = read(described)
    for number, record in enumerate(records):
        record["seed_description"] += " and so on" * number  # prompts of different lengths
    answers = []
    for batch_size in (1, 3):
        engine = TransformersEngine(str(tiny_llm), generation, batch_size=batch_size, device="cpu")
        engine.ends = list(range(1, 300, 6))  # a random model ends somewhere only if many tokens end it
        answers.append({answer.id: answer for answer in engine.answers([records], ())})
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8 and len({answer.response for answer in answers[0].values()}) > 3


@pytest.mark.parametrize(
    ("ids", "response", "reason"),
    [([5, 6, 1, 1], "kept", ""), ([5, 6, 7], "kept", "did not end within 6"), ([1, 1], "", "empty: ")],
)
def test_empty_and_truncated_answers_are_rejected(tiny_llm, described, monkeypatch, ids, response, reason):
    engine = TransformersEngine(str(tiny_llm), GenerationSettings(max_new_tokens=6), device="cpu")

    def generate(input_ids, **_options):
        return torch.cat([input_ids, torch.tensor([ids]).expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(engine.model, "generate", generate)
    (answer,) = engine.answers([read(described)[:1]], ())
    why = answer.reason or AnswerChecks().reason(answer.response)
    assert reason in why and bool(why) == bool(reason)
    assert bool(answer.response) == bool(response)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, described, prep, monkeypatch):
    out, asked = tmp_path / "answered.jsonl", []

    class Dying(TemplateEngine):
        limit = 3

        def answers(self, blocks, done):
            for answer in super().answers(blocks, done):
                if len(asked) == self.limit:
                    raise KeyboardInterrupt
                asked.append(answer.id)
                yield answer

    monkeypatch.setattr(template, "TemplateEngine", Dying)
    arguments = ("--manifest", described, "--out", out, "--engine", "template")
    with pytest.raises(KeyboardInterrupt):
        prep(pseudo_gt, *arguments)
    partial = tmp_path / "answered.partial.jsonl"
    assert not out.exists() and len(read(partial)) == 1 + 3
    with open(partial, "a", encoding="utf-8") as file:
        file.write('{"id": "clip')  # the line that the kill cut short
    monkeypatch.setattr(Dying, "limit", 99)
    prep(pseudo_gt, *arguments)
    assert asked == [f"clip{number}" for number in range(8)] == [row["id"] for row in read(out)]
    prep(pseudo_gt, *arguments)
    assert len(asked) == 8


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "clip0", "resp', "line 3: it is not JSON"),
        ('{"id": 7, "response": "x", "reason": ""}', "line 3: no answer of Stage 1; remove that line"),
        ('{"response": "x"}', "line 3: no answer of Stage 1"),
    ],
)
def test_a_broken_line_among_the_answers_is_named(tmp_path, line, expected):
    partial = tmp_path / "answered.partial.jsonl"
    whole = '{"id": "clip1", "response": "x", "reason": ""}\n'
    partial.write_text(f'{{"engine": "template"}}\n{whole}{line}\n{whole}')
    before = partial.read_bytes()
    with pytest.raises(UserError, match=f"{partial} {expected}"):
        with step_journal(tmp_path / "answered.jsonl", {"engine": "template"}) as journal:
            Answers(journal)
    assert partial.read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_settings_are_named(tmp_path, described, prep, text):
    arguments = ("--manifest", described, "--out", tmp_path / "answered.jsonl", "--engine", "template")
    prep(pseudo_gt, *arguments)
    (tmp_path / "answered.settings.json").write_text(text)
    with pytest.raises(UserError, match=r"answered\.settings\.json: .*JSON.*; remove it and .* to answer again"):
        prep(pseudo_gt, *arguments)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full, which is always full, on this system")
def test_a_full_disk_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match=f"no space left for {tmp_path}: free some or write elsewhere"):
        with step_journal(tmp_path / "answered.jsonl", {}) as journal:
            journal._file = open(FULL, "ab")
            pseudo_gt.answer_all(TemplateEngine(), [[{"id": "a", "metadata": prompt("a", "b")}]], Answers(journal), 1)


def test_answers_of_other_settings_are_not_mixed_in(tmp_path, described, prep):
    partial = tmp_path / "answered.partial.jsonl"
    stale = {"id": "clip0", "response": "stale", "reason": ""}
    partial.write_text(json.dumps({"engine": "other"}) + "\n" + json.dumps(stale) + "\n")
    arguments = ("--manifest", described, "--out", tmp_path / "answered.jsonl", "--engine", "template")
    with pytest.raises(UserError, match=r"partial\.jsonl: it was made with another engine, manifest_sha256.*; choose"):
        prep(pseudo_gt, *arguments)
    assert "stale" in partial.read_text()
    partial.unlink()
    prep(pseudo_gt, *arguments)


def test_answers_of_another_input_are_not_replaced(tmp_path, described, prep, write_lines):
    out = tmp_path / "answered.jsonl"
    prep(pseudo_gt, "--manifest", described, "--out", out, "--engine", "template")
    before, other = out.read_bytes(), write_lines("other.jsonl", read(described)[:3])
    with pytest.raises(UserError, match=r"answered\.jsonl: it was made with another manifest_sha256; choose another"):
        prep(pseudo_gt, "--manifest", other, "--out", out, "--engine", "template")
    assert out.read_bytes() == before


def test_rejected_answers_are_listed_and_given_responses_kept(tmp_path, described, prep, write_lines, monkeypatch):
    class Refusing(TemplateEngine):
        def answers(self, blocks, done):
            return (Answer(record["id"], "  ") for block in blocks for record in block)

    monkeypatch.setattr(template, "TemplateEngine", Refusing)
    rows = read(described)
    rows[0]["response"] = "given"
    source, out = write_lines("given.jsonl", rows), tmp_path / "answered.jsonl"
    prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", "template")
    assert [row["response"] for row in read(out)] == ["given"]
    assert len(read(tmp_path / "answered.rejected.jsonl")) == 7


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "a weight is missing", "no tokenizer"])
def test_a_damaged_llm_is_named(tmp_path, tiny_llm, damage):
    folder = shutil.copytree(tiny_llm, tmp_path / "llm")
    file = folder / "model.safetensors"
    if damage == "no weights":
        file.unlink()
    elif damage == "cut weights":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "a weight is missing":
        weights = load_file(file)
        del weights["model.norm.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    else:
        for path in folder.glob("tokenizer*"):
            path.unlink()
    with pytest.raises(UserError) as caught:
        TransformersEngine(str(folder), device="cpu")
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    assert ("model.norm.weight" in message) == (damage == "a weight is missing")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (("--device", "cuda:99"), "error: --device cuda:99: not usable here"),
        (("--batch-size", "0"), "argument --batch-size: 0 is below 1"),
        (("--max-new-tokens", "0"), "argument --max-new-tokens: 0 is below 1"),
    ],
)
def test_wrong_arguments_end_in_one_line(tmp_path, described, tiny_llm, capsys, wrong, expected):
    arguments = ["--manifest", described, "--out", tmp_path / "o.jsonl", "--engine", "transformers"]
    try:
        status = cli.main(["prep", "pseudo-gt", *map(str, arguments), "--model", str(tiny_llm), *wrong])
    except SystemExit as ended:  # argparse
        status = ended.code
    err = capsys.readouterr().err
    assert status == 2 and expected in err.splitlines()[-1] and "Traceback" not in err


def test_what_loads_is_said_before_it_does(tmp_path, described, prep, capsys):
    arguments = ("--manifest", described, "--out", tmp_path / "o.jsonl", "--engine", "transformers")
    with pytest.raises(UserError):
        prep(pseudo_gt, *arguments, "--model", "absent-llm")
    assert capsys.readouterr().err.startswith("loading absent-llm (0 s so far)\n")


def test_mistakes_of_the_user_are_named(tmp_path, manifest, described, prep):
    out = ("--out", tmp_path / "answered.jsonl")
    with pytest.raises(UserError, match="needs --model"):
        prep(pseudo_gt, "--manifest", described, *out, "--engine", "transformers")
    with pytest.raises(UserError, match="no causal LM that loads"):
        prep(pseudo_gt, "--manifest", described, *out, "--engine", "transformers", "--model", tmp_path)
    with pytest.raises(UserError, match="the first of 8: clip0: record: its prompt has no statement"):
        prep(pseudo_gt, "--manifest", manifest, *out, "--engine", "template")
    [answer] = TemplateEngine().answers([[{"id": "a", "metadata": None}]], ())
    assert answer.reason.startswith("record: its prompt has no statement")
    with pytest.raises(UserError, match="that is what is read; name another file"):
        prep(pseudo_gt, "--manifest", described, "--out", described, "--engine", "template")
    part = described.rename(tmp_path / "parts.00000-of-00001.jsonl")
    with pytest.raises(UserError, match="that is what is read; name another file"):
        prep(pseudo_gt, "--manifest", part, "--out", tmp_path / "parts.jsonl", "--shard", "0/1", "--engine", "template")
    with pytest.raises(UserError, match=r"name a file that ends in \.jsonl"):  # before a model is loaded
        prep(pseudo_gt, "--manifest", part, "--out", tmp_path / "a.json", "--engine", "template")
    assert not (tmp_path / "a.partial.jsonl").exists()
    with pytest.raises(UserError, match="absent"):
        prep(pseudo_gt, "--manifest", tmp_path / "absent.jsonl", *out, "--engine", "template")


@pytest.mark.parametrize("engine", ["template", "transformers"])
def test_a_prompt_that_describe_did_not_write_rejects_its_record_alone(tmp_path, write_lines, prep, tiny_llm, engine):
    rows = [question(number) for number in range(4)]
    rows[0]["response"] = "given"
    rows[1]["metadata"]["prompt"]["statement"] = 5
    rows[3]["metadata"]["prompt"]["options"] = "male"
    rows[2]["metadata"]["prompt"] = "Who speaks?"
    source, out = write_lines("described.jsonl", rows), tmp_path / "answered.jsonl"
    options = () if engine == "template" else ("--model", tiny_llm, "--device", "cpu")
    for _ in range(2):  # the second run finds the first one's answers usable
        prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", engine, *options)
    assert [row["id"] for row in read(out)] == ["clip0"]
    rejected = {row["id"]: row["reason"] for row in read(tmp_path / "answered.rejected.jsonl")}
    kept = "record: 'prompt' of its metadata is kept for what `caad-ds prep describe` writes "
    assert all(reason.startswith(kept) for reason in rejected.values()) and len(rejected) == 3
    assert "'statement' must be a text, not 5" in rejected["clip1"]
    assert "'options' must be a list of texts, not 'male'" in rejected["clip3"]


def test_a_resumed_run_forms_the_same_batches(tiny_llm):
    class Watched(TransformersEngine):
        def _generate(self, prompts):
            batches.append([record["id"] for record, _ in prompts])
            return super()._generate(prompts)

    records = [question(number) for number in range(11)]
    engine = Watched(str(tiny_llm), GenerationSettings(max_new_tokens=2), batch_size=3, device="cpu")
    runs = []
    for done in (set(), {"clip0", "clip1", "clip4", "clip6"}):
        batches = []
        answered = [answer.id for answer in engine.answers([records[:8], records[8:]], done)]
        assert sorted(answered) == sorted({record["id"] for record in records} - done)
        runs.append(batches)
    whole, resumed = runs
    assert [len(batch) for batch in whole] == [3, 3, 2, 3]
    assert set(whole[1]) == {"clip1", "clip4", "clip6"}  # all done; of the first, one is
    assert resumed == [whole[0], *whole[2:]]
    batches = []
    assert not list(engine.answers([records], {record["id"] for record in records})) and not batches


def test_prompts_that_cannot_be_asked_are_rejected_alone(tiny_llm):
    records = [question(number) for number in range(4)]
    records[0]["seed_description"] = "word " * 4000
    records[1]["seed_description"] = ""
    engine = TransformersEngine(str(tiny_llm), GenerationSettings("", max_new_tokens=2), device="cpu")
    engine.tokenizer.chat_template = (
        "{{ raise_exception('no such role') if 'clip 2' in messages[0].content else messages[0].content }}"
    )
    answers = {answer.id: answer.reason for answer in engine.answers([records[1:]], ())}
    assert answers["clip1"].startswith("record: it has no seed description")
    assert answers["clip2"].startswith("record: the chat template refuses it: no such role; ")
    assert "record" not in answers["clip3"]
    engine = TransformersEngine(str(tiny_llm), GenerationSettings(max_new_tokens=2), device="cpu")
    [answer] = engine.answers([records[:1]], ())
    assert answer.reason.startswith("record: its prompt of ") and answer.reason.endswith("leaves no room in 2048")


def test_a_call_writes_what_the_command_writes(tmp_path, source, prep, tiny_llm):
    options = ("--engine", "transformers", "--model", tiny_llm, "--device", "cpu", "--max-new-tokens", 4)
    prep(pseudo_gt, "--manifest", source, "--out", tmp_path / "command.jsonl", *options)
    options = EngineOptions(str(tiny_llm), GenerationSettings(max_new_tokens=4), device="cpu")
    pseudo_gt.answer_manifest(source, tmp_path / "call.jsonl", "transformers", options, AnswerChecks())
    for end in (".jsonl", ".rejected.jsonl", ".settings.json"):
        assert (tmp_path / f"call{end}").read_bytes() == (tmp_path / f"command{end}").read_bytes()
    with pytest.raises(UserError, match="--engine 'transformer': there is none of that name; take one of template, "):
        pseudo_gt.answer_manifest(source, tmp_path / "call.jsonl", "transformer", options, AnswerChecks())
