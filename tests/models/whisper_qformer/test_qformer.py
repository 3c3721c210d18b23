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


@torch.enable_grad()
@pytest.mark.parametrize("form", ["blip2", "desta"])
def test_the_first_self_attention_of_a_batch_is_that_of_each_audio(form):
    """Outputs and gradients of the Q-Former that transformers runs, whose queries meet each audio by themselves."""
    torch.manual_seed(0)
    made = QFormerConnector(encoder_dim=8, llm_dim=6, taps=2, queries=3, layers=2, heads=2, form=form).double()
    amplify(made)
    states = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    memory = states.flatten(0, 1)
    queries = made.queries.expand(3, -1, -1, -1).flatten(0, 1)
    norm = made.qformer.layernorm
    plain = made.qformer.encoder(
        queries if norm is None else norm(queries), encoder_hidden_states=memory, query_length=3
    ).last_hidden_state
    found = made._read(memory, 3)
    assert torch.allclose(found, plain, rtol=1e-12, atol=1e-12)
    weights = [weight for weight in made.qformer.parameters() if weight.requires_grad] + [made.queries]
    seed = torch.randn_like(plain)
    grads = [torch.autograd.grad(output, weights, seed, retain_graph=True) for output in (found, plain)]
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(*grads, strict=True))
    assert any(float(grad.abs().max()) > 1e-3 for grad in grads[0])
