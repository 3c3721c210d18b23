"""`caad-ds check-teacher`: is a teacher fit for contrastive distillation, before anyone spends GPU days on it?

Each option's statement is scored by its teacher-forced likelihood under z_pos, z_neg and z_c, so the answer is the
option that the distillation target itself prefers. Beside it stand the teacher's greedy answers, without a contrast and
by contrastive decoding with each negative, at the alpha that the verdict recommends (or the highest, if none).
"""

import argparse
from pathlib import Path

import numpy as np

from caad_ds.command import ROWS_REJECTED
from caad_ds.data.instructions import Instructions
from caad_ds.device import pick_device
from caad_ds.distill.negatives import Negative
from caad_ds.errors import UserError
from caad_ds.evaluation.decoding import Contrast, decode
from caad_ds.evaluation.fitting import Table
from caad_ds.evaluation.identity import model_hash, run_name
from caad_ds.evaluation.inference import Clips, Loaded
from caad_ds.evaluation.matching import matches
from caad_ds.evaluation.mcr_bench import CONDITIONS, Benchmark, Row
from caad_ds.evaluation.options import Signal, log_likelihoods
from caad_ds.evaluation.scores import POOLED, score
from caad_ds.evaluation.tables import LEGEND, MAIN, percent, show, show_doubtful, show_rejected, terminal
from caad_ds.evaluation.verdict import Attribute, figures, judge
from caad_ds.files import write_json
from caad_ds.progress import progress

SIGNALS = (
    "z_pos: logits with the audio; z_neg: with the negative in its place; z_c: their contrast. n/f/a/i: neutral, "
    "faithful, adversarial, irrelevant."
)


def run(args: argparse.Namespace) -> int:
    """Prints table and verdict; 3 if rows of the benchmark could not be used, else 0."""
    if any(not 0 < alpha < float("inf") for alpha in args.alphas):
        raise UserError(f"--alphas {' '.join(f'{a:g}' for a in args.alphas)}: give finite numbers above 0")
    device = pick_device(args.device)
    instructions = Instructions.load(args.instructions)
    benchmark = Benchmark.load(args.benchmark, args.limit)
    rows, rejected = _known(benchmark.rows, instructions, args.instructions)
    with progress(f"loading {args.model}"):
        loaded = Loaded.load(args.model, device, args.dtype)
        negatives = [Negative.of(name, loaded.encoder) for name in dict.fromkeys(args.negatives)]
    refused: dict[str, str] = {}
    loaded.askable([item for row in rows for item in row.items()], args.max_new_tokens, refused)
    rows = [row for row in rows if row.id not in refused]
    rejected += [{"id": name, "reason": reason} for name, reason in refused.items()]
    clips = Clips(loaded.encoder)
    likelihoods = _ask(loaded, clips, rows, instructions, negatives, args)
    doubtful = clips.doubted(item for row in rows for item in row.items())
    rejected = benchmark.rejected + rejected + clips.rejected(item for row in rows for item in row.items())
    if not likelihoods:
        raise UserError(f"{args.benchmark}: no row could be used ({rejected[0]['reason']}); mend the benchmark")
    with progress("scoring"):
        attributes = _attributes(rows, likelihoods, instructions)
        table = {signal: figures(attributes, signal) for signal in attributes[0].likelihoods}
        verdict = judge(attributes, table)
    alpha = verdict["alpha"] or max(args.alphas)
    signals = [Signal()] + [signal for signal in table if signal.alpha == alpha]
    heard = [row for row in rows if row.id in likelihoods]
    decoded = decoded_figures(loaded, clips, heard, signals, args.batch_size, args.max_new_tokens)
    _print(run_name(args.model.resolve()), table, decoded, verdict)
    if args.out:
        with progress(f"writing {args.out}"):  # with the hash of a model that may be large
            write_json(args.out, _result(args, table, decoded, verdict, rejected, doubtful))
    show_doubtful(doubtful, args.out)
    show_rejected(rejected, args.out)
    return ROWS_REJECTED if rejected else 0


def _known(rows: list[Row], instructions: Instructions, file: Path) -> tuple[list[Row], list[dict]]:
    """The rows whose right answer is an option of the instruction file, and the others with the reason."""
    known, rejected = [], []
    for row in rows:
        if row.subset not in instructions.attributes:
            have = ", ".join(instructions.attributes)
            raise UserError(f"{file}: has no attribute {row.subset}, a subset of the benchmark (it has {have}); add it")
        if row.gt in instructions.attributes[row.subset].options:
            known.append(row)
        else:
            rejected.append({"id": row.id, "reason": f"gt {row.gt!r} is no option of {row.subset} in {file}"})
    return known, rejected


def _ask(
    loaded: Loaded, clips: Clips, rows: list[Row], instructions: Instructions, negatives: list[Negative],
    args: argparse.Namespace,
) -> dict[str, dict[Signal, np.ndarray]]:  # fmt: skip
    """For each row whose clip can be heard, by id: the options' log-likelihoods [4, options] under every signal."""
    found = {}
    with progress(f"checking {run_name(args.model.resolve())}", len(rows)) as advance:
        for subset in dict.fromkeys(row.subset for row in rows):
            statements = list(instructions.attributes[subset].options.values())
            size = max(1, args.batch_size // (len(CONDITIONS) * len(statements)))
            ours = [row for row in rows if row.subset == subset]
            for start in range(0, len(ours), size):
                asked = ours[start : start + size]
                items = clips.hear([item for row in asked for item in row.items()])
                if items:
                    states = clips.states(items)
                    told = log_likelihoods(loaded, items, states, statements, negatives, args.alphas)
                    for k in range(0, len(items), len(CONDITIONS)):
                        found[items[k].id] = {s: values[k : k + len(CONDITIONS)] for s, values in told.items()}
                advance(len(asked))
    return found


def _attributes(rows: list[Row], found: dict[str, dict], instructions: Instructions) -> list[Attribute]:
    attributes = []
    heard = [row for row in rows if row.id in found]
    for subset in dict.fromkeys(row.subset for row in heard):
        ours = [row for row in heard if row.subset == subset]
        labels = list(instructions.attributes[subset].options)
        gt = np.array([labels.index(row.gt) for row in ours])
        signals = found[ours[0].id]
        attributes.append(Attribute(subset, gt, {s: np.stack([found[row.id][s] for row in ours]) for s in signals}))
    return attributes


def decoded_figures(
    loaded: Loaded, clips: Clips, rows: list[Row], signals: list[Signal], batch_size: int, max_new_tokens: int
) -> dict[Signal, dict]:
    """Every metric of the greedy answers under z_pos or z_c, per attribute and pooled, by the matching rule."""
    subsets = dict.fromkeys(row.subset for row in rows)
    right: dict[Signal, dict[str, list[bool]]] = {signal: {subset: [] for subset in subsets} for signal in signals}
    contrasts = {signal: _contrast(signal, loaded) for signal in signals}
    size = max(1, batch_size // len(CONDITIONS))
    with progress("decoding", len(rows)) as advance:
        for start in range(0, len(rows), size):
            asked = rows[start : start + size]
            items = clips.hear([item for row in asked for item in row.items()])
            prompts, states = loaded.prompts(items), clips.states(items)
            for signal, contrasted in contrasts.items():
                texts = decode(
                    loaded.model, loaded.tokenizer, prompts, states,
                    max_new_tokens=max_new_tokens, contrasted=contrasted,
                )  # fmt: skip
                for item, text in zip(items, texts, strict=True):
                    right[signal][item.subset].append(matches(text, item.gt))
            advance(len(asked))
    return {signal: _scored(by_subset) for signal, by_subset in right.items()}


def _contrast(signal: Signal, loaded: Loaded) -> Contrast | None:
    if signal.negative is None or signal.alpha is None:
        return None
    return Contrast(signal.alpha, Negative.of(signal.negative, loaded.encoder))


def _scored(right: dict[str, list[bool]]) -> dict[str, dict]:
    """Scores per subset and pooled, from whether each item is right, a row's conditions one after the other."""
    groups = {POOLED: [one for each in right.values() for one in each], **right}
    return {name: score(np.array(each).reshape(-1, len(CONDITIONS)).T[None]) for name, each in groups.items()}


def _print(name: str, table: dict[Signal, dict], decoded: dict[Signal, dict], verdict: dict) -> None:
    title = f"{name}: likeliest option, %; entropy over the labels' when neutral"
    tables = _table(title, table), _table("greedy answers, right by the matching rule, %", decoded)
    show(*tables, LEGEND, SIGNALS, *verdict["lines"])


def _table(title: str, table: dict[Signal, dict]) -> Table:
    subsets = [subset for subset in next(iter(table.values())) if subset != POOLED]
    entropies = ["entropy"] if "entropy_share" in table[Signal()][POOLED] else []
    header = ["signal", *MAIN, *entropies, *(f"{subset} n/f/a/i" for subset in subsets)]
    rows = []
    for signal, groups in table.items():
        shares = [groups[POOLED]["entropy_share"] for _ in entropies]
        each = ["/".join(f"{100 * groups[s][f'accuracy_{c}']['value']:.0f}" for c in CONDITIONS) for s in subsets]
        pooled = [percent(groups[POOLED][key]["value"]) for key in MAIN.values()]
        rows.append([signal.name, *pooled, *("-" if share is None else f"{share:.2f}" for share in shares), *each])
    return terminal(title, header, rows)


def _listed(table: dict[Signal, dict]) -> list[dict]:
    return [{**vars(signal), "name": signal.name, "groups": groups} for signal, groups in table.items()]


def _result(
    args: argparse.Namespace, table: dict[Signal, dict], decoded: dict[Signal, dict], verdict: dict,
    rejected: list[dict],
    doubtful: list[dict],
) -> dict:  # fmt: skip
    return {
        "model": run_name(args.model.resolve()),
        "model_sha256": model_hash(args.model),
        "verdict": verdict,
        "signals": _listed(table),
        "decoded": _listed(decoded),
        "rejected": rejected,
        "doubtful": doubtful,
    }
