"""The longest audio that a model accepts, looked up before Stage 1.

For this project's own family it is read from JSON or YAML, without PyTorch; for transformers' families from the
processor.
"""

from pathlib import Path
from pkgutil import iter_modules

from caad_ds.models import families
from caad_ds.models.architecture import is_architecture
from caad_ds.models.whisper_qformer.rates import POSITIONS_PER_SECOND
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import check_model_folder, is_hub_id, model_folder

TRANSFORMERS = {module.name for module in iter_modules(families.__path__)} - {"caad_speech_lm"}


def window_seconds(path: Path) -> float:
    """Return the longest audio, in seconds, of a config's student (YAML), a model, or the model in a run's folder.

    UserError if `path` is none of these.
    """
    try:
        return _of_folder(model_folder(str(path))) if path.is_dir() else _of_config(path)
    except UserError as error:
        raise UserError(f"--for {error}") from error


def _of_config(path: Path) -> float:
    if not path.is_file():
        raise UserError(f"{path}: there is no such config or folder; check the path")
    from caad_ds.config.reading import load_config  # it takes a moment to import

    student = load_config(path).student
    if student.path is not None:
        return _of_model(path, student.path)
    window = _positions(Path(student.encoder or ""))
    if window is not None and student.window_seconds > window:
        raise UserError(
            f"{path}: student.window_seconds: a window of {student.window_seconds} s exceeds the encoder's "
            f"{window:g} s; lower it"
        )
    return student.window_seconds


def _of_model(config: Path, name: str) -> float:
    """Return the window of the model that a config's student starts from."""
    if is_hub_id(name):
        raise UserError(f"{config}: the window of {name} is known where it is downloaded; give --max-seconds")
    if not is_architecture(name):
        check_model_folder(Path(name))
        return _of_folder(Path(name))
    if (positions := _positions(Path(name))) is not None:
        return positions
    raise UserError(f"{name}: it says no window (max_source_positions); give --max-seconds")


def _of_folder(folder: Path) -> float:
    """Return the window of a folder with a model or a Whisper encoder."""
    config = folder / "config.json"
    fields = read_json(config, "name another model")
    window = fields.get("window_seconds")
    if isinstance(window, int | float) and window > 0:
        return window
    if fields.get("model_type") in TRANSFORMERS:
        from caad_ds.models import auto  # it takes seconds to import

        return auto.load_reader(folder).longest_seconds
    if (positions := _positions(folder)) is not None:
        return positions
    raise UserError(f"{config}: it says no window; name the folder of an audio model, of a Whisper, or a config")


def _positions(encoder: Path) -> float | None:
    """Return the window, in seconds, of an encoder's folder or architecture file; None for a hub id."""
    config = encoder / "config.json" if encoder.is_dir() else encoder
    if config.suffix != ".json" or not config.is_file():
        return None
    fields = read_json(config, "name another encoder")
    positions = (fields.get("audio_config") or fields).get("max_source_positions")
    return positions / POSITIONS_PER_SECOND if isinstance(positions, int) else None
