"""What a plan counts of a run, against what the run does."""

import json
from dataclasses import replace

import pytest

from caad_ds.config.reading import load_config
from caad_ds.config.schema import CheckpointSection
from caad_ds.training.device_datasheets import DEVICES, GIB
from caad_ds.training.plan import formulas
from caad_ds.training.plan import plan as plan_module
from caad_ds.training.plan.formulas import Heads
from caad_ds.training.plan.memory_plan import CONTEXT
from caad_ds.training.plan.meta_models import student_of
from caad_ds.training.plan.plan import plan
from caad_ds.training.plan.rehearsal import Shape, rehearse
from caad_ds.training.plan.written_files import checkpoints_kept
from caad_ds.utils.errors import UserError
from tests.root import CONFIGS
from tests.training.plan.small import GIVEN, QUERIES, config, planned
from tests.training.tiny import config as tiny

CHECKPOINTED = {"gradient_checkpointing": True}
POSITIONS = GIVEN["tokens"] + QUERIES


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The plan of a step of eight samples, and the folder of its models."""
    folder = tmp_path_factory.mktemp("base")
    return planned(folder), folder


def test_a_checkpointed_backward_holds_about_a_layer(tmp_path):
    """Above what the forward holds, six times as many layers take no more."""
    above = []
    for layers in (2, 12):
        student = student_of(config(tmp_path, layers, student=CHECKPOINTED), None)
        costs = rehearse(student, None, None, Shape(2, 16, 24, 40, 2, 1.0))
        above.append(costs.student_bytes - costs.student_held)
    assert above[1] < 1.1 * above[0]


def test_a_token_budget_counts_audio(base):
    """Eight samples' positions are a step of eight samples; a micro-batch holds what fits."""
    by_samples, folder = base
    budget = {"batch_tokens": 8 * POSITIONS, "micro_tokens": 8 * POSITIONS}
    by_tokens = planned(folder, optimizer=budget)
    assert (by_tokens.micro_batch, by_tokens.data["steps"]) == (8, 1000 / 8)
    assert by_tokens.flops == by_samples.flops and by_tokens.memory == by_samples.memory


def test_a_token_budget_holds_few_of_the_longest_samples(base, monkeypatch):
    """Eight of mean length, but two of the longest; without a budget eight of those may meet."""
    known = plan_module.workload
    monkeypatch.setattr(plan_module, "workload", lambda *given: replace(known(*given), longest_text=160))
    budget = {"batch_tokens": 8 * POSITIONS, "micro_tokens": 8 * POSITIONS}
    by_tokens, eight = (planned(base[1], optimizer=each).memory["cpu"] for each in (budget, {"batch_size": 8}))
    for part in ("in loss", "in backward", "in teacher"):
        assert by_tokens[part] < 0.6 * eight[part]


def test_what_is_cut_off_an_answer_is_not_read(base):
    """The prompt stays as it is: 76 tokens, 60 of them an answer that is cut at 24, are 40 with 24 of the answer."""
    found, folder = base
    cut = planned(folder, {"tokens": 76, "answer_tokens": 60}, data={"max_answer_tokens": 24})
    assert cut.flops == found.flops and cut.data == found.data and cut.memory == found.memory


def test_answers_of_an_index_are_cut(world, tmp_path):
    """Fewer tokens by what is cut, prompts as before, also of the longest sample; no answer is cut by default."""
    whole, cut = (
        plan(load_config(tiny(world, tmp_path / "out", data=data)), device="rtx4090")
        for data in ({}, {"max_answer_tokens": 2})
    )
    prompts = [each.data["text_tokens_per_epoch"] - each.data["answer_rows_per_epoch"] for each in (whole, cut)]
    assert cut.data["answer_rows_per_epoch"] == 2 * cut.data["samples"] < whole.data["answer_rows_per_epoch"]
    assert prompts[0] == pytest.approx(prompts[1], abs=2)
    assert cut.memory["cpu"]["in backward"] < whole.memory["cpu"]["in backward"]


def test_a_teachers_batch_counts_wherever_it_is(base):
    """Of eight micro-batches at most as many are together; with a cache their encodings wait."""
    one = {"micro_batch": 1}
    each, together = (planned(base[1], optimizer=one, teacher={"batch": batch}).memory for batch in (1, 100))
    for column in ("replicated", "resident", "cpu", "nvme"):
        assert 6 * each[column]["in teacher"] < together[column]["in teacher"] < 9 * each[column]["in teacher"]
    assert together["cached"]["in backward"] > each["cached"]["in backward"]


def test_an_encoder_that_trains_has_the_runs_precision(base):
    """With adapters it lies in the student's engine, which casts it, and not outside."""
    parts = {"student": {"train": "lora", "lora": {"encoder": True}}, "teacher": None, "objective": {"name": "ce"}}
    fp32, bf16 = (
        planned(base[1], **parts, run={"precision": "bf16", "encoder_precision": outside})
        for outside in ("fp32", "bf16")
    )
    assert fp32.memory == bf16.memory and fp32.hours == bf16.hours


def test_weights_of_a_student_that_are_offloaded():
    """They are the host's, but for those that are gathered."""
    zero = {"stage": 3, "reduce_bucket_size": 0, "stage3_max_live_parameters": 100}
    states = [
        formulas.student_states(10_000, 4_000, 2, {"zero_optimization": zero | {"offload_param": offload}}, 1)
        for offload in (None, {"device": "cpu"}, {"device": "nvme", "buffer_count": 2, "buffer_size": 1000})
    ]
    assert [(each.weights, each.host) for each in states] == [(20_000, 0), (200, 20_000), (200, 4_000)]


def test_auto_measures_free_memory_beside_the_encoders(base, monkeypatch):
    """Of two devices between which the encoder lies, `auto` copies the teacher to the larger one."""
    found, folder = base
    memory = found.memory["replicated"]
    student = found.parameters["student"]["total"] - found.parameters["student"]["encoder"]
    need = memory["teacher"] + 4 * student + 16 * found.parameters["trained"]["total"]
    chosen = []
    for encoders in (0.5, 1.5):
        size = (need / 0.75 + encoders * memory["encoder"] + CONTEXT) / GIB
        monkeypatch.setitem(DEVICES, "small", replace(DEVICES["rtx4090"], memory=size))
        chosen.append(planned(folder, {"device": "small"}).auto)
    assert chosen[0] != "replicated" == chosen[1]


def test_what_fits_is_the_hosts_as_well(base, monkeypatch):
    """With no room in the host a teacher on cpu does not fit; on a device, 5% are left as by the largest."""
    found, folder = base
    assert all(found.fits.values())
    tight = planned(folder, {"host_gb": 1e-6})
    assert tight.fits["replicated"] and not tight.fits["cpu"] and tight.largest_micro_batch["cpu"] == 0
    peak = found.memory["replicated"]["peak"]
    monkeypatch.setitem(DEVICES, "small", replace(DEVICES["rtx4090"], memory=(1.02 * peak + CONTEXT) / GIB))
    small = planned(folder, {"device": "small"})
    assert not small.fits["replicated"] and small.largest_micro_batch["replicated"] < 8


@pytest.mark.parametrize(
    ("objective", "files", "why"),
    [
        ({"plausibility": 0.1}, {"cache, pair"}, "cache, contrast: none, objective.plausibility needs"),
        ({"on_policy": {"share": 0.5}}, set(), "cache: none, objective.on_policy lets the teacher score"),
    ],
)
def test_caches_that_a_run_cannot_have(base, objective, files, why):
    found = planned(base[1], objective=objective)
    assert {name for name in found.files if name.startswith("cache")} == files
    for table in (found.memory, found.flops, found.hours):
        assert ("cached" in table) == bool(files)
    assert any(note.startswith(why) for note in found.notes)


@pytest.mark.parametrize("device", ["h100", "a100", "l40s", "a6000", "rtx4090"])
def test_nodes_of_a_device(tmp_path, device):
    """Eight ranks divide the optimizer's states, a global batch and the time, and not the steps."""
    one = planned(tmp_path, {"device": device}, optimizer={"batch_size": 64})
    eight = planned(tmp_path, {"device": device, "nodes": 2, "gpus_per_node": 4}, optimizer={"batch_size": 64})
    assert eight.data["steps"] == one.data["steps"] and eight.files == one.files
    states = [each.memory["replicated"]["optimizer"] for each in (one, eight)]
    assert states[1] == pytest.approx(states[0] / 8, rel=0.01)
    assert eight.hours["online"] == pytest.approx(one.hours["online"] / 8, rel=0.01)


@pytest.mark.parametrize("section", [None, {"path": "cache", "form": "pair"}, {"path": "cache", "form": "contrast"}])
def test_standard_kd_may_have_a_cache_of_both_forms(base, section):
    """Online it runs one path; a `pair` cache, the default, stores two, and the epoch that fills it runs two.

    The same of a config that names a cache.
    """
    folder = base[1]
    kd = {"objective": {"alpha": 0}, "optimizer": {"epochs": 2}}
    found = planned(folder, **kd, teacher={} if section is None else {"cache": section})
    rows = found.data["answer_rows_per_epoch"]
    head = 4 * 64 * 64
    assert found.files["cache, pair"] == formulas.cache_bytes(rows, 64, 4, "pair") + head
    assert found.files["cache, contrast"] == formulas.cache_bytes(rows, 64, 4, "contrast") + head
    assert found.cache_form == ("pair" if section is None else section["form"])
    one, two = (planned(folder, objective={"alpha": alpha}, optimizer={"epochs": 2}) for alpha in (0, 1))
    assert found.flops == one.flops and found.hours["online"] == one.hours["online"]
    assert found.flops["online"]["teacher"] < 0.7 * two.flops["online"]["teacher"]
    for table in (found.hours, found.first_epoch):
        assert (
            table["filling, pair"] == getattr(two, "hours" if table is found.hours else "first_epoch")["filling, pair"]
        )
        assert table["online"] < table["filling, pair"] or table is found.hours
        assert table["filling, contrast"] < table["filling, pair"]
        assert table["cache-teacher, contrast"] < 0.7 * table["cache-teacher, pair"]
    taught = found.memory["filling"]["in teacher"]
    if found.cache_form == "pair":
        assert taught > 1.5 * found.memory["replicated"]["in teacher"]
        assert found.memory_of["filling, contrast"] == "replicated"
    else:
        assert taught == found.memory["replicated"]["in teacher"] and found.memory_of["filling, pair"] is None


def test_a_run_that_fills_its_cache_keeps_the_teacher(base, monkeypatch):
    """Where only a run with a whole cache fits, the plan says that one that fills it does not."""
    whole, folder = base
    assert (
        whole.memory["filling"]["teacher"] == whole.memory["replicated"]["teacher"] > whole.memory["cached"]["teacher"]
    )
    peaks = [whole.memory[column]["peak"] for column in ("cached", "filling")]
    monkeypatch.setitem(DEVICES, "small", replace(DEVICES["rtx4090"], memory=(sum(peaks) / 2 / 0.95 + CONTEXT) / GIB))
    teacher = {"placement": "replicated"}
    small = planned(folder, {"device": "small"}, teacher=teacher, optimizer={"epochs": 3})
    assert small.fits["cached"] and not small.fits["filling"] and small.largest_micro_batch["filling"] < 8
    assert small.memory_of["cached"] == "cached" and small.memory_of["filling, pair"] == "filling"
    reading = small.first_epoch["cached"]
    assert small.hours["cached"] == pytest.approx(3 * reading)
    assert small.hours["filling, pair"] == pytest.approx(small.first_epoch["filling, pair"] + 2 * reading)
    assert small.hours["filling, pair"] == small.hours["filling, contrast"]
    assert any(note.startswith("cache: filling is a run whose first epoch") for note in small.notes)


def test_a_cache_that_is_only_read_is_filled_by_no_epoch(base):
    """With fill: false, which reading a stream needs, a form is not refused for want of it."""
    cache = {"path": "cache", "fill": False}
    found = planned(
        base[1], teacher={"cache": cache}, data={"reader": "stream"}, optimizer={"epochs": None, "steps": 9}
    )
    assert "cache, pair" in found.files and "filling" not in found.memory
    assert "cache-teacher, pair" in found.hours and "filling, pair" not in found.hours


def test_scalars_take_memory_where_they_are_computed():
    """A chunk of 512 rows on a GPU; on a CPU its logits alone, and in bf16 a copy of the head."""
    heads = Heads(rows=10_000, vocabulary=128_256, student_width=3072, teacher_width=4096, products=1, trains=False)
    chunk = 512 * 128_256 * 4
    assert [formulas.scalar_bytes(heads, paths, 2, "cuda") for paths in (1, 2)] == [3 * chunk, 7 * chunk]
    copy = 4 * 128_256 * 4096
    assert formulas.scalar_bytes(heads, 2, 2, "cpu") - formulas.scalar_bytes(heads, 2, 4, "cpu") == copy


def test_a_cache_holds_the_teachers_head(base):
    rows = base[0].data["answer_rows_per_epoch"]
    assert base[0].files["cache, contrast"] == formulas.cache_bytes(rows, 64, 4, "contrast") + 4 * 64 * 64


def test_what_is_not_counted_is_said(base):
    """Also the last of 700 steps is a checkpoint."""
    steps = {"optimizer": {"epochs": None, "steps": 700}, "checkpoint": {"every": 500, "keep": 3}}
    found = planned(base[1], **steps, data={"validation": "absent"}, teacher={"keep_prefix": True})
    assert any(note.startswith("data.validation: absent has no index") for note in found.notes)
    assert any(note.startswith("teacher.keep_prefix: ") for note in found.notes)
    assert found.files["checkpoints kept"] == 2 * found.files["checkpoint"]


@pytest.mark.parametrize(("share", "notes"), [(0.5, 1), (0.0, 0)])
def test_answers_that_the_student_draws_are_not_counted_and_that_is_said(base, share, notes):
    found = planned(base[1], objective={"on_policy": {"share": share}})
    said = [note for note in found.notes if note.startswith("objective.on_policy: ")]
    assert len(said) == notes
    assert all("are not in these tables, memory and hours are more than this" in note for note in said)
    assert found.memory["replicated"] == base[0].memory["replicated"]
    assert found.flops["online"] == base[0].flops["online"]


def test_validation_data_counts_beside_given_samples(base, world):
    """The student's forward with a cache too."""
    found = planned(base[1], data={"validation": str(world / "shards")}, validation={"batch_size": 8})
    assert base[0].memory["cached"]["in validation"] == 0 < found.data["validation_samples"]
    assert found.memory["cached"]["in validation"] > found.memory["cached"]["in encoder"]


@pytest.mark.parametrize(("steps", "every", "kept"), [(700, 500, 2), (400, 500, 1), (1000, 500, 2), (9000, 500, 3)])
def test_the_last_step_is_a_checkpoint_too(steps, every, kept):
    assert checkpoints_kept(CheckpointSection(every=every, keep=3), steps) == kept


def test_a_relative_encoder_folder_is_copied(base, tmp_path, monkeypatch):
    """As by the run, which records what is no path."""
    found, folder = base
    (tmp_path / "models/whisper").mkdir(parents=True)
    (tmp_path / "models/whisper/config.json").write_text((folder / "whisper.json").read_text())
    monkeypatch.chdir(tmp_path)
    assert planned(folder, student={"encoder": "models/whisper"}).files["model"] == found.files["model"]


@pytest.mark.parametrize(
    ("sections", "arguments", "message"),
    [
        ({"teacher": {"deepspeed": "student_zero2.json"}}, {}, "stage 2 needs an optimizer, a teacher has none"),
        ({"teacher": None, "objective": {"name": "ce"}}, {"teacher": "absent.json"}, "--teacher absent.json: the run"),
        ({}, {"tokens": 1, "answer_tokens": None}, "--tokens 1: a sample has a prompt and an answer"),
    ],
)
def test_what_a_run_would_refuse(base, sections, arguments, message):
    with pytest.raises(UserError, match=message):
        planned(base[1], arguments, **sections)


def test_a_deepspeed_file_may_offload_to_nothing(base, tmp_path):
    file = tmp_path / "null.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_param": None}}))
    assert planned(base[1], teacher={"deepspeed": str(file)}).placement == "resident"


@pytest.mark.parametrize(
    ("given", "clips"),
    [({}, 1000), ({"samples": 16}, 16)],
    ids=["every sample a clip", "few samples"],
)
def test_kept_encoder_states_are_counted(tmp_path, given, clips):
    """A tap of 50 positions of 32 floats each; on a GPU in the host's memory, on a CPU in the process's."""
    kept = {"student": {"keep_encoded_gb": 1}}
    on_gpu, plain = planned(tmp_path, given, **kept), planned(tmp_path, given)
    bytes_kept = clips * 50 * 32 * 4
    assert {on_gpu.host[name] - plain.host[name] for name in plain.host} == {bytes_kept}
    on_cpu = planned(tmp_path, given | {"device": "cpu"}, **kept)
    assert {memory["kept encoder states"] for memory in on_cpu.memory.values()} == {bytes_kept}
    assert any("each sample is taken as a clip of its own" in note for note in on_cpu.notes)


def test_kept_encoder_states_have_a_limit_and_are_those_that_a_rank_reads(tmp_path):
    limited = planned(tmp_path, {"device": "cpu"}, student={"keep_encoded_gb": 1e-4})
    assert limited.memory["cpu"]["kept encoder states"] == 1e5
    short = {"epochs": None, "steps": 3, "batch_size": 8}
    kept = planned(tmp_path, {"device": "cpu"}, student={"keep_encoded_gb": 1}, optimizer=short).memory["cpu"]
    assert kept["kept encoder states"] == 3 * 8 * 50 * 32 * 4


def test_a_family_that_keeps_no_encoder_states_is_refused():
    cfg = load_config(CONFIGS / "qwen2_audio/small.yaml", ["student.keep_encoded_gb=1"])
    with pytest.raises(UserError, match=r"student\.keep_encoded_gb: the encoder of a qwen2_audio lies in"):
        plan(cfg, samples=64, tokens=40)
