"""Check the attention implementation of a run."""

from transformers.utils import is_flash_attn_2_available

from caad_ds.config.schema import Config
from caad_ds.utils.errors import UserError


def check_attention(cfg: Config) -> None:
    """Refuse an attention implementation that is not installed or does not support the run's precision."""
    if cfg.run.attention != "flash_attention_2":
        return
    if not is_flash_attn_2_available():
        raise UserError("run.attention: flash_attention_2 is not installed here; install flash-attn, or set it to sdpa")
    if cfg.run.precision != "bf16":
        raise UserError("run.attention: flash_attention_2 takes no fp32; set run.precision to bf16, or it to sdpa")
