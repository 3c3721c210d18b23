"""Synthetic clips of the demo: draws attributes, speaks a sentence, adds noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from caad_ds.data.audio.decode import SAMPLE_RATE
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.utils.errors import UserError
from data_prep.synthetic.background_noise import background, scaled_to
from data_prep.synthetic.espeak import speak
from data_prep.synthetic.sentences import sentence


@dataclass(frozen=True)
class Difficulty:
    """Ranges that the values of an attribute are drawn from uniformly; overlap makes it harder.

    Speaking rate is in words per minute, signal-to-noise ratio in dB, pitch on eSpeak's scale of 0 to 99 where 50 is
    the voice's own. Pitch is the only cue to an unseen voice's gender, so its ranges overlap only in part.
    """

    slow: tuple[float, float] = (115, 155)
    fast: tuple[float, float] = (165, 210)
    clean: tuple[float, float] = (15, 35)
    noisy: tuple[float, float] = (2, 18)
    female: tuple[float, float] = (45, 80)
    male: tuple[float, float] = (25, 60)


DEFAULT = Difficulty()


@dataclass(frozen=True)
class Split:
    """`size` clips, sentences from the buckets `share`, and the voice variants that only this split uses."""

    size: int
    share: range
    female: tuple[str, ...]
    male: tuple[str, ...]


# Left out are variants that change the speaking rate, and those of the Klatt synthesiser, which are not reproducible
# (Reed, klatt, edward, ...). Variants that sound nearly alike (mean distance of their log spectra) are in one split.
SPLITS = {
    "teacher": Split(4800, range(40), ("f2", "f3", "f4", "linda", "steph"), ("m1", "m3", "m4", "m7", "Gene", "Hugo")),
    "distill": Split(2400, range(40, 80), ("f5", "belinda", "Annie"), ("m8", "Denis", "ed", "travis")),
    "validation": Split(200, range(80, 88), ("grandma",), ("boris",)),
    "test": Split(300, range(88, 100), ("f1", "shelby"), ("Andy", "pablo")),
}
ACCENTS = {"american": "en-us", "british": "en-gb-x-rp", "scottish": "en-gb-scotland"}

MAX_SECONDS = 2.5
PADDING_SECONDS = (0.02, 0.08)
LEVEL_DB = (-30.0, -22.0)
DRAWS_PER_LENGTH = 8


def render(folder: Path, split: str, seed: int, difficulty: Difficulty, index: int) -> dict[str, Any]:
    """Write one clip and return its row of `metadata.jsonl`; a pure function of split, seed, difficulty and index."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    row = {"id": f"{split}-{index:05d}", "audio": f"{split}-{index:05d}.wav", **_draw(rng, split, difficulty)}
    text, speech = _speak_within_limit(rng, split, row)
    waveform = _record(rng, speech, row["snr_db"])
    soundfile.write(folder / row["audio"], to_pcm16(waveform), SAMPLE_RATE, subtype="PCM_16")
    return {**row, "text": text, "duration": round(len(waveform) / SAMPLE_RATE, 4)}


def _draw(rng: np.random.Generator, split: str, difficulty: Difficulty) -> dict[str, Any]:
    gender = ("female", "male")[rng.integers(2)]
    rate = ("slow", "fast")[rng.integers(2)]
    noise = ("clean", "noisy")[rng.integers(2)]
    accent = list(ACCENTS)[rng.integers(len(ACCENTS))]
    variants = getattr(SPLITS[split], gender)
    return {
        "gender": gender,
        "speaking_rate": rate,
        "noise": noise,
        "accent": accent,
        "voice": variants[rng.integers(len(variants))],
        "pitch": round(rng.uniform(*getattr(difficulty, gender))),
        "words_per_minute": round(rng.uniform(*getattr(difficulty, rate))),
        "snr_db": round(rng.uniform(*getattr(difficulty, noise)), 2),
    }


def _speak_within_limit(rng: np.random.Generator, split: str, row: dict[str, Any]) -> tuple[str, np.ndarray]:
    """Draw a sentence that this speaker says within the limit.

    Several of the drawn length are tried before a shorter one, to make the text's length independent of the speaking
    rate as far as possible.
    """
    limit = (MAX_SECONDS - 2 * PADDING_SECONDS[1]) * SAMPLE_RATE
    voice = f"{ACCENTS[row['accent']]}+{row['voice']}"
    for words in range(rng.integers(4, 7), 3, -1):
        for _ in range(DRAWS_PER_LENGTH):
            text = sentence(rng, words, SPLITS[split].share)
            speech = speak(text, voice, row["words_per_minute"], row["pitch"])
            if len(speech) <= limit:
                return text, speech
    raise UserError(
        f"clip {row['id']}: no sentence takes less than {MAX_SECONDS} s at {row['words_per_minute']} words per minute; "
        "raise Difficulty.slow"
    )


def _record(rng: np.random.Generator, speech: np.ndarray, snr_db: float) -> np.ndarray:
    """Return the speech at a random level between two short pauses, with noise over all of it; never clipped."""
    level = 10 ** (rng.uniform(*LEVEL_DB) / 20)
    speech = speech * (level / np.sqrt(np.mean(speech**2)))
    before, after = (int(seconds * SAMPLE_RATE) for seconds in rng.uniform(*PADDING_SECONDS, 2))
    waveform = np.pad(speech, (before, after))
    waveform = waveform + scaled_to(background(rng, len(waveform)), speech, snr_db)
    return waveform * min(1.0, 0.99 / np.abs(waveform).max())
