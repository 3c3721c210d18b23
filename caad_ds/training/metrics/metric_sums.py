"""Sums over rows, ranks and micro-steps, and the means that are reported."""

import torch
import torch.distributed as dist
from torch import Tensor

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import Batch

TOTALS = ("rows", "samples", "tokens", "positions")  # sums that are reported as such
# Diagnostics of the loss: sums over rows, reported as means under these names. The first are over rows of the pseudo
# ground truth, the others over the distilled rows, which differ if the student has drawn answers.
MEANS = ("token_accuracy", "student_entropy")
KD_MEANS = ("agreement", "teacher_entropy", "contrast_shift", "alpha", "advantage", "hidden_distance")


class MetricSums:
    """Named sums on the device; reading them is one all-reduce.

    `objective` combines kd and ce to the loss; objective ce has no teacher and no kd.
    """

    def __init__(self, device: torch.device, objective: ObjectiveSection):
        self.device = device
        self.objective = objective
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Add to a sum, without waiting for the device."""
        value = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()
        self.values[name] = self.values.get(name, torch.zeros_like(value)) + value

    def add_output(
        self,
        kd: Tensor,
        ce: Tensor,
        diagnostics: dict[str, Tensor],
        normalizer: float,
        kd_normalizer: float | None = None,
    ) -> None:
        """Add one micro-step's loss terms (means over `normalizer`) and diagnostics (sums over rows).

        If the student has drawn answers, kd is a mean over `kd_normalizer`.
        """
        over = normalizer if kd_normalizer is None else kd_normalizer
        self.add("kd", kd.double() * over)
        self.add("ce", ce.double() * normalizer)
        self.add("kd_normalizer", over)
        self.add("normalizer", normalizer)
        for name, value in diagnostics.items():
            self.add(name, value)

    def add_batch(self, batch: Batch) -> None:
        """Count a batch's samples, tokens and positions (padding included)."""
        self.add("samples", len(batch.keys))
        self.add("tokens", float(batch.attention_mask.sum()))
        self.add("positions", batch.attention_mask.numel())

    def means(self) -> dict[str, float]:
        """Return means of loss, kd, ce and diagnostics over all ranks' rows since the last call, and reset all sums.

        If no rank added an output, there are only the totals of batches.
        """
        names = sorted(self.values)
        total = torch.stack([self.values[name] for name in names])
        dist.all_reduce(total)
        sums = dict(zip(names, total.tolist(), strict=True))
        self.values = {}
        totals = {name: sums[name] for name in TOTALS if name in sums}
        if "normalizer" not in sums:
            return totals
        rows_of = {
            **dict.fromkeys(MEANS, "rows"),
            **dict.fromkeys(KD_MEANS, "kd_rows" if "kd_rows" in sums else "rows"),
        }
        out = {name: sums[name] / sums[rows] for name, rows in rows_of.items() if name in sums and sums[rows]}
        if sums.get("drawn_rows"):
            out["rollout/entropy"] = sums["drawn_entropy"] / sums["drawn_rows"]
        kd, ce = (sums[name] / max(sums[over], 1e-12) for name, over in (("kd", "kd_normalizer"), ("ce", "normalizer")))
        share = self.objective.share_of_kd
        terms = {"loss": share * kd + (1 - share) * ce, "kd": kd, "ce": ce}
        if self.objective.name == "ce":
            del terms["kd"]
        return terms | totals | out


def step_line(done: int, total: int, values: dict[str, float]) -> str:
    """Format the line that a run prints for a step: loss terms, speed and time left."""
    left = int(values["seconds_per_step"] * (total - done))
    terms = "no step applied  "
    if "ce" in values:
        kd = "" if "kd" not in values else f"kd {values['kd']:.4f}  "
        accuracy = f"accuracy {values['token_accuracy']:.3f}  " if "token_accuracy" in values else ""
        terms = f"{kd}ce {values['ce']:.4f}  {accuracy}"
    speed = f"{values['samples_per_second']:.1f} samples/s"
    return f"step {done}/{total}  {terms}{speed}  {left // 60}:{left % 60:02d} left"
