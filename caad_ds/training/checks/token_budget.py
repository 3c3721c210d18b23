"""Micro-batches that exceed the budget of tokens which a run cuts its data by."""

from caad_ds.data.batch import PairedBatch


class TokenBudget:
    """Notices micro-batches that exceed the budget `optimizer.micro_tokens`: lengths in the index are estimates."""

    def __init__(self, budget: int | None):
        self.budget = budget
        self.largest = budget or 0

    def exceeded(self, batch: PairedBatch) -> str | None:
        """What to say of a batch that exceeds it by more than all before; None of any other."""
        positions = max(each.input_ids.numel() for each in (batch.student, batch.teacher or batch.student))
        if self.budget is None or positions <= self.largest:
            return None
        self.largest = positions
        return (
            f"a micro-batch has {positions} tokens, optimizer.micro_tokens is {self.budget}: texts are longer than the "
            "index's estimate; lower it if memory is short"
        )
