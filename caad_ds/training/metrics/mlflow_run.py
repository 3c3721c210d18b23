"""Log a training run to MLflow: its settings, origin, data and model."""

import logging
from pathlib import Path

import torch

from caad_ds.config.schema import Config
from caad_ds.data.shard_index import FILE_NAME
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.models.model_hashes import model_hash
from caad_ds.tracking import Target, Tracker
from caad_ds.tracking.mlflow_store import connect, log_tags
from caad_ds.tracking.origin import EXPORTED, MODEL, Data, origin_tags
from caad_ds.tracking.secrets import reason
from caad_ds.tracking.target import sqlite_path
from caad_ds.training.run_identity import flatten
from caad_ds.utils.device import device_name
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import file_hash
from caad_ds.utils.launch import is_main
from caad_ds.utils.ranks import world

logger = logging.getLogger(__name__)


def start_tracker(
    cfg: Config, reader: IndexedReader | StreamReader, device: torch.device, run_id: str | None
) -> Tracker:
    """Start the run in MLflow, or resume it; the tracker does nothing on ranks other than the main one."""
    target = Target.of(cfg.tracking.uri, cfg.tracking.experiment)
    if not (cfg.tracking.enabled and is_main()):
        return Tracker(target, cfg.run.name, {}, enabled=False, run_id=run_id)
    taken = {"tracking.uri": target.uri, "tracking.experiment": target.experiment}
    return Tracker(
        target,
        cfg.run.name,
        flatten(cfg.read_keys()) | taken,
        enabled=True,
        run_id=run_id,
        tags=origin_tags(world()[1]) | {"kind": "training", "device": device_name(device)},
        data=list(data_sets(cfg, reader)),
    )


def note_model(tracker: Tracker, cfg: Config, folder: Path) -> None:
    """Tag the run with the hash of its model, by which evaluations find it; upload the folder if configured."""
    if not cfg.tracking.enabled:
        return
    try:
        tracker.tag(MODEL, model_hash(folder))
    except (OSError, UserError) as error:  # the model is written; the run must not fail after that
        logger.warning("MLflow did not get the model's hash: %s", error)
    if cfg.tracking.log_model:
        tracker.artifact(folder)


def note_export(cfg: Config, run_id: str | None, folder: Path, checkpoint: str) -> None:
    """Tag the run of an exported checkpoint with the hash of that model; a failure is only a warning."""
    if not cfg.tracking.enabled or run_id is None:
        return
    try:
        uri = Target.of(cfg.tracking.uri, cfg.tracking.experiment).uri
        if (file := sqlite_path(uri)) and not file.exists():
            raise UserError(f"{file} is not there")
        log_tags(connect(uri), run_id, {f"{EXPORTED}{model_hash(folder)}": checkpoint})
    except Exception as error:  # the model is on disk, whatever fails in a store
        logger.warning("MLflow did not get the export, evaluations of it will be no children: %s", reason(error))


def data_sets(cfg: Config, reader: IndexedReader | StreamReader) -> list[Data]:
    """Return the run's training and validation data, by the hash of the index; a stream by that of its addresses."""
    if isinstance(reader, StreamReader):
        train = cfg.data.train if isinstance(cfg.data.train, str) else " ".join(cfg.data.train)
        data = [Data("stream", train, reader.identity, "training")]
    else:
        data = [_indexed(Path(str(cfg.data.train)), "training")]
    return data + ([_indexed(cfg.data.validation, "validation")] if cfg.data.validation else [])


def _indexed(folder: Path, context: str) -> Data:
    return Data(folder.name, str(folder.resolve()), file_hash(folder / FILE_NAME), context)
