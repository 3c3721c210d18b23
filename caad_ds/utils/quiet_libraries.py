"""Silence messages of libraries that a user cannot act on."""

import logging
import os
import sys
import warnings

SETTINGS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # bars over single files; a long step has its own progress line
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # every retry of every file if the hub does not answer
}


def quiet() -> None:
    """Silence internal messages of DeepSpeed, torch and transformers; call it before they are imported.

    It imports none of them. A user's settings in the environment take precedence.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if already := sys.modules.get("transformers.utils.logging"):
        already.disable_progress_bar()
        already.set_verbosity_error()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    # DeepSpeed sets its logger's level on import; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    # DeepSpeed uses names of collectives that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Its engines call barriers without naming the device, which is this rank's.
    warnings.filterwarnings("ignore", message=r"barrier\(\): using the device", category=UserWarning)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
