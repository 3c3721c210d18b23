"""Families whose processor cuts audio into windows, compared with their own class and processor at the boundaries."""

from importlib import import_module

import numpy as np
import pytest
import torch

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.batch import Batch
from caad_ds.generation.clips import Clips
from caad_ds.generation.question import Question, Recording
from caad_ds.models import auto, families, negatives
from caad_ds.models.processor_reader import WINDOWS, load_processor
from caad_ds.utils.errors import UserError
from tests.models.families import tiny
from tests.models.families.conftest import NEAR, audio, loaded, sample
from tests.models.families.every.conftest import FAMILIES, MAIN, own_logits
from tests.models.families.tiny import musicflamingo, text

pytestmark = pytest.mark.numeric

WINDOW = text.SECONDS * SAMPLE_RATE
HOP = 160
# Before, at and behind boundaries; behind one there may be no position, one, or a few.
LENGTHS = [WINDOW - 1, WINDOW, *(WINDOW + n for n in (1, HOP, HOP + 1, 2 * HOP + 1, 6 * HOP, 7 * HOP, 3000)),
           2 * WINDOW, 2 * WINDOW + 1, 3 * WINDOW - 1, 3 * WINDOW]  # fmt: skip


def cuts(name: str) -> bool:
    """Whether its windows are a text's and an audio's in one call; Voxtral's are tested in test_voxtral.py."""
    if name == "text" or hasattr(import_module(f"{tiny.__name__}.{name}"), "processor_inputs"):
        return False
    return import_module(f"{families.__name__}.{name}").FAMILY.windows


CUT = [name for name in FAMILIES if cuts(name)]


@pytest.fixture(
    scope="module", params=[each if each in MAIN else pytest.param(each, marks=pytest.mark.slow) for each in CUT]
)
def made(request):
    return import_module(f"{tiny.__name__}.{request.param}")


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return made.write(tmp_path_factory.mktemp(made.__name__.rpartition(".")[2]))


@pytest.fixture(scope="module")
def lm(folder):
    return loaded(folder)


def of(key: str, samples: int, **more):
    return sample(key, samples / SAMPLE_RATE, **more)


def states(lm, batch: Batch) -> torch.Tensor:
    return lm.hidden(lm.prepare(batch))


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= NEAR * expected.abs().max()


@pytest.mark.parametrize("length", LENGTHS)
def test_an_audio_near_a_boundary_is_read_as_by_its_processor(lm, length):
    """Placeholders and windows of an audio; windows without a position are left out."""
    asked = of("a", length)
    expected = text.processor_inputs(lm.reader.processor, "Is the tone high or low?", asked.waveforms)
    batch = lm.reader.collate([asked], pad="left", with_answer=False)
    assert batch.input_ids.tolist() == expected["input_ids"].tolist()
    count = int(batch.audio_mask.sum())
    assert 1 <= count <= lm.reader.positions_of(length / SAMPLE_RATE)
    found = lm.audio_inputs(batch)
    windows = len(found["input_features"])
    assert -(-length // WINDOW) - windows in (0, 1)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name][:windows].to(value.dtype))
    left_out = lm.reader.processor._get_audio_token_length(expected["input_features_mask"][windows:].sum(-1))
    assert not left_out.any()
    answered = lm.reader.collate([asked])
    assert_near(lm.head().logits(states(lm, answered)), own_logits(lm, answered))


def test_a_window_without_a_position_changes_nothing(lm):
    """Independent of its own audios' and other samples' positions in the batch."""
    just_over, short, long = of("a", WINDOW + 1), of("b", 5000), of("c", 3 * WINDOW)
    cut = of("a", WINDOW + 1)
    cut.waveforms[0] = cut.waveforms[0][:WINDOW]
    assert_near(states(lm, lm.reader.collate([just_over])), states(lm, lm.reader.collate([cut])))
    for samples in ([just_over, short, long], [long, just_over, short], [just_over, long], [short, just_over]):
        for pad in ("right", "left"):
            apart = torch.cat([states(lm, lm.reader.collate([each])) for each in samples])
            assert_near(states(lm, lm.reader.collate(samples, pad=pad)), apart)


def test_each_window_reaches_the_states(lm):
    asked = of("a", 3 * WINDOW)
    heard = states(lm, lm.reader.collate([asked]))
    for window in range(3):
        other = of("a", 3 * WINDOW)
        part = other.waveforms[0][window * WINDOW : (window + 1) * WINDOW]
        part[:] = part[::-1].copy()
        assert (states(lm, lm.reader.collate([other])) - heard).abs().max() > 1e-3


def test_shuffled_gives_other_numbers_of_windows(lm):
    lengths = {"a": (5000, 3 * WINDOW), "b": (3 * WINDOW, WINDOW), "c": (WINDOW + 1, 2 * WINDOW + 1)}
    samples = [of(key, own) for key, (own, _) in lengths.items()]

    def partner(whose, number):
        return audio(f"partner of {whose.key}", lengths[whose.key][1] / SAMPLE_RATE)

    batch = lm.reader.collate(samples)
    negative = negatives.find("shuffled")(batch, samples, lm.reader, partner)
    assert negative.audio[WINDOWS].tolist() != batch.audio[WINDOWS].tolist()
    expected = []
    for each in samples:
        given = of(each.key, lengths[each.key][0])
        given.waveforms[0] = partner(each, 0)
        expected.append(states(lm, lm.reader.collate([given])))
    heard, unheard = states(lm, Batch.cat([batch, negative])).chunk(2)
    assert_near(unheard, torch.cat(expected))
    assert_near(heard, states(lm, batch))


def test_clips_of_unequal_windows_are_asked_as_in_training(lm):
    """Also for a clip that was encoded in a batch with longer ones."""
    lengths = [5000, 3 * WINDOW, WINDOW + 1, WINDOW]
    clips = [Recording((audio(f"clip {n}", n / SAMPLE_RATE), SAMPLE_RATE)) for n in lengths]
    asked = [Question((clip,), "Is the tone high or low?") for clip in clips]
    encoded_clips = Clips(lm, torch.device("cpu"), asked)
    for batch in (asked, asked[:1] + asked[2:], [asked[3], asked[1]], asked[::-1]):
        assert encoded_clips.encode(batch) == batch
        for item, row in zip(batch, said(lm, encoded_clips, batch), strict=True):
            alone = Clips(lm, torch.device("cpu"))
            assert alone.encode([item]) == [item]
            assert_near(row, said(lm, alone, [item])[0])
            given = of("a", 1, answer="low")
            given.waveforms[0] = item.clips[0].measured()[0]
            assert_near(row, states(lm, lm.reader.collate([given])))
    for name in ("zero_mel", "silence", "noise", "shuffled", "text_only"):
        prompts = encoded_clips.answered(asked, ["low"] * 4)
        negative = encoded_clips.negative(asked, prompts, name)
        heard, unheard = lm.hidden(Batch.cat([lm.prepare(prompts), negative])).chunk(2)
        assert_near(heard, states(lm, prompts))
        assert (unheard - heard).abs().max() > 1e-2


def said(lm, encoded_clips, items):
    """States of each item's answer."""
    batch = encoded_clips.answered(items, ["low"] * len(items))
    found = states(lm, batch)
    return [found[batch.sample_of_row == n] for n in range(len(items))]


def test_the_shortest_audio_has_a_position(lm):
    least = round(lm.reader.shortest_seconds * SAMPLE_RATE)
    [count] = lm.reader.features([audio("a", least / SAMPLE_RATE)]).positions
    assert count == 1
    lm.reader.collate([of("a", least)])
    with pytest.raises(UserError, match=r"^sample a: an audio of .* is shorter than the"):
        lm.reader.collate([of("a", least - 1)])


def test_the_longest_audio_is_one_of_whole_windows(lm):
    """The processor cuts longer audio, even if its `max_audio_len` would allow it."""
    longest = round(lm.reader.longest_seconds * SAMPLE_RATE)
    assert longest == 3 * WINDOW <= lm.reader.processor.max_audio_len * SAMPLE_RATE
    whole = lm.reader.collate([of("a", longest)])
    cut = text.processor_inputs(lm.reader.processor, "Is it low?", [np.zeros(longest + HOP * 8, np.float32)])
    assert (cut["input_ids"] == lm.reader.prompts.placeholder).sum() == whole.audio_mask.sum()
    for check in (lm.reader.collate, lambda samples: lm.reader.check(samples[0])):
        with pytest.raises(UserError, match=r"^sample a: an audio of .* exceeds the model's window of 6 s"):
            check([of("a", longest + 1)])


def test_models_that_take_unequal_lengths_are_not_read_alike(lm, folder):
    processor = load_processor(folder)
    other = type(lm.reader)(processor, lm.of)
    assert other.identity() == lm.reader.identity()
    processor.max_audio_len = 2 * text.SECONDS
    other = type(lm.reader)(processor, lm.of)
    assert other.longest_seconds == 2 * text.SECONDS and other.identity() != lm.reader.identity()


def test_a_tokenizer_without_the_tokens_around_audio_is_refused(tmp_path):
    """Both it and its processor would write them as plain text."""
    processor = musicflamingo.processor()
    processor.audio_eos_token = "<|end_of_sound|>"
    folder = musicflamingo.write(tmp_path)
    processor.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"^{folder}: its tokenizer has no token '<\|end_of_sound\|>', which stands"):
        auto.load(folder)


def test_text_before_an_audio(lm):
    """Wherever the template puts it."""
    chat = [{"role": "user", "content": [
        {"type": "text", "text": "Listen."}, {"type": "audio", "audio": ""}, {"type": "text", "text": "Is it low?"},
    ]}]  # fmt: skip
    processor, asked = lm.reader.processor, of("a", WINDOW + 3000)
    asked.record["messages"][0]["content"] = "Listen.<start_audio><|AUDIO|><end_audio>\nIs it low?"
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = processor(text=[prompt], audio=asked.waveforms, return_tensors="pt")
    batch = lm.reader.collate([asked], pad="left", with_answer=False)
    assert batch.input_ids.tolist() == expected["input_ids"].tolist()
