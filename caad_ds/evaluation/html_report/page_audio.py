"""The audio of a report page: embedded if it is small, else files in a folder beside the page."""

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
# Formats that browsers play, by libsndfile's names: file ending and media type.
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
    """The distinct clips of a page, in the order in which they are added.

    Up to `limit` bytes are embedded; beyond that all clips are files in `folder` (`in_folder`), which is moved into
    place when `replacing` ends. `failed` holds the reason for each clip without a player.
    """

    limit: int
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)
    in_folder: bool = False
    _held: dict[str, bytes] = field(default_factory=dict)  # embedded clips by file name
    _names: dict[Clip, str | None] = field(default_factory=dict)
    _bytes: int = 0

    @property
    def _partial(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}{PARTIAL}")

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Replace the folder by the clips added in the body, or remove it if they are embedded.

        Nothing changes if the body fails. Raises UserError if the folder holds files that no report wrote.
        """
        _check_ours(self.folder)
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            yield
            with disk_errors(self.folder.parent):
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                if self.in_folder:
                    self._partial.rename(self.folder)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, clip: Clip) -> str | None:
        """Add a clip; return its name in `sources`, or None if it cannot be played."""
        if clip not in self._names:
            self._names[clip] = self._added(clip)
        return self._names[clip]

    def sources(self) -> dict[str, str]:
        """Return the source of each clip by name: a data URI, or a URL relative to the page."""
        names = sorted({name for name in self._names.values() if name is not None})
        if self.in_folder:
            return {name: f"{quote(self.folder.name)}/{name}" for name in names}
        types = dict(PLAYED.values())
        return {
            name: f"data:{types[name.rpartition('.')[2]]};base64,{base64.b64encode(self._held[name]).decode()}"
            for name in names
        }

    def _added(self, clip: Clip) -> str | None:
        try:
            data, ending = playable(clip)
        except (AudioError, OSError) as error:
            self.failed[str(clip)] = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            return None
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{ending}"
        if self.in_folder:
            self._write(name, data)
        elif name not in self._held:
            self._held[name] = data
            self._bytes += len(data)
            if self._bytes > self.limit:
                self.in_folder = True
                for held in self._held.items():
                    self._write(*held)
                self._held.clear()
        return name

    def _write(self, name: str, data: bytes) -> None:
        file = self._partial / name
        if not file.is_file():  # the name is a hash of the content
            write_atomic(file, data)


def _check_ours(folder: Path) -> None:
    """Raise UserError unless a page's folder is absent or holds only clips named by `PageAudio`."""
    if not folder.exists() and not folder.is_symlink():
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    others = sorted(file.name for file in folder.iterdir() if not OURS.fullmatch(file.name)) if is_folder else []
    if others or not is_folder:
        problem = f"it holds {others[0]}, which no report wrote" if others else "it is no folder"
        raise UserError(f"{folder}: the page's audio replaces it, but {problem}; move it, or name another page")


def playable(clip: Clip) -> tuple[bytes, str]:
    """Return a clip's bytes and file ending; the decoded samples as FLAC if browsers cannot play the file.

    Raises AudioError or OSError if it cannot be read.
    """
    data = clip.read()
    try:
        known = soundfile.info(io.BytesIO(data))
        if known.format in PLAYED and known.subtype in CODED:
            return data, PLAYED[known.format][0]
    except (soundfile.SoundFileError, TypeError):  # PyAV may read the container
        pass
    return flac.encode(to_pcm16(clip.load())), "flac"
