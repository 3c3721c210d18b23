"""Precision lost by a teacher cache of form `contrast`: its bfloat16 target compared with that of form `pair`.

    python benchmarks/contrast_form.py [--model examples/demo/teacher_model] [--llm HUB_ID_OR_FOLDER] [--data SHARDS]

`pair` stores both passes in bfloat16, and the loss computes their contrast in float32 (on a GPU in bfloat16, which
makes the forms equal). `contrast` stores the contrast, rounded to bfloat16. The table has KL(pair || contrast) of the
targets over answer rows, in nats at the demo's temperature, median and 99th percentile; and, for scale, the effect of
the contrast itself, KL(pair || softmax(z_pos / tau)). `--llm` is a causal LM, whose passes are a prompt with the
speaker's attributes and one without.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.teacher_signal import TeacherForward
from caad_ds.loss.contrastive_target import hidden_contrast
from caad_ds.loss.head import LMHead
from caad_ds.models import auto
from caad_ds.models.language_model.load_llm import lm_head, load_llm
from caad_ds.models.language_model.tokenizer import load_tokenizer

TAU = 2.0
ALPHAS = (0.5, 1.0, 2.0)
BATCH = 16


@torch.no_grad()
def audio_model(folder: str, reader: IndexedReader, numbers: Sequence[int]) -> tuple[Tensor, Tensor, LMHead]:
    """Return both passes [N, H] of an audio model at the answers of some samples, and its head."""
    lm = auto.load(folder, torch.bfloat16)
    lm.module.eval()
    forward, pairing = TeacherForward(lm), Pairing(lm.reader, lm.reader, "zero_mel")
    paths = []
    for start in range(0, len(numbers), BATCH):
        batch = pairing([reader[n] for n in numbers[start : start + BATCH]])
        assert batch.teacher is not None and batch.negative is not None
        paths.append(forward(lm.prepare(batch.teacher), lm.prepare(batch.negative)))
    positive, negative = (torch.cat(states) for states in zip(*paths, strict=True))
    return positive, negative, lm.head()


@torch.no_grad()
def causal_lm(name: str, reader: IndexedReader, numbers: Sequence[int]) -> tuple[Tensor, Tensor, LMHead]:
    """Like `audio_model`, for a causal LM that gets the attributes as text."""
    llm, tokenizer = load_llm(name, torch.bfloat16), load_tokenizer(name)
    llm.eval()

    def states(number: int, attributes: bool) -> Tensor:
        record = reader.without_audio(number).record
        details = ", ".join(f"{k}: {v}" for k, v in (record.get("metadata") or {}).items() if isinstance(v, str))
        question = record["messages"][-1]["content"].rpartition("\n")[2]
        statement = f"The speaker says: {record['audios'][0].get('text')} {f'({details})' if attributes else ''}"
        chat = [{"role": "user", "content": f"{statement}\n{question}"}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        ids = prompt_ids + tokenizer(record["response"] + tokenizer.eos_token, add_special_tokens=False).input_ids
        return llm.base_model(torch.tensor([ids])).last_hidden_state[0, len(prompt_ids) - 1 : -1]

    positive, negative = (torch.cat([states(n, attributes) for n in numbers]) for attributes in (True, False))
    return positive, negative, lm_head(llm)


@torch.no_grad()
def lost(positive: Tensor, negative: Tensor, head: LMHead, alpha: float) -> tuple[Tensor, Tensor]:
    """Return KL(pair || contrast) and KL(pair || positive pass) of each row [N]."""
    wide = head.prepared(positive)  # float32 on a CPU, as in the loss
    exact = hidden_contrast(positive, negative, alpha, wide)
    rounded = exact.to(torch.bfloat16)

    def log_p(hidden: Tensor) -> Iterator[Tensor]:
        return (torch.log_softmax(wide.logits(rows) / TAU, -1).double() for rows in hidden.split(256))

    kl = [[], []]  # type: ignore[var-annotated]
    for pair, others in zip(log_p(exact), zip(log_p(rounded), log_p(positive), strict=True), strict=True):
        for found, other in zip(kl, others, strict=True):
            found.append((pair.exp() * (pair - other)).sum(-1))
    return torch.cat(kl[0]), torch.cat(kl[1])


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=["examples/demo/teacher_model"], help="audio models")
    parser.add_argument("--llm", nargs="*", default=[], help="causal LMs")
    parser.add_argument("--data", type=Path, default=Path("data/demo/shards/validation"), help="shards of `make demo`")
    parser.add_argument("--samples", type=int, default=200)
    args = parser.parse_args(argv)
    reader = IndexedReader(args.data)
    numbers = list(range(0, len(reader), max(1, len(reader) // args.samples)))[: args.samples]
    print(f"torch {torch.__version__}; bfloat16 rows, tau {TAU:g}, {len(numbers)} samples of {args.data}; KL in nats\n")
    print(
        "| model | rows | alpha | pair to contrast: median | 99% | pair to z_pos: median | 99% |\n" + "|---" * 7 + "|"
    )
    made = [(name, audio_model) for name in args.model] + [(name, causal_lm) for name in args.llm]
    for name, make in made:
        positive, negative, head = make(name, reader, numbers)
        for alpha in ALPHAS:
            figures = [f"{kl.quantile(q):.1e}" for kl in lost(positive, negative, head, alpha) for q in (0.5, 0.99)]
            print(f"| {name} | {len(positive)} | {alpha:g} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
