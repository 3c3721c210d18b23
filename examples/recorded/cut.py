"""A student to start from: `python -m examples.recorded.cut TEACHER OUT LAYERS`, the teacher's first layers."""

import sys
from pathlib import Path

import torch

from caad_ds.models.speech_lm import SpeechLM, SpeechLMConfig, load, save


def cut(teacher: Path, out: Path, layers: int) -> Path:
    """Write the teacher with only its LLM's first `layers` layers to `out`, unless it is there; returns `out`.

    The cut LLM keeps the teacher's embedding space, so the connector keeps its sense: a student that starts here needs
    to learn to speak again, but not to hear.
    """
    if (out / "config.json").exists():
        return out
    model, encoder, tokenizer = load(teacher)
    settings = model.config.to_dict()
    settings["llm_config"] |= {"num_hidden_layers": layers}
    settings["llm_config"].pop("layer_types", None)
    student = SpeechLM(SpeechLMConfig(**settings))
    missing, _ = student.load_state_dict(model.state_dict(), strict=False)
    if missing:
        raise RuntimeError(f"{teacher}: it lacks {missing[0]}")
    partial = out.with_suffix(".partial")
    save(partial, student.to(torch.float32), encoder, tokenizer)
    partial.rename(out)
    return out


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
