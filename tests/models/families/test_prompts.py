"""Prompts of transformers' audio LLMs equal those of their own processors for the same conversation."""

import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2AudioProcessor

from caad_ds.data.audio_markers import AUDIO, user_content
from caad_ds.data.decoded_sample import Sample
from caad_ds.models import auto, negatives
from caad_ds.models.families.qwen2_audio import FAMILY
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.chat_template import TemplateSettings
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import audio, sample
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio

SYSTEM = "Answer in few words."
# As transformers has it, and as the hub had it at first: without a look at a part's type.
DEFAULT = Qwen2AudioProcessor.default_chat_template.fget(None)
TEMPLATES = {
    "tiny": tiny_qwen2_audio.TEMPLATE,
    "transformers": DEFAULT,
    "published": DEFAULT.replace(" or content['type'] == 'audio'", ""),
}


def reader_of(text: str, **prompts) -> ProcessorReader:
    """A reader whose processor has this chat template."""
    processor = tiny_qwen2_audio.processor()
    processor.chat_template = processor.tokenizer.chat_template = text
    return ProcessorReader(processor, FAMILY, **prompts)


@pytest.fixture(scope="module", params=TEMPLATES)
def reader(request):
    return reader_of(TEMPLATES[request.param])


def own(template: str, chat, clips):
    """What the processor makes of a conversation, by itself."""
    processor = tiny_qwen2_audio.processor()
    text = processor.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    inputs = {"audio": clips, "sampling_rate": 16_000} if clips else {}
    return processor(text=text, return_tensors="pt", **inputs)


def chat_of(clips: int, hint: str | None, system: str | None):
    """The conversation as users of the family write it, and its record's messages."""
    question = "Is the tone high or low?" if hint is None else f"{hint} Is the tone high or low?"
    heard = [{"type": "audio", "audio_url": f"{n}.wav"} for n in range(clips)]
    user = {"role": "user", "content": [*heard, {"type": "text", "text": question}]}
    content = user_content("Is the tone high or low?", hint, clips)
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, user], [*first, {"role": "user", "content": content}]


@pytest.mark.parametrize("hint", [None, "It is low."])
@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("clips", [1, 2])
def test_prompts_are_the_processors_own(reader, clips, hint, system):
    chat, messages = chat_of(clips, hint, system)
    asked = sample("a", *(0.4 + n for n in range(clips)), messages=messages)
    expected = own(reader.tokenizer.chat_template, chat, asked.waveforms)
    batch = reader.collate([asked], pad="left", with_answer=False)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(getattr(batch, name), expected[name])
    for name in ("input_features", "feature_attention_mask"):
        torch.testing.assert_close(batch.placed()[name], expected[name])
    placeholder = reader.processor.audio_token_id
    assert torch.equal(batch.audio_mask, expected["input_ids"] == placeholder)
    assert batch.audio_positions.sum() == batch.audio_mask.sum() > 0
    answered = reader.collate([asked])
    length = batch.input_ids.shape[1]
    assert torch.equal(answered.input_ids[:, :length], batch.input_ids)
    assert reader.tokenizer.decode(answered.targets) == "It is low.<|im_end|>"
    assert answered.answer_rows.tolist() == list(range(length - 1, length - 1 + len(answered.targets)))


def test_a_conversation_of_several_turns_with_audio_in_each(reader):
    clips = [audio("one", 0.4), audio("two", 1.1)]
    turns = [("user", user_content("Is it low?")), ("assistant", "It is low."), ("user", user_content("And this?"))]
    messages = [{"role": role, "content": content} for role, content in turns]
    asked = sample("a", 0.4, 1.1, messages=messages)
    heard = {"type": "audio", "audio": "x.wav"}
    chat = [
        {"role": "user", "content": [heard, {"type": "text", "text": "Is it low?"}]},
        {"role": "assistant", "content": "It is low."},
        {"role": "user", "content": [heard, {"type": "text", "text": "And this?"}]},
    ]
    expected = own(reader.tokenizer.chat_template, chat, clips)
    batch = reader.collate([Sample("a", asked.record, clips)], pad="left", with_answer=False)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    torch.testing.assert_close(batch.placed()["input_features"], expected["input_features"])


def test_text_before_and_between_clips(reader):
    content = f"First {AUDIO}then {AUDIO}"
    asked = sample("a", 0.4, 1.1, messages=[{"role": "user", "content": content}])
    heard = {"type": "audio", "audio": "x.wav"}
    parts = [{"type": "text", "text": "First "}, heard, {"type": "text", "text": "then "}, heard]
    expected = own(reader.tokenizer.chat_template, [{"role": "user", "content": parts}], asked.waveforms)
    batch = reader.collate([asked], pad="left", with_answer=False)
    assert torch.equal(batch.input_ids, expected["input_ids"])


def test_a_prompt_without_audio(reader):
    asked = sample("a", messages=[{"role": "user", "content": "Is it low?"}])
    expected = own(reader.tokenizer.chat_template, asked.record["messages"], [])
    batch = reader.collate([asked], pad="left", with_answer=False)
    assert torch.equal(batch.input_ids, expected["input_ids"]) and not len(batch.audio_index)


def prompt_text(reader, asked) -> str:
    [row] = reader.collate([asked], with_answer=False).input_ids
    return reader.tokenizer.decode(row).replace(reader.processor.audio_token * 10, reader.processor.audio_token)


def test_a_transcript_stands_after_its_audio_where_asked_for():
    asked = sample("a", 0.4, 0.4)
    plain = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nAudio 2: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    written = plain.replace("\nAudio 2", "\nbeep 0\nAudio 2") + "beep 1\n"
    reader = reader_of(DEFAULT)
    assert reader.transcript == "none"
    none = prompt_text(reader, asked)
    assert f"\n{plain}Is the tone" in none and "beep" not in none
    reader.set_transcript(None)
    assert reader.transcript == "none"
    identity = reader.identity()
    reader.set_transcript("after_audio")
    assert reader.transcript == "after_audio" and reader.identity() != identity
    assert prompt_text(reader, asked) == none.replace(plain, written)
    reader.set_transcript("none")
    assert prompt_text(reader, asked) == none and reader.identity() == identity
    # A clip without a transcription reads as if none were asked for.
    reader.set_transcript("after_audio")
    silent = sample("a", 0.4, 0.4, audios=[{"path": "", "text": ""}, {"path": ""}])
    assert prompt_text(reader, silent) == none


def test_a_transcript_is_written_as_it_is():
    reader = reader_of(DEFAULT)
    reader.set_transcript("after_audio")
    for text in ("\nbeep", "\n", " beep ", "beep\n\nbeep"):
        asked = sample("a", 0.4, audios=[{"path": "", "text": text}])
        assert f"<|audio_eos|>\n{text}\nIs the tone high" in prompt_text(reader, asked)


@pytest.mark.parametrize("transcript", ["none", "after_audio"])
def test_the_transcripts_place_is_saved_and_read_back(folder, tmp_path, transcript):
    lm = auto.load(folder)
    lm.reader.set_transcript(transcript)
    lm.save(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).init_kwargs["caad_transcript"] == transcript
    again = auto.load(tmp_path)
    assert again.reader.transcript == transcript and again.reader.identity() == lm.reader.identity()
    assert prompt_text(again.reader, sample("a", 0.4)) == prompt_text(lm.reader, sample("a", 0.4))


def test_switches_of_the_template_are_frozen():
    template = DEFAULT.replace("You are a helpful assistant.", "You are {{ manner }}.")
    reader = reader_of(template, template=TemplateSettings(switches={"manner": "brief"}))
    assert "You are brief." in prompt_text(reader, sample("a", 0.4))
    assert reader.processor.chat_template == reader.tokenizer.chat_template


@pytest.mark.parametrize("seconds", [0.1, 0.1001, 0.37, 1.0, 1.9999, 2.0])
def test_positions_are_bounded_by_the_length(seconds):
    reader = reader_of(DEFAULT)
    [count] = reader.features([audio("a", seconds)]).positions
    assert 2 <= count <= reader.positions_of(seconds) <= count + 2
    asked = sample("a", seconds)
    record = {**asked.record, "audios": [{"path": "", "text": "", "duration": seconds}]}
    batch = reader.collate([asked])
    assert reader.length(Sample("a", record, [])) >= int(batch.attention_mask.sum())


@pytest.mark.parametrize("seconds, reason", [
    (2.001, "sample a: an audio of 2.00 s exceeds the model's window of 2 s"),
    (7, "sample a: an audio of 7.00 s exceeds the model's window of 2 s"),
    (0.099, "sample a: an audio of 0.099 s is shorter than the 0.1 s that the model takes"),
    (0, "sample a: an audio of 0.000 s is shorter"),
])  # fmt: skip
def test_audio_of_other_lengths_is_refused_and_never_cut(parts, seconds, reason):
    good, bad = sample("b", 0.5), sample("a", 0.5, seconds)
    with pytest.raises(UserError) as error:
        parts.batch([good, bad])
    assert str(error.value).startswith(reason) and "\n" not in str(error.value)


def test_a_prompt_beyond_the_positions_is_refused(folder):
    lm = auto.load(folder)
    asked = sample("long", 2.0, 2.0)
    length = lm.reader.collate([asked]).input_ids.shape[1]
    assert lm.position_limit == 1024
    lm.reader.limit(300, length, "the model")
    lm.reader.collate([asked])
    lm.reader.limit(300, length - 1, "the student")
    with pytest.raises(UserError, match=f"^sample long: prompt and answer take {length} tokens, the student reads"):
        lm.reader.collate([asked])
    many = sample("many", *[2.0] * 20)
    lm.reader.limit(300, lm.position_limit, "the model")
    for check in (lm.reader.check, lambda each: lm.reader.collate([each])):
        with pytest.raises(
            UserError, match=r"^sample many: prompt and answer take 1\d{3} tokens, the model reads 1024"
        ):
            check(many)
    lm.reader.check(asked, with_answer=False, room=1024 - length)
    with pytest.raises(UserError, match=r"^sample long: "):
        lm.reader.check(asked, with_answer=False, room=1024)


def test_a_long_answer_is_cut_and_counted(folder):
    lm = auto.load(folder)
    lm.reader.limit(3, None, "the model")
    batch = lm.reader.collate([sample("a", 0.5), sample("b", 0.5, answer="It")])
    assert (batch.labels != -100).sum(1).tolist() == [3, 2] and lm.reader.prompts.truncated == 1


def test_ids_of_an_answer_are_taken_as_they_are(parts, samples):
    ids = [[5, 6, 7], [8], [], [9, 10]]
    batch = parts.batch(samples, answers=ids)
    assert [row[row != -100].tolist() for row in batch.labels] == ids


def test_a_placeholder_among_the_ids_of_an_answer_is_refused(parts, samples):
    number = parts.reader.tokenizer.convert_tokens_to_ids(AUDIO)
    message = rf"^sample b: its answer holds '{re.escape(AUDIO)}' \({number}\), which stands for audio"
    with pytest.raises(UserError, match=message):
        parts.batch(samples, answers=[[5], [6, number], [7], [8]])
    with pytest.raises(UserError, match=r"^sample b: "):
        parts.reader.check(samples[1], answer=[number])


def test_features_are_those_of_each_clip_alone(parts):
    clips = [audio("a", 0.4), audio("b", 2.0), audio("c", 0.1)]
    together = parts.reader.features(clips)
    for number, clip in enumerate(clips):
        alone = parts.reader.features([clip])
        assert alone.positions == [together.positions[number]]
        for name, value in alone.audio.items():
            torch.testing.assert_close(value[0], together.audio[name][number])
    assert np.isfinite(together.audio["input_features"]).all()


def test_several_threads_make_the_batches_of_one(folder):
    """As `data.workers` do, which share tokenizer and processor."""
    drawn = random.Random(0)
    given = [
        [sample(f"{n}-{m}", drawn.uniform(0.2, 1.9), question="beep " * drawn.randrange(1, 30)) for m in range(3)]
        for n in range(40)
    ]

    def made(reader, samples):
        batch = reader.collate(samples)
        return batch, negatives.find("silence")(batch, samples, reader, None)

    one, other = auto.load(folder).reader, auto.load(folder).reader
    expected = [made(one, samples) for samples in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda samples: made(other, samples), given))
    for pairs in zip(found, expected, strict=True):
        for here, there in zip(*pairs, strict=True):
            assert torch.equal(here.input_ids, there.input_ids)
            assert torch.equal(here.audio_positions, there.audio_positions)
            assert all(torch.equal(value, there.audio[name]) for name, value in here.audio.items())
