"""What of a model folder is pushed: of every family all that it writes."""

import pytest

from caad_ds.publishing.model_files import model_files
from tests.training.families.every import FAMILIES, tiny_family, write_model


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_a_family_writes_is_pushed(family, tmp_path):
    folder = write_model(tiny_family(family), tmp_path / "model")
    files = model_files(folder)
    assert files.left_out == {}
    assert files.sent == {path.name: path.stat().st_size for path in folder.iterdir()}
