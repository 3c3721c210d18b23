"""Prompts of the processor that a model folder has for transformers: the ids that training and `caad-ds ask` make."""

import numpy as np
import pytest
import torch

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, START_AUDIO, user_content
from caad_ds.models.prompts.answer_turn import FORM
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import AFTER_AUDIO, NO_TRANSCRIPT, TRANSCRIPT
from caad_ds.models.speech_lm.huggingface import processor_of, reads_alike
from caad_ds.models.whisper_qformer.prompt_ids import PIECES, WHOLE
from caad_ds.serving.server.chat_request import Message
from caad_ds.serving.server.model_input import _turn
from tests.models.prompts.chat_tokenizers import (
    CHATML,
    GEMMA,
    LLAMA3,
    MISTRAL,
    THINKING,
    ZEPHYR,
    byte_level,
    sentence_piece,
)
from tests.training.tiny import encoder

QUERIES = 3
LLAMA3_ENDS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
TOKENIZERS = {
    "prefix": lambda folder: sentence_piece(folder, True, ZEPHYR),
    "no prefix": lambda folder: sentence_piece(folder, False, ZEPHYR),
    "gemma": lambda folder: sentence_piece(folder, False, GEMMA),
    "chatml": lambda folder: byte_level(CHATML),
    "thinking": lambda folder: freeze_template(
        byte_level(THINKING), TemplateSettings(switches={"enable_thinking": False})
    ),
    "llama 3": lambda folder: freeze_template(byte_level(LLAMA3, **LLAMA3_ENDS)),
    "mistral": lambda folder: byte_level(MISTRAL, **LLAMA3_ENDS),
    "merged system": lambda folder: freeze_template(
        sentence_piece(folder, True, GEMMA), TemplateSettings(merge_system=True)
    ),
    "audio in the vocabulary": lambda folder: with_audio(byte_level(CHATML)),
}


def with_audio(tokenizer):
    tokenizer.add_tokens([AUDIO], special_tokens=True)
    return tokenizer


def clips(*texts):
    """Parts of a chat for clips with these transcriptions."""
    heard = np.zeros(800, np.float32)
    return [{"type": "audio", "audio": heard, **({} if text is None else {"text": text})} for text in texts]


def text(said):
    return {"type": "text", "text": said}


def chats(system):
    """Each chat with the messages of a record and the transcriptions of its audios."""
    question = "Is the tone high?"
    yield (
        [{"role": "user", "content": [*clips("he said stop"), text(question)]}],
        [user_content(question)],
        ["he said stop"],
    )
    yield (
        [{"role": "user", "content": [*clips(None), text("The speaker is sad."), text(question)]}],
        [user_content(f"The speaker is sad.\n{question}")],
        [""],
    )
    yield (
        [{"role": "user", "content": [*clips("yes", None, " Üb 漢\n"), text(question)]}],
        [user_content(question, audios=3)],
        ["yes", "", " Üb 漢\n"],
    )
    yield [{"role": "user", "content": question}], [question], []
    yield [{"role": "user", "content": [text(question)]}], [question], []
    turns = [
        {"role": "user", "content": [*clips("no"), text(question)]},
        {"role": "assistant", "content": "It sounds low."},
        {"role": "user", "content": [*clips("yes"), text("he said?")]},
    ]
    yield turns, [user_content(question), "It sounds low.", user_content("he said?")], ["no", "yes"]
    if system:
        first = {"role": "system", "content": "The speaker is happy."}
        yield [first, *turns[:1]], [first["content"], user_content(question)], ["no"]


@pytest.mark.parametrize("transcript", [AFTER_AUDIO, NO_TRANSCRIPT])
@pytest.mark.parametrize("form", [WHOLE, PIECES])
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.filterwarnings("ignore:text. this model's prompt holds no transcription")
def test_a_chat_has_the_ids_that_training_makes_of_its_record(tmp_path, name, form, transcript):
    tokenizer = TOKENIZERS[name](tmp_path)
    tokenizer.init_kwargs |= {FORM: form, TRANSCRIPT: transcript}
    vocabulary = dict(tokenizer.get_vocab())
    processor = processor_of(encoder(), tokenizer, QUERIES)
    prompts = PromptEncoder(tokenizer, QUERIES, transcripts=transcript == AFTER_AUDIO)
    assert reads_alike(processor, tokenizer)
    for chat, contents, texts in chats(system=name != "gemma"):
        messages = [
            {"role": message["role"], "content": content} for message, content in zip(chat, contents, strict=True)
        ]
        record = {"id": "r", "audios": [{"path": "", "text": said} for said in texts], "messages": messages}
        ids, is_audio = prompts.prompt(record)
        made = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=True)
        [found] = made["input_ids"]
        at = [number == processor.audio_token_id for number in found]
        assert at == is_audio and sum(at) == QUERIES * len(texts)
        assert [number for number, heard in zip(found, at, strict=True) if not heard] == [
            number for number, heard in zip(ids, is_audio, strict=True) if not heard
        ]
        assert len(made.get("input_features", [])) == len(texts)
    assert tokenizer.get_vocab() == vocabulary, "the model's own tokenizer stays as it is"


def test_forms_of_a_prefixing_tokenizer_differ(tmp_path):
    """Otherwise the comparison above could not distinguish them."""
    tokenizer = sentence_piece(tmp_path, True, ZEPHYR)
    chat = [{"role": "user", "content": [*clips("yes"), text("he said?")]}]
    ids = []
    for form in (WHOLE, PIECES):
        tokenizer.init_kwargs[FORM] = form
        ids.append(processor_of(encoder(), tokenizer, QUERIES).apply_chat_template(chat, tokenize=True)[0])
    assert ids[0] != ids[1]


def test_prompts_are_padded_on_the_left(tmp_path):
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    short, long = f"{AUDIO} no", f"{AUDIO} he said {AUDIO} stop"
    silence = np.zeros(800, np.float32)
    both = processor(text=[short, long], audio=[silence] * 3, return_tensors="pt")
    [alone] = processor(text=short, audio=silence)["input_ids"]
    gap = both["input_ids"].shape[1] - len(alone)
    assert gap and both["input_ids"][0, gap:].tolist() == alone and both["input_features"].shape[0] == 3
    assert both["attention_mask"].tolist() == [[0] * gap + [1] * len(alone), [1] * (gap + len(alone))]
    right = processor(text=[short, long], audio=[silence] * 3, padding_side="right")
    assert right["input_ids"][0][: len(alone)] == alone and right["attention_mask"][0][-gap:] == [0] * gap


def test_features_stay_in_float32_where_a_pipeline_casts_inputs():
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    made = processor(text=AUDIO, audio=np.ones(800, np.float32), return_tensors="pt")
    exact = made["input_features"].clone()
    cast = made.to(dtype=torch.bfloat16)
    assert cast["input_features"].dtype == torch.float32 and torch.equal(cast["input_features"], exact)
    assert cast.to("meta")["input_features"].is_meta


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "stop", "images": [1]}, "there are no images or videos"),
        ({"text": AUDIO}, r"1 <\|AUDIO\|> in the text but 0 audios"),
        ({"text": "stop", "audio": np.zeros(800)}, r"0 <\|AUDIO\|> in the text but 1 audios"),
        ({"text": AUDIO, "audio": np.zeros(16_001)}, "an audio of 1.00 s exceeds the encoder's window of 1 s"),
        ({"text": AUDIO, "audio": [np.zeros((2, 800))]}, r"an audio of shape \(2, 800\); give mono"),
        ({"text": AUDIO, "audio": np.zeros(800), "sampling_rate": 8000}, "audio at 8000 Hz; give it at 16000 Hz"),
        ({"text": "stop", "padding": "max_length"}, "padding 'max_length'"),
    ],
)
def test_what_the_model_does_not_take_is_refused(tmp_path, given, message):
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    with pytest.raises(ValueError, match=message):
        processor(**given)


def test_pictures_in_a_chat_are_refused_and_an_idle_transcription_is_warned_of(tmp_path):
    tokenizer = byte_level(CHATML)
    tokenizer.init_kwargs[TRANSCRIPT] = NO_TRANSCRIPT
    processor = processor_of(encoder(), tokenizer, QUERIES)
    with pytest.raises(Exception, match="a content has parts of text and audio alone"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "url": "x"}]}])
    with pytest.warns(UserWarning, match="this model's prompt holds no transcription"):
        written = processor.apply_chat_template([{"role": "user", "content": clips("he said stop")}])
    assert f"{START_AUDIO}{AUDIO}{END_AUDIO}\n" in written


def test_a_prompt_that_no_model_was_trained_on_is_refused():
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    for content in ([text("stop"), *clips(None)], [*clips(None), text("stop"), *clips(None)]):
        with pytest.raises(Exception, match="audio after a text of its message; put all audio before the text"):
            processor.apply_chat_template([{"role": "user", "content": content}])
    with pytest.raises(Exception, match="audio in a message of the system; put it into one of the user"):
        processor.apply_chat_template([{"role": "system", "content": clips(None)}])


def test_texts_of_a_turn_are_joined_as_serve_joins_them():
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    parts = [{"type": "text", "text": said} for said in ("he", "", "said?")]
    message = Message(role="user", content=parts)
    joined, _ = _turn(0, message)
    both = [processor.apply_chat_template([{"role": "user", "content": each}]) for each in (parts, joined)]
    assert both[0] == both[1] and "he\n\nsaid?" in both[0]


def test_the_template_is_not_extended_twice(tmp_path):
    processor = processor_of(encoder(), byte_level(CHATML), QUERIES)
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template and again.audio_token_id == processor.audio_token_id


def test_a_reading_that_is_not_trainings_is_noticed():
    tokenizer = byte_level(CHATML)
    processor = processor_of(encoder(), tokenizer, QUERIES)
    assert reads_alike(processor, tokenizer)
    processor.chat_template = processor.chat_template.replace("<|im_start|>assistant", "<|im_start|>user")
    assert not reads_alike(processor, tokenizer)


def small_processor():
    """One of a tiny encoder."""
    return processor_of(encoder(), byte_level(CHATML), QUERIES)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_integers_are_heard_as_floats(dtype):
    """Samples as `caad_ds.load(...).answer` reads them."""
    reading, heard = small_processor(), np.random.default_rng(0).uniform(-0.5, 0.5, 800)
    as_integers = np.round(heard * -float(np.iinfo(dtype).min)).astype(dtype)
    floats, integers = (
        reading(text=reading.audio_token, audio=samples, return_tensors="pt").input_features
        for samples in (as_integers / -float(np.iinfo(dtype).min), as_integers)
    )
    assert torch.equal(floats, integers)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "an audio of shape"),
        (np.zeros((2, 800), np.float32), "an audio of shape"),
        (np.zeros(800, np.uint8), "an audio of uint8"),
        (np.zeros(800, np.int64), "an audio of int64"),
        (np.zeros(800, bool), "an audio of bool"),
        (np.zeros(800, complex), "an audio of complex128"),
        (np.full(800, np.nan), "samples that are not finite"),
        (np.full(800, np.inf), "samples that are not finite"),
    ],
)
def test_what_is_no_mono_audio_is_refused(samples, message):
    reading = small_processor()
    with pytest.raises(ValueError, match=message):
        reading(text=reading.audio_token, audio=[samples])
