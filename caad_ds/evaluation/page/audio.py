"""The audio of a page: in the page itself as long as all of it is small, else files in a folder beside it."""

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import soundfile

from caad_ds.data.audio import flac
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.utils.errors import AudioError, UserError
from caad_ds.utils.files import PARTIAL, disk_errors, write_atomic

EMBEDDED_MB = 32.0
# What browsers play, by libsndfile's names: the ending and the type of a file.
PLAYED = {
    "WAV": ("wav", "audio/wav"), "WAVEX": ("wav", "audio/wav"), "FLAC": ("flac", "audio/flac"),
    "OGG": ("ogg", "audio/ogg"), "MP3": ("mp3", "audio/mpeg"),
}  # fmt: skip
CODED = {
    "PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ALAW", "ULAW", "VORBIS", "OPUS", "MPEG_LAYER_III",
}  # fmt: skip
OURS = re.compile(rf"[0-9a-f]{{16}}\.({'|'.join(sorted({ending for ending, _ in PLAYED.values()}))})")


@dataclass
class PageAudio:
    """The clips of a page, each once, in the order in which they are taken.

    `limit` bytes fit into the page; beyond, all of them are `beside` it, files in `folder`, which has that name once
    `replacing` ends. `failed` says of a clip why there is no player for it.
    """

    limit: int
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)
    beside: bool = False
    _held: dict[str, bytes] = field(default_factory=dict)  # by file name, while all of them fit
    _names: dict[Clip, str | None] = field(default_factory=dict)
    _bytes: int = 0

    @property
    def _partial(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}{PARTIAL}")

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Where clips are taken. When the body ends the folder is this page's alone, or gone where it has none there.

        Nothing changes if the body fails. UserError where the folder holds what no report has written.
        """
        _check_ours(self.folder)
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            yield
            with disk_errors(self.folder.parent):
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                if self.beside:
                    self._partial.rename(self.folder)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

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
        file = self._partial / name
        if not file.is_file():  # its name is its content
            write_atomic(file, data)


def _check_ours(folder: Path) -> None:
    """Raise UserError unless a page's folder is absent or holds clips alone, named as `PageAudio` names them."""
    if not folder.exists() and not folder.is_symlink():
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    others = sorted(file.name for file in folder.iterdir() if not OURS.fullmatch(file.name)) if is_folder else []
    if others or not is_folder:
        what = f"it holds {others[0]}, which no report wrote" if others else "it is no folder"
        raise UserError(f"{folder}: the page's audio replaces it, but {what}; move it, or name another page")


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
