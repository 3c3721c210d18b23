r"""VoxCeleb1 and VoxCeleb2: celebrities in interviews on YouTube, with gender and, in VoxCeleb1, nationality.

Corpus: www.robots.ox.ac.uk/~vgg/data/voxceleb (Nagrani, Chung, Zisserman 2017; Chung, Nagrani, Zisserman 2018): lists
and metadata under CC BY 4.0, the copyright of the videos remains with their owners. Older recipes fetch the audio from
that page; how to get it today could not be verified. About 153,000 and 1,128,000 utterances. `root` is the folder of
one of the two corpora, or of both.

Layout: `ROOT/[dev/|test/]<wav|aac>/<speaker>/<video>/<NNNNN>.<wav|m4a>`, speakers as `id10001`, and the metadata,
which are downloaded apart, in `ROOT`:

    vox1_meta.csv    VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
                     id10001\tA.J._Buckley\tm\tIreland\tdev
    vox2_meta.csv    VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set
                     id00012 ,n000012 ,m ,dev

VoxCeleb2's `.m4a` (AAC) needs the extra `audio`: pip install 'caad-ds[audio]'. A `.wav` of the same name is preferred,
so a converted corpus needs no extra.

There is no transcription, so `text` is empty. The speakers' names are not included. A speaker of the set `test` gets
`split: test`; VoxCeleb1's is the test set of speaker verification. A line of the metadata that does not parse is
rejected, and so is each clip of a speaker without a line. The layout was verified in loaders of the corpora, not on
them.
"""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import GENDERS, files, folders, lines, utterance

TABLES = {
    "vox1_meta.csv": ("\t", ("speaker", "name", "gender", "nationality", "split")),
    "vox2_meta.csv": (",", ("speaker", "name", "gender", "split")),
}
AUDIO = ("wav", "aac", "dev/wav", "dev/aac", "test/wav", "test/aac")


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per clip; UserError if `root` has no metadata or no audio."""
    tables = [root / name for name in TABLES if (root / name).is_file()]
    audio = [root / name for name in AUDIO if (root / name).is_dir()]
    if not tables:
        raise UserError(f"{root}: it has neither {' nor '.join(TABLES)}; --root names the folder that holds them")
    if not audio:
        raise UserError(f"{root}: it has none of the folders {', '.join(AUDIO)}; unpack the audio there")
    speakers: dict[str, dict[str, str]] = {}
    for table in tables:
        yield from _read(table, speakers)
    for folder in audio:
        for speaker in folders(folder):
            for video in folders(speaker):
                yield from _video(video, speakers.get(speaker.name))


def _read(table: Path, speakers: dict[str, dict[str, str]]) -> Iterator[Rejected]:
    """Fill the table of speakers; yield the lines that do not parse."""
    separator, columns = TABLES[table.name]
    for where, line in lines(table):
        fields = [field.strip() for field in line.split(separator)]
        row = dict(zip(columns, fields))
        if fields[0].endswith(" ID"):
            continue
        if len(fields) != len(columns) or row["gender"] not in GENDERS:
            yield Rejected(where, f"it is no line of {len(columns)} columns with gender m or f: {line!r:.60}")
            continue
        speakers[row["speaker"]] = row


def _video(video: Path, known: dict[str, str] | None) -> Iterator[dict | Rejected]:
    clips = {clip.stem: clip for suffix in ("m4a", "wav") for clip in files(video, f"*.{suffix}")}
    for number, clip in sorted(clips.items()):
        name = f"{video.parent.name}-{video.name}-{number}"
        if known is None:
            yield Rejected(name, f"{clip}: the metadata have no line for speaker {video.parent.name}")
        else:
            attributes = {key: value for key, value in known.items() if key != "name"}
            yield utterance("voxceleb", name, clip, "", **attributes | {"gender": GENDERS[known["gender"]]})
