"""Encode a record as tokens: the prompt with its audio spans, followed by the answer."""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any, cast
from unicodedata import normalize

import torch

from caad_ds.data.audio_markers import AUDIO
from caad_ds.data.batch import IGNORE, Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.record import PromptRecord
from caad_ds.models.prompts.answer_turn import CONTENT, answer_turn, form_of
from caad_ds.models.prompts.audio_spans import AudioSpans, MarkedText
from caad_ds.models.prompts.control_tokens import SPAN, check_texts, control_tokens, plain_markers
from caad_ds.models.whisper_qformer.prompt_ids import PIECES, prompt_ids
from caad_ds.utils.errors import UserError

NAMED = 20  # unknown characters that are named
ROLES = ("system", "developer", "user", "assistant", "model", "tool", "function", "ipython")


@dataclass(frozen=True)
class Encoded:
    """A record as token ids: `prompt`, whether each id is an audio placeholder, and `answer` with its end token."""

    prompt: list[int]
    is_audio: list[bool]
    answer: list[int]


class PromptEncoder:
    """Tokenises records for a model with `num_queries` positions per audio, or as many as each call says.

    `spans` writes audio in the text, with its transcription if `transcripts`. Prompt and answer are tokenised as one
    text, in which an audio is a special token. Contents never become control tokens: a record whose texts would is
    refused. Answers longer than `max_answer_tokens` are cut before their end token and counted in `truncated`; samples
    that exceed the `limit` of positions of `model` are refused.

    Models that were trained earlier keep their form "pieces": the texts between audios, and the answer, are tokenised
    separately.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_queries: int,
        max_answer_tokens: int = 300,
        limit: int | None = None,
        model: str = "the model",
        spans: AudioSpans | None = None,
        transcripts: bool = True,
    ):
        if not tokenizer.chat_template:
            raise UserError(f"tokenizer {tokenizer.name_or_path}: it has no chat template; use an instruct model's")
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: it has no end-of-sequence token, so no answer would end; "
                "set eos_token in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.num_queries = num_queries
        self.max_answer_tokens = max_answer_tokens
        self.limit = limit
        self.model = model
        self.spans = spans or MarkedText()
        self.transcripts = transcripts
        self.truncated = 0
        self._counting = Lock()  # several threads may encode samples
        self.filler = tokenizer.eos_token_id  # padding is never attended to: any id that is not audio's
        self.form = form_of(tokenizer)
        self.turn = answer_turn(tokenizer)
        # A separate tokenizer, in which an audio marker splits the text like a special token.
        self._reader = copy.deepcopy(tokenizer)
        self._reader.add_tokens([self.spans.mark], special_tokens=True)
        self._audio = self._reader.convert_tokens_to_ids(self.spans.mark)
        # If the model has no token for it, the embedding at a placeholder is overwritten: any id will do.
        self.placeholder = self._audio if self._audio < len(tokenizer) else self.filler
        self._control = control_tokens(self._reader)
        self._marks = self._marks_of_roles()
        unknown = tokenizer.unk_token_id  # any text may become it, but none may spell it
        self._unknown = [] if unknown is None or unknown in self._control else [tokenizer.unk_token]
        self._frame = lru_cache(1024)(self._frame_of)

    def encode(
        self, record: PromptRecord, *, with_answer: bool = True, positions: Sequence[int] | None = None
    ) -> Encoded:
        """Tokenise a record; UserError names it if the template cannot write it as a prompt.

        `positions` is the number for each of its audios; None: `num_queries`.
        """
        if positions is None:
            positions = [self.num_queries] * len(record["audios"])
        try:
            return self._encoded(record, record["response"] if with_answer else None, positions)
        except UserError as error:
            raise UserError(f"record {record.get('id', 'without id')}: {error}") from error

    def prompt(self, record: PromptRecord) -> tuple[list[int], list[bool]]:
        """Return the prompt's token ids up to the answer, and for each whether it is an audio placeholder."""
        encoded = self.encode(record, with_answer=False)
        return encoded.prompt, encoded.is_audio

    def doubt(self, record: PromptRecord) -> str:
        """Return which characters of a record's messages and transcripts its tokens leave out, "" if none."""
        texts = [SPAN.sub("\n", content) for _, content in _messages(record)]
        texts += [audio.get("text") or "" for audio in record["audios"]] if self.transcripts else []
        lost = "".join(islice(dict.fromkeys(letter for text in texts for letter in self._lost(text)), NAMED))
        return lost and f"this model's tokenizer does not know {lost!r} and leaves it out; write the text without it"

    def check(
        self,
        sample: Sample,
        *,
        with_answer: bool = True,
        room: int = 0,
        positions: Sequence[int] | None = None,
        answer: Sequence[int] | None = None,
    ) -> Encoded:
        """Encode a sample; UserError names it if that fails or leaves no `room` in the model's positions.

        `room`: tokens to reserve for a drawn answer; the longer of it and the record's counts. `answer`: ids to use
        instead of the record's answer; `positions` as in `encode`.
        """
        encoded = self.encode(sample.record, with_answer=with_answer and answer is None, positions=positions)
        if answer is not None:
            encoded = replace(encoded, answer=[*answer])
            if self.placeholder in answer and self.placeholder != self.filler:
                raise UserError(
                    f"sample {sample.key}: its answer holds {self.spans.mark!r} ({self.placeholder}), which stands for "
                    "audio; leave it out"
                )
        length = len(encoded.prompt) + max(room, len(encoded.answer[: self.max_answer_tokens]))
        if self.limit is not None and length > self.limit:
            what = "prompt and answer" if with_answer or room else "prompt"
            raise UserError(
                f"sample {sample.key}: {what} take {length} tokens, {self.model} reads {self.limit}; leave it out, or "
                "lower the answers' length (data.max_answer_tokens, objective.on_policy.max_new_tokens, "
                "--max-new-tokens)"
            )
        return encoded

    def batch(
        self,
        samples: Sequence[Sample],
        *,
        pad: str = "right",
        with_answer: bool = True,
        positions: Sequence[int] | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Tokenise samples into a Batch without audio; `pad` is the side, "left" for generation.

        `positions` are those of all samples' audios in order; `answers` are the samples' as in `check`.
        """
        counts = [len(sample.record["audios"]) for sample in samples]
        each = [self.num_queries] * sum(counts) if positions is None else list(positions)
        rows: list[tuple[list[int], list[bool], list[int]]] = []
        first = 0
        for number, (sample, count) in enumerate(zip(samples, counts, strict=True)):
            answer = None if answers is None else answers[number]
            ours, first = each[first : first + count], first + count
            encoded = self.check(sample, with_answer=with_answer, positions=ours, answer=answer)
            ids, answer = encoded.prompt, encoded.answer[: self.max_answer_tokens]
            with self._counting:
                self.truncated += len(encoded.answer) > len(answer)
            labels = [IGNORE] * len(ids) + answer
            rows.append((ids + answer, encoded.is_audio + [False] * len(answer), labels))
        length = max(len(ids) for ids, _, _ in rows)

        def padded(column: int, value: int) -> torch.Tensor:
            out = []
            for row in cast(list[tuple[list[int], ...]], rows):
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
            labels=padded(2, IGNORE),
            audio_index=torch.arange(sum(counts)),
            audio_sample=torch.arange(len(samples)).repeat_interleave(torch.tensor(counts, dtype=torch.long)),
            audio_positions=torch.tensor(each, dtype=torch.long),
        )

    # -- text ---------------------------------------------------------------------------------------------------------

    def _encoded(self, record: PromptRecord, answer: str | None, positions: Sequence[int]) -> Encoded:
        messages = _messages(record)
        transcripts = [(audio.get("text") or "") if self.transcripts else "" for audio in record["audios"]]
        written = self.spans.in_messages(messages, transcripts)
        frame, markers = self._frame(tuple((role, _skeleton(content)) for role, content in written))
        texts = {f"{role} message {n}": SPAN.sub("\n", content) for n, (role, content) in enumerate(messages, 1)}
        texts |= {f"transcript {n}": text for n, text in enumerate(transcripts, 1)}
        texts |= {} if answer is None else {"answer": answer}
        check_texts(texts, [self.spans.mark, *markers, *self._marks, *self._unknown])
        text = self._prompt_text(written, transcripts)
        if answer is not None:
            answer = self.turn.lead + (answer.strip() if self.turn.trims else answer)
        ids, answer_ids = self._ids(text, answer)
        if self._controls(ids) != frame or self._controls(answer_ids):
            raise UserError(self._culprit(texts))
        prompt: list[int] = []
        is_audio: list[bool] = []
        left = iter(positions)
        for number in ids:
            is_placeholder = number == self._audio
            count = next(left) if is_placeholder else 1
            prompt += [self.placeholder if is_placeholder else number] * count
            is_audio += [is_placeholder] * count
        return Encoded(prompt, is_audio, answer_ids if answer is None else [*answer_ids, self.turn.end])

    def _prompt_text(self, messages: Sequence[tuple[str, str]], transcripts: Sequence[str]) -> str:
        """Return the prompt as text, with the transcripts."""
        marked = sum(len(SPAN.findall(content)) for _, content in messages)
        if marked != len(transcripts):
            raise UserError(f"{marked} {AUDIO} in its messages but {len(transcripts)} audios; make them equal")
        text = self.spans.render(self.tokenizer, messages)
        kept = text.count(self.spans.mark) == marked
        for number, (role, content) in enumerate(messages, 1):
            if not kept or not all(piece.strip() in text for piece in self.spans.texts(content)):
                raise _changed(role, number)
        return self.spans.in_text(text, transcripts)

    def _frame_of(self, messages: tuple[tuple[str, str], ...]) -> tuple[list[int], list[str]]:
        """Return the control tokens and plain-text markers that the template itself writes around such messages."""
        numbered = [(role, content.replace(CONTENT, f"{CONTENT}{n}z")) for n, (role, content) in enumerate(messages, 1)]
        text = self.spans.render(self.tokenizer, numbered)
        for n, (role, content) in enumerate(messages, 1):
            # A real text might also occur elsewhere, in another message or in the template.
            if text.count(f"{CONTENT}{n}z") < content.count(CONTENT):
                raise _changed(role, n)
        between = rf"{CONTENT}\d+z|{SPAN.pattern}|{re.escape(self.spans.mark)}"
        return self._controls(self._tokens(text)), self._plain(re.split(between, text))

    def _marks_of_roles(self) -> list[str]:
        """Return the template's plain-text markers of all roles: a text might contain those of another turn."""
        markers: list[str] = []
        for roles in (("system", "user"), ("user", "assistant", "user")):
            try:
                text = self.spans.render(self.tokenizer, [(role, CONTENT) for role in roles])
                markers += self._plain(text.split(CONTENT))
            except UserError:  # the template has no such turn
                continue
        return markers

    def _plain(self, pieces: Iterable[str]) -> list[str]:
        tokens = set(self._control.values())
        return [mark for mark in plain_markers(pieces) if mark not in tokens]

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _ids(self, text: str, answer: str | None) -> tuple[list[int], list[int]]:
        """Return ids of prompt and answer; the prompt has one id per audio."""
        ids = prompt_ids(self._reader, text, self.spans.mark, self.form)
        if answer is None:
            return ids, []
        if self.form == PIECES:
            return ids, self._tokens(answer)
        whole = self._tokens(text + answer)
        if whole[: len(ids)] == ids:
            return ids, whole[len(ids) :]
        # The answer's first characters merge with the prompt's last ones, which must not depend on the answer.
        apart = self._tokens(text + self.spans.mark + answer)
        end = len(apart) - 1 - apart[::-1].index(self._audio)
        ids_apart, answer_ids = apart[:end], apart[end + 1 :]
        if ids_apart != ids or self._text(ids + answer_ids) != self._text(whole):
            raise UserError(
                f"its answer begins with {answer[:20]!r}, which this tokenizer cannot part from the prompt's end; "
                "change the answer's first characters"
            )
        return ids, answer_ids

    def _tokens(self, text: str) -> list[int]:
        return self._reader(text, add_special_tokens=False)["input_ids"]

    def _lost(self, text: str) -> list[str]:
        """Return the characters that a text's tokens leave out; some tokenizers write no token for what is unknown."""

        def kept(text: str) -> str:
            return self._text([number for number in self._tokens(text) if number != self.tokenizer.unk_token_id])

        whole = kept(text)
        known = {*whole, *normalize("NFD", whole)}  # a tokenizer may compose what the text has in parts
        missing = [letter for letter in dict.fromkeys(text) if letter.isprintable() and letter not in known]
        shown = [letter for letter in missing if not letter.isspace()][: 5 * NAMED]
        return [letter for letter in shown if not kept(letter).strip()]  # not only written otherwise

    def _text(self, ids: list[int]) -> str:
        return self._reader.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _controls(self, ids: list[int]) -> list[int]:
        return [number for number in ids if number in self._control]

    def _culprit(self, texts: dict[str, str]) -> str:
        """Describe which text contains a control token, and which token."""
        for where, text in texts.items():
            if controls := self._controls(self._tokens(text)):
                token = self._control[controls[0]]
                return f"its {where} holds {token!r}, which is a control token of the tokenizer; remove it"
        return "its texts form a control token where they meet the chat template; change the text"


def tokenization(tokenizer: Any) -> dict[str, Any]:
    """Return what the ids of a record depend on, by name; equal for tokenizers that encode every record alike."""
    identity = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "chat template": tokenizer.chat_template,
        "end token": (tokenizer.eos_token, answer_turn(tokenizer)),
        "special tokens": sorted(control_tokens(tokenizer).items()),
        "form": form_of(tokenizer),
        "rules": type(tokenizer).__name__,
    }
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        rules = json.loads(backend.to_str())
        identity["rules"] = [rules[name] for name in ("normalizer", "pre_tokenizer", "model")]
    elif model := getattr(tokenizer, "sp_model", None):
        identity["rules"] = model.serialized_model_proto()
    return identity


def _messages(record: PromptRecord) -> list[tuple[str, str]]:
    """Return (role, content) of each message; UserError for an unknown role."""
    messages = []
    for message in record["messages"]:
        role, content = message.get("role"), message.get("content") or ""
        if role not in ROLES:
            raise UserError(f"its messages have the role {role!r:.60}; use one of {', '.join(ROLES)}")
        messages.append((role, content))
    return messages


def _changed(role: str, number: int) -> UserError:
    return UserError(
        f"the chat template leaves out or changes {role} message {number}; leave that message out, or set "
        "student.template.merge_system if it is the system's"
    )


def _skeleton(content: str) -> str:
    """Replace every text between the audio markers of a content; empty ones and whitespace stay."""
    markers = SPAN.findall(content)
    texts = [CONTENT if text.strip() else text for text in SPAN.split(content)]
    return "".join(text + marker for text, marker in zip(texts, [*markers, ""], strict=True))
