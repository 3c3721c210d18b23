"""The connector by itself."""

import pytest
import torch

from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.qformer import QFormerConnector
from tests.tolerance import assert_close, path
from tests.training.tiny import amplify

pytestmark = pytest.mark.numeric


def connector(normalize: bool) -> QFormerConnector:
    torch.manual_seed(0)
    made = QFormerConnector(encoder_dim=8, llm_dim=6, taps=2, queries=3, layers=1, heads=2, normalize=normalize).eval()
    amplify(made)
    return made


def test_normalised_states_are_heard_without_their_scale_and_offset():
    states = torch.randn(2, 2, 5, 8)
    changed = AudioStates(3 * states + 2)
    normalized, plain = connector(True), connector(False)
    terms = path(normalized, positions=5)
    assert_close(normalized(changed), normalized(AudioStates(states)), terms)
    with pytest.raises(AssertionError, match="is allowed"):
        assert_close(plain(changed), plain(AudioStates(states)), terms)
