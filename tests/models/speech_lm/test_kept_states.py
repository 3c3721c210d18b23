"""States of a frozen encoder that are kept: those of each clip alone, computed once, up to a limit."""

import pytest
import torch

from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.speech_lm import adapters
from caad_ds.utils.errors import UserError
from tests.models.small import make_model, sample

CLIP_BYTES = 2 * 50 * 32 * 4  # taps, frames of a second, width, float32


@pytest.fixture
def encoded(speech_encoder, monkeypatch) -> list[int]:
    """Record the number of clips in each call of the encoder."""
    sizes: list[int] = []
    encode = speech_encoder.encode
    monkeypatch.setattr(speech_encoder, "encode", lambda features: sizes.append(len(features)) or encode(features))
    return sizes


@pytest.fixture
def clips(parts) -> dict[str, torch.Tensor]:
    """The features of three clips."""
    return dict(parts.batch([sample(key) for key in "abc"]).audio)


def states(lm, features):
    return lm.encode({"features": features})["states"]


def test_states_are_those_of_each_clip_alone_in_any_batch(parts, clips, encoded):
    alone = torch.stack([states(parts.lm, row[None])[0] for row in clips["features"]])
    parts.lm.keep_encoded(1e9)
    encoded.clear()
    assert torch.equal(states(parts.lm, clips["features"]), alone)
    assert encoded == [1, 1, 1]
    backwards = states(parts.lm, clips["features"].flip(0))
    assert torch.equal(backwards, alone.flip(0)) and encoded == [1, 1, 1]


def test_clips_are_known_by_their_features(parts, clips, encoded):
    parts.lm.keep_encoded(1e9)
    first = clips["features"][:1]
    louder = first + 1e-3
    two = states(parts.lm, torch.cat([first, louder, first.clone()]))
    assert encoded == [1, 1] and torch.equal(two[0], two[2]) and not torch.equal(two[0], two[1])


def test_what_exceeds_the_limit_is_encoded_alone_again(parts, clips, encoded):
    parts.lm.keep_encoded(2.5 * CLIP_BYTES)
    first = states(parts.lm, clips["features"])
    assert len(parts.lm.kept) == 2
    assert torch.equal(states(parts.lm, clips["features"]), first)
    assert encoded == [1] * 4  # the third clip twice


def test_kept_states_are_no_view_of_what_a_batch_got(parts, clips):
    parts.lm.keep_encoded(1e9)
    before = states(parts.lm, clips["features"])
    expected = before.clone()
    before.zero_()
    assert torch.equal(states(parts.lm, clips["features"]), expected)


def test_a_teacher_with_the_same_encoder_shares_them(parts, clips, tokenizer, speech_encoder, encoded):
    teacher = SpeechAudioLM(make_model(tokenizer, speech_encoder), speech_encoder, tokenizer)
    parts.lm.keep_encoded(1e9)
    assert parts.lm.shares_encoding(teacher)
    teacher.adopt_encoding(parts.lm)
    ours = states(parts.lm, clips["features"])
    assert torch.equal(states(teacher, clips["features"]), ours) and encoded == [1, 1, 1]


def test_a_batch_without_audio_has_no_states(parts, samples):
    parts.lm.keep_encoded(1e9)
    removed = parts.batch(samples).without_audio()
    assert parts.lm.prepare(removed).audio == {} and not len(parts.lm.kept)


def test_an_encoder_that_trains_is_refused(parts, speech_encoder):
    adapters.add_to_encoder(
        speech_encoder, {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True}
    )
    with pytest.raises(UserError, match=r"^student.keep_encoded_gb: the encoder trains, .*; set it to 0$"):
        parts.lm.keep_encoded(1e9)
