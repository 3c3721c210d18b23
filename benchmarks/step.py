"""Time and memory of a training step, compared with the authors' compute graph on the same models and batch.

    python benchmarks/step.py [--repeats N] [--placement resident cpu] [--scale paper [--cap-gb 24]]

The authors' graph runs the encoder three times (teacher with audio, teacher without, student) and the teacher twice,
computes logits of all positions three times, and loops over samples for the loss. Ours runs the encoder once and the
teacher once over both passes, and computes logits of answer rows in chunks. With the prefix cached
(teacher.keep_prefix), the pass without audio starts where the samples begin to differ, here after a word and the audio.
Models have random weights; the connector is trained. Scale `cpu` has the paper's proportions between encoder, teacher,
student and vocabulary (both are printed, from FLOPs of one forward); `paper` is the paper's setting, for a GPU;
`narrow` has a teacher of as many but tiny layers, to show the engines' overhead on the host; `tiny` tries the script.
FLOPs are those that PyTorch counts: matrix products, convolutions, attention. With --placement the step also runs in
the DeepSpeed engines of training, the student's as in configs/paper. A cached step reads the teacher's states from a
cache below --swap, without a teacher; a filling step runs the teacher and writes them, with their scalars. Peak memory
is above the models' weights; on a GPU the total is shown too.
"""

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cached_step
from benchmarks.cached_step import Row
from benchmarks.measure import cap_memory, milliseconds, peak_mib
from benchmarks.step_models import ANSWER, PROMPT, QUERIES, SCALES, Scale, Setting
from caad_ds.config.schema import Config
from caad_ds.data.batch import IGNORE, PairedBatch
from caad_ds.distill.step import DistillStep, Terms
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.distill.teacher_signal import TeacherForward, TeacherSignal
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.utils.flops import flop_counter


def authors(setting: Setting, objective: Config) -> Callable[[], None]:
    """Return the step with the authors' graph."""
    batch, section = setting.batch, objective.objective
    features = batch.audio["features"]

    def logits(lm: SpeechAudioLM, features: Tensor) -> Tensor:
        embedded = lm.embedded(lm.prepare(replace(batch, audio={"features": features})))
        return lm.generator(
            inputs_embeds=embedded.inputs_embeds, attention_mask=embedded.attention_mask,
            position_ids=embedded.position_ids, use_cache=False,
        ).logits  # fmt: skip

    def step() -> None:
        with torch.no_grad():
            z_pos = logits(setting.teacher, features)
            z_neg = logits(setting.teacher, torch.zeros_like(features))
        z_s = logits(setting.student, features)
        losses = []
        for sample, labels in enumerate(batch.labels):
            rows = (labels[1:] != IGNORE).nonzero().squeeze(-1)
            z_c = (1 + section.alpha) * z_pos[sample, rows] - section.alpha * z_neg[sample, rows]
            q = torch.softmax(z_c.float() / section.temperature, -1)
            log_p = torch.log_softmax(z_s[sample, rows].float() / section.temperature, -1)
            kd = F.kl_div(log_p, q, reduction="batchmean") * section.temperature**2
            ce = F.cross_entropy(z_s[sample, rows].float(), labels[1:][rows])
            losses.append(section.kd_weight * kd + (1 - section.kd_weight) * ce)
        torch.stack(losses).mean().backward()
        setting.optimizer.step()
        setting.optimizer.zero_grad()

    return step


def ours(setting: Setting, cfg: Config, keep_prefix: bool = False) -> Callable[[], None]:
    """Return the step as training computes it, without DeepSpeed engines."""
    teacher = TeacherForward(setting.teacher, keep_prefix)
    module = StudentObjective(setting.student, cfg.objective)
    count, second = len(setting.batch.targets), setting.negative()

    def step() -> None:
        batch = setting.student.prepare(setting.batch)
        with torch.no_grad():
            positive, negative = teacher(batch, setting.teacher.prepare(second))
        module(batch, positive, negative, setting.teacher.head(), count)[0].backward()
        setting.optimizer.step()
        setting.optimizer.zero_grad()

    return step


@contextmanager
def engines(setting: Setting, cfg: Config, placed: str, swap: Path) -> Iterator[Callable[[], list[Terms]]]:
    """Yield the step in the DeepSpeed engines of training; it returns kd, ce and the diagnostics.

    `placed` is the teacher's placement; with "fill" it is replicated and stores its states, with "pair" and "contrast"
    these are read from a cache of that form, without a teacher.
    """
    from caad_ds.training import engines

    folder = Path(tempfile.mkdtemp(dir=swap))
    cache = folder / "cache"
    teacher: TeacherSignal
    if placed == "pair" or placed == "contrast":
        teacher, batches = cached_step.cached(setting, cfg, placed, cache)
        del setting.teacher
    else:
        at = "replicated" if placed == "fill" else placed
        teacher = engines.teacher_signal(cfg, setting.teacher, at, folder if placed == "nvme" else None, shares=True)
        online = PairedBatch(setting.batch, setting.batch, setting.negative())

        def batches() -> PairedBatch:
            return online

        if placed == "fill":
            teacher, batches = cached_step.filling(setting, cfg, "pair", cache, teacher)
    engine = engines.student_engine(cfg, setting.student, len(setting.batch.keys), 1)
    work = DistillStep(engine, setting.student, teacher)
    count = len(setting.batch.targets)

    def step() -> list[Terms]:
        with work.teacher_head():
            return work.train([batches()], count)

    yield step
    engine.destroy()
    teacher.close()
    shutil.rmtree(folder)


def gigaflops(work: Callable[[], object]) -> float:
    """Return the GFLOP of a call."""
    with flop_counter() as counter:
        work()
    return counter.get_total_flops() / 1e9


def proportions(scale: Scale) -> str:
    """Format FLOPs of one forward per sample, encoder : teacher : student, and the vocabulary's share of each model."""
    one = Setting(Scale(**{**vars(scale), "samples": 1}), "meta")
    with torch.no_grad():
        encoder = gigaflops(lambda: one.encoder.whisper(one.batch.audio["features"].to(scale.dtype)))
        embeds = [torch.empty(1, QUERIES + PROMPT + ANSWER, m["hidden_size"], device="meta", dtype=scale.dtype)
                  for m in (scale.teacher, scale.student)]  # fmt: skip
        models = (one.teacher.generator, one.student.generator)
        flops = [gigaflops(lambda m=m, e=e: m(inputs_embeds=e)) for m, e in zip(models, embeds, strict=True)]
    heads = [m.get_output_embeddings().weight.numel() / sum(p.numel() for p in m.parameters()) for m in models]
    relative = " : ".join(f"{value / flops[1]:.2f}" for value in (encoder, *flops))
    return f"{relative}, vocabulary {heads[0]:.1%} of the teacher and {heads[1]:.1%} of the student"


def main(argv: list[str] | None = None) -> None:
    """Print versions, proportions and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default 5)")
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="paper needs a GPU with 48 GB")
    places = ("replicated", "resident", "cpu", "nvme")
    parser.add_argument("--placement", nargs="*", choices=places, default=[], help="engine rows")
    parser.add_argument("--swap", type=Path, default=Path(tempfile.gettempdir()), help="folder for placement nvme")
    parser.add_argument("--cap-gb", type=float, help="of the GPU's memory, no more than this may be taken")
    groups = ("authors", "ours", "cached", "engines")
    parser.add_argument("--only", choices=groups, nargs="*", help="rows of these alone")
    args = parser.parse_args(argv)
    device, scale = "cuda" if torch.cuda.is_available() else "cpu", SCALES[args.scale]
    if args.cap_gb is not None:
        cap_memory(args.cap_gb)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {where}")
    shape = f"{scale.samples} samples of {QUERIES} + {PROMPT} + {ANSWER} tokens, {str(scale.dtype).split('.')[1]}"
    print(f"{args.scale}: {shape}\nforward, encoder : teacher : student\n- here {proportions(scale)}")
    print(f"- paper {proportions(SCALES['paper'])}\n")
    print("| step | GFLOP | s | ratio to the authors' | predicted by FLOPs | peak MiB |\n" + "|---" * 6 + "|")
    wanted = args.only or groups
    plain: dict[str, Callable] = {}
    if "authors" in wanted:
        plain["authors' graph"] = authors
    if "ours" in wanted:
        plain |= {"ours": ours, "ours, prefix kept": partial(ours, keep_prefix=True)}
    with tempfile.TemporaryDirectory(dir=args.swap) as work:
        if "cached" in wanted:
            forms: tuple[cached_step.Form, ...] = ("pair", "contrast")
            plain |= {f"ours, cached, {f}": partial(cached_step.read_rows, form=f, work=Path(work)) for f in forms}
            plain["ours, filling"] = partial(cached_step.fill_rows, form="pair", work=Path(work))
        placed = args.placement if "engines" in wanted else []
        within = {f"ours in engines, teacher {p}": partial(engines, placed=p, swap=args.swap) for p in placed}
        if "cached" in wanted and placed:
            rows = {"pair": "cached, pair", "contrast": "cached, contrast", "fill": "filling"}
            within |= {f"ours in engines, {n}": partial(engines, placed=p, swap=args.swap) for p, n in rows.items()}
        table(plain, within, scale, device, args.repeats)


def table(plain: dict[str, Callable], within: dict[str, Callable], scale: Scale, device: str, repeats: int) -> None:
    """Print a line per row; `plain` rows take turns on the same models, each of those `within` engines has its own.

    On a CPU, where other work changes times, each of the latter takes turns with the authors' graph too.
    """
    cfg = config("bf16" if scale.dtype == torch.bfloat16 else "fp32")
    first, base = None, None
    rows: dict[str, Row] = {}
    if plain:
        setting = Setting(scale, device)
        steps = {name: make(setting, cfg) for name, make in plain.items()}
        for step in steps.values():
            step()  # the first call fills caches
        flops = {name: gigaflops(step) for name, step in steps.items()}
        times = dict(zip(steps, milliseconds(list(steps.values()), device, repeats), strict=True))
        base = steps.get("authors' graph")
        first = Row(flops["authors' graph"], times["authors' graph"]) if base else None
        for name, step in steps.items():
            rows[name] = Row(flops[name], times[name])
            print(rows[name].line(name, first, peak_mib(step, device)), flush=True)
        cached_step.print_ten_epochs(rows, "ours", first)
        del steps, step
        if device != "cpu":
            base = None
            del setting
    with process_group() if within else nullcontext():
        for name, make in within.items():
            # Created on the device, which generates random numbers faster; it need not hold both models at once.
            offloaded = device == "cuda" and name.endswith(("cpu", "nvme"))
            with make(Setting(scale, device, teacher_on="cpu" if offloaded else None), cfg) as step:
                step()
                count = gigaflops(step)
                together = [step, *filter(None, [base])]
                took, *again = milliseconds(together, device, repeats, **({"queued": 1} if offloaded else {}))
                if first and again:
                    took *= first.took / again[0]  # normalised to the machine's speed during the first rows
                rows[name] = Row(count, took)
                print(rows[name].line(name, first, peak_mib(step, device)), flush=True)
        cached_step.print_ten_epochs(rows, "ours in engines", first)


def config(precision: str) -> Config:
    """Return the paper's setting, with the keys that determine the cost of a step; the paths are not read."""
    return Config.model_validate({
        "run": {"output_dir": "unused", "precision": precision}, "data": {"train": "unused"},
        "teacher": {"path": "unused"}, "student": {"path": "unused", "deepspeed": "student_zero2.json"},
        "optimizer": {"steps": 1},
    })  # fmt: skip


@contextmanager
def process_group() -> Iterator[None]:
    """Join a process group of this process alone, for engines; DeepSpeed can leave one, but not join a second."""
    from caad_ds.training.processes import process_group
    from caad_ds.utils.progress import Heartbeat

    process_group.start(Heartbeat(enabled=False))
    yield
    process_group.stop()


if __name__ == "__main__":
    main()
