"""Hours of a run's arithmetic, by its FLOPs and a share of the device's peak."""

from dataclasses import dataclass

from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import CACHED, FILLING, Engines

AHEAD = "cache-teacher"
INSIDE = "encoder in the student's engine"

# Measured on an H100 (benchmarks/results/step_h100.md): 306 of 989.4 TFLOP/s in bf16, outside of engines.
MFU = 306 / 989.4
FP32_SHARE = 0.7  # of the peak in fp32; assumed, not measured

Flops = dict[str, dict[str, float]]  # per step: of a kind of run, by part


@dataclass(frozen=True)
class Hours:
    """Hours of all steps and of the first epoch by the kind of run, the share of the peak, and notes.

    `online` runs the teacher in every step. `cached` reads a cache that was whole before; `cache-teacher, FORM` are the
    hours of the command that fills it. In `filling, FORM` the first epoch fills it. Without a known peak all are None.
    """

    run: dict[str, float | None]
    first_epoch: dict[str, float | None]
    notes: list[str]


def hours(engines: Engines, flops: Flops, inside: float, steps: float, epoch: float, mfu: float | None) -> Hours:
    """Compute hours.

    Args:
        flops: of a step online; with a cache also of one that reads it (`CACHED`), and for each form of one that fills
            it in a training (`FILLING, FORM`) and by the command (`AHEAD, FORM`).
        inside: FLOPs per step of an encoder that trains in the student's engine; they are part of "encoder".
        epoch: steps of an epoch.
        mfu: achieved share of the peak; None: as measured.
    """
    run, device = engines.cfg.run, engines.device
    shares = {"bf16": MFU if mfu is None else mfu, "fp32": FP32_SHARE if mfu is None else mfu}
    known = {"bf16": device.bf16 if device else None, "fp32": device.fp32 if device else None}
    precisions: dict[str, str] = dict.fromkeys([*flops["online"], INSIDE], run.precision)
    if engines.outside(teachers=True) and run.peak_tflops is None:
        precisions["encoder"] = run.encoder_precision
    peaks = {part: run.peak_tflops or known[precision] for part, precision in precisions.items()}
    found: dict[str, float | None] = {"mfu": shares[run.precision], "peak_tflops": peaks["heads"]}
    if not all(peaks.values()):
        why = "hours: no peak of this device is known in this precision; name a GPU with --device"
        if not engines.cfg.student.keep_encoded_gb:  # with which run.peak_tflops is refused
            why += ", or set run.peak_tflops"
        unknown: dict[str, float | None] = dict.fromkeys(flops)
        return Hours(found | unknown, unknown, [why])
    shared = {part: shares[precision] for part, precision in precisions.items()}
    peaks_known = {part: float(peak or 0) for part, peak in peaks.items()}
    took = {}
    for name, whole in flops.items():
        parts = {part: value for part, value in whole.items() if part != "total"}
        trained = 0 if name.startswith(AHEAD) else inside
        parts |= {"encoder": parts["encoder"] - trained, INSIDE: trained}
        took[name] = formulas.seconds(parts, peaks_known, shared, engines.ranks) / 3600
    first = min(steps, epoch)
    first_epoch: dict[str, float | None] = {name: each * first for name, each in took.items()}
    for name, each in took.items():
        if name.startswith(AHEAD):
            found[name] = first_epoch[name] = each * epoch
        elif name.startswith(FILLING):
            found[name] = each * first + took[CACHED] * (steps - first)
        else:
            found[name] = each * steps
    return Hours(found, first_epoch, _notes(mfu, precisions, peaks_known))


def _notes(mfu: float | None, precisions: dict[str, str], peaks: dict[str, float]) -> list[str]:
    measured = f"{MFU:.2f} in bf16 (as measured on an H100 outside of engines: 306 TFLOP/s)"
    share = f"{mfu:g}, as given" if mfu is not None else f"{measured}, {FP32_SHARE:g} in fp32 (assumed)"
    notes = [f"hours: share of the peak {share}; without communication, loading, validation and checkpoints"]
    if precisions["encoder"] == "fp32" and precisions["heads"] == "bf16":
        notes.append(
            f"encoder: in fp32 its peak is {peaks['encoder']:g} TFLOP/s; run.encoder_precision: bf16 takes "
            f"{peaks['heads']:g}"
        )
    return notes
