"""Training runs at Qwen2-Audio-7B's size with random weights: cost of placements, adapters and negatives here.

    python benchmarks/qwen2_audio.py [--work DIR] [--rows NAME ...] [--steps 20] [--cap-gb 60] [--tiny]

The teacher, 17 GB in bfloat16, is created once below --work, with its real feature extractor and a small tokenizer,
noise clips of 5 to 30 s and answers of about 100 words. The student is the teacher's first 8 layers. Each row is a
complete run of `caad-ds train`; times are means over the last ten steps, as logged by the run, `start` is the time
before the first step, `end` the time after the last. --tiny uses models for a CPU, to try the script.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, Qwen2AudioForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_runs import Setting, main, noise_shards
from caad_ds.models.architecture import read_architecture
from tests.models.families.tiny.qwen2_audio import architecture, processor
from tests.models.families.tiny.text import SECONDS, TEXTS

PUBLISHED = Path(__file__).resolve().parents[1] / "configs/qwen2_audio/architectures/Qwen2-Audio-7B-Instruct.json"
CLIPS, WORDS = 64, 100
MELS, LONGEST = 128, 30  # of the published processor; clips have at least a sixth of the longest
KEPT_LAYERS = 8
ROWS: dict[str, dict] = {
    "connector": {},
    "cpu": {"teacher": {"placement": "cpu"}},
    "LoRA": {"student": {"train": "lora"}},
    "4 workers": {"data": {"workers": 4}},
    "silence": {"teacher": {"negative": "silence"}},
    "silence, 4 workers": {"teacher": {"negative": "silence"}, "data": {"workers": 4}},
}


def make(work: Path, tiny: bool) -> None:
    """Write shards and the teacher's folder."""
    draw = random.Random(0)
    words = " ".join(TEXTS[:3]).split()
    answers = [" ".join(draw.choices(words, k=draw.randrange(WORDS - 20, WORDS + 20))) for _ in range(CLIPS)]
    longest = SECONDS if tiny else LONGEST
    noise_shards(work, np.linspace(longest / 6, longest, CLIPS).tolist(), answers, TEXTS[0])
    made = processor() if tiny else processor(mels=MELS, seconds=LONGEST)
    shape = architecture(made, layers=3) if tiny else read_architecture(PUBLISHED)
    shape["audio_token_index"] = made.tokenizer.convert_tokens_to_ids(made.audio_token)
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2AudioForConditionalGeneration(AutoConfig.for_model(**shape))
    model.save_pretrained(work / "teacher", max_shard_size="5GB")
    made.save_pretrained(work / "teacher")


def values(work: Path, tiny: bool) -> dict[str, dict]:
    """Return a config that trains the connector alone with ZeRO-2, with the complete teacher on the device."""
    return {
        "run": {"precision": "bf16"},
        "data": {"train": str(work / "shards")},
        "teacher": {"path": str(work / "teacher"), "placement": "replicated", "negative": "zero_mel"},
        "student": {
            "path": str(work / "teacher"), "keep_layers": 1 if tiny else KEPT_LAYERS, "train": "connector",
            "deepspeed": "student_zero2.json",
        },
        "optimizer": {"batch_size": 8},
    }  # fmt: skip


if __name__ == "__main__":
    main(Setting("qwen2_audio", make, values, ROWS, ("data", "teacher", "student", "loss"), steps=20), __doc__)
