"""Arguments of commands that freeze a chat template: merging system text into the user's turn, variables."""

import argparse
import math

import yaml

from caad_ds.utils.files import parse_yaml

SWITCH = "--template-switch"


def add_template_arguments(parser: argparse._ActionsContainer, note: str = "") -> None:
    """Add `--merge-system` and `--template-switch NAME=VALUE`; `note` is added to the help of the latter."""
    parser.add_argument(
        "--merge-system", action="store_true", help="put system text into the user's turn, where templates refuse it"
    )
    parser.add_argument(
        SWITCH,
        type=_switch,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"set a variable of the chat template, such as enable_thinking=false{note}",
    )


def _switch(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: its value is not YAML") from error
    finite = not isinstance(parsed, float) or math.isfinite(parsed)
    if not finite or not isinstance(parsed, bool | int | float | str | None):
        raise argparse.ArgumentTypeError(f"{text!r}: a value is true, false, null, a number or a text; quote a text")
    return name, parsed
