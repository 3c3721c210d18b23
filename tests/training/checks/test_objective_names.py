"""A divergence that a run cannot use is refused by its key, before models are loaded."""

import pytest

from caad_ds.config.reading import load_config
from caad_ds.training.checks.config_paths import check_inputs
from caad_ds.utils.errors import UserError


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"divergence": "kl"}, "objective.divergence is 'kl', expected one of forward_kl, reverse_kl, "),
        ({"divergence": "forward_lk"}, "did you mean forward_kl?"),
        ({"divergence": "absent:mine"}, "No module named 'absent'"),
        (
            {"divergence": "reverse_kl", "plausibility": 0.1},
            "objective.plausibility is 0.1, expected None with",
        ),
    ],
)
def test_it_is_named(made, changes, expected):
    cfg = load_config(made(objective=changes))
    with pytest.raises(UserError) as caught:
        check_inputs(cfg)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
