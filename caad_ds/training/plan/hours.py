"""Hours of a run's arithmetic, by its FLOPs and a share of the device's peak."""

from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import CACHED, Engines

FILLING = "filling"  # a step of the epoch that fills a cache
INSIDE = "encoder in the student's engine"

# Measured on an H100 (benchmarks/results/step_h100.md): 306 of 989.4 TFLOP/s in bf16, outside of engines.
MFU = 306 / 989.4
FP32_SHARE = 0.7  # of the peak in fp32; assumed, not measured

Flops = dict[str, dict[str, float]]  # per step: of a kind of run, by part


def hours(
    engines: Engines, flops: Flops, inside: float, steps: float, epoch: float, mfu: float | None
) -> tuple[dict[str, float | None], list[str]]:
    """Return hours of all steps, and notes.

    With a cache the first epoch runs online and fills it. Without a known peak the hours are None.

    Args:
        flops: online, and if the run can have a cache, `CACHED` and `FILLING`.
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
    names = [name for name in ("online", CACHED) if name in flops]
    if not all(peaks.values()):
        why = "hours: no peak of this device is known in this precision; name a GPU with --device"
        if not engines.cfg.student.keep_encoded_gb:  # with which run.peak_tflops is refused
            why += ", or set run.peak_tflops"
        return found | dict.fromkeys(names), [why]
    shared = {part: shares[precision] for part, precision in precisions.items()}
    peaks_known = {part: float(peak or 0) for part, peak in peaks.items()}
    took = {}
    for name, whole in flops.items():
        parts = {part: value for part, value in whole.items() if part != "total"}
        parts |= {"encoder": parts["encoder"] - inside, INSIDE: inside}
        took[name] = formulas.seconds(parts, peaks_known, shared, engines.ranks)
    found["online"] = took["online"] * steps / 3600
    if CACHED in flops:
        first = min(steps, epoch)
        found[CACHED] = (took[FILLING] * first + took[CACHED] * (steps - first)) / 3600
    return found, _notes(mfu, precisions, peaks_known)


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
