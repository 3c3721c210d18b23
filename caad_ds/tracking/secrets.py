"""Prepare text for MLflow, without secrets."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# MLflow's limits for a key and for a value
MAX_KEY, MAX_VALUE = 250, 6000

SECRET_KEY = re.compile(r"secret|passw|credential|api_?key|(^|[._-])(auth|token)($|[._-])", re.IGNORECASE)
SECRET_IN_URI = re.compile(
    r"(?<=://)[^/@\s]+(?=@)|(?<=[?&])[^=&\s]*(?:token|secret|key|sig|passw)[^=&\s]*=[^&\s]+", re.I
)
# Keys with a known form: the hub, GitHub, GitLab, OpenAI and Anthropic, AWS, Google, Slack, Databricks, PyPI
TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
    r"|glpat-[\w-]{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}\b|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|dapi[0-9a-f]{32}"
    r"|pypi-[\w-]{40,})|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.ASCII,
)
HIDDEN = "[hidden]"


def printable(values: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters or tags for MLflow: legal keys, values within its limits, secrets hidden."""
    return {legal_key(key): _value(key, value) for key, value in values.items()}


def command_line(argv: Sequence[str]) -> str:
    """Return a command line, the program without its folder, and secrets of options and known keys hidden.

    An option is secret by its name (`--api-key X`, `--api-key=X`), an override by its key (`hub.token=X`).
    """
    words, hide_next = [Path(argv[0]).name], False
    for word in argv[1:]:
        name, equals, value = word.partition("=")
        option = name.startswith("-")
        secret = SECRET_KEY.search(name.lstrip("-").replace("-", "_")) is not None
        if hide_next and not option:
            words.append(HIDDEN)
        elif equals and secret and value:
            words.append(f"{name}={HIDDEN}")
        else:
            words.append(hide_secrets(word))
        hide_next = option and secret and not equals and not name.endswith("-env")
    return shlex.join(words)


def hide_secrets(text: str) -> str:
    """Return text without the credentials in URIs, and without keys of a known form."""
    return TOKEN.sub(HIDDEN, SECRET_IN_URI.sub(HIDDEN, text))


def reason(error: Exception) -> str:
    """Return an error's innermost cause in one line; MLflow and urllib3 wrap it in their own words."""
    text = " ".join(str(error).split()).rpartition("(Caused by ")[2]
    return hide_secrets(text)[:200] or type(error).__name__


def legal_key(key: str) -> str:
    """Return a key with characters that MLflow refuses replaced."""
    return re.sub(r"[^\w./ :-]", "_", key)[:MAX_KEY]


def _value(key: str, value: Any) -> str:
    if isinstance(value, str) and SECRET_KEY.search(key):
        return HIDDEN
    text = hide_secrets(str(value))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
