"""From a record to tokens: the prompt with the audio's span in it, and the answer after it."""

from collections.abc import Sequence
from typing import Any

import torch

from caad_ds.data.batch import IGNORE, Batch, Sample
from caad_ds.data.markers import AUDIO
from caad_ds.errors import UserError


class Prompter:
    """Tokenises records for a model with K = `num_queries` connector outputs per audio.

    `<|AUDIO|>` becomes K placeholder positions followed by the audio's transcription (DeSTA2, section 3). Answers
    longer than `max_answer_tokens` are cut before their end token and counted in `truncated`.
    """

    def __init__(self, tokenizer: Any, num_queries: int, max_answer_tokens: int = 300):
        if not tokenizer.chat_template:
            raise UserError(f"tokenizer {tokenizer.name_or_path}: it has no chat template; use an instruct model's")
        self.tokenizer = tokenizer
        self.num_queries = num_queries
        self.max_answer_tokens = max_answer_tokens
        self.truncated = 0
        # The embedding at a placeholder is overwritten, and a pad is never attended to: any valid id will do.
        self.filler = tokenizer.eos_token_id

    def prompt(self, record: dict) -> tuple[list[int], list[bool]]:
        """Token ids of the prompt up to the answer, and for each whether it holds a connector output."""
        text = self.tokenizer.apply_chat_template(record["messages"], tokenize=False, add_generation_prompt=True)
        pieces, audios = text.split(AUDIO), record["audios"]
        if len(pieces) != len(audios) + 1:
            raise UserError(
                f"record {record['id']}: {len(pieces) - 1} {AUDIO} in its messages but {len(audios)} audios; "
                "make them equal"
            )
        ids = self._ids(pieces[0])
        is_audio = [False] * len(ids)
        for audio, piece in zip(audios, pieces[1:], strict=True):
            tail = self._ids((audio.get("text") or "") + piece)
            ids += [self.filler] * self.num_queries + tail
            is_audio += [True] * self.num_queries + [False] * len(tail)
        return ids, is_audio

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer and its end-of-sequence token."""
        ids = [*self._ids(text), self.tokenizer.eos_token_id]
        if len(ids) > self.max_answer_tokens:
            self.truncated += 1
        return ids[: self.max_answer_tokens]

    def batch(self, samples: Sequence[Sample], *, pad: str = "right", with_answer: bool = True) -> Batch:
        """Tokenise samples into a Batch without features; `pad` is the side, "left" for generation."""
        rows = []
        for sample in samples:
            ids, is_audio = self.prompt(sample.record)
            answer = self.answer(sample.record["response"]) if with_answer else []
            labels = [IGNORE] * len(ids) + answer
            rows.append((ids + answer, is_audio + [False] * len(answer), labels))
        length = max(len(ids) for ids, _, _ in rows)

        def padded(column: int, value: int) -> torch.Tensor:
            out = []
            for row in rows:
                gap = [value] * (length - len(row[column]))
                out.append(gap + row[column] if pad == "left" else row[column] + gap)
            return torch.tensor(out)

        lengths = torch.tensor([len(ids) for ids, _, _ in rows])[:, None]
        at = torch.arange(length)[None]
        attended = at >= length - lengths if pad == "left" else at < lengths
        return Batch(
            keys=[sample.key for sample in samples],
            input_ids=padded(0, self.filler),
            attention_mask=attended.long(),
            audio_mask=padded(1, False).bool(),
            audio_index=torch.arange(sum(len(sample.record["audios"]) for sample in samples)),
            labels=padded(2, IGNORE),
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
