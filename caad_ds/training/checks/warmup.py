"""Warn of a warm-up that lasts as long as the run: the learning rate stays low without a word otherwise."""

from caad_ds.training.schedule import learning_rate
from caad_ds.utils.command import note
from caad_ds.utils.formatting import counted
from caad_ds.utils.launch import is_main


def warmup_notes(warmup: int, steps: int) -> list[str]:
    """Return the note on a warm-up that no decay follows, as a list of one; empty for others."""
    if warmup < max(2, steps):  # a warm-up of one step is none
        return []
    share = learning_rate(steps - 1, peak=1.0, warmup=warmup, total=steps)
    return [
        f"optimizer.warmup_steps is {warmup} and the run has {counted(steps, 'step')}: the learning rate rises to the "
        f"end, to {100 * share:.3g}% of optimizer.lr; set optimizer.warmup_steps below the number of steps"
    ]


def warn_of_warmup(warmup: int, steps: int) -> None:
    """Print the note on stderr, on the main rank."""
    for text in warmup_notes(warmup, steps) if is_main() else ():
        note(text)
