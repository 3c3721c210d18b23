"""Train from a YAML with changed keys: python -m examples.api.train CONFIG OUTPUT_DIR."""

from pathlib import Path

import caad_ds


def main(config_file: str, output_dir: str) -> Path | None:
    """Train with standard KD instead of CAAD for a few steps."""
    changes = ["run.name=std_kd", "objective.alpha=0", "optimizer.steps=3", f"run.output_dir={output_dir}"]
    config = caad_ds.load_config(config_file, changes)
    print(config.to_yaml())
    return caad_ds.train(config)


if __name__ == "__main__":
    from examples.api.script import run

    run(main)
