"""ZeRO-3 keeps the order in which it has fetched weights: a trace, which a step that runs other modules invalidates."""

from contextlib import ExitStack

BROKEN = "a trace is not complete"


def watch_traces() -> None:
    """In a rank: fail after a step, but for the first, that leaves an engine of ZeRO-3 without its trace."""
    from caad_ds.training import trainer

    class Watching(trainer.Trainer):
        def _build_engines(self, held: ExitStack) -> None:
            super()._build_engines(held)
            teacher = self.step.teacher
            optimizers = [self.engine.optimizer] + ([] if teacher is None else [teacher.engine.optimizer])
            offloads = [getattr(each, "parameter_offload", each) for each in optimizers]
            self.watched = [each for each in offloads if hasattr(each, "get_param_coordinator")]
            assert self.watched

        def _step(self, step: int, read) -> bool:
            stops = super()._step(step, read)
            if step > 0 and not all(each.get_param_coordinator().is_complete_trace() for each in self.watched):
                raise AssertionError(f"{BROKEN} after step {step + 1}")
            return stops

    trainer.Trainer = Watching
