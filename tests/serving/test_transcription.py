"""`--transcribe`: an ASR model's text added to the audio, and finding the Whisper of an encoder."""

import json

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

import caad_ds
from caad_ds.generation.question import recordings
from caad_ds.models.speech_lm.folder import save
from caad_ds.serving import ask
from caad_ds.serving.transcription import transcriptions, whisper_of
from caad_ds.utils.errors import UserError
from tests.command import run_command
from tests.evaluation.conftest import tiny_parts
from tests.models.families.conftest import audio

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"heloranis"]
QUESTION = "who speaks ?"
SHORT = ("--max-new-tokens", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    """A CTC model of letters with random weights."""
    folder = tmp_path_factory.mktemp("ctc")
    vocabulary = {letter: place for place, letter in enumerate(LETTERS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(40, 40), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, pad_token_id=0, initializer_range=1.0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    model.lm_head.bias.data[: LETTERS.index("h")] = -1e3  # letters alone
    model.save_pretrained(folder)
    return folder


def test_the_transcription_is_printed_and_stands_in_the_prompt(model_folder, ctc, clips, capsys):
    texts = transcriptions(str(ctc), recordings(clips[:2]), torch.device("cpu"))
    assert len({*texts}) == 2 and all(texts)
    assert run_command(ask, model_folder, *clips[:2], QUESTION, f"--transcribe={ctc}", *SHORT) == 0
    printed = capsys.readouterr()
    for clip, text in zip(clips, texts):
        assert f"caad-ds: transcription of {clip}: {text}\n" in printed.err
    model = caad_ds.load(model_folder, device="cpu")
    assert printed.out == f"{model.answer(clips[:2], QUESTION, texts, max_new_tokens=8)}\n"


def test_a_folder_that_transcribes_nothing_is_refused(model_folder, clips, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for folder in (tmp_path, model_folder):
        with pytest.raises(UserError, match=f"^--transcribe {folder}: no ASR model that loads"):
            transcriptions(str(folder), recordings([clips[0]]), torch.device("cpu"))


@pytest.fixture
def whisper(tmp_path):
    """An English Whisper of random weights, whose window is 30 s."""
    folder = tmp_path / "whisper"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    end, start, *special = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"
    tokenizer = WhisperTokenizer(
        vocab={letter: place for place, letter in enumerate(alphabet)},
        merges=[], unk_token=end, bos_token=end, eos_token=end,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": [end, start, *special]})
    tokenizer.add_tokens([f"<|{step / 50:.2f}|>" for step in range(1501)])
    end, start, before, untimed = tokenizer.convert_tokens_to_ids([end, start, *special])
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, vocab_size=len(tokenizer), max_target_positions=32,
        init_std=0.5, **ends,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **ends, max_length=20, is_multilingual=False, no_timestamps_token_id=untimed, prev_sot_token_id=before,
        return_timestamps=False, max_initial_timestamp_index=50, begin_suppress_tokens=[end], suppress_tokens=[],
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return folder


def run_of(folder, whisper):
    """The folder of a run's model, whose config names a local Whisper."""
    save(folder / "model", *tiny_parts())
    (folder / "config.yaml").write_text(
        f"run: {{output_dir: a}}\ndata: {{train: a}}\nstudent: {{encoder: {whisper}, llm: a}}\n"
        "teacher: {path: a}\noptimizer: {steps: 1}\n"
    )
    return folder / "model"


def test_without_a_name_the_encoders_whisper_transcribes(whisper, tmp_path, clips, capsys):
    folder = run_of(tmp_path / "run", whisper)
    [text] = transcriptions(str(whisper), recordings(clips[0]), torch.device("cpu"))
    assert text
    assert run_command(ask, folder, clips[0], QUESTION, "--transcribe", *SHORT) == 0
    assert f"caad-ds: transcription of {clips[0]}: {text}\n" in capsys.readouterr().err


def test_whisper_takes_audio_beyond_its_window(whisper):
    long = (audio("long", 40), 16_000)
    assert transcriptions(str(whisper), recordings(long), torch.device("cpu")) != [""]


def test_the_whisper_of_an_encoder_is_found_by_what_is_recorded(whisper, tmp_path):
    """By hub id (here a relative folder), or by the config of the model's run."""
    folder = run_of(tmp_path / "run", whisper)
    assert whisper_of(folder) == str(whisper)
    (tmp_path / "run/config.yaml").unlink()
    with pytest.raises(UserError, match=r"^--transcribe: the encoder of .* is kept without Whisper's decoder; name"):
        whisper_of(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder": "../../whisper"}))
    assert (tmp_path / "whisper").samefile(whisper_of(folder))
    (folder / "config.json").write_text(json.dumps({**config, "encoder": "organisation/absent"}))
    with pytest.raises(UserError, match=r"^--transcribe: organisation/absent: no Whisper that loads .*; name an ASR"):
        whisper_of(folder)


def test_families_of_transformers_have_no_whisper_that_transcribes(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_audio"}')
    with pytest.raises(UserError, match=r"a qwen2_audio, has no decoder that transcribes; name an ASR model"):
        whisper_of(tmp_path)
