"""What a configuration is refused with."""

import pytest

from caad_ds.config.reading import load_config
from caad_ds.utils.errors import UserError


def refusal(path, *overrides: str) -> str:
    """The one line that says why this file, with these `--set`, is no configuration."""
    with pytest.raises(UserError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message
