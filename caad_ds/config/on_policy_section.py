"""The section of answers that the student writes itself."""

from pydantic import Field

from caad_ds.config.section import Section


class OnPolicySection(Section):
    """A share of the samples is distilled on answers drawn from the student as it is (on-policy, as in GKD).

    Cross-entropy stays on the pseudo ground truth of all samples.
    """

    share: float = Field(
        0.5, ge=0, le=1, description="share of the samples of a step whose answers the student draws itself"
    )
    divergence: str = Field("reverse_kl", description="on drawn answers; names as of objective.divergence")
    temperature: float = Field(1.0, gt=0, description="of drawing: divides the student's logits")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens of this mass")
    top_k: int | None = Field(None, ge=1, description="draw from so many of the likeliest tokens; default: from all")
    max_new_tokens: int = Field(80, ge=1, description="longest drawn answer; one that does not end before is cut there")
