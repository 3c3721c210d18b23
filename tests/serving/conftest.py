"""A random model of our own family, and recordings."""

import pytest
import soundfile

from caad_ds.models.speech_lm.folder import save
from tests.evaluation.conftest import tiny_parts
from tests.models.families.conftest import audio


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model folder; not to be changed."""
    folder = tmp_path_factory.mktemp("model")
    save(folder, *tiny_parts())
    return folder


@pytest.fixture
def clips(tmp_path):
    """Recordings of half a second as `one.wav`, `two.flac` and `three.mp3`."""
    paths = [tmp_path / name for name in ("one.wav", "two.flac", "three.mp3")]
    for path in paths:
        soundfile.write(path, audio(path.stem, 0.5) / 4, 16_000)
    return paths
