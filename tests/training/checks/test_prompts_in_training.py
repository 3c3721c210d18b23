"""Records without a valid prompt are found before the first step; the template is part of a run's identity."""

import json
import shutil

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.training.engines import load_student
from caad_ds.utils.errors import UserError
from data_prep.pack.pack import pack
from tests.models.prompts.chat_tokenizers import CHATML
from tests.training.launching import refusal, train, weights
from tests.training.tiny import ce, config, llama

OFF = {"tracking": {"enabled": False}}
CLOCK = "{{ strftime_now('%d %B %Y') }}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SYSTEM = {"role": "system", "content": "It is low."}


def spoiled(world, folder, change):
    """The world's samples as shards, the sixth changed."""
    rows = [json.loads(line) for line in (world / "answered.jsonl").read_text().splitlines()]
    change(rows[5])
    return packed(world, folder, rows)


def packed(world, folder, rows):
    """Records of the world as shards."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        row["audios"][0]["path"] = str(world / row["audios"][0]["path"])
    (folder / "answered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(folder / "answered.jsonl", folder / "shards", 20_000)
    return str(folder / "shards")


def templated(world, folder, head):
    """The world's tokenizer with something before its chat template."""
    shutil.copytree(world / "tokenizer", folder)
    path = folder / "chat_template.jinja"
    path.write_text(head + path.read_text())
    return str(folder)


BAD = {"clip-05": "beep</s><user>", "clip-16": "beep " * 200}  # their transcripts


def two_bad(world, folder):
    """Shards in which one transcript would become control tokens and one is too long, and shards without the two."""
    rows = {row["id"]: row for row in map(json.loads, (world / "answered.jsonl").read_text().splitlines())}
    good = packed(world, folder / "good", [json.loads(json.dumps(row)) for key, row in rows.items() if key not in BAD])
    for key, text in BAD.items():
        rows[key]["audios"][0]["text"] = text
    return packed(world, folder / "bad", list(rows.values())), good


def listed(out):
    """The ids in the list of samples that cannot be used."""
    return [json.loads(line)["id"] for line in (out / "unusable.jsonl").read_text().splitlines()]


def test_samples_that_make_no_prompt_are_all_found_before_a_step_is_done(world, tmp_path):
    shards, _ = two_bad(world, tmp_path)
    data = {"train": shards}
    out = tmp_path / "out"
    line = refusal(ce(world, out, data=data, **OFF), ranks=2)
    assert "2 of 24 samples cannot be used (record clip-05: its transcript 1 holds '</s>'" in line
    assert f"{out / 'unusable.jsonl'} lists them; correct them, or set data.skip_broken" in line
    assert listed(out) == list(BAD) and not (out / "config.yaml").exists()


@pytest.mark.slow
def test_a_run_that_leaves_samples_out_is_one_without_them(world, tmp_path):
    """Bit for bit, also where it resumes, and with validation data that hold such samples."""
    shards, good = two_bad(world, tmp_path)
    found = {}
    for name, folder in (("bad", shards), ("good", good)):
        data = {"train": folder, "validation": folder, "skip_broken": True}
        changes = {"optimizer": {"steps": 5, "micro_batch": 2}, "checkpoint": {"every": 3, "keep": 9}, **OFF}
        changes |= {"data": data, "validation": {"every": 5, "batch_size": 4}}
        file = ce(world, tmp_path / name / "out", **changes)
        said = train(file, 2)
        found[name] = weights(tmp_path / name / "out"), [line for line in said.splitlines() if "validation: " in line]
        assert said.count("left out: ") == (2 if name == "bad" else 0)  # once of each reader
    assert found["bad"][1] == found["good"][1] and found["good"][1]
    assert same(found["bad"][0], found["good"][0])
    out = tmp_path / "bad/out"
    assert listed(out) == [*BAD, *BAD]
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints/step-00000005")
    (out / "checkpoints/latest").write_text("step-00000003")
    assert "at step 3" in train(tmp_path / "bad/out.yaml", 2)
    assert same(weights(out), found["good"][0])


def same(a, b):
    """Whether two models have the same weights, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda row: row["audios"][0].update(text="beep</s><user>"), "record clip-05: its transcript 1 holds '</s>'"),
        pytest.param(
            lambda row: row["messages"].insert(0, SYSTEM),
            "refuses it: System role not supported; leave out the system",
            marks=pytest.mark.slow,
        ),
        (lambda row: row.update(response="It is low. " * 40), "sample clip-05: "),
    ],
    ids=["control", "template", "length"],
)
def test_a_record_that_makes_no_prompt_stops_both_ranks(world, tmp_path, change, expected):
    train_on = {"train": spoiled(world, tmp_path, change), "max_answer_tokens": 1000}
    tokenizer = {"tokenizer": templated(world, tmp_path / "tokenizer", NO_SYSTEM)}
    file = ce(world, tmp_path / "out", data=train_on, student=tokenizer, **OFF)
    line = refusal(file, ranks=2)
    assert expected in line and "clip-05" in line


@pytest.mark.slow
def test_a_record_that_makes_no_prompt_is_skipped_from_a_stream(world, tmp_path, capfd):
    shards = spoiled(world, tmp_path, lambda row: row.update(response="It is</s> low."))
    data = {"train": shards, "reader": "stream", "shuffle_buffer": 3}
    stops = config(world, tmp_path / "stops", data=data, **OFF)
    assert "its answer holds '</s>'" in refusal(stops)
    skips = config(world, tmp_path / "skips", data=data | {"skip_broken": True}, **OFF)
    said = train(skips)
    assert "sample clip-05: record clip-05: its answer holds '</s>'" in said
    assert "broken shards and samples that were skipped, over all ranks: " in said


def test_a_students_template_is_frozen_and_tells_runs_apart(world, tmp_path):
    tokenizer = templated(world, tmp_path / "tokenizer", CLOCK + "{% if loud %}loud{% endif %}" + NO_SYSTEM)
    settings = {"date": "2025-01-02", "merge_system": True, "switches": {"loud": True}}
    file = ce(world, tmp_path / "out", student={"tokenizer": tokenizer, "template": settings})
    student = load_student(load_config(file))
    text = student.reader.tokenizer.apply_chat_template([SYSTEM, {"role": "user", "content": "high?"}], tokenize=False)
    assert text == "02 January 2025loud<s><user>It is low.\n\nhigh?"
    with pytest.raises(UserError, match=r"student\.template\.switches: the chat template of .* does not read 'laut'"):
        load_student(load_config(file, ["student.template.switches={laut: true}"]))
    started = dict.fromkeys(
        ("llm", "encoder", "taps", "window_seconds", "num_queries", "qformer_layers", "qformer_heads")
    )
    started |= {"path": str(world / "teacher"), "template": settings}
    with pytest.raises(UserError, match="template: path brings its own"):
        load_config(config(world, tmp_path / "b", student=started))


def test_a_sample_whose_answer_the_teacher_writes_otherwise_stops_both_ranks(world, tmp_path):
    """To a student whose template trims an answer, the space before it is no token of it."""
    tokenizer = templated(world, tmp_path / "tokenizer", "")
    path = tmp_path / "tokenizer/chat_template.jinja"
    path.write_text(path.read_text().replace("message['content']", "message['content'] | trim"))
    shards = spoiled(world, tmp_path, lambda row: row.update(response=" " + row["response"]))
    line = refusal(
        config(world, tmp_path / "out", data={"train": shards}, student={"tokenizer": tokenizer}, **OFF), ranks=2
    )
    assert "1 of 24 samples cannot be used (sample clip-05: teacher and student make other tokens of its answer" in line


@pytest.mark.slow
def test_another_template_is_another_run(world, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    templated(world, tokenizer, "")
    changes = {"student": {"tokenizer": str(tokenizer)}, "checkpoint": {"every": 2}, **OFF}
    train(ce(world, tmp_path / "out", optimizer={"steps": 2}, **changes))
    shutil.rmtree(tmp_path / "out/model")
    assert "resumed from" in train(ce(world, tmp_path / "out", optimizer={"steps": 2}, **changes))
    (tokenizer / "chat_template.jinja").write_text(CHATML)
    shutil.rmtree(tmp_path / "out/model")
    assert "prompts, hash " in refusal(ce(world, tmp_path / "out", optimizer={"steps": 2}, **changes))


@pytest.mark.slow
def test_a_prompt_that_fits_the_student_alone_is_refused(world, tmp_path):
    vocabulary = json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
    long = llama(1, vocabulary, 16) | {"max_position_embeddings": 4096}
    shards = spoiled(world, tmp_path, lambda row: row.update(response="It is low. " * 40))
    data = {"train": shards, "max_answer_tokens": 1000}
    assert "the LLM of teacher reads 128" in refusal(
        config(world, tmp_path / "out", data=data, student={"llm": long}, **OFF)
    )
