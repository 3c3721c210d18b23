"""Write a run's checkpoint as a model folder, as the run itself would write it if it ended there."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.training.export import ORIGIN, README
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import file_hash, read_json, write_json
from caad_ds.utils.progress import Heartbeat

if TYPE_CHECKING:
    from caad_ds.training.export.model_card import Scores

CARD = "card"  # key in it: sha256 of the exported card


def export(
    run_or_checkpoint: Path,
    out: Path,
    merge: bool = True,
    scores: "Callable[[Path], Sequence[Scores]] | None" = None,
) -> None:
    """Verify a checkpoint (for a run, the newest), load its weights into the student, and write the folder `out`.

    `merge` merges LoRA adapters into the weights. `scores` computes the scores for the model card from the folder,
    before that is renamed to `out`. UserError if the source is not a run or checkpoint or is damaged, and if `out` is
    not an export, or one whose card was edited.
    """
    with Heartbeat() as heartbeat:
        heartbeat.begin(f"reading {run_or_checkpoint}")
        check_ours(out)
        source = padded(run_or_checkpoint)
        cfg, output_dir = resolved_config(source)
        check_there(source, output_dir)
        # DeepSpeed takes seconds to import; a wrong path is reported before.
        from safetensors.torch import load_file

        from caad_ds.training import engines
        from caad_ds.training.checkpoints.checkpoint import WEIGHTS, Checkpoints, verify
        from caad_ds.training.export.model_card import write_card
        from caad_ds.training.export.model_folder import all_weights, write_model
        from caad_ds.training.metrics.mlflow_run import note_export
        from caad_ds.training.run_identity import part_hash, prompts_identity
        from caad_ds.utils.device import DTYPES

        if source == output_dir:
            newest = Checkpoints(output_dir, cfg.checkpoint, heartbeat).find()
            if newest is None:
                raise UserError(f"{output_dir}: no checkpoint there yet; train it first")
            folder, state = newest
        else:
            folder, state = source, verify(source)
        heartbeat.begin(f"loading the student of {output_dir / 'config.yaml'}")
        student = engines.load_student(cfg)
        if "prompts" not in state.identity:
            raise UserError(
                f"{folder}: it does not record the tokenizer and chat template that it was trained with; export it "
                "with the version of caad-ds that wrote it"
            )
        if state.identity["prompts"] != part_hash(prompts_identity(student.reader)):
            raise UserError(
                f"{output_dir / 'config.yaml'}: its student's tokenizer or chat template is not the one that the run "
                "was trained with; restore what student.tokenizer, or else the teacher or student.llm, names"
            )
        weights = all_weights(student, load_file(folder / WEIGHTS), state.frozen, output_dir / "config.yaml")
        heartbeat.begin(f"writing {out}")
        origin = {"run": cfg.run.name, "step": state.step, "identity": state.identity}

        def describe(model: Path) -> None:
            evaluations = scores(model) if scores is not None else ()
            write_card(model, cfg=cfg, run=output_dir, step=state.step, reader=student.reader, scores=evaluations)
            write_json(model / ORIGIN, origin | {CARD: file_hash(model / README)})

        write_model(out, student, weights, DTYPES[cfg.run.precision], merge=merge, describe=describe)
        if (out / "config.json").is_file():  # a folder of adapters alone cannot be evaluated
            note_export(cfg, state.tracking_id, out, folder.name)
        heartbeat.say(f"exported {folder} to {out}")


def padded(source: Path) -> Path:
    """Return the checkpoint `step-00000400` for `step-400`."""
    step = re.fullmatch(r"step-(\d+)", source.name)
    return source.with_name(f"step-{int(step[1]):08d}") if step and not source.exists() else source


def check_ours(out: Path) -> None:
    """Refuse to replace a folder that is not an export."""
    if out.exists() and not (out / ORIGIN).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: exists, and is not an export of caad-ds; name another folder, or remove it")
    if out.is_symlink():
        raise UserError(f"--out {out}: a link; name the folder itself")
    if (out / README).is_file() and read_json(out / ORIGIN, "name another folder").get(CARD) != file_hash(out / README):
        raise UserError(
            f"--out {out}: its {README} was edited since it was exported, and an export replaces the whole folder; "
            "move that file away, or name another folder"
        )


def check_there(source: Path, output_dir: Path) -> None:
    """Refuse a checkpoint that the run does not have, and list those that it has."""
    if not source.is_dir():
        there = sorted(path.name for path in (output_dir / "checkpoints").glob("step-*") if path.suffix != ".partial")
        have = f"there are {', '.join(there)}" if there else "the run has none yet, train it first"
        raise UserError(f"{source}: no such checkpoint; {have}")


def resolved_config(source: Path) -> tuple[Config, Path]:
    """Return the config that the source's run started with, and the run's folder."""
    for output_dir in (source, source.resolve().parent.parent):
        if (output_dir / "config.yaml").is_file() and (output_dir / "checkpoints").is_dir():
            return load_config(output_dir / "config.yaml"), output_dir
    if not source.exists():
        raise UserError(
            f"{source}: no such folder; give a run's, or one of its checkpoints, such as checkpoints/step-00000400"
        )
    raise UserError(
        f"{source}: neither a run's folder (config.yaml, checkpoints/) nor one of its checkpoints (step-00000400)"
    )
