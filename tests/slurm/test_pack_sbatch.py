"""slurm/pack.sbatch on a real two-node Slurm: an array job packs the parts, a job that depends on it joins them."""

import sys
from pathlib import Path

import pytest

from caad_ds.utils.array_task import Part
from data_prep.common.manifest import write_manifest
from data_prep.pack.join_shards import join
from data_prep.pack.pack import pack
from tests.data.tones import contents, record, tone
from tests.root import ROOT

pytestmark = pytest.mark.slurm
SCRIPT = ROOT / "slurm/pack.sbatch"


@pytest.fixture
def manifest(tmp_path) -> Path:
    tone(tmp_path / "a.wav", 300)
    write_manifest(tmp_path / "m.jsonl", [record(f"r{number}", tmp_path / "a.wav") for number in range(21)])
    return tmp_path / "m.jsonl"


@pytest.fixture
def submit(cluster, manifest, tmp_path):
    """Submit from a new folder with this environment's interpreter."""
    here = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "MANIFEST": str(manifest), "OUT": "out"}

    def run(*arguments: str, **variables: str) -> int:
        return cluster.submit(*arguments, cwd=tmp_path, **here | variables)

    yield run
    cluster.run("scancel", "-u", "root")


def test_an_array_job_packs_the_parts_and_the_next_job_joins_them(cluster, submit, manifest, tmp_path):
    first = submit("--array=0-3", "--cpus-per-task=1", str(SCRIPT), "--shard-bytes", "30000")
    command = f"{sys.executable} -m caad_ds.cli prep join-shards out"
    second = submit(f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes", "--wrap", command)
    logs = [tmp_path / f"caad-ds-pack-{first}_{task}.log" for task in range(4)]
    assert cluster.finished(second)["JobState"] == "COMPLETED", [log.read_text() for log in logs if log.exists()]
    nodes = {cluster.job(f"{first}_{task}")["NodeList"] for task in range(4)}
    assert nodes == {"node1", "node2"}
    for task in range(4):
        pack(manifest, tmp_path / "here", 30_000, part=Part(task, 4))
    join(tmp_path / "here")
    assert contents(tmp_path / "out") == contents(tmp_path / "here")


@pytest.mark.parametrize(
    ("array", "changed", "complaint"),
    [
        ((), {}, "submit it with --array"),
        (("--array=0",), {"OUT": ""}, "MANIFEST and OUT are not both set"),
        (("--array=1-2",), {}, "the tasks are not 0 to 1: submit --array=0-1, or set PARTS"),
    ],
)
def test_what_is_no_array_over_all_parts_is_refused(cluster, submit, tmp_path, array, changed, complaint):
    job = submit(*array, "--output=log", str(SCRIPT), **changed)
    assert cluster.finished(job)["ExitCode"] == "2:0"
    assert complaint in (tmp_path / "log").read_text()
    assert not (tmp_path / "out").exists()


def test_a_missing_part_is_submitted_again_by_its_number(cluster, submit, tmp_path):
    job = submit("--array=2", "--output=log", str(SCRIPT), PARTS="3")
    assert cluster.finished(job)["ExitCode"] == "0:0", (tmp_path / "log").read_text()
    assert (tmp_path / "out/index.00002-of-00003.json").exists()
