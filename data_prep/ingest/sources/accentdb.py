"""AccentDB: English in nine accents, five of them Indian, each clip a read sentence.

Corpus: accentdb.github.io, release 1.0, licence CC BY-NC 4.0 (Ahamad, Anand, Bhargava; LREC 2020). `accentdb_extended`
has 19,111 clips; `accentdb_core` has the four Indian accents that its authors recorded (bangla, malayalam, odiya,
telugu; 6,587 clips). The five accents of the extended release that are not in the core were made by speech synthesis.
`root` is the folder into which an archive was unpacked.

Layout: `ROOT/data/<accent>/speaker_<NN>/<accent>_s<NN>_<NNN>.wav`. There are no label files: accent and speaker are
the folders' names. A clip outside a speaker's folder is rejected.

`text` is empty: the release has no transcriptions. The sentences are the Harvard sentences, but it could not be
verified that clips are numbered like them. The layout was verified in loaders of the corpus, not on it.
"""

from collections.abc import Iterator
from pathlib import Path

from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import files, folders, part, utterance


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per clip; UserError if `root` has no folder `data`."""
    for accent in folders(part(root, "data", "the folder into which accentDB_extended.tar.gz was unpacked")):
        for clip in files(accent, "*.wav"):
            yield Rejected(clip.stem, f"{clip} lies in no speaker's folder")
        for speaker in folders(accent):
            for clip in files(speaker, "*.wav"):
                who = f"{accent.name}_{speaker.name}"
                yield utterance("accentdb", clip.stem, clip, "", accent=accent.name, speaker=who)
