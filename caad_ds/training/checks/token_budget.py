"""Warn about micro-batches that exceed the token budget."""

from caad_ds.data.batch import PairedBatch
from caad_ds.utils.progress import Heartbeat


class TokenBudget:
    """Warns of micro-batches above `optimizer.micro_tokens`: lengths in the index are estimates."""

    def __init__(self, budget: int | None, heartbeat: Heartbeat):
        self.budget, self.heartbeat = budget, heartbeat
        self.largest = budget or 0

    def check(self, batch: PairedBatch) -> None:
        """Report a batch that exceeds the budget by more than all before."""
        positions = max(each.input_ids.numel() for each in (batch.student, batch.teacher or batch.student))
        if self.budget is None or positions <= self.largest:
            return
        self.largest = positions
        self.heartbeat.say(
            f"a micro-batch has {positions} tokens, optimizer.micro_tokens is {self.budget}: texts are longer than the "
            "index's estimate; lower it if memory is short"
        )
