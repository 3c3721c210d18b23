"""Every type of causal LM that transformers has, built small: which work here, which are refused, and why.

    python -m tests.models.language_model.llm_types docs/language_models.md

writes the table. All that decides is the product's own code: `build_llm`, `SpeechLM`, `generate`, `save` and `load`.
"""

import argparse
import re
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from caad_ds.data.batch import Batch
from caad_ds.evaluation.teacher_check.prefix_tree import can_share, levels
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.models import negatives
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM, SpeechReader
from caad_ds.models.language_model.llm_checks import check_llm
from caad_ds.models.language_model.load_llm import build_llm
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.models.whisper_qformer.llm_forward import hidden_states
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic
from tests.models.language_model.small_llms import VOCABULARY, settings
from tests.models.small import QUERIES, sample
from tests.tolerance import rounding
from tests.training.tiny import amplify, encoder

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LOUD = 4.0  # weights so much larger than a fresh model's, so that what stands before a token reaches its state
PATIENCE = 20  # seconds of computing for one type
READ = 4096  # positions at most; stretched rotary positions give a limit that a small model cannot hold in memory
# Of a state's size: sums of up to a thousand terms, whose errors three matrices in a row make LOUD times larger.
# Rounding stays well below, another position or mask is well above.
TOLERANCE = rounding(1000, LOUD**3)


@dataclass(frozen=True)
class Result:
    """What became of one type: `works`, `refused` or `not built`, with the reason or remarks."""

    kind: str
    status: str
    note: str = ""


class World:
    """A tokenizer, an encoder and samples for all types."""

    def __init__(self, folder: Path) -> None:
        texts = ["The tone is high.", "It is low.", "beep Is the tone high or low?"] * 3
        self.folder = folder
        self.tokenizer = train_tokenizer(texts, 60, folder / "tokenizer")
        self.encoder = encoder()
        self.reader = SpeechReader(self.tokenizer, self.encoder, QUERIES)
        self.samples = [sample("a"), sample("b", audios=2, text="beep beep"), sample("c", text="")]

    def batch(self, number: int | None = None, **kwargs: Any) -> Batch:
        """All samples, or one."""
        chosen = self.samples if number is None else [self.samples[number]]
        return self.reader.collate(chosen, **kwargs)

    def text_only(self, batch: Batch) -> Batch:
        """The second path of all samples."""
        return negatives.find("text_only")(batch, self.samples, self.reader, None)

    def lm(self, model: SpeechLM) -> SpeechAudioLM:
        return SpeechAudioLM(model, self.encoder, self.tokenizer)


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference of a row, as a share of its size."""
    if found.shape != expected.shape:
        return float("inf")
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).max().item()


class Wrong(Exception):
    """What the product let through is not right."""


def require_near(found: Tensor, expected: Tensor, what: str) -> None:
    distance = far(found, expected)
    if not distance <= TOLERANCE:
        raise Wrong(f"{what} (by {distance:.2g})")


@torch.no_grad()
def examined(kind: str, world: World) -> Result:
    """Build a small model of a type with our code and check its behaviour."""
    torch.manual_seed(0)
    try:
        values = settings(kind)
    except Exception as error:
        return Result(kind, "not built", reason(error))
    try:
        llm = build_llm(values, "fresh")
        for module in llm.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.mul_(LOUD)
        check_llm(llm, "loud")
        model = build(llm, world.encoder, None, num_queries=QUERIES, qformer_layers=1, qformer_heads=2).eval()
    except UserError as error:
        text = str(error)
        if "no model can be built" in text:
            return Result(kind, "not built", bare(text))
        return Result(kind, "refused", bare(text))
    except Exception as error:
        return Result(kind, "not built", reason(error))
    amplify(model.connector)
    lm = world.lm(model)
    notes = []
    for check in (padding, head, text_only, sharing, decoding, round_trip, limit):
        try:
            if note := check(lm, world):
                notes.append(note)
        except UserError as error:
            return Result(kind, "refused", bare(str(error)))
        except Wrong as error:
            return Result(kind, "WRONG", f"{check.__name__}: {error}")
        except Exception as error:
            return Result(kind, "FAILS", f"{check.__name__}: {reason(error)}")
    form = llm._caad_head
    if form.scale != 1:
        notes.append(f"factor {form.scale:g}")
    if form.softcap is not None:
        notes.append(f"soft cap {form.softcap:g}")
    return Result(kind, "works", "; ".join(notes))


def bare(text: str) -> str:
    """A refusal without what all of them say."""
    text = re.sub(r"^\w+: (a causal LM of type \S+ cannot be used[:,]|no model can be built of it:) ", "", text)
    return re.sub(r"; (take another LLM|change its settings)$", "", text)


def reason(error: Exception) -> str:
    """A traceback's last line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def hidden(lm: SpeechAudioLM, batch: Batch) -> Tensor:
    return lm.hidden(lm.prepare(batch))


def padding(lm: SpeechAudioLM, world: World) -> str:
    expected = torch.cat([hidden(lm, world.batch(number)) for number in range(len(world.samples))])
    for side in ("right", "left"):
        require_near(hidden(lm, world.batch(pad=side)), expected, f"padded on the {side}")
    return ""


def head(lm: SpeechAudioLM, world: World) -> str:
    batch = lm.prepare(world.batch(0))
    embedded = lm.embedded(batch)
    output = lm.generator(inputs_embeds=embedded.inputs_embeds, attention_mask=embedded.attention_mask, use_cache=False)
    own = output.logits.flatten(0, 1)
    require_near(lm.head().logits(lm.hidden(batch)), own[batch.answer_rows], "logits")
    return ""


def text_only(lm: SpeechAudioLM, world: World) -> str:
    model, rows = lm.module, []
    for number in range(len(world.samples)):
        batch = world.batch(number)
        kept = ~batch.audio_mask[0]
        ids, labels = batch.input_ids[:, kept], batch.labels[:, kept]
        bare = Batch(batch.keys, ids, torch.ones_like(ids), torch.zeros_like(ids, dtype=torch.bool), labels)
        embeds = model.get_input_embeddings()(ids)
        states = hidden_states(model.llm, embeds, bare.attention_mask, torch.arange(ids.shape[1])[None])
        rows.append(states.flatten(0, 1)[bare.answer_rows])
    expected = torch.cat(rows)
    for side in ("right", "left"):
        batch = world.batch(pad=side)
        negative = lm.prepare(world.text_only(batch))
        require_near(lm.hidden(negative), expected, "without audio")
        both = lm.hidden(Batch.cat([lm.prepare(batch), negative], side))
        require_near(both.chunk(2)[1], expected, "without audio, beside the path with it")
    return ""


def sharing(lm: SpeechAudioLM, world: World) -> str:
    """Compare sequences with common prefixes, run once, with each sequence alone."""
    model = lm.module
    if not can_share(model.llm):
        return ""
    rest = list(range(3, 25))
    sequences = [tuple(rest[:a] + rest[b:c]) for a, b, c in ((9, 12, 20), (9, 12, 14), (4, 13, 22), (9, 15, 16))]
    ends = [[4] * 4, [9, 9, 4, 9], [len(sequence) for sequence in sequences]]
    for level in levels(model, torch.empty(0, 1), sequences, ends):
        last = level
    for i, sequence in enumerate(sequences):
        ids = torch.tensor([sequence])
        whole = hidden_states(
            model.llm, model.get_input_embeddings()(ids), torch.ones_like(ids), torch.arange(len(sequence))[None]
        )
        found = last.hidden[last.node[i], : last.end[i] - last.start[i]]
        require_near(found, whole[0, last.start[i] :], "after a shared beginning")
    return ""


STEPS = 6


def decoding(lm: SpeechAudioLM, world: World) -> str:
    model, batch = lm.module, world.batch(pad="left", with_answer=False)
    prepared, negative = lm.prepare(batch), lm.prepare(world.text_only(batch))
    for contrasted in (None, Contrast(0.0, "text_only")):
        tokens = generate(
            lm, prepared, max_new_tokens=STEPS, min_new_tokens=STEPS, contrasted=contrasted, negative=negative
        )
        if tokens.shape[1] != STEPS:
            raise Wrong(f"{tokens.shape[1]} tokens and not {STEPS}")
        ends = end_tokens(world.tokenizer, model.llm.generation_config.eos_token_id)
        for number, said in enumerate(tokens):
            one = world.batch(number, with_answer=False)
            first = lm.embedded(lm.prepare(one)).inputs_embeds
            more = torch.cat([first, model.get_input_embeddings()(said[None, :-1])], 1)
            whole = torch.ones(more.shape[:2], dtype=torch.long)
            states = hidden_states(model.llm, more, whole, torch.arange(more.shape[1])[None])
            z = lm.head().logits(states[0, first.shape[1] - 1 :])
            z[:, ends] = -torch.inf
            best, chosen = z.max(-1).values, z.gather(-1, said[:, None])[:, 0]
            if not (best - chosen <= TOLERANCE * z[z.isfinite()].abs().max()).all():
                raise Wrong(f"token {(best - chosen).argmax().item()} is not the likeliest")
    return ""


def round_trip(lm: SpeechAudioLM, world: World) -> str:
    lm.generator.generation_config.eos_token_id = [2, 7, 9]
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        save(folder, lm.module, world.encoder, world.tokenizer)
        again, *_ = load(folder)
    if (ends := end_tokens(world.tokenizer, again.llm.generation_config.eos_token_id)) != [2, 7, 9]:
        raise Wrong(f"end tokens {ends}")
    one = world.batch(1)
    require_near(hidden(world.lm(again.eval()), one), hidden(lm, one), "loaded again")
    return ""


def limit(lm: SpeechAudioLM, world: World) -> str:
    model, most = lm.module, lm.position_limit
    if most is None:
        return "no limit in its config"
    most = min(most, READ)
    ids = torch.arange(most)[None] % VOCABULARY
    embeds = model.get_input_embeddings()(ids)
    hidden_states(model.llm, embeds, torch.ones_like(ids), torch.arange(most)[None])
    return ""


class TooLong(BaseException):
    """A separate class, not to be confused with errors of the type itself."""


@contextmanager
def guarded() -> Iterator[None]:
    """Raise TooLong in what takes more than PATIENCE seconds of computing time."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def sweep(kinds: tuple[str, ...] = TYPES, tell: Callable[[Result], None] = lambda _: None) -> list[Result]:
    """The results of some types, each guarded against what its code raises."""
    results = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        world = World(Path(folder))
        for kind in kinds:
            try:
                with guarded():
                    results.append(examined(kind, world))
            except TooLong:
                results.append(Result(kind, "not built", f"takes more than {PATIENCE} s, small as it is"))
            tell(results[-1])
    return results


PAGE = """# Which language models work

Any type in the causal LM mapping of transformers may be the LLM of a teacher or a student. When one is loaded, its own
forward is compared on a few tokens with what is built around it (`caad_ds/models/language_model/llm_checks.py`): head,
constant factor, soft cap, embeddings, padding on both sides, causality. A type that does not pass is refused by name
before anything is trained.

The check runs eight short forwards and widens the head to float32 twice, on the device where the model lies when it
is loaded: the CPU, on every rank. For an LLM of Llama 3.1 8B's widths in bfloat16 on one thread of an AMD EPYC with
AVX-512 and its bfloat16 instructions, beside other work: 4.1 s with one layer, 7.2 s with five (2.1 billion weights),
thus about 28 s with all 32, and 0.3 GB above the weights (`python benchmarks/load_check.py`). Held to AVX2
(`ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2` before it), which has no bfloat16, on the same two cores while
more ran beside it: 10.3 s and 21.5 s, thus about 97 s.

The table is of transformers {version}, each type built small with random weights: {works} of {all} work, {refused} are
refused, and {unbuilt} could not be built small (they are checked all the same when one is loaded). "Works" means that

- logits are those of the model's own forward, by the factor and the cap in the last column;
- padding on either side, and the other samples of a batch, change nothing;
- `text_only` equals a text in which no audio ever was, alone and beside the path with audio;
- decoding with a cache chooses the tokens that whole forwards choose;
- weights and end tokens survive saving and loading;
- as many positions as the config names, but at most 4,096, are read.

Made by `python -m tests.models.language_model.llm_types docs/language_models.md`; `pytest -m slow -k test_llm_types`
holds it to what is installed.

| type | with it | reason, or what is special |
|---|---|---|
"""


def table(results: list[Result]) -> str:
    """The page docs/language_models.md."""
    statuses = [result.status for result in results]
    counts = {"works": statuses.count("works"), "refused": statuses.count("refused"), "all": len(results)}
    page = PAGE.format(version=transformers.__version__, unbuilt=statuses.count("not built"), **counts)
    return page + "".join(f"| {r.kind} | {r.status} | {r.note.replace('|', '/')} |\n" for r in results)


def main() -> None:
    """Examine all types, or those that are named, and write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path, help="the page to write, docs/language_models.md; - for none")
    parser.add_argument("kinds", nargs="*", help="default: all")
    args = parser.parse_args()
    results = sweep(tuple(args.kinds) or TYPES, lambda r: print(f"{r.kind:25} {r.status:10} {r.note}", flush=True))
    if str(args.out) != "-":
        write_atomic(args.out, table(results).encode())


if __name__ == "__main__":
    main()
