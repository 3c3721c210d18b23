"""Import a published DeSTA connector as a model folder for `teacher.path` and `student.path`."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caad_ds.config.template_arguments import SWITCH, add_template_arguments
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors
from caad_ds.utils.model_names import check_hub_or_folder
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import Heartbeat


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `import-desta`."""
    parser.add_argument("checkpoint", type=existing, help="qformer_connector.pth or model.safetensors, or its folder")
    parser.add_argument("--llm", required=True, metavar="ID", help="hub id or folder of the LLM that it was trained on")
    parser.add_argument("--encoder", required=True, metavar="ID", help="hub id or folder of its Whisper")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    add_template_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the model folder; returns the exit status."""
    switches = dict(args.template_switch)
    import_desta(args.checkpoint, args.llm, args.encoder, args.out, merge_system=args.merge_system, switches=switches)
    return 0


def import_desta(
    checkpoint: Path,
    llm: str,
    encoder_id: str,
    out: Path,
    *,
    merge_system: bool = False,
    switches: Mapping[str, Any] | None = None,
) -> None:
    """Write the model folder `out`: a checkpoint's connector with the LLM and the Whisper that it was trained with.

    `llm` and `encoder_id` are hub ids or folders; `merge_system` and `switches` freeze the chat template (see
    `TemplateSettings`). UserError if `out` exists, or if the inputs do not fit together.
    """
    if out.exists():
        raise UserError(f"{out}: it is there already; remove it, or give another --out")
    check_hub_or_folder(llm, "causal LM")
    check_hub_or_folder(encoder_id, "Whisper encoder")
    with Heartbeat() as heartbeat:
        heartbeat.begin(f"import-desta: {checkpoint}")
        # torch and transformers take seconds to import; a wrong path is reported before.
        from caad_ds.models.language_model.tokenizer import load_tokenizer
        from caad_ds.models.prompts.chat_template import TemplateSettings
        from caad_ds.models.speech_lm import desta
        from caad_ds.models.speech_lm.folder import save

        settings = TemplateSettings(merge_system=merge_system, switches=switches or {}, key=SWITCH)
        connector = desta.read_connector(checkpoint)
        encoder = desta.load_tapped_encoder(encoder_id, connector)
        tokenizer = load_tokenizer(llm, settings)
        # A local encoder is copied into the model's folder; a hub id is recorded.
        recorded = None if Path(encoder_id).exists() else encoder_id
        model = desta.assemble(connector, llm, encoder, recorded)
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with disk_errors(partial):
            save(partial, model, encoder, tokenizer)
            partial.rename(out)
        heartbeat.say(
            f"{out}: taps on layers {', '.join(map(str, encoder.taps))} of {encoder_id} (the first is 0), "
            f"{connector.num_queries} queries, {connector.layers} Q-Former layers"
        )
