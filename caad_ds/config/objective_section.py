"""The section of the training objective."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.config.section import Section, changed

NegativeName = Literal["zero_mel", "silence", "noise", "text_only", "shuffled"]
NEGATIVES = get_args(NegativeName)
CHECKED_NEGATIVES = NEGATIVES[:4]  # check-teacher's default: negatives without audio
CHECKED_ALPHAS = (0.5, 1.0, 2.0)
AlphaGate = Literal["none", "text_certainty"]
ALPHA_GATES = get_args(AlphaGate)
DISTILL_ONLY = (
    "alpha", "alpha_gate", "gate_m", "temperature", "kd_weight", "plausibility", "sharpen", "divergence", "mix",
    "row_weight", "row_weight_cap", "hidden_weight", "hidden_distance", "on_policy",
)  # fmt: skip
BELONGING = {"alpha_gate": ("gate_m",), "row_weight": ("row_weight_cap",), "hidden_weight": ("hidden_distance",)}


class ObjectiveSection(Section):
    """What is minimised: lambda * KD + (1 - lambda) * CE, or CE alone."""

    name: Literal["distill", "ce"] = Field("distill", description="ce trains on the pseudo ground truth alone")
    alpha: float = Field(1.0, ge=0, description="strength of the contrast; 0 is standard KD")
    alpha_gate: AlphaGate = Field(
        "none",
        description="text_certainty (experimental): alpha where the teacher is sure without the audio, less where it "
        "is not: times max(0, 1 - entropy / log gate_m)",
    )
    gate_m: float = Field(
        2.0, gt=1, description="with a gate: no contrast from the entropy of so many equally likely tokens on"
    )
    temperature: float = Field(2.0, gt=0, description="divides the logits of teacher and student (tau)")
    kd_weight: float = Field(0.7, ge=0, le=1, description="share of KD in the loss (lambda)")
    plausibility: float | None = Field(None, gt=0, le=1, description="beta of the adaptive plausibility mask")
    divergence: str = Field(
        "forward_kl",
        description="between target and student: a name of caad_ds/loss/divergence.py (the paper's is forward_kl), "
        "or package.module:name of your own",
    )
    mix: float = Field(
        0.5, gt=0, lt=1, description="weight of the target in the mixture, for divergences that have one"
    )
    sharpen: float = Field(0.0, ge=0, description="with alpha 0: scale the target's logits by 1 + sharpen (a control)")
    reduction: Literal["token", "sample"] = Field(
        "token", description="mean over answer tokens, or over the samples' means"
    )
    row_weight: Literal["none", "audio_advantage"] = Field(
        "none",
        description="audio_advantage (experimental): weigh the KD of each answer token by log p - log p without the "
        "audio, of the teacher, clipped to 0 and row_weight_cap; mean 1 over a step's tokens",
    )
    row_weight_cap: float = Field(
        5.0, gt=0, description="with row_weight: advantages above this (in nats) count as much"
    )
    hidden_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the contrast of hidden states in KD: the student's final states against the teacher's "
        "contrasted ones; where widths differ the student's go through a learned map that is not exported; not with "
        "alpha_gate",
    )
    hidden_distance: Literal["mse", "cosine"] = Field("mse", description="of hidden_weight: how far states are apart")
    on_policy: OnPolicySection | None = Field(
        None, description="distil some of the samples on answers that the student draws"
    )
    logits: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="dtype of the logits in the loss; bfloat16 is faster and less exact (run.precision bf16 on CUDA)",
    )
    audio_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of samples whose audio is replaced by the negative (ce)"
    )
    dropout_negative: NegativeName = Field("zero_mel", description="the negative that audio_dropout uses")

    @property
    def share_of_kd(self) -> float:
        """kd_weight (lambda) if there is a teacher to distil from, else 0."""
        return self.kd_weight if self.name == "distill" else 0.0

    @property
    def draws(self) -> bool:
        """Whether the student draws any answers itself."""
        return self.on_policy is not None and self.on_policy.share > 0

    @property
    def longest_drawn(self) -> int:
        """The most tokens of a drawn answer; 0 if none are drawn."""
        return self.on_policy.max_new_tokens if self.on_policy is not None and self.draws else 0

    @property
    def on_drawn_answers(self) -> "ObjectiveSection":
        """The objective on drawn answers: no cross-entropy, and their own divergence."""
        assert self.on_policy is not None
        return self.model_copy(update={"kd_weight": 1.0, "divergence": self.on_policy.divergence})

    @property
    def without_teacher(self) -> "ObjectiveSection":
        """The objective with only the cross-entropy."""
        return self.model_copy(update={"kd_weight": 0.0})

    @property
    def unread(self) -> tuple[str, ...]:
        """The keys that this objective does not read: those of a teacher, or of a feature that is off by default."""
        if self.name == "ce":
            return DISTILL_ONLY
        return tuple(key for owner, keys in BELONGING.items() if not changed(self, (owner,)) for key in keys)

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveSection":
        if self.name == "distill" and self.audio_dropout:
            raise ValueError("audio_dropout belongs to objective ce")
        if self.name == "ce" and (unread := changed(self, DISTILL_ONLY)):
            raise ValueError(f"{', '.join(unread)}: belongs to objective distill; objective ce reads no teacher")
        if self.sharpen and self.alpha:
            raise ValueError("sharpen is a control without contrast; set alpha to 0")
        for owner, keys in BELONGING.items():
            if not changed(self, (owner,)) and (unread := changed(self, keys)):
                raise ValueError(f"{', '.join(unread)}: belongs to {owner}; set that, or remove it")
        if self.hidden_weight and self.alpha_gate != "none":
            raise ValueError("hidden_weight takes one alpha for all rows; remove it, or alpha_gate")
        if self.draws and not self.kd_weight:
            raise ValueError("on_policy distils on the student's answers, and kd_weight 0 distils nothing; raise it")
        if self.alpha_gate != "none" and not self.alpha:
            raise ValueError("alpha_gate weakens a contrast, and alpha 0 has none; raise alpha, or remove alpha_gate")
        return self
