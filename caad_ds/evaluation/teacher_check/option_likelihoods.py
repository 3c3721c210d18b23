"""How likely a teacher finds each option's statement, teacher-forced, with audio, without, and under the contrast."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.prefix_tree import Ids, common_length, levels
from caad_ds.evaluation.teacher_check.signals import Paths, Signal, signals
from caad_ds.generation.model import Model
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import contrast

LOGITS = 1 << 21  # of one signal at a time


@torch.no_grad()
def log_likelihoods(
    loaded: Model,
    items: Sequence[Item],
    ears: EncodedClips,
    statements: Sequence[str],
    negatives: Sequence[str],
    alphas: Sequence[float],
) -> dict[Signal, np.ndarray]:
    """log p(statement | prompt), float64 [items, options], under every signal.

    `ears` has heard the items. The likelihood of a statement is that of its tokens and its end, each under
    log_softmax(z) at its position. What prompts and statements have in common is computed once, where the model allows
    it (`EncodedClips.shares`).
    """
    compute = shared if ears.shares else whole
    found = compute(loaded, items, ears, statements, negatives, alphas)
    return {signal: values.view(len(items), -1).cpu().double().numpy() for signal, values in found.items()}


def whole(
    loaded: Model, items: Sequence[Item], ears: EncodedClips, statements: Sequence[str], negatives: Sequence[str],
    alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """The log-likelihoods [items * options] by a forward of each prompt with each statement, for any model."""
    asked = [item for item in items for _ in statements]
    batch = ears.clips.answered(asked, [*statements] * len(items))
    lm, head = loaded.lm, loaded.lm.head()
    z_pos = head.logits(lm.hidden(batch))
    found = {Signal(): _of_answers(z_pos, batch)}
    for negative in negatives:
        z_neg = head.logits(lm.hidden(ears.clips.negative(asked, batch, negative)))
        found[Signal(negative)] = _of_answers(z_neg, batch)
        for alpha in alphas:
            found[Signal(negative, alpha)] = _of_answers(contrast(z_pos, z_neg, alpha), batch)
    return found


def _of_answers(z: Tensor, batch: Batch) -> Tensor:
    """Summed log-probability of each sample's answer, [B], from logits [N, V] at the answer rows."""
    tokens = torch.log_softmax(z, dim=-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    return tokens.new_zeros(len(batch.keys)).index_add(0, batch.sample_of_row, tokens)


def shared(
    loaded: Model, items: Sequence[Item], ears: EncodedClips, statements: Sequence[str], negatives: Sequence[str],
    alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """The same as `whole`: clips, their questions and the statements' common beginnings are run once each."""
    paths = Paths(loaded, items, ears, negatives)
    encoded = [paths.encoded([statement] * len(items)) for statement in statements]
    cut = loaded.reader.prompts.max_answer_tokens
    # By item, then by statement, as everything below.
    answers = [tuple(each[k].answer[:cut]) for k in range(len(items)) for each in encoded]
    sequences, starts, groups = [], [], []
    for path, prompts in enumerate(paths.prompts(encoded[0])):
        for k, answer in enumerate(answers):
            item = k // len(statements)
            sequences.append(prompts[item] + answer[:-1])
            starts.append(len(prompts[item]) - 1)
            groups.append((path, items[item].id, item))
    hidden, row = _answer_rows(loaded, paths, sequences, starts, groups)
    return _scored(loaded.lm.head(), hidden, row.chunk(len(paths)), answers, negatives, alphas)


def _answer_rows(
    loaded: Model, paths: Paths, sequences: list[Ids], starts: list[int], groups: list[tuple]
) -> tuple[Tensor, Tensor]:
    """Hidden states [R, H], and for each sequence, from its position `starts` on, which of them is its, one after the
    other: int64 [N]."""
    hidden: list[Tensor] = []
    of: dict[tuple[int, int, int], int] = {}  # level, node, offset
    row: list[list[int]] = [[] for _ in sequences]
    for number, level in enumerate(levels(paths.model, paths.audio, sequences, cuts(sequences, groups))):
        new = []
        for i, start in enumerate(starts):
            for position in range(max(start, level.start[i]), level.end[i]):
                key = (number, level.node[i], position - level.start[i])
                if key not in of:
                    of[key] = len(of)
                    new.append(key[1:])
                row[i].append(of[key])
        if new:
            node, offset = torch.tensor(new, device=level.hidden.device).unbind(1)
            hidden.append(level.hidden[node, offset])
    return torch.cat(hidden), torch.tensor([one for each in row for one in each])


def cuts(sequences: Sequence[Ids], groups: Sequence[tuple]) -> list[list[int]]:
    """Where sequences part: first those of one path (a negative's beginning is constant), then those about one row of
    the benchmark, those of one prompt, and at last each by itself.

    `groups` has of each sequence its path, row and prompt.
    """
    found = []
    for depth in range(1, len(groups[0]) + 1):
        members: dict[tuple, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group[:depth], []).append(i)
        ends = [0] * len(sequences)
        for ours in members.values():
            length = common_length([sequences[i] for i in ours])
            for i in ours:
                ends[i] = length
        found.append(ends)
    return [*found, [len(sequence) for sequence in sequences]]


def _scored(
    head: LMHead, hidden: Tensor, rows: Sequence[Tensor], answers: Sequence[tuple[int, ...]],
    negatives: Sequence[str], alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """Each answer's log-likelihood under every signal, from the hidden states at its tokens on each path.

    `rows` [N] of a path are which of `hidden` [R, H] the tokens of the answers have, one answer after the other.
    """
    device = hidden.device
    # Answers that begin alike have logits in common on all paths.
    together, place = torch.stack(list(rows)).unique(dim=1, return_inverse=True)
    together, place = together.to(device), place.to(device)
    target = torch.tensor([token for answer in answers for token in answer], device=device)
    owner = torch.tensor([k for k, answer in enumerate(answers) for _ in answer], device=device)
    found = {signal: hidden.new_zeros(len(answers), dtype=torch.float32) for signal in signals(negatives, alphas)}
    size = max(1, LOGITS // len(head.weight))
    for begin in range(0, together.shape[1], size):
        ours = ((place >= begin) & (place < begin + size)).nonzero().squeeze(-1)

        def add(signal: Signal, z: Tensor, at: Tensor = place[ours] - begin, ours: Tensor = ours) -> None:
            tokens = z[at, target[ours]] - z.logsumexp(-1)[at]
            found[signal] = found[signal].index_add(0, owner[ours], tokens)

        z_pos, *others = (head.logits(hidden[path[begin : begin + size]]) for path in together)
        add(Signal(), z_pos)
        for name, z_neg in zip(negatives, others, strict=True):
            add(Signal(name), z_neg)
            for alpha in alphas:
                add(Signal(name, alpha), contrast(z_pos, z_neg, alpha))
    return found


def entropy(log_likelihood: np.ndarray) -> np.ndarray:
    """Entropy in nats, [items], of the options given that one of them is said, from [items, options]; an item with
    fewer options than others has -inf in the places that it lacks."""
    shifted = log_likelihood - log_likelihood.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    there = np.isfinite(log_p)
    return -(np.exp(log_p) * np.where(there, log_p, 0)).sum(-1)
