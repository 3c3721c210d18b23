"""The demo's encoder: a small Whisper encoder, trained to classify the attributes, then frozen and shared.

A network of this size, trained from scratch together with the language model, never learns gender or accent. So the
encoder is trained first, on clips of the `teacher` split alone, in place of Whisper's own pretraining.
"""

import json
import time
from pathlib import Path

import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig

from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.progress import progress
from caad_ds.utils.text import read_lines

ATTRIBUTES = {
    "gender": ["female", "male"],
    "speaking_rate": ["slow", "fast"],
    "noise": ["clean", "noisy"],
    "accent": ["american", "british", "scottish"],
}
WINDOW_SECONDS = 3
CONFIG = dict(
    d_model=96, encoder_layers=4, decoder_layers=0, encoder_attention_heads=4, encoder_ffn_dim=384,
    num_mel_bins=80, max_source_positions=50 * WINDOW_SECONDS, dropout=0.0,
)  # fmt: skip


def read_split(folder: Path, encoder: SpeechEncoder) -> tuple[Tensor, Tensor]:
    """Load features float32 [n, mel, frames] and attribute classes int64 [n, 4] of a synthesised split."""
    rows = [json.loads(line) for _, line in read_lines(folder / "metadata.jsonl")]
    features = []
    with progress(f"reading {folder}", len(rows)) as advance:
        for start in range(0, len(rows), 100):
            waveforms = [soundfile.read(folder / row["audio"], dtype="float32")[0] for row in rows[start : start + 100]]
            features.append(encoder.features(waveforms).cpu())
            advance(len(waveforms))
    classes = [[names.index(row[attribute]) for attribute, names in ATTRIBUTES.items()] for row in rows]
    return torch.cat(features), torch.tensor(classes)


class Probe(nn.Module):
    """Linear classifiers for every attribute on the time-averaged states of every tapped layer."""

    def __init__(self, taps: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.ModuleList(nn.Linear(dim, len(names)) for _ in range(taps) for names in ATTRIBUTES.values())

    def forward(self, states: Tensor) -> list[list[Tensor]]:
        """Return logits [n, classes] by tap and attribute, from states [n, taps, frames, D]."""
        pooled = self.norm(states.mean(2))
        count = len(ATTRIBUTES)
        return [
            [head(pooled[:, tap]) for head in self.heads[tap * count : (tap + 1) * count]]
            for tap in range(pooled.shape[1])
        ]


def train_encoder(corpus: Path, steps: int, seed: int = 0, batch: int = 32, peak_lr: float = 1e-3) -> SpeechEncoder:
    """Train on `<corpus>/teacher`, on a GPU if there is one, to classify every attribute at every tap.

    Prints the accuracy on `<corpus>/validation`, which has unseen voices.
    """
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = SpeechEncoder.from_config(WhisperConfig(**CONFIG), taps=[0, 1, 2, 3]).to(device)
    features, classes = read_split(corpus / "teacher", encoder)
    whisper = encoder.whisper.requires_grad_(True).train()
    whisper.embed_positions.requires_grad_(False)
    probe = Probe(len(encoder.taps), encoder.dim).to(device)
    weights = [p for p in [*whisper.parameters(), *probe.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    last_report = time.monotonic()
    for step in range(steps):
        chosen = torch.randint(len(features), (batch,), generator=generator)
        states = whisper(_shifted(features[chosen], generator).to(device), output_hidden_states=True).hidden_states[1:]
        logits = probe(torch.stack(states, dim=1))
        truth = classes[chosen].to(device)
        loss = sum(F.cross_entropy(one, truth[:, a]) for tap in logits for a, one in enumerate(tap)) / len(logits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if time.monotonic() - last_report > 5 or step + 1 == steps:
            last_report = time.monotonic()
            print(f"encoder: step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)
    encoder.whisper.requires_grad_(False).eval()
    _report(encoder, probe, *read_split(corpus / "validation", encoder))
    return encoder.to("cpu")


def _shifted(features: Tensor, generator: torch.Generator) -> Tensor:
    """Augment: roll each clip by up to a third of the window and vary its level, so that neither is informative."""
    frames = features.shape[-1]
    shifts = torch.randint(frames // 3, (len(features), 1, 1), generator=generator)
    index = (torch.arange(frames) - shifts) % frames
    gain = 0.1 * torch.randn(len(features), 1, 1, generator=generator)
    return features.gather(-1, index.expand_as(features)) + gain


@torch.no_grad()
def _report(encoder: SpeechEncoder, probe: Probe, features: Tensor, classes: Tensor) -> None:
    logits = probe(encoder.encode(features).hidden)
    for a, attribute in enumerate(ATTRIBUTES):
        shares = [(tap[a].argmax(-1).cpu() == classes[:, a]).float().mean().item() for tap in logits]
        print(f"encoder: {attribute} on unseen voices, by layer: " + ", ".join(f"{100 * s:.1f}" for s in shares))
