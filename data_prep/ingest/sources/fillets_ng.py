"""Fish Fillets NG: acted dialogue of a puzzle game, spoken in Czech and in Dutch, with the speaker known.

Corpus: Debian's packages fillets-ng-data, fillets-ng-data-cs and fillets-ng-data-nl, licence GPL-2; fetch them, do
not redistribute the clips. 2,949 clips of up to 19 s, two of them empty (Dutch; `prep ingest` rejects them), one
female and one male speaker per language. All Dutch clips are stereo and most Czech ones mono: the two languages were
recorded differently, so a model can distinguish them without recognising the language. `root` is the folder into which
the packages were unpacked:

    apt-get download fillets-ng-data fillets-ng-data-cs fillets-ng-data-nl
    for package in fillets-ng-data*.deb; do dpkg-deb -x $package ROOT; done

Layout: `ROOT/usr/share/games/fillets-ng/sound/<level>/<cs|nl>/<dialogue>.ogg`, and
`.../script/<level>/dialogs_en.lua` with the English subtitle and the font of each dialogue. The font names the fish:
the small one is acted by a woman and the big one by a man. The English text says neither gender nor language.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import read_text
from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import utterance

GAME = Path("usr/share/games/fillets-ng")
LANGUAGES = {"cs": "Czech", "nl": "Dutch"}
SPEAKERS = {"font_small": ("small", "female"), "font_big": ("big", "male")}
DIALOGUE = re.compile(r'dialogId\(\s*"([^"]+)"\s*,\s*"(font_small|font_big)"\s*,\s*"((?:[^"\\]|\\.)+)"')


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per clip of a fish with an English subtitle; UserError if the packages are not below `root`."""
    game = root / GAME
    for part in ("sound", "script"):
        if not (game / part).is_dir():
            raise UserError(
                f"{game / part} does not exist: --root names the folder into which the packages were unpacked"
            )
    for level in sorted(path for path in (game / "sound").iterdir() if path.is_dir()):
        subtitles = _subtitles(game / "script" / level.name / "dialogs_en.lua")
        for code in LANGUAGES:
            for clip in sorted((level / code).glob("*.ogg")):
                if clip.stem in subtitles:
                    yield _record(level.name, code, clip, *subtitles[clip.stem])


def _subtitles(script: Path) -> dict[str, tuple[str, str]]:
    """Return font and English text by dialogue id."""
    if not script.is_file():
        return {}
    found = DIALOGUE.findall(read_text(script, "replace"))
    return {name: (font, text.replace('\\"', '"').strip()) for name, font, text in found}


def _record(level: str, code: str, clip: Path, font: str, text: str) -> dict | Rejected:
    fish, gender = SPEAKERS[font]
    attributes = {"gender": gender, "language": LANGUAGES[code], "speaker": f"{code}-{fish}", "level": level}
    return utterance("fillets_ng", f"{code}-{level}-{clip.stem}", clip, text, **attributes)
