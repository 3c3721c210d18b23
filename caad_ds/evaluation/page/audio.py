"""The audio of a page: in the page itself as long as all of it is small, else files in a folder beside it."""

import base64
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import soundfile

from caad_ds.data.audio import flac
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.utils.errors import AudioError
from caad_ds.utils.files import write_atomic

EMBEDDED_MB = 32.0
# What browsers play, by libsndfile's names: the ending and the type of a file.
PLAYED = {
    "WAV": ("wav", "audio/wav"), "WAVEX": ("wav", "audio/wav"), "FLAC": ("flac", "audio/flac"),
    "OGG": ("ogg", "audio/ogg"), "MP3": ("mp3", "audio/mpeg"),
}  # fmt: skip
CODED = {
    "PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ALAW", "ULAW", "VORBIS", "OPUS", "MPEG_LAYER_III",
}  # fmt: skip


@dataclass
class PageAudio:
    """The clips of a page, each once, in the order in which they are taken.

    `limit` bytes fit into the page; beyond, all of them are `beside` it, files in `folder`. `failed` says of a clip
    why there is no player for it.
    """

    limit: int
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)
    beside: bool = False
    _held: dict[str, bytes] = field(default_factory=dict)  # by file name, while all of them fit
    _names: dict[Clip, str | None] = field(default_factory=dict)
    _bytes: int = 0

    def take(self, clip: Clip) -> str | None:
        """Keep a clip; returns the name by which `sources` has it, or None where it cannot be played."""
        if clip not in self._names:
            self._names[clip] = self._kept(clip)
        return self._names[clip]

    def sources(self) -> dict[str, str]:
        """What a player loads, by name: a data URI, or the address of a file relative to the page."""
        names = sorted({name for name in self._names.values() if name is not None})
        if self.beside:
            return {name: f"{quote(self.folder.name)}/{name}" for name in names}
        types = dict(PLAYED.values())
        return {
            name: f"data:{types[name.rpartition('.')[2]]};base64,{base64.b64encode(self._held[name]).decode()}"
            for name in names
        }

    def _kept(self, clip: Clip) -> str | None:
        try:
            data, ending = playable(clip)
        except (AudioError, OSError) as error:
            self.failed[str(clip)] = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            return None
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{ending}"
        if self.beside:
            self._write(name, data)
        elif name not in self._held:
            self._held[name] = data
            self._bytes += len(data)
            if self._bytes > self.limit:
                self.beside = True
                for held in self._held.items():
                    self._write(*held)
                self._held.clear()
        return name

    def _write(self, name: str, data: bytes) -> None:
        file = self.folder / name
        if not file.is_file():  # its name is its content
            write_atomic(file, data)


def playable(clip: Clip) -> tuple[bytes, str]:
    """A clip's bytes and the ending that they have as a file; FLAC of what models hear where browsers would not play
    the file. Raises AudioError or OSError where it cannot be read."""
    data = clip.read()
    try:
        known = soundfile.info(io.BytesIO(data))
        if known.format in PLAYED and known.subtype in CODED:
            return data, PLAYED[known.format][0]
    except (soundfile.SoundFileError, TypeError):  # another container, which PyAV may know
        pass
    return flac.encode(to_pcm16(clip.load())), "flac"
