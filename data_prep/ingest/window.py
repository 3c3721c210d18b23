"""The longest audio that a model takes, known before Stage 1 is paid for; read from JSON and YAML, without PyTorch."""

from pathlib import Path

from caad_ds.models.whisper_qformer.rates import POSITIONS_PER_SECOND
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.paths import check_model_folder, model_folder


def window_seconds(path: Path) -> float:
    """The encoder's window of a training config (YAML), of a model folder, or of the model in a run's folder.

    UserError where it is none of them.
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
        check_model_folder(Path(student.path))
        return _of_folder(Path(student.path))
    have = _positions(Path(student.encoder or ""))
    if have is not None and student.window_seconds > have:
        raise UserError(
            f"{path}: student.window_seconds: a window of {student.window_seconds} s exceeds the encoder's "
            f"{have:g} s; lower it"
        )
    return student.window_seconds


def _of_folder(folder: Path) -> float:
    """The window of a SpeechLM's folder, or of a Whisper encoder's."""
    config = folder / "config.json"
    window = read_json(config, "name another model").get("window_seconds")
    if isinstance(window, int | float) and window > 0:
        return window
    if (positions := _positions(folder)) is not None:
        return positions
    raise UserError(f"{config}: it says no window; name the folder of a SpeechLM, of a Whisper, or a config")


def _positions(encoder: Path) -> float | None:
    """The window in seconds of an encoder's folder or architecture file; None of one that is on the hub."""
    config = encoder / "config.json" if encoder.is_dir() else encoder
    if config.suffix != ".json" or not config.is_file():
        return None
    positions = read_json(config, "name another encoder").get("max_source_positions")
    return positions / POSITIONS_PER_SECOND if isinstance(positions, int) else None
