"""Messages of libraries that a user can do nothing about, silenced at their source, once."""

import logging
import os
import warnings


def quiet() -> None:
    """Silence progress bars over single files, and the internals that DeepSpeed, torch and transformers report."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("DeepSpeed", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed calls collectives under the names that torch 2.13 renames.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
