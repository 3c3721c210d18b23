"""Where the teacher lies: the choice, and that it changes nothing but where."""

from dataclasses import replace

import pytest

from caad_ds.config.reading import load_config
from caad_ds.training.teacher.placement import Memory, choose, placement
from caad_ds.utils.errors import UserError
from tests.training.alike import assert_same_curves
from tests.training.launching import Run, train
from tests.training.nvme import COMPILED, needs_nvme
from tests.training.tiny import config

GB = 10**9
PAPER = Memory(  # 8B teacher, 3B student with its connector trained, bf16, one rank
    whole=16 * GB, teacher=16 * GB, gathered=2 * GB, student=7 * GB, device_free=79 * GB, host_free=200 * GB
)


@pytest.mark.parametrize(
    ("changes", "nvme", "placed"),
    [
        ({}, False, "replicated"),
        ({"device_free": 40 * GB}, True, "replicated"),
        ({"device_free": 24 * GB}, True, "cpu"),  # 23 GB of weights
        ({"device_free": 30 * GB}, False, "cpu"),  # they fit, but no activations beside them
        ({"device_free": 24 * GB, "host_free": 18 * GB}, True, "nvme"),
        ({"device_free": 24 * GB, "teacher": 2 * GB}, False, "resident"),  # a rank's share of eight
        ({"device_free": 79 * GB, "teacher": 2 * GB}, False, "replicated"),
    ],
)
def test_the_fastest_placement_that_fits_and_why(changes, nvme, placed):
    memory = replace(PAPER, **changes)
    chosen, reason = choose(memory, nvme)
    assert chosen == placed
    assert f"{memory.device_free / 1e9:.1f} GB are free on the fullest device" in reason


def test_no_place_is_reported_with_the_way_out():
    with pytest.raises(UserError, match=r"18\.0 GB of the host either; set teacher\.nvme_path, or use more ranks"):
        choose(replace(PAPER, device_free=24 * GB, host_free=18 * GB), nvme=False)
    with pytest.raises(UserError, match=r"even without the teacher's weights a rank needs 9\.0 GB"):
        choose(replace(PAPER, device_free=10 * GB), nvme=True)


@pytest.mark.parametrize("placed", ["replicated", "resident", "cpu", "nvme"])
def test_a_file_of_ones_own_says_where_the_teacher_lies(world, tmp_path, placed):
    file = f"teacher_{placed}.json"
    cfg = load_config(config(world, tmp_path / "out", teacher={"deepspeed": file}))
    assert placement(cfg, None, None, 4) == (placed, f"as {file} says")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs go, with one MLflow store."""
    return tmp_path_factory.mktemp("placement")


@pytest.fixture(scope="module")
def resident(world, folder):
    """The output of a resident teacher that runs for every micro-batch."""
    settings = str(world / "resident.json")
    file = config(world, folder / "resident", teacher={"deepspeed": settings}, optimizer=HALVES)
    assert f"teacher: resident (as {settings} says)" in train(file, 2)
    return folder / "resident"


HALVES = {"micro_batch": 1}  # four micro-steps on two ranks


@pytest.mark.parametrize(
    "batch",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), None],
    ids=["each micro-batch", "three at a time", "a whole window"],
)
def test_offloaded_to_the_host_the_losses_are_the_same(world, folder, resident, terms, batch):
    out = folder / f"cpu-{batch}"
    assert "teacher: cpu (" in train(config(world, out, teacher={"batch": batch}, optimizer=HALVES), 2)
    assert_same_curves(out, resident, terms)


@pytest.mark.parametrize("keeps", [True, False], ids=["prefix kept", "both paths at once"])
def test_whole_on_each_rank_the_losses_are_the_same(world, folder, resident, terms, keeps):
    out = folder / f"replicated-{keeps}"
    teacher = {"placement": "replicated", "keep_prefix": keeps, "deepspeed": None}
    said = train(config(world, out, teacher=teacher, optimizer=HALVES), 2)
    assert "teacher: replicated (" in said and ("what prompts begin with is kept" in said) is keeps
    assert_same_curves(out, resident, terms)


@pytest.mark.slow
@needs_nvme
def test_offloaded_to_a_folder_the_losses_are_the_same_and_it_is_left_empty(world, folder, resident, terms, tmp_path):
    out = folder / "nvme"
    swap = tmp_path / "a disk" / "swap"
    teacher = {"deepspeed": str(world / "nvme.json"), "nvme_path": str(swap)}
    run = Run(config(world, out, teacher=teacher, optimizer=HALVES), 2)
    assert run.wait(COMPILED) == [0, 0], run.output()
    assert_same_curves(out, resident, terms)
    assert list(swap.iterdir()) == []


def test_the_shipped_files_are_what_placement_says(world, folder):
    said = train(config(world, folder / "shipped", teacher={"placement": "cpu", "deepspeed": None}), 2)
    assert "teacher: cpu (as teacher.placement says)" in said
    said = train(config(world, folder / "auto", teacher={"deepspeed": None, "keep_prefix": True}), 1)
    assert "teacher: resident (the device's memory is the host's)" in said and "no prefix is kept" in said
