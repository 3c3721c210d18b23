"""The demo's many runs: one cache for each teacher and negative, and an experiment that is done in pieces."""

import json
import re
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest

from caad_ds.utils.errors import UserError
from examples.demo import __main__ as demo
from examples.demo import commands, corpus, experiments, full
from examples.demo.commands import CacheJob, Job
from examples.demo.experiment_table import interval, table
from examples.demo.rows import adaptive_rows, chosen_rows, objective_rows

FIGURES = {"accuracy_neutral": 0.75, "accuracy_faithful": 0.97, "accuracy_adversarial": 0.5, "accuracy_irrelevant": 0.7}


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def settings(arguments: list[str]) -> dict[str, str]:
    """What a command overrides."""
    return dict(after.split("=", 1) for before, after in pairwise(arguments) if before == "--set")


@pytest.fixture
def ran(monkeypatch, tmp_path) -> list[list[str]]:
    """The quiet commands that were run, in their order; evaluations leave scores, filled caches their folder."""
    done: list[list[str]] = []

    def logged(log: Path, *each: list[str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        for arguments in map(list, each):
            done.append([str(argument) for argument in arguments])
            if arguments[0] == "evaluate":
                folder = Path(option(done[-1], "--out"))
                folder.mkdir(parents=True)
                group = {name: {"value": value} for name, value in {**FIGURES, "shift": 0.3}.items()}
                (folder / "scores.json").write_text(json.dumps({"groups": {"all": group, "noise": group}}))
            if arguments[0] == "cache-teacher":
                Path(settings(done[-1])["teacher.cache.path"]).mkdir()

    monkeypatch.setattr(commands, "_logged", logged)
    for name in ("synthesize", "shards"):
        monkeypatch.setattr(corpus, name, lambda *_: None)
    monkeypatch.setattr(corpus, "benchmark", lambda root, split: root / "benchmark" / split)
    monkeypatch.setattr(full, "caad_ds", lambda *_: None)
    return done


def arguments(tmp_path: Path, **changes) -> Namespace:
    """Of `adaptive`, in a folder of this test."""
    values = {
        "command": "adaptive", "choose": False, "gate_m": 2.0,
        "teacher_seeds": 1, "student_seeds": 2, "jobs": 1, "limit_seconds": None,
        "out": tmp_path / "runs", "steps": 800, "results": tmp_path / "results.jsonl", "table": False,
    }  # fmt: skip
    return Namespace(**values | changes)


def test_caches_are_filled_once_before_the_students_that_only_read_them(ran, tmp_path):
    given = dict(teacher_seeds=1, student_seeds=2, jobs=1, benchmark="test", out=tmp_path, set=[])
    rows = ["std_kd", "caad 2", "twin caad zero_mel", "twin caad noise"]
    full.run_full(Namespace(**given, rows=rows))
    kinds = [command[0] for command in ran]
    assert kinds == ["cache-teacher"] * 3 + ["train", "evaluate"] * 8
    filled = {settings(c)["teacher.cache.path"]: settings(c) for c in ran if c[0] == "cache-teacher"}
    for read in (settings(command) for command in ran if command[0] == "train"):
        assert read["teacher.cache.fill"] == "false"
        by = filled[read["teacher.cache.path"]]
        assert all(by[key] == read[key] for key in ("teacher.path", "teacher.negative", "data.train"))
    ran.clear()
    for each in tmp_path.rglob("evaluation"):
        each.rename(each.with_name("before"))
    full.run_full(Namespace(**given, rows=rows))
    assert "cache-teacher" not in {command[0] for command in ran}


def test_a_cache_that_failed_is_filled_again(monkeypatch, tmp_path):
    job, failures = CacheJob("c.yaml", (), tmp_path / "cache"), [UserError("disk full"), None]
    calls = []

    def logged(*_):
        calls.append(1)
        (tmp_path / "cache").mkdir(exist_ok=True)
        if error := failures.pop(0):
            raise error

    monkeypatch.setattr(commands, "_logged", logged)
    with pytest.raises(UserError, match="disk full"):
        job.run_quietly()
    job.run_quietly()
    job.run_quietly()
    assert len(calls) == 2


def test_the_experiment_continues_where_it_was_and_never_repeats_a_run(ran, tmp_path, capsys):
    args = arguments(tmp_path)
    experiments.run(args)
    lines = experiments.lines_of(args.results)
    assert len(lines) == 3 + 2 * 7 and {line["row"] for line in lines} == {row.name for row in adaptive_rows(2.0)}
    assert sum(command[0] == "train" for command in ran) == 2 * 6
    assert all(
        line["validation"]["all"]["shift"] == 30 and line["test"]["noise"]["accuracy_neutral"] == 75 for line in lines
    )
    assert "seed-0/caad_1.5_800_steps.log: caad 1.5\n" in (printed := capsys.readouterr().out)
    assert "complete" in printed
    ran.clear()
    experiments.run(args)
    assert not ran and experiments.lines_of(args.results) == lines
    # One student and what was decoded of it are lost, and a line is cut in the middle.
    kept = [line for line in lines if not (line["row"].startswith("std_kd") and line["student_seed"] == 1)]
    args.results.write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"row": "std')
    for each in tmp_path.rglob("evaluation"):
        each.rename(each.with_name("before"))
    experiments.run(args)
    assert [command[0] for command in ran] == ["train", "evaluate", "evaluate", "evaluate", "evaluate"]
    assert len(experiments.lines_of(args.results)) == len(lines)


def test_the_constant_is_chosen_without_the_test(ran, tmp_path):
    args = arguments(tmp_path, choose=True)
    experiments.run(args)
    benchmarks = {option(command, "--benchmark") for command in ran if command[0] == "evaluate"}
    assert benchmarks == {"data/demo/benchmark/validation"}
    lines = experiments.lines_of(args.results)
    assert len(lines) == len(chosen_rows()) and all(line["test"] is None for line in lines)
    ran.clear()
    for each in tmp_path.rglob("evaluation"):
        each.rename(each.with_name("before"))
    experiments.run(arguments(tmp_path))  # what was compared for the choice counts for nothing here
    assert len(experiments.lines_of(args.results)) == len(lines) + 17


def test_rows_that_draw_answers_read_no_cache(ran, tmp_path):
    args = arguments(tmp_path, command="objectives", student_seeds=1)
    experiments.run(args)
    lines = experiments.lines_of(args.results)
    assert {line["row"] for line in lines} == {row.name for row in objective_rows()}
    trained = [settings(command) for command in ran if command[0] == "train"]
    drawing = [each for each in trained if "objective.on_policy.share" in each]
    assert len(drawing) == 4 and all(each["teacher.cache"] == "null" for each in drawing)
    assert all("teacher.cache.path" in each for each in trained if each not in drawing)
    assert sum(command[0] == "cache-teacher" for command in ran) == 1


def test_no_run_begins_that_would_end_after_the_limit(ran, tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(experiments, "monotonic", lambda: now[0])
    quietly = Job.run_quietly
    monkeypatch.setattr(Job, "run_quietly", lambda job: now.__setitem__(0, now[0] + 100) or quietly(job))
    experiments.run(arguments(tmp_path, limit_seconds=350))
    assert sum(command[0] == "train" for command in ran) == 3  # at 300 s a fourth would end at 400
    assert "10 runs are missing" in capsys.readouterr().out


def test_students_of_another_teacher_are_not_mixed_in(ran, tmp_path):
    args = arguments(tmp_path)
    experiments.run(args)
    lines = experiments.lines_of(args.results)
    args.results.write_text("".join(json.dumps(line | {"teacher": "other"}) + "\n" for line in lines[:-1]))
    with pytest.raises(UserError, match=r"teacher seed 0 had other weights of teacher or twin \(hash other, here "):
        experiments.run(args)


def line(row: str, teacher: int, student: int, neutral: float, shift: float) -> dict:
    """A finished run's, on both splits."""
    scores = {
        "all": {name: 100 * value for name, value in FIGURES.items()} | {"accuracy_neutral": neutral, "shift": shift}
    }
    known = {"teacher_seed": teacher, "student_seed": student, "steps": 8, "gate_m": 2.0 if "adap" in row else None}
    return {"row": row, **known, "validation": scores, "test": scores}


def test_intervals_are_over_teachers():
    assert interval({(0, 0): 1.0, (0, 1): 3.0, (1, 0): 4.0, (1, 1): 6.0}) == pytest.approx(
        (3.5, 12.7062 * 1.5), rel=1e-4
    )
    assert interval({(0, 0): 1.0, (0, 1): 3.0})[1] == pytest.approx(12.7062, rel=1e-4)


def test_the_table_answers_the_question():
    lines = []
    for teacher in range(3):
        for student in range(2):
            noise = 0.2 * student
            lines += [line("std_kd", teacher, student, 76 + teacher + noise, 35)]
            lines += [line("caad 2", teacher, student, 74, 20 + teacher)]
            lines += [line("adaptive 2", teacher, student, 75.9 + teacher, 20.5 + teacher + noise)]
    text = table(lines, 2.0, 8)
    assert "| std_kd | 6 | 77.1 ± 2.5 |" in text.split("test voices")[1]
    assert "- neutral against std_kd: -0.2 ± 0.0 over 6 pairs; lost at most 1 point: yes" in text
    assert "- shift against caad 2: +0.6 ± 0.0 over 6 pairs; at most 2 points more: yes" in text
    assert "3 | " not in table([each | {"gate_m": 3.0} for each in lines if each["gate_m"]], 2.0, 8)
    worse = [
        each if each["gate_m"] is None else line("adaptive 2", each["teacher_seed"], each["student_seed"], 70, 30)
        for each in lines
    ]
    assert re.findall(r": (yes|no|undecided)$", table(worse, 2.0, 8), re.M) == ["no", "no"] * 2


def test_the_demo_fills_one_cache_for_both_students(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(Job, "run", lambda job: trained.append(settings(job.sets)))
    for name in ("synthesize", "shards", "benchmark"):
        monkeypatch.setattr(corpus, name, lambda root, *_: root / "made")
    monkeypatch.setattr(demo, "caad_ds", lambda *_: None)
    monkeypatch.setattr(demo, "ordering", lambda _: "")
    demo.run_demo(short=True)
    first, second = trained
    assert first["teacher.cache.path"] == second["teacher.cache.path"] == "data/demo-short/teacher_cache"
    assert (first["teacher.negative"], second["teacher.negative"]) == ("zero_mel", "zero_mel")
    assert "teacher.cache.fill" not in first and float(first["objective.alpha"]) == 0
    assert "objective.alpha" not in second


def test_the_demo_writes_a_report_on_its_systems_and_names_it(monkeypatch, capsys):
    asked: list[list[str]] = []
    monkeypatch.setattr(Job, "run", lambda job: None)
    for name in ("synthesize", "shards", "benchmark"):
        monkeypatch.setattr(corpus, name, lambda root, *_: root / "made")
    monkeypatch.setattr(demo, "caad_ds", lambda *arguments: asked.append([str(each) for each in arguments]))
    monkeypatch.setattr(demo, "ordering", lambda _: "")
    for short, runs in ((True, "runs/demo-short"), (False, "runs/demo")):
        demo.run_demo(short)
        command, *others = asked[-1]
        assert command == "report" and option(others, "--out") == f"{runs}/report.html"
        assert others[:3] == [f"{runs}/{name}/evaluation" for name in ("teacher", "std_kd", "caad")]
        assert f"open {runs}/report.html in a browser" in capsys.readouterr().out.splitlines()[-1]
