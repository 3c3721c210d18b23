"""The section of answers that the student draws itself."""

from pydantic import Field

from caad_ds.config.section import Section


class OnPolicySection(Section):
    """Some of the samples are distilled on answers drawn from the current student (on-policy, as in GKD).

    Cross-entropy stays on the pseudo ground truth of all samples.
    """

    share: float = Field(
        0.5, ge=0, le=1, strict=True, description="probability that the student draws the answer of a sample in a step"
    )
    divergence: str = Field("reverse_kl", description="on drawn answers; names as of objective.divergence")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling: cumulative probability of the tokens to draw from"
    )
    top_k: int | None = Field(None, ge=1, description="sample from the k most probable tokens; default: from all")
    max_new_tokens: int = Field(80, ge=1, description="maximum length of a drawn answer")
