"""Teacher-forced likelihood of each option's statement, with audio, without it, and under the contrast."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.contrast_signals import Paths, Signal, signals
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.prefix_tree import Ids, common_length, levels
from caad_ds.generation.model import Model
from caad_ds.loss.contrastive_target import contrast
from caad_ds.loss.head import LMHead

LOGITS = 1 << 21  # computed at a time, per signal


@torch.no_grad()
def log_likelihoods(
    loaded: Model,
    items: Sequence[Item],
    encoded_clips: EncodedClips,
    statements: Sequence[str],
    negatives: Sequence[str],
    alphas: Sequence[float],
) -> dict[Signal, np.ndarray]:
    """Return log p(statement | prompt), float64 [items, options], under every signal.

    `encoded_clips` has encoded the items. The likelihood of a statement is that of its tokens and its end token, each
    under log_softmax(z) at its position. Common prefixes of prompts and statements are computed once, if the model
    allows it (`EncodedClips.shares`).
    """
    compute = shared if encoded_clips.shares else whole
    found = compute(loaded, items, encoded_clips, statements, negatives, alphas)
    return {signal: values.view(len(items), -1).cpu().double().numpy() for signal, values in found.items()}


def whole(
    loaded: Model, items: Sequence[Item], encoded_clips: EncodedClips, statements: Sequence[str],
    negatives: Sequence[str], alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """Return the log-likelihoods [items * options] by a forward of each prompt with each statement, for any model."""
    repeated = [item for item in items for _ in statements]
    batch = encoded_clips.clips.answered(repeated, [*statements] * len(items))
    lm, head = loaded.lm, loaded.lm.head()
    z_pos = head.logits(lm.hidden(batch))
    found = {Signal(): _of_answers(z_pos, batch)}
    for negative in negatives:
        z_neg = head.logits(lm.hidden(encoded_clips.clips.negative(repeated, batch, negative)))
        found[Signal(negative)] = _of_answers(z_neg, batch)
        for alpha in alphas:
            found[Signal(negative, alpha)] = _of_answers(contrast(z_pos, z_neg, alpha), batch)
    return found


def _of_answers(z: Tensor, batch: Batch) -> Tensor:
    """Return the summed log-probability of each sample's answer, [B], from logits [N, V] at the answer rows."""
    tokens = torch.log_softmax(z, dim=-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    return tokens.new_zeros(len(batch.keys)).index_add(0, batch.sample_of_row, tokens)


def shared(
    loaded: Model, items: Sequence[Item], encoded_clips: EncodedClips, statements: Sequence[str],
    negatives: Sequence[str], alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """Return the same as `whole`, running common prefixes of clips, questions and statements once each."""
    paths = Paths(loaded, items, encoded_clips, negatives)
    encoded = [paths.encoded([statement] * len(items)) for statement in statements]
    cut = loaded.reader.prompts.max_answer_tokens
    # Ordered by item, then by statement, like everything below.
    answers = [tuple(prompts[k].answer[:cut]) for k in range(len(items)) for prompts in encoded]
    sequences, starts, groups = [], [], []
    for path, prompts in enumerate(paths.prompts(encoded[0])):
        for k, answer in enumerate(answers):
            item = k // len(statements)
            sequences.append(prompts[item] + answer[:-1])
            starts.append(len(prompts[item]) - 1)
            groups.append((path, items[item].id, item))
    hidden, row = _answer_rows(paths, sequences, starts, groups)
    return _scored(loaded.lm.head(), hidden, row.chunk(len(paths)), answers, negatives, alphas)


def _answer_rows(paths: Paths, sequences: list[Ids], starts: list[int], groups: list[tuple]) -> tuple[Tensor, Tensor]:
    """Return the distinct hidden states [R, H], and their row for each position of each sequence from `starts` on,
    concatenated: int64 [N]."""
    hidden: list[Tensor] = []
    row_of: dict[tuple[int, int, int], int] = {}  # by level, node, offset
    rows: list[list[int]] = [[] for _ in sequences]
    for number, level in enumerate(levels(paths.model, paths.audio, sequences, cuts(sequences, groups))):
        new = []
        for i, start in enumerate(starts):
            for position in range(max(start, level.start[i]), level.end[i]):
                key = (number, level.node[i], position - level.start[i])
                if key not in row_of:
                    row_of[key] = len(row_of)
                    new.append(key[1:])
                rows[i].append(row_of[key])
        if new:
            node, offset = torch.tensor(new, device=level.hidden.device).unbind(1)
            hidden.append(level.hidden[node, offset])
    return torch.cat(hidden), torch.tensor([row for sequence_rows in rows for row in sequence_rows])


def cuts(sequences: Sequence[Ids], groups: Sequence[tuple]) -> list[list[int]]:
    """Return the lengths of common prefixes by level: of the sequences of one path (a negative's prefix is constant),
    of one benchmark row, of one prompt, and finally of each sequence by itself.

    `groups` holds the path, row and prompt of each sequence.
    """
    found = []
    for depth in range(1, len(groups[0]) + 1):
        members: dict[tuple, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group[:depth], []).append(i)
        ends = [0] * len(sequences)
        for group_members in members.values():
            length = common_length([sequences[i] for i in group_members])
            for i in group_members:
                ends[i] = length
        found.append(ends)
    return [*found, [len(sequence) for sequence in sequences]]


def _scored(
    head: LMHead, hidden: Tensor, rows: Sequence[Tensor], answers: Sequence[tuple[int, ...]],
    negatives: Sequence[str], alphas: Sequence[float],
) -> dict[Signal, Tensor]:  # fmt: skip
    """Return each answer's log-likelihood under every signal, from the hidden states at its tokens on each path.

    `rows` holds, per path, the rows [N] of `hidden` [R, H] for the tokens of the concatenated answers.
    """
    device = hidden.device
    # Answers with a common prefix share its logits on all paths.
    distinct, index = torch.stack(list(rows)).unique(dim=1, return_inverse=True)
    distinct, index = distinct.to(device), index.to(device)
    target = torch.tensor([token for answer in answers for token in answer], device=device)
    owner = torch.tensor([k for k, answer in enumerate(answers) for _ in answer], device=device)
    found = {signal: hidden.new_zeros(len(answers), dtype=torch.float32) for signal in signals(negatives, alphas)}
    size = max(1, LOGITS // len(head.weight))
    for begin in range(0, distinct.shape[1], size):
        here = ((index >= begin) & (index < begin + size)).nonzero().squeeze(-1)

        def add(signal: Signal, z: Tensor, at: Tensor = index[here] - begin, here: Tensor = here) -> None:
            tokens = z[at, target[here]] - z.logsumexp(-1)[at]
            found[signal] = found[signal].index_add(0, owner[here], tokens)

        z_pos, *others = (head.logits(hidden[path[begin : begin + size]]) for path in distinct)
        add(Signal(), z_pos)
        for name, z_neg in zip(negatives, others, strict=True):
            add(Signal(name), z_neg)
            for alpha in alphas:
                add(Signal(name, alpha), contrast(z_pos, z_neg, alpha))
    return found


def entropy(log_likelihood: np.ndarray) -> np.ndarray:
    """Return the entropy in nats, [items], of the distribution over the options, from [items, options]; missing options
    are -inf."""
    shifted = log_likelihood - log_likelihood.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    present = np.isfinite(log_p)
    return -(np.exp(log_p) * np.where(present, log_p, 0)).sum(-1)
