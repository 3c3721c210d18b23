"""Whether vLLM answers an exported audio LLM with the same tokens as we do.

vLLM has an environment of its own, so there are two commands. With our python, in the root of the repository; FOLDER
is a model of a family of transformers as `caad-ds export` writes it, OUT is made:

    python -m tests.models.families.vllm_answers FOLDER OUT

then with vLLM's, which needs nothing of ours:

    VLLM_ENVIRONMENT/bin/python tests/models/families/vllm_answers.py OUT

It prints what differs and exits with 1. A tiny model must be as large as vLLM takes: attention on a CPU has heads of
multiples of 32, and the windows of a Qwen2-Audio are 30 s.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_RATE = 16_000
STEPS = 16
NEAR = 1e-4  # between log probabilities in fp32: they differ by 1e-6, and by 6e-4 where the connector is 1% off
# On a CPU: little memory for keys and values; one process; no threads that wait for cores that others use.
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


def write(folder: Path, out: Path, samples: Sequence[Any]) -> list[list[int]]:
    """Write prompts and clips for vLLM, and our own greedy answers; returns these.

    A prompt is text with one placeholder per audio, as users of vLLM write it.
    """
    import torch

    from caad_ds.generation.decoding import generate
    from caad_ds.models import auto

    lm = auto.load(folder)
    lm.module.eval()
    prompts = []
    for sample in samples:
        batch = lm.reader.collate([sample], pad="left", with_answer=False)
        ids = batch.input_ids[0].tolist()
        tokens = generate(lm, batch, max_new_tokens=STEPS)[0].tolist()
        answered = lm.reader.collate([sample], answers=[tokens])
        with torch.no_grad():
            logits = lm.head().logits(lm.hidden(lm.prepare(answered))).float()
        assert answered.targets.tolist()[: len(tokens)] == tokens
        chosen = logits.log_softmax(-1)[range(len(tokens)), tokens]
        once = without_repeats(ids, lm.reader.prompts.placeholder, batch.audio_positions.tolist())
        clips = [f"{sample.key}.{number}.npy" for number in range(len(sample.waveforms))]
        prompts.append({
            "key": sample.key, "prompt": lm.reader.tokenizer.decode(once), "clips": clips, "prompt_ids": ids,
            "tokens": tokens, "logprobs": chosen.tolist(),
        })  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        for name, clip in zip(clips, sample.waveforms, strict=True):
            np.save(out / name, clip)
    (out / "asked.json").write_text(json.dumps({"model": str(folder.resolve()), "asked": prompts}))
    return [each["tokens"] for each in prompts]


def without_repeats(ids: list[int], placeholder: int, counts: list[int]) -> list[int]:
    """The ids with one placeholder for each audio, which has `counts` of them."""
    out, at, left = [], 0, iter(counts)
    while at < len(ids):
        out.append(ids[at])
        at += next(left) if ids[at] == placeholder else 1
    return out


def compare(out: Path) -> list[str]:
    """What vLLM answers otherwise than is written in a folder, a line for each prompt that differs."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    found = json.loads((out / "asked.json").read_text())
    most = max(len(each["clips"]) for each in found["asked"])
    longest = max(len(each["prompt_ids"]) for each in found["asked"]) + STEPS
    llm = LLM(
        found["model"], dtype="float32", enforce_eager=True, limit_mm_per_prompt={"audio": most},
        max_model_len=max(longest, 1024), max_num_seqs=len(found["asked"]),
    )  # fmt: skip
    prompts = []
    for each in found["asked"]:
        audio = [(np.load(out / name), SAMPLE_RATE) for name in each["clips"]]
        prompts.append({"prompt": each["prompt"]} | ({"multi_modal_data": {"audio": audio}} if audio else {}))
    answers = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=STEPS, logprobs=0))
    return [line for each, answer in zip(found["asked"], answers, strict=True) for line in differing(each, answer)]


def differing(prompt: dict[str, Any], answer: Any) -> list[str]:
    """Compare an answer of vLLM with ours; returns at most one line."""
    [given] = answer.outputs
    if list(answer.prompt_token_ids) != prompt["prompt_ids"]:
        return [f"{prompt['key']}: prompt {list(answer.prompt_token_ids)}, ours {prompt['prompt_ids']}"]
    if list(given.token_ids) != prompt["tokens"]:
        return [f"{prompt['key']}: answer {list(given.token_ids)}, ours {prompt['tokens']}"]
    theirs = [step[token].logprob for step, token in zip(given.logprobs, given.token_ids, strict=True)]
    off = float(np.abs(np.subtract(theirs, prompt["logprobs"])).max())
    print(f"{prompt['key']}: {len(prompt['tokens'])} tokens, log probabilities differ by {off:.1e}")
    return [f"{prompt['key']}: log probabilities differ by {off:.1e}"] if off > NEAR else []


def main(arguments: list[str]) -> int:
    """With two folders, write the first's answers into the second; with one, compare its answers with vLLM's."""
    if len(arguments) == 2:
        from tests.models.families.conftest import sample

        several = sample("b", 1.3, 0.25, 0.4, question="Is it low?")
        write(Path(arguments[0]), Path(arguments[1]), [sample("a", 0.5), several, sample("c", 5.0), sample("d")])
        return 0
    if len(arguments) != 1:
        sys.exit(__doc__)
    if lines := compare(Path(arguments[0])):
        print("vLLM answers otherwise:", *lines, sep="\n")
        return 1
    print("vLLM gives the same prompts and answers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
