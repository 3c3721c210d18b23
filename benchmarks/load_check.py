"""Cost of the check that a causal LM gets when loaded (`check_llm`), by number of layers, in bfloat16.

    python benchmarks/load_check.py [--layers 1 5] [--threads 1]

The widths are those of Llama 3.1 8B, the weights random. All layers cost the same, so the time of 32 is extrapolated
from the two numbers of layers.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.models.language_model.llm_checks import check_llm
from caad_ds.utils.memory import PeakMemory

WHOLE = 32  # layers of Llama 3.1 8B
WIDTHS = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip


def measured(layers: int) -> tuple[float, int, float, float]:
    """Measure the check: seconds, number of forward passes, GB of weights, and peak GB above the weights."""
    config = LlamaConfig(num_hidden_layers=layers, **WIDTHS)
    llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    forwards = []
    llm.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    peak = PeakMemory("cpu")
    start = time.perf_counter()
    check_llm(llm, "random")
    seconds = time.perf_counter() - start
    weights = sum(p.numel() * p.element_size() for p in llm.parameters())
    return seconds, len(forwards), weights / 1e9, (peak.mib() or 0) * 2**20 / 1e9


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=2, default=(1, 5), help="two numbers of layers (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{cpu_name()}, {args.threads} threads, PyTorch {torch.__version__}\n")
    print("| layers | weights, GB | forwards | seconds | GB above the weights |\n| ---: | ---: | ---: | ---: | ---: |")
    times = []
    for layers in args.layers:
        seconds, forwards, weights, extra = measured(layers)
        times.append(seconds)
        print(f"| {layers} | {weights:.1f} | {forwards} | {seconds:.1f} | {extra:.1f} |", flush=True)
    per_layer = (times[1] - times[0]) / (args.layers[1] - args.layers[0])
    print(f"\n{WHOLE} layers by the line through them: {times[0] + per_layer * (WHOLE - args.layers[0]):.0f} s")


if __name__ == "__main__":
    main()
