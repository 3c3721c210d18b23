"""The training run: build, step, validate, checkpoint, finish."""

import math
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
import torch.distributed as dist

from caad_ds.config.deepspeed_settings import check_deepspeed
from caad_ds.config.schema import Config
from caad_ds.data.batch import PairedBatch
from caad_ds.data.loader import IndexedBatches, Loader, StreamBatches, open_data
from caad_ds.data.shard_reader import Doubtful, IndexedReader
from caad_ds.data.stream import LIMITS, StreamReader, first_shard
from caad_ds.distill.audio_dropout import AudioDropout
from caad_ds.distill.row_weights import AudioAdvantage
from caad_ds.distill.step import DistillStep, Terms, counted
from caad_ds.models.model_hashes import frozen_hash, start_hash, weights_hash
from caad_ds.training import engines
from caad_ds.training.batches import batch_shape, data_order, teacher_batch
from caad_ds.training.checkpoints.checkpoint import Checkpoints, RunState
from caad_ds.training.checks.attention import check_attention
from caad_ds.training.checks.finite_weights import NotFinite, check_models, diagnosis
from caad_ds.training.checks.skipped_steps import Skips, non_finite_causes, number_of, shown
from caad_ds.training.checks.token_budget import TokenBudget
from caad_ds.training.checks.usable_samples import check_lengths, check_texts
from caad_ds.training.checks.warmup import warn_of_warmup
from caad_ds.training.export.model_card import write_card
from caad_ds.training.export.model_folder import write_model
from caad_ds.training.export.start_record import write_start
from caad_ds.training.metrics import rollout_metrics
from caad_ds.training.metrics.metric_sums import MetricSums, step_line
from caad_ds.training.metrics.mlflow_run import note_model, start_tracker
from caad_ds.training.metrics.throughput import Meter
from caad_ds.training.on_policy import build_rollouts
from caad_ds.training.optimizer import forget_gradients
from caad_ds.training.run_identity import Identity, check_same_config, identity, prompts_identity
from caad_ds.training.schedule import learning_rate
from caad_ds.training.teacher.build_teacher import build_teacher
from caad_ds.training.teacher.cache import open_cache, seen
from caad_ds.training.teacher.filling_progress import FillingProgress
from caad_ds.training.teacher_and_student import heads_of, load_models, pair
from caad_ds.training.validation import validate
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError
from caad_ds.utils.launch import is_main
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed, from_main, gathered, raise_together, world

PREEMPTED = 75  # EX_TEMPFAIL: checkpointed, run me again


class Trainer:
    """One run of Stage 2 (or of CE training) on this rank; a context that always releases the engines at its end.

    `run()` returns the exit status: 0 when all steps are done, 75 when SIGUSR1 made it checkpoint and stop early.
    """

    def __init__(self, cfg: Config, device: torch.device, heartbeat: Heartbeat):
        self.cfg = cfg
        self.device = device
        self.heartbeat = heartbeat
        self.rank, self.world_size = world()
        self.stopping = False
        self.budget = TokenBudget(cfg.optimizer.micro_tokens, heartbeat)
        signal.signal(signal.SIGUSR1, self._stop)
        self.cache_seen = from_main(partial(seen, cfg))
        agreed(self._load)
        resumes, skip = self.checkpoints.newest() is not None, cfg.data.skip_broken
        self.check = partial(self.pairing.check, room=cfg.objective.longest_drawn)  # for training data
        checks = {each: self.check if each is self.reader else self.pairing.check for each in self.indexed}
        self.unusable = check_texts(checks, cfg.run.output_dir, resumes, skip, heartbeat)
        agreed(self._plan)
        with ExitStack() as held:
            self._build_engines(held)
            self.held = held.pop_all()  # a process group must not outlive its engines
        self.sums = MetricSums(device, cfg.objective)

    # -- building ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Load everything that a user error can break, before any engine exists."""
        cfg = self.cfg
        self.checkpoints = Checkpoints(cfg.run.output_dir, cfg.checkpoint, self.heartbeat)
        if self.checkpoints.newest() is not None:
            check_same_config(cfg)
        self.heartbeat.begin("loading models and data")
        self.reader = open_data(cfg, self.rank, self.world_size)
        if isinstance(self.reader, StreamReader):
            self.heartbeat.say(LIMITS)
        self.validation_reader = IndexedReader(cfg.data.validation) if cfg.data.validation else None
        # Samples of a stream are checked as they are read.
        self.indexed = [each for each in (self.reader, self.validation_reader) if isinstance(each, IndexedReader)]
        self.micro_batch, self.accumulation = batch_shape(cfg, self.world_size)
        check_deepspeed(cfg)
        engines.loss_implementation(cfg, self.device)  # raises before models are loaded
        check_attention(cfg)
        self.cache = open_cache(cfg, self.cache_seen, self.reader, self.indexed)
        self.student, self.teacher = load_models(cfg, self.device, self.cache is not None and self.cache.complete)
        self.pairing = pair(cfg, self.student, self.teacher, self.reader, self.cache)
        heads = heads_of(self.student, self.teacher, self.cache)
        self.teacher_width = heads[-1].weight.shape[1]
        if (shared := self.pairing.shared) is not None:
            ours, theirs = (len(head.weight) for head in heads)
            self.heartbeat.say(f"vocabulary: {shared.size} tokens in common, of {theirs} and {ours} rows")
        for reader in self.indexed:
            check_lengths(reader, self.pairing.readers)
        check_models(cfg, self.student, self.teacher)
        computed = engines.loss_implementation(cfg, self.device, *heads)
        self.heartbeat.say(f"loss: {computed}")
        self.frozen = frozen_hash(self.student)
        self.identity = self._identity()

    def _plan(self) -> None:
        """Set the order of the data and the number of steps."""
        cfg = self.cfg
        self.order = data_order(cfg, self.reader, self.pairing) if isinstance(self.reader, IndexedReader) else None
        if cfg.optimizer.steps is not None:
            self.total_steps = cfg.optimizer.steps
        else:
            assert self.order is not None and cfg.optimizer.epochs is not None  # the schema refuses anything else
            self.total_steps = max(1, round(cfg.optimizer.epochs * self.order.steps_per_epoch))
        warn_of_warmup(cfg.optimizer.warmup_steps, self.total_steps)
        # A shorter run has failed too if only its first step was applied.
        self.skips = Skips(cfg.run.output_dir, min(cfg.optimizer.max_skipped, max(1, self.total_steps - 1)))

    def _build_engines(self, held: ExitStack) -> None:
        """Build the step; `held` takes each resource as soon as it exists."""
        cfg = self.cfg
        self.dropout = AudioDropout(cfg.objective.audio_dropout, cfg.run.seed)
        self.meter = Meter(
            cfg.run.precision, cfg.run.peak_tflops, not (cfg.student.keep_encoded_gb or cfg.objective.draws)
        )
        part = self.meter.clock.part
        models = self.student, self.teacher, self.cache
        teacher, placed = build_teacher(cfg, *models, self.pairing, self.unusable, self.heartbeat, held, part)
        of_run = self.pairing, self.heartbeat, self.order, self.validation_reader is not None
        self.filling = FillingProgress.of(teacher, self.cache, *of_run)
        together = teacher_batch(cfg, placed, self.accumulation)
        rollouts = build_rollouts(cfg, *models[:2], self.pairing.shared, self.device)
        self.heartbeat.begin("building the student's engine")
        settings = self.micro_batch, self.accumulation, part, self.pairing.shared, self.teacher_width
        self.engine = engines.student_engine(cfg, self.student, *settings)
        held.callback(self.engine.destroy)
        weights = AudioAdvantage.of(cfg.objective, self.pairing.shared)
        self.step = DistillStep(self.engine, self.student, teacher, together, part, weights, rollouts)

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Train to the end, from the newest checkpoint if there is one."""
        state = self._resume()
        if state.step >= self.total_steps and (self.cfg.run.output_dir / "model").is_dir():
            self.heartbeat.say(
                f"{self.cfg.run.name}: already finished at step {state.step}; to train it once more set another "
                f"run.output_dir (or remove {self.cfg.run.output_dir}, with all that is in it)"
            )
            return 0
        self.tracker = start_tracker(self.cfg, self.reader, self.device, state.tracking_id)
        if self.cfg.tracking.enabled:
            self.heartbeat.say(self.tracker.where())
        self.tracker.artifact(self.cfg.run.output_dir / "config.yaml")
        self.heartbeat.say(f"to checkpoint and stop: kill -USR1 {os.getpid()}")
        status = "FAILED"
        try:
            finished = self._train(state)
            status = "FINISHED" if finished else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            kept = self.checkpoints.newest()
            hint = f"run the same command to resume from {kept.name}" if kept else "no checkpoint was written yet"
            self.heartbeat.say(f"interrupted: {hint}")
            raise
        finally:
            self.tracker.finish(status)
        return 0 if finished else PREEMPTED

    def _resume(self) -> RunState:
        self.heartbeat.set_activity(lambda: "looking for a checkpoint")
        newest = self.checkpoints.find(self.identity)
        if newest is None:
            agreed(lambda: write_start(self.cfg, self.reader) if is_main() else None)
            self.skips.restore(0, 0, 0)
            return RunState(0, self.world_size, self.identity.parts, None, self.frozen)
        folder, state = newest
        self.heartbeat.begin(f"resuming from {folder}")
        self.checkpoints.load(folder, state, self.engine, self.cfg.run.seed)
        self.skips.restore(state.step, state.skipped, state.skipped_in_row)
        self.heartbeat.say(f"resumed from {folder} at step {state.step}")
        return state

    def _train(self, state: RunState) -> bool:
        """Run the remaining steps; return False if asked to stop before the end."""
        cfg = self.cfg
        self.samples: IndexedBatches | StreamBatches
        if isinstance(self.reader, IndexedReader):
            assert self.order is not None  # made by _plan
            self.samples = IndexedBatches(self.reader, self.order, self.rank, self.world_size, self.accumulation)
        else:
            begin = first_shard(state.shards, self.rank, self.world_size)
            self.heartbeat.say(f"the stream begins with shard {begin}")
            longest = min(reader.longest_seconds for reader in self.pairing.readers)
            stream = self.reader.samples(longest, begin, self.check)
            self.samples = StreamBatches(self.reader, stream, self.micro_batch, self.accumulation)
        in_order = isinstance(self.reader, StreamReader)
        loader = Loader(self.samples, self.pairing, cfg.data.workers, in_order)
        if self.filling is not None:
            self.filling.began = state.step
        self.meter.restart()
        for step, read in enumerate(loader.steps(state.step, self.total_steps), state.step):
            self.heartbeat.set_activity(partial("step {}/{}: in progress".format, step + 1, self.total_steps))
            stop_now = self._step(step, read)
            done = step + 1
            last = done == self.total_steps
            saves = done % cfg.checkpoint.every == 0 or last or stop_now or self.skips.too_many
            validates = self.validation_reader is not None and (done % cfg.validation.every == 0 or last)
            # A report resets the sums; with one at each checkpoint a resumed run continues the same curve.
            if done % cfg.run.log_every == 0 or done == 1 or saves or validates:
                self._report(done)
            means = self._validate(done) if validates else {}
            if validates:
                self.tracker.log({f"validation/{k}": v for k, v in means.items()}, done)
            if saves:
                self._checkpoint(done, means)
            if self.skips.too_many:
                self._give_up(done, self.skips.summary)
            if saves or validates:
                self.meter.restart()
            if stop_now and not last:
                self.heartbeat.say(f"SIGUSR1: stopped after step {done}; run the same command to resume")
                return False
        if self.skips.too_many:  # already at the last step's checkpoint: no step is left
            self._give_up(self.total_steps, self.skips.summary)
        self._finish()
        return True

    def _step(self, step: int, read: Callable[[], list[PairedBatch]]) -> bool:
        """Do one optimizer step; return whether any rank was asked to stop."""
        whole, batches, failure = [], [], None
        try:
            with self.meter.clock.part("data"):
                whole = read()
                batches = [self.dropout(step, batch) for batch in whole]
        except Exception as error:
            failure = error
        mine = sum(map(self._weight, batches))
        counts = torch.tensor([mine, failure is not None, self.stopping], dtype=torch.float64, device=self.device)
        dist.all_reduce(counts)
        total, failures, stops = counts.tolist()
        if failures:
            raise_together(failure)
        # DeepSpeed divides by the accumulation steps and averages over ranks; this makes it a mean over all rows.
        normalizer = total / (self.world_size * self.accumulation)
        rate = learning_rate(
            step, peak=self.cfg.optimizer.lr, warmup=self.cfg.optimizer.warmup_steps, total=self.total_steps
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self._publish(step, always=False)
        for batch in batches:
            self.sums.add_batch(batch.student)
            self.budget.check(batch)
        with self.meter.step([batch.student for batch in batches]), self.step.teacher_head():
            window = [batch.to(self.device) for batch in batches]
            terms = self.step.train(window, normalizer, step)
        if self.engine.was_step_applied():  # DeepSpeed has already read it from the device; the same on every rank
            self.skips.applied()
            for kd, ce, diagnostics in terms:
                self.sums.add_output(kd, ce, diagnostics, normalizer, self.step.kd_normalizer)
        else:
            self._skip(step + 1, whole, window, terms)
        return bool(stops)

    def _publish(self, done: int, always: bool = True) -> None:
        """Let all ranks read what is in the cache; see `FillingProgress.publish`."""
        if self.filling is not None:
            self.meter.teacher_runs(self.filling.teacher.runs)
            self.filling.publish(done, always)

    def _skip(self, done: int, read: list[PairedBatch], window: list[PairedBatch], terms: list[Terms]) -> None:
        """Find out and report why the engine skipped a step."""
        self.heartbeat.set_activity(lambda: "looking for what is not finite")
        forget_gradients(self.engine)
        causes = {
            "lr": self.engine.optimizer.param_groups[0]["lr"],
            **non_finite_causes(self.step, read, window, terms),
        }
        self.heartbeat.say(f"step {done}/{self.total_steps}  {self.skips.skipped(done, causes)}")

    def _give_up(self, done: int, why: str) -> None:
        """Write a diagnosis of a run whose values are not finite, and end it; every rank calls it."""
        broken = diagnosis(self.step)
        good = from_main(self.checkpoints.last_applied)
        norm = number_of(self.engine.get_global_grad_norm() or 0.0)
        values = {"step": done, "why": why, "grad_norm": norm, "not_finite": broken, "last_good": good and good.name}
        agreed(lambda: self.skips.write_diagnosis(values) if is_main() else None)
        kept = f"{good} is the last checkpoint before that" if good else "there is no checkpoint from before"
        raise UserError(
            f"stopped after step {done}: {why}; {kept}; see {self.skips.diagnosis}, then lower optimizer.lr, or leave "
            "out the samples that it names"
        )

    def _validate(self, done: int) -> dict[str, float]:
        self.heartbeat.set_activity(lambda: "validating")
        sums = MetricSums(self.device, self.cfg.objective)
        size = self.cfg.validation.batch_size
        assert self.validation_reader is not None  # else nothing is validated
        self._publish(done)  # training may have stored rows of validation samples
        values, bad = validate(self.step, self.validation_reader, self.pairing, self._weight, sums, size)
        self.heartbeat.say("validation: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items() if k != "rows"))
        if self.filling is not None:
            self.filling.validated = True
        self._publish(done)
        if bad:
            self.heartbeat.say(f"validation: the loss is not finite in the batches of {shown(bad)}")
        return values

    def _checkpoint(self, done: int, validation: dict[str, float]) -> None:
        self.heartbeat.set_activity(lambda: "writing a checkpoint")
        self.tracker.flush()
        self._publish(done)
        shards: list[int] = [0] * self.world_size
        dist.all_gather_object(shards, self.samples.position(done))
        means = {name: value for name, value in validation.items() if math.isfinite(value)}
        state = RunState(
            done, self.world_size, self.identity.parts, self.tracker.run_id, self.frozen, means, shards,
            self.skips.total, self.skips.in_row,
        )  # fmt: skip
        try:
            self.checkpoints.save(self.engine, state)
        except NotFinite as error:
            self._give_up(done, str(error))

    def _finish(self) -> None:
        """Write the trained model's folder atomically."""
        self.heartbeat.set_activity(lambda: "writing the model")
        if isinstance(self.reader, StreamReader) and self.reader.skip:
            skipped = torch.tensor(self.reader.skipped, device=self.device)
            dist.all_reduce(skipped)
            self.heartbeat.say(f"broken shards and samples that were skipped, over all ranks: {skipped.item()}")
        if self.reader.doubtful and (doubtful := Doubtful.merged(gathered(self.reader.doubtful)).summary):
            self.heartbeat.say(f"samples with audio that `caad-ds prep pack` would reject: {doubtful}")
        weights = engines.full_weights(self.engine)
        agreed(lambda: self._write_model(weights) if is_main() else None)

    def _write_model(self, weights: dict[str, torch.Tensor]) -> None:
        final = self.cfg.run.output_dir / "model"
        card = partial(write_card, cfg=self.cfg, run=final.parent, step=self.total_steps, reader=self.student.reader)
        write_model(final, self.student, weights, DTYPES[self.cfg.run.precision], describe=card)
        if self.pairing.truncated:
            self.heartbeat.say(f"answers cut at data.max_answer_tokens, over all reads: {self.pairing.truncated}")
        note_model(self.tracker, self.cfg, final)
        self.heartbeat.say(f"finished: {final}")

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def _weight(self, batch: PairedBatch) -> float:
        return counted(batch.student, self.cfg.objective.reduction)

    def _report(self, done: int) -> None:
        values = self.sums.means()
        values |= rollout_metrics.report(self.step.rollouts, values["tokens"])
        values |= self.meter.read(*(values.pop(name) for name in ("samples", "tokens", "positions")))
        values |= {"lr": self.engine.optimizer.param_groups[0]["lr"], "skipped_steps": self.skips.total}
        if self.engine.was_step_applied():
            values["grad_norm"] = float(self.engine.get_global_grad_norm() or 0.0)
        self.tracker.log({f"train/{k}": v for k, v in values.items()}, done)
        self.heartbeat.say(step_line(done, self.total_steps, values))
        for warning in rollout_metrics.warnings(values, self.cfg.objective.on_policy):
            self.heartbeat.say(warning)

    def _identity(self) -> Identity:
        """Hash what decides the course of training."""
        # A shared encoder is hashed once: hashing takes most of the start of a large run.
        teacher: list[str] = []
        reading = None
        if self.cache is not None:  # the same whether it is complete or not
            teacher += [f"{name}: {value}" for name, value in sorted(self.cache.made_of.items())]
            reading = None if self.pairing.alike else self.cache.reader.identity()
        elif self.teacher is not None:
            teacher.append(weights_hash(self.teacher.module))
            if not self.student.shares_encoding(self.teacher):
                teacher += map(weights_hash, self.teacher.modules_outside().values())
            reading = None if self.pairing.alike else self.teacher.reader.identity()
        student = (self.frozen, start_hash(self.student.module))
        prompts = prompts_identity(self.student.reader)
        return identity(self.cfg, teacher, student, self.reader.identity, prompts, reading)

    def _stop(self, *_: object) -> None:
        self.stopping = True
