"""One YAML, one typed section per part of a run; every default lives here."""

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from caad_ds.config.cache_section import CacheSection
from caad_ds.config.data_section import STREAM_ONLY, DataSection
from caad_ds.config.objective_section import NegativeName, ObjectiveSection
from caad_ds.config.section import Section, changed

Beta = Annotated[float, Field(ge=0, lt=1)]
TranscriptName = Literal["after_audio", "none"]
TRANSCRIPT = (
    "whether an audio's text follows it in the prompt; default: as the model was saved, else as its family has it"
)
# The default date of Llama 3's template; any fixed date keeps runs comparable.
TEMPLATE_DATE = datetime.date(2024, 7, 26)


class RunSection(Section):
    """The run as a whole: its name and folder, seed and precision."""

    name: str = Field("caad", description="name of the run, in MLflow and in tables")
    output_dir: Path = Field(..., description="folder for checkpoints, the resolved config and the final model")
    seed: int = Field(0, ge=0, description="seed of the weights and the data order")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="dtype of teacher and student in the engines")
    encoder_precision: Literal["fp32", "bf16"] = Field("fp32", description="dtype of the encoder's matrix products")
    attention: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"] = Field(
        "sdpa", description="attention of both language models; flash_attention_2 where it is installed"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="device peak TFLOP/s for MFU (recomputation included); default: by device name, in bf16"
    )
    log_every: int = Field(10, ge=1, description="steps between two progress lines and metric points")


class TeacherSection(Section):
    """The teacher to distil from, and where its weights are kept."""

    path: str = Field(..., description="folder or hub id of the teacher, or an architecture's .json (random weights)")
    transcript: TranscriptName | None = Field(None, description=TRANSCRIPT)
    negative: NegativeName = Field("zero_mel", description="what replaces the audio in the second, contrastive pass")
    placement: Literal["auto", "replicated", "resident", "cpu", "nvme"] = Field(
        "auto",
        description="a copy of the weights per device, shards, host memory or NVMe; auto: the fastest that fits",
    )
    nvme_path: Path | None = Field(None, description="folder on a local disk for placement nvme")
    batch: int | None = Field(
        None, ge=1, description="micro-batches per forward; default: all of a step where it is offloaded, else 1"
    )
    keep_prefix: bool = Field(
        False,
        description="cache the KV of the constant prefix of the audio-free pass (replicated caad_speech_lm only)",
    )
    deepspeed: str | None = Field(None, description="a DeepSpeed JSON of your own in place of placement's")
    cache: CacheSection | None = Field(None, description="store the teacher's states, so that it runs once a sample")

    @model_validator(mode="after")
    def _one_place(self) -> "TeacherSection":
        if self.deepspeed is not None and self.placement != "auto":
            raise ValueError(f"placement {self.placement}: the deepspeed file says where it lies; remove one of them")
        if self.placement == "nvme" and self.nvme_path is None:
            raise ValueError("placement nvme needs nvme_path, a folder on a local disk")
        if self.nvme_path is not None and self.placement not in ("auto", "nvme"):
            raise ValueError(f"nvme_path is not read with placement {self.placement}; remove it")
        if self.keep_prefix and self.placement not in ("auto", "replicated"):
            raise ValueError(f"keep_prefix is not read with placement {self.placement}; remove it, or set replicated")
        return self


FRESH_ONLY = (
    "encoder", "taps", "window_seconds", "num_queries", "qformer_layers", "qformer_heads", "normalize_states",
    "connector", "tokenizer", "template",
)  # fmt: skip
HIGHER_IS_BETTER = ("token_accuracy", "agreement")  # validation metrics; of the others lower is better


class LoraSection(Section):
    """Low-rank adapters on the LLM's linear layers (PEFT's LoRA), trained beside the connector."""

    rank: int = Field(16, ge=1, description="rank of the adapters (r)")
    alpha: float = Field(32.0, gt=0, description="the adapters' output is scaled by alpha / rank")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout on the adapters' input; above 0, results depend on the number of ranks"
    )
    targets: str | list[str] = Field(
        "all-linear", description="names of the layers with adapters; all-linear: all but the head"
    )
    encoder: bool = Field(False, description="adapters on all linear layers of the student's encoder as well")


class TemplateSection(Section):
    """What the chat template of a new student is frozen with; the saved model carries it."""

    date: datetime.date = Field(
        TEMPLATE_DATE, description="today's date for templates that ask the clock (strftime_now)"
    )
    merge_system: bool = Field(False, description="put system text into the user's turn, where templates refuse it")
    switches: dict[str, bool | int | float | str | None] = Field(
        {}, description="variables of the template, such as enable_thinking: false"
    )


class StudentSection(Section):
    """The model that is trained: from a folder, or built from an LLM and an encoder."""

    path: str | None = Field(
        None, description="folder, hub id or an architecture's .json to start from; default: built of llm and encoder"
    )
    llm: str | dict[str, Any] | None = Field(None, description="hub id or folder, or an architecture or its .json")
    keep_layers: int | None = Field(None, ge=1, description="keep only the LLM's first layers")
    encoder: str | None = Field(None, description="Whisper: hub id, folder or model folder, or an architecture's .json")
    taps: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2, 3], min_length=1, description="tapped encoder layers")
    window_seconds: int = Field(30, ge=1, le=30, description="the encoder's input window")
    num_queries: int = Field(64, ge=1, description="connector outputs per audio (K)")
    qformer_layers: int = Field(2, ge=1, description="layers of the connector's Q-Former")
    qformer_heads: int = Field(8, ge=1, description="attention heads of its layers")
    normalize_states: bool = Field(False, description="LayerNorm on the encoder's states before the connector")
    connector: Literal["blip2", "desta"] = Field("blip2", description="the Q-Former's form; the authors' is desta")
    tokenizer: str | None = Field(
        None,
        description="hub id or folder of the tokenizer, and of an architecture's processor; default: "
        "the teacher's, else the LLM's",
    )
    template: TemplateSection = Field(TemplateSection(), description="settings of the tokenizer's chat template")
    transcript: TranscriptName | None = Field(None, description=TRANSCRIPT)
    train: Literal["connector", "lora", "all"] = Field(
        "connector", description="which weights are trained (paper: connector); lora trains the connector as well"
    )
    lora: LoraSection | None = Field(None, description="the adapters of train: lora")
    keep_encoded_gb: float = Field(
        0.0,
        ge=0,
        description="host memory per process, in GB, for the states of clips that a frozen encoder outside the engines "
        "has encoded; clips are then encoded one at a time",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward instead of keeping them")
    deepspeed: str = Field("student_zero3.json", description="DeepSpeed JSON: a path, or a name in ds_configs/")

    @property
    def fresh_only(self) -> tuple[str, ...]:
        """The keys that a student from a folder does not read; an architecture reads `tokenizer`, for its processor."""
        given = self.path is not None and self.path.endswith(".json")
        return tuple(key for key in FRESH_ONLY if not (given and key == "tokenizer"))

    @model_validator(mode="after")
    def _one_origin(self) -> "StudentSection":
        if (self.path is None) == (self.llm is None):
            raise ValueError("give either path (a model folder) or llm (with encoder)")
        if self.llm is not None and self.encoder is None:
            raise ValueError("llm needs encoder: a Whisper hub id or folder")
        if self.path is not None and (unread := changed(self, self.fresh_only)):
            raise ValueError(f"{', '.join(unread)}: path brings its own; remove it, or build a student from llm")
        if self.lora is not None and self.train != "lora":
            raise ValueError(f"lora is not read with train: {self.train}; set train to lora, or remove it")
        if self.keep_encoded_gb and self.lora is not None and self.lora.encoder:
            raise ValueError("keep_encoded_gb: an encoder that trains gives other states later; set it to 0")
        if isinstance(self.llm, dict) and "model_type" not in self.llm:
            raise ValueError("llm as an architecture needs model_type, such as llama")
        return self


class OptimizerSection(Section):
    """AdamW, its schedule (warm-up, then cosine), and the batch of a step."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="AdamW's decay of its two moments")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(2000, ge=0, description="steps of linear warm-up, before the cosine")
    steps: int | None = Field(None, ge=1, description="optimizer steps; or give epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the data; or give steps")
    batch_size: int = Field(8, ge=1, description="samples per optimizer step, all ranks together")
    micro_batch: int | None = Field(None, ge=1, description="samples per rank and forward; default batch_size / ranks")
    batch_tokens: int | None = Field(None, ge=1, description="tokens per step instead of batch_size, padding included")
    micro_tokens: int | None = Field(None, ge=1, description="tokens per rank and forward, with batch_tokens")
    bucket_window: int = Field(32, ge=1, description="steps whose samples are sorted by length, with batch_tokens")
    max_grad_norm: float = Field(1.0, gt=0, description="global gradient norm above which gradients are scaled down")
    max_skipped: int = Field(
        10, ge=1, description="stop after this many skipped steps in a row (loss or gradient not finite)"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "OptimizerSection":
        if (self.steps is None) == (self.epochs is None):
            given = "both are given, set one to null" if self.steps else "none is given"
            raise ValueError(f"give either steps or epochs; {given}")
        return self

    @model_validator(mode="after")
    def _one_batch(self) -> "OptimizerSection":
        if self.batch_tokens is None:
            if unread := changed(self, ("micro_tokens", "bucket_window")):
                raise ValueError(f"{', '.join(unread)}: belongs to batch_tokens; give that, or remove it")
            return self
        if unread := changed(self, ("batch_size", "micro_batch")):
            raise ValueError(f"{', '.join(unread)}: not read with batch_tokens; remove one of them")
        if self.micro_tokens is None:
            raise ValueError("batch_tokens needs micro_tokens, the tokens of one forward")
        if self.batch_tokens % self.micro_tokens:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of micro_tokens {self.micro_tokens}; make it one"
            )
        return self


class CheckpointSection(Section):
    """When checkpoints are written, and which are kept."""

    every: int = Field(500, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="how many of the newest are kept")
    keep_best: int = Field(0, ge=0, description="how many of the best by best_metric are kept beside them")
    best_metric: Literal["kd", "ce", "token_accuracy", "agreement"] = Field(
        "ce", description="of the validation pass at the checkpoint's step; one without such a pass does not compete"
    )
    milestone_every: int | None = Field(None, ge=1, description="steps between checkpoints that are never deleted")

    @model_validator(mode="after")
    def _milestones_are_checkpoints(self) -> "CheckpointSection":
        if self.milestone_every and self.milestone_every % self.every:
            raise ValueError(
                f"milestone_every {self.milestone_every} is not a multiple of every {self.every}; make it one"
            )
        return self


class ValidationSection(Section):
    """The validation pass over data.validation."""

    every: int = Field(500, ge=1, description="steps between validation passes")
    batch_size: int = Field(32, ge=1, description="samples per rank and forward")


class TrackingSection(Section):
    """Where MLflow stores the run."""

    enabled: bool = Field(True, description="whether anything is logged to MLflow")
    uri: str | None = Field(
        None, description="MLflow store or server; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db"
    )
    experiment: str | None = Field(None, description="default: MLFLOW_EXPERIMENT_NAME, else caad-ds")
    log_model: bool = Field(False, description="also upload the trained model's folder")


class Config(Section):
    """The whole configuration of a training run."""

    run: RunSection
    data: DataSection
    student: StudentSection
    optimizer: OptimizerSection
    teacher: TeacherSection | None = None
    objective: ObjectiveSection = ObjectiveSection()
    checkpoint: CheckpointSection = CheckpointSection()
    validation: ValidationSection = ValidationSection()
    tracking: TrackingSection = TrackingSection()

    @property
    def negative(self) -> NegativeName | None:
        """The negative of the run's second path: the teacher's, or audio dropout's; None if there is none."""
        if self.teacher is None:
            return self.objective.dropout_negative if self.objective.audio_dropout else None
        pair = self.teacher.cache is not None and self.teacher.cache.form == "pair"  # stored whatever alpha is
        return self.teacher.negative if self.uses_negative or pair else None

    @property
    def uses_negative(self) -> bool:
        """Whether the student's objective depends on the teacher's second path; that of standard KD does not, unless
        rows are weighted by it."""
        return self.teacher is not None and bool(self.objective.alpha or self.objective.row_weight != "none")

    @model_validator(mode="after")
    def _teacher_fits(self) -> "Config":
        if self.objective.name == "distill" and self.teacher is None:
            raise ValueError("objective distill needs a teacher section")
        if self.objective.name == "ce" and self.teacher is not None:
            raise ValueError("objective ce uses no teacher; remove the section or choose distill")
        if self.data.group_by_audio and self.optimizer.batch_tokens:
            raise ValueError("data.group_by_audio and optimizer.batch_tokens order the data each in its way; keep one")
        if self.data.reader == "stream" and (self.optimizer.batch_tokens or self.optimizer.steps is None):
            raise ValueError(
                "data.reader stream knows no lengths and no number of samples: give optimizer.steps and batch_size"
            )
        if self.data.reader == "stream" and self.negative == "shuffled":
            raise ValueError(
                "negative shuffled takes another sample's audio, and data.reader stream knows none; choose another"
            )
        form = self.teacher.cache.form if self.teacher and self.teacher.cache else None
        if form == "contrast" and self.objective.plausibility is not None:
            raise ValueError(
                "objective.plausibility needs the teacher's path with audio by itself, which teacher.cache.form "
                "contrast does not store; set it to pair"
            )
        if form == "contrast" and self.objective.row_weight != "none" and not self.objective.alpha:
            raise ValueError(
                "objective.row_weight needs the teacher's path without audio, which teacher.cache.form contrast does "
                "not hold for alpha 0; set it to pair"
            )
        if self.objective.draws:
            self._draws_answers()
        if self.student.keep_encoded_gb and self.run.peak_tflops:
            raise ValueError(
                "run.peak_tflops is for MFU, which is not counted with student.keep_encoded_gb: the encoder runs for "
                "new clips alone; remove one of them"
            )
        if self.objective.logits == "bfloat16" and self.run.precision != "bf16":
            raise ValueError("objective.logits bfloat16 needs run.precision bf16; set that, or choose float32")
        return self

    def _draws_answers(self) -> None:
        if self.teacher is not None and self.teacher.cache is not None:
            raise ValueError(
                "objective.on_policy lets the teacher score answers that are drawn in every step, and "
                "teacher.cache holds its states of the data's answers; set teacher.cache to null, or remove on_policy"
            )
        if self.optimizer.batch_tokens:
            raise ValueError(
                "optimizer.batch_tokens counts the tokens of the data, and objective.on_policy draws others; give "
                "batch_size"
            )
        if self.run.peak_tflops:
            raise ValueError(
                "run.peak_tflops is for MFU, which is not counted with objective.on_policy: no two steps draw as many "
                "tokens; remove one of them"
            )

    @model_validator(mode="after")
    def _best_is_measured(self) -> "Config":
        saves, validates = self.checkpoint.every, self.validation.every
        if not self.checkpoint.keep_best:
            return self
        if self.data.validation is None:
            raise ValueError("checkpoint.keep_best compares validation passes; give data.validation, or set it to 0")
        if saves % validates and validates % saves:
            raise ValueError(
                f"checkpoint.keep_best needs validation passes at checkpoints: make validation.every ({validates}) "
                f"a divisor or a multiple of checkpoint.every ({saves})"
            )
        if self.objective.name == "ce" and self.checkpoint.best_metric in ("kd", "agreement"):
            raise ValueError(f"checkpoint.best_metric {self.checkpoint.best_metric} needs a teacher; use ce")
        return self

    def read_keys(self) -> dict:
        """Return the sections without keys that this run does not read."""
        values = self.model_dump(mode="json")
        unread = {
            "data": STREAM_ONLY if self.data.reader == "indexed" else (),
            "student": self.student.fresh_only if self.student.path else (),
            "objective": self.objective.unread,
        }
        return {
            name: {key: value for key, value in section.items() if key not in unread.get(name, ())}
            for name, section in values.items()
            if section is not None
        }

    def to_yaml(self) -> str:
        """Return the resolved configuration, readable by `load_config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
