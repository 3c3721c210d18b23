"""Cost of on-policy answers: tokens per second compared with `generate` alone, and their share of a training step.

    python benchmarks/rollouts.py [--scale smollm2 | paper | tiny] [--shares 1 0.5 0] [--zero 2 | 3] [--tokens 32]
        [--train all | connector]

Teacher and student have the shapes of the scale (smollm2: SmolLM2-135M behind Whisper-tiny) and random weights. All
answers have the same number of tokens: end tokens are forbidden, for `generate` by min_new_tokens. Both sample with
temperature 1, top-p 0.95 and top-k 50; `generate` is transformers' own, on the same prompts. The step runs in the
DeepSpeed engines of training, on one process; share 0 is the step without sampling. DeepSpeed does not free all memory
of closed engines: for large models, run one share per process.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name, milliseconds
from benchmarks.step import config, process_group
from benchmarks.step_models import SCALES, Scale, Setting
from caad_ds.config.schema import Config
from caad_ds.data.batch import PairedBatch
from caad_ds.distill.gathered_copy import GatheredCopy
from caad_ds.distill.rollouts import Rollouts
from caad_ds.distill.step import DistillStep
from caad_ds.generation.decoding import answer_ends
from caad_ds.models.language_model.plain_generation import plain_generation
from caad_ds.training.metrics.throughput import Stopwatch

SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
WHISPER_TINY = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
OURS = {
    "smollm2": Scale(
        WHISPER_TINY, SMOLLM2, SMOLLM2, taps=[0, 1, 2, 3], window=8, samples=8, dtype=torch.float32
    ),
    "paper": SCALES["paper"],
    "tiny": SCALES["tiny"],
}  # fmt: skip


def config_of(share: float, args: argparse.Namespace, precision: str) -> Config:
    """Return a run's configuration, with the keys that determine the cost."""
    values = config(precision).model_dump(mode="json")
    drawn = {"share": share, "top_p": 0.95, "top_k": 50, "max_new_tokens": args.tokens}
    values["objective"] |= {"on_policy": drawn}
    values["student"] |= {"deepspeed": f"student_zero{args.zero}.json", "train": args.train}
    return Config.model_validate(values)


def rollouts_of(cfg: Config, setting: Setting) -> Rollouts:
    """Return the sampler of a student's answers, with end tokens forbidden so that all have the same length."""
    student = setting.student
    forbidden = torch.zeros(len(student.head().weight), dtype=torch.bool)
    forbidden[answer_ends(student)] = True
    return Rollouts(cfg.objective, 0, GatheredCopy(student, setting.batch.input_ids.device), forbidden)


def generating(setting: Setting, cfg: Config) -> Callable[[], object]:
    """Return a call that samples as many tokens with transformers alone."""
    drawn = cfg.objective.on_policy
    assert drawn is not None
    student = setting.student
    student.module.eval()
    with torch.no_grad():
        prompts = student.prepare(setting.batch).prompts(torch.arange(len(setting.batch.keys)))
    sampled = GenerationConfig(
        do_sample=True, temperature=drawn.temperature, top_p=drawn.top_p, top_k=drawn.top_k, pad_token_id=0,
        max_new_tokens=drawn.max_new_tokens, min_new_tokens=drawn.max_new_tokens, eos_token_id=1,
    )  # fmt: skip

    @torch.no_grad()
    def generate() -> object:
        inputs = student.generation_inputs(prompts)
        with plain_generation(student.generator):
            return student.generator.generate(**inputs, generation_config=sampled)  # type: ignore[operator]

    return generate


@contextmanager
def stepping(cfg: Config, setting: Setting, clock: Stopwatch) -> Iterator[DistillStep]:
    """Yield the training step of a configuration, in DeepSpeed engines."""
    from caad_ds.training import engines

    drawn = rollouts_of(cfg, setting) if cfg.objective.draws else None
    if cfg.student.train == "all":
        setting.student.module.requires_grad_(True)
    teacher = engines.teacher_signal(cfg, setting.teacher, "replicated", None, shares=True)
    engine = engines.student_engine(cfg, setting.student, len(setting.batch.keys), 1)
    yield DistillStep(engine, setting.student, teacher, part=clock.part, rollouts=drawn)
    engine.destroy()
    teacher.close()


def main(argv: list[str] | None = None) -> None:
    """Print a table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=OURS, default="smollm2")
    parser.add_argument("--zero", type=int, choices=(2, 3), default=3, help="stage of the student's engine")
    parser.add_argument("--train", choices=("all", "connector"), default="all", help="the paper trains the connector")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default 5)")
    shares = [1.0, 0.5, 0.0]
    parser.add_argument("--shares", type=float, nargs="+", default=shares, help="steps to time (default 1 0.5 0)")
    args = parser.parse_args(argv)
    scale = OURS[args.scale]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16" if scale.dtype == torch.bfloat16 else "fp32"
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    print(
        f"rollouts on {name}, {torch.get_num_threads()} threads; torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}; scale {args.scale}, {scale.samples} samples, "
        f"{args.tokens} tokens, ZeRO-{args.zero}, trained: {args.train}"
    )
    found: dict[str, float] = {}
    columns = ("share", "step, ms", "drawing, ms", "of the time", "answers drawn", "tokens drawn", "of the tokens read")
    with process_group():
        print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
        for share in args.shares:
            found |= measured(args, share, device, precision)
            gc.collect()  # engines hold their weights in reference cycles
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


def measured(args: argparse.Namespace, share: float, device: str, precision: str) -> dict[str, float]:
    """Measure a share, in new engines; for share 1 also the comparison with `generate`."""
    cfg, scale = config_of(share, args, precision), OURS[args.scale]
    clock, setting = Stopwatch(), Setting(scale, device)
    found: dict[str, float] = {}
    with stepping(cfg, setting, clock) as work:
        if share == 1:
            found |= beside_generate(work, setting, generating(Setting(scale, device), cfg), args)
        return found | timed_step(work, setting, clock, share, args.repeats)


def beside_generate(
    work: DistillStep, setting: Setting, generate: Callable[[], object], args: argparse.Namespace
) -> dict[str, float]:
    """Return the tokens per second of `generate` and of rollouts, timed in turns."""
    assert work.rollouts is not None
    draw, device = work.rollouts.draw, setting.batch.input_ids.device.type
    prepared = setting.student.prepare(setting.batch)
    times = milliseconds([generate, lambda: draw(0, [prepared])], device, args.repeats)
    alone, ours = (1e3 * len(setting.batch.keys) * args.tokens / each for each in times)
    print(f"generate alone {alone:.0f} tokens/s, rollouts {ours:.0f} tokens/s: {ours / alone:.2f} of it (bound 0.80)")
    return {"generate": alone, "rollouts": ours, "ratio": ours / alone}


def timed_step(work: DistillStep, setting: Setting, clock: Stopwatch, share: float, repeats: int) -> dict[str, float]:
    """Return the mean time of a step, and drawing's part of its time and of the tokens that are read."""
    count = len(setting.batch.targets)
    online = PairedBatch(setting.batch, setting.batch, setting.negative())
    drawn, tokens = 0.0, 0.0
    for number in range(repeats + 1):
        if number == 1:  # the first warms up
            clock.read()
            began = time.perf_counter()
        with work.teacher_head():
            work.train([online], count, number)
        counts = work.rollouts.read_counts()[0] if work.rollouts else {}
        if number:
            drawn, tokens = drawn + counts.get("answers", 0.0), tokens + counts.get("tokens", 0.0)
    parts = clock.read()
    took = (time.perf_counter() - began) / repeats
    drawing, answers, tokens = parts.get("rollout", 0.0) / repeats, drawn / repeats, tokens / repeats
    of_read = tokens / int(setting.batch.attention_mask.sum())
    of_all = f"{answers:.1f} of {len(setting.batch.keys)}"
    cells = f"{drawing / took:.0%} | {of_all} | {tokens:.0f} | {of_read:.0%} |"
    print(f"| {share:g} | {1e3 * took:.0f} | {1e3 * drawing:.0f} | {cells}", flush=True)
    shares = {"rollout share": drawing / took, "token share": of_read, "drawn": answers}
    return {f"step {share:g}": 1e3 * took} | {f"{name} {share:g}": value for name, value in shares.items()}


if __name__ == "__main__":
    main()
