r"""IEMOCAP: ten actors in five sessions of acted and improvised dialogue, each utterance labelled with its emotion.

Corpus: sail.usc.edu/iemocap, on request, for academic research (licence of the University of Southern California;
Busso et al. 2008). 10,039 utterances. `root` is the folder `IEMOCAP_full_release` of the archive.

Layout, per `ROOT/Session<1-5>` and dialogue, such as `Ses01F_impro01`:
    sentences/wav/<dialogue>/<dialogue>_<F|M><NNN>.wav    the utterances, cut out, 16 kHz; F or M is the speaker
    dialog/EmoEvaluation/<dialogue>.txt                   labels; each is followed by single annotators' lines, skipped
    dialog/transcriptions/<dialogue>.txt                  transcription and segment in the dialogue's recording

    [6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
    Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.

The three numbers are valence, activation and dominance, means over the annotators, from 1 to 5. `xxx` means that the
annotators did not agree, `oth` any other emotion: these utterances get no `emotion`, but all other metadata. `exc`
(excited) and `fru` (frustrated) are not merged with happy and angry. An utterance without a label line, transcription
or wav file is rejected, and so is a line that does not parse; lines of the transcription that name no utterance
(`M: ...`) are skipped. The layout was verified in loaders of the corpus, not on it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import GENDERS, files, folders, lines, part, utterance

CORPUS = "the folder IEMOCAP_full_release, with Session1 to Session5"
EMOTIONS = {
    "ang": "angry",
    "dis": "disgusted",
    "exc": "excited",
    "fea": "fearful",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": None,
    "sad": "sad",
    "sur": "surprised",
    "xxx": None,
}
SCORE = r"(\d(?:\.\d+)?)"
LABEL = re.compile(rf"\[[\d.]+ - [\d.]+\]\s+(\S+)\s+({'|'.join(EMOTIONS)})\s+\[{SCORE}, {SCORE}, {SCORE}\]")
TEXT = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]:\s*(.*)")
NAME = re.compile(r"(Ses\d\d)[FM]_(impro|script)\w*_([FM])\w+")


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per utterance; UserError if `root` holds no sessions."""
    part(root, "Session1", CORPUS)
    for session in (folder for folder in folders(root) if re.fullmatch(r"Session\d", folder.name)):
        labelled = {file.stem for file in files(session / "dialog" / "EmoEvaluation", "Ses*.txt")}
        spoken = {folder.name for folder in folders(part(session, "sentences/wav", CORPUS))}
        for dialogue in sorted(labelled | spoken):
            yield from _dialogue(session, dialogue)


def _dialogue(session: Path, dialogue: str) -> Iterator[dict | Rejected]:
    label_file = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
    text_file = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
    labels: dict[str, re.Match[str]] = {}
    texts: dict[str, re.Match[str]] = {}
    yield from _read(label_file, "[", LABEL, labels)
    yield from _read(text_file, "Ses", TEXT, texts)
    wavs = {wav.stem: wav for wav in files(session / "sentences" / "wav" / dialogue, "*.wav")}
    for name in sorted(labels.keys() | wavs.keys()):
        if name not in wavs:
            yield Rejected(name, f"{session / 'sentences' / 'wav' / dialogue} has no {name}.wav")
        elif name not in labels:
            yield Rejected(name, f"{label_file} has no label of it")
        elif name not in texts or not texts[name][2]:
            yield Rejected(name, f"{text_file} has no transcription of it")
        elif not (parts := NAME.fullmatch(name)):
            yield Rejected(name, f"{wavs[name]}: the name does not tell who speaks")
        else:
            yield _record(wavs[name], dialogue, parts, labels[name], texts[name][2])


def _read(path: Path, start: str, pattern: re.Pattern[str], table: dict[str, re.Match[str]]) -> Iterator[Rejected]:
    """Fill `table` with the lines that begin with `start`, by utterance; yield those that do not parse."""
    if not path.is_file():
        return
    for where, line in lines(path):
        if found := pattern.fullmatch(line):
            table[found[1]] = found
        elif line.startswith(start):
            yield Rejected(where, f"it does not parse: {line!r:.80}")


def _record(wav: Path, dialogue: str, parts: re.Match[str], label: re.Match[str], text: str) -> dict | Rejected:
    valence, activation, dominance = (f"{float(score):g}/5" for score in label.groups()[2:])
    return utterance(
        "iemocap",
        wav.stem,
        wav,
        text,
        speaker=parts[1] + parts[3],
        gender=GENDERS[parts[3].lower()],
        emotion=EMOTIONS[label[2]],
        valence=valence,
        activation=activation,
        dominance=dominance,
        style={"impro": "improvised", "script": "scripted"}[parts[2]],
        dialogue=dialogue,
    )
