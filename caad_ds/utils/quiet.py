"""Messages of libraries that a user can do nothing about, silenced at their source, once."""

import logging
import os
import sys
import warnings

SETTINGS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # bars over single files; a long step has a progress line of its own
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # each retry of each file of a hub that does not answer
}


def quiet() -> None:
    """Silence what DeepSpeed, torch and transformers report of their internals; call it before they are imported.

    Imports none of them. A user's own settings in the environment stay.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if already := sys.modules.get("transformers.utils.logging"):
        already.disable_progress_bar()
        already.set_verbosity_error()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    # DeepSpeed sets its logger's level when it is imported; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    # DeepSpeed calls collectives under the names that torch 2.13 renames.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Its engines wait for each other without naming the device, which is this rank's.
    warnings.filterwarnings("ignore", message=r"barrier\(\): using the device", category=UserWarning)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
