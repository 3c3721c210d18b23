"""Files are written atomically."""

import os
import stat

import pytest

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_json


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"pipe is no regular file: name another"):
        write_json(pipe, {})
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]
