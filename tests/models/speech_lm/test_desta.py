"""A published DeSTA connector in our model: read under its own names, and equal to its own formula."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BertConfig, WhisperConfig
from transformers.models.bert.modeling_bert import BertEncoder

from caad_ds import cli
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.speech_lm.desta import read_connector, tapped_layers
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.speech_lm.encoder_folder import save_encoder
from caad_ds.models.speech_lm.folder import load
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.errors import UserError
from tests.models.small import make_model, sample
from tests.tolerance import assert_close, path
from tests.training.tiny import amplify, encoder

pytestmark = pytest.mark.numeric

WIDTH, HEADS, QUERIES, TAPS, LAYERS, LLM_WIDTH = 32, 2, 5, 2, 2, 32


class Theirs(nn.Module):
    """DeSTA's connector as its authors describe it, on transformers' BERT as they use it, independent of our code."""

    def __init__(self):
        super().__init__()
        self.layer_prompts = nn.ParameterList(nn.Parameter(torch.randn(1, QUERIES, WIDTH)) for _ in range(TAPS))
        self.layer_weights = nn.Parameter(torch.randn(QUERIES, TAPS))
        shape = BertConfig(
            hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=LAYERS, add_cross_attention=True,
            is_decoder=True,
        )  # fmt: skip
        self.qformer = BertEncoder(shape)
        self.proj = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, LLM_WIDTH))
        # As large as in a trained one: each part, also which tap is read how much, shows in the output.
        for parameter in (*self.layer_prompts, self.layer_weights):
            nn.init.normal_(parameter)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.LayerNorm):
                nn.init.normal_(part.bias, std=0.3)
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=part.in_features**-0.5)
            elif isinstance(part, nn.LayerNorm):
                nn.init.normal_(part.weight, mean=1.0, std=0.3)

    def forward(self, states: list[Tensor]) -> Tensor:
        """[A, QUERIES, LLM_WIDTH] for the states [A, frames, WIDTH] of each tap."""
        total = torch.zeros(())
        for tap, memory in enumerate(states):
            prompts = self.layer_prompts[tap].repeat(len(memory), 1, 1)
            read = self.qformer(prompts, encoder_hidden_states=memory).last_hidden_state
            share = self.layer_weights.exp() / self.layer_weights.exp().sum(1, keepdim=True)
            total = total + share[:, tap, None] * read
        return self.proj(total)


@pytest.fixture
def theirs() -> Theirs:
    """Their connector with random weights."""
    torch.manual_seed(0)
    return Theirs().eval()


@pytest.fixture
def bases(tokenizer, tmp_path):
    """Folders `llm` and `whisper` with the models around the connector; the Whisper has a final norm that is felt."""
    torch.manual_seed(1)
    llm = AutoModelForCausalLM.from_config(make_model(tokenizer, encoder()).config.llm_config)
    llm.to(torch.bfloat16).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    shape = WhisperConfig(
        d_model=WIDTH, encoder_layers=4, decoder_layers=0, encoder_attention_heads=HEADS, encoder_ffn_dim=64,
        num_mel_bins=80, max_source_positions=1500,
    )  # fmt: skip
    speech_encoder = SpeechEncoder.from_config(shape, taps=[0])
    amplify(speech_encoder.whisper)
    nn.init.normal_(speech_encoder.whisper.layer_norm.weight, 2.0)
    save_encoder(tmp_path / "whisper", speech_encoder)
    return tmp_path


def layer_outputs(whisper: nn.Module, features: Tensor, taps: list[int]) -> list[Tensor]:
    """What the encoder's layers themselves give, before any final norm."""
    seen: dict[int, Tensor] = {}
    for tap in taps:
        whisper.layers[tap].register_forward_hook(lambda _, inputs, out, tap=tap: seen.__setitem__(tap, out))
    whisper(features)
    return [seen[tap] for tap in taps]


def import_desta(checkpoint, bases, *more: str) -> int:
    arguments = ["--llm", str(bases / "llm"), "--encoder", str(bases / "whisper"), "--out", str(bases / "out")]
    return cli.main(["import-desta", str(checkpoint), *arguments, *more])


def test_the_template_of_an_imported_model_is_set(theirs, bases, tokenizer, capsys):
    torch.save(theirs.state_dict(), bases / "qformer_connector.pth")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer = deepcopy(tokenizer)  # the session's own keeps its template
    tokenizer.chat_template = "{% if loud %}LOUD{% endif %}" + refusing + tokenizer.chat_template
    tokenizer.save_pretrained(bases / "llm")
    assert import_desta(bases / "qformer_connector.pth", bases, "--template-switch", "lout=true") == 2
    assert "--template-switch: the chat template of" in capsys.readouterr().err
    switches = ["--template-switch", "loud=true", "--merge-system"]
    assert import_desta(bases / "qformer_connector.pth", bases, *switches) == 0
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    text = load(bases / "out")[2].apply_chat_template(chat, tokenize=False)
    assert text.startswith("LOUD") and "Be brief.\n\nWho?" in text


@pytest.mark.parametrize("kind", ["DeSTA2", "DeSTA2.5"])
def test_an_imported_connector_gives_the_published_ones_output(theirs, bases, kind):
    if kind == "DeSTA2":  # a file with the connector alone
        checkpoint = bases / "qformer_connector.pth"
        torch.save(theirs.state_dict(), checkpoint)
    else:  # a folder with all that trained
        checkpoint = bases / "published"
        checkpoint.mkdir()
        named = {f"perception.connector.{name}": value for name, value in theirs.state_dict().items()}
        save_file(named, checkpoint / "model.safetensors")
    assert import_desta(checkpoint, bases) == 0
    model, speech_encoder, tokenizer = load(bases / "out")
    assert (speech_encoder.taps, speech_encoder.window_seconds, model.config.qformer_layers) == ([1, 3], 30, LAYERS)
    samples = [sample("a"), sample("b")]
    lm = SpeechAudioLM(model, speech_encoder, tokenizer)
    batch = lm.reader.collate(samples)
    ours = lm.projected(lm.prepare(batch).audio)
    expected = theirs(layer_outputs(speech_encoder.whisper, batch.audio["features"], [1, 3]))
    assert_close(
        ours,
        expected,
        path(model.connector, speech_encoder, positions=speech_encoder.whisper.config.max_source_positions),
    )
    merge_audio(model, batch, ours)  # as many positions as it has queries
    llm = AutoModelForCausalLM.from_pretrained(bases / "llm", dtype=torch.float32).state_dict()
    assert all(torch.equal(llm[name], value) for name, value in model.llm.state_dict().items())


def test_taps_are_those_of_the_published_models():
    assert tapped_layers(24, 4) == [5, 11, 17, 23]  # whisper-medium
    assert tapped_layers(12, 4) == [2, 5, 8, 11]  # whisper-small, DeSTA2-8B-beta
    assert tapped_layers(32, 4) == [7, 15, 23, 31]  # whisper-large-v3, DeSTA2.5
    assert tapped_layers(4, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("absent", "no such checkpoint"),
        ("cut", "no checkpoint that loads"),
        ("pickled code", "no checkpoint that loads"),
        ("no layer_weights", "0 tensors named layer_weights"),
        ("no prompt", "not a whole DeSTA connector .*layer_prompts.1"),
        ("no projection", "not a whole DeSTA connector .*project.weight"),
        ("narrow", "its feed-forward is 64 wide, not 3072"),
        ("another part", "conv.weight is no part of a DeSTA connector"),
        ("LoRA", "holds LoRA weights of the LLM"),
        ("a list", "not a state dict"),
    ],
)
def test_a_checkpoint_that_is_none_is_named(theirs, tmp_path, damage, message):
    file = tmp_path / "qformer_connector.pth"
    values = theirs.state_dict()
    if damage == "no layer_weights":
        del values["layer_weights"]
    elif damage == "no prompt":
        del values["layer_prompts.1"]
    elif damage == "no projection":
        del values["proj.1.weight"]
    elif damage == "narrow":
        values["qformer.layer.0.intermediate.dense.weight"] = torch.zeros(64, WIDTH)
    elif damage == "another part":
        values["conv.weight"] = torch.zeros(1)
    elif damage == "LoRA":
        values["llm_model.q_proj.lora_A.weight"] = torch.zeros(1)
    elif damage == "a list":
        values = [torch.zeros(1)]
    elif damage == "pickled code":
        values = {"layer_weights": pytest.approx}
    if damage != "absent":
        torch.save(values, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=message) as caught:
        read_connector(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_bases_that_do_not_fit_are_named(theirs, bases, tokenizer, capsys):
    file = bases / "qformer_connector.pth"
    values = theirs.state_dict()
    torch.save(values | {"proj.1.weight": torch.zeros(48, WIDTH), "proj.1.bias": torch.zeros(48)}, file)
    assert import_desta(file, bases) == 2
    assert "it is 32 wide, the checkpoint's connector writes 48" in capsys.readouterr().err
    torch.save({k: v for k, v in values.items() if "layer.1.output.LayerNorm" not in k}, file)
    assert import_desta(file, bases) == 2
    assert "no whole DeSTA connector" in capsys.readouterr().err
    prompts = {f"layer_prompts.{n}": torch.zeros(1, QUERIES, 48) for n in range(TAPS)}
    torch.save(values | prompts, file)
    assert import_desta(file, bases) == 2
    assert "its states are 32 wide, the checkpoint's connector reads 48" in capsys.readouterr().err
    (bases / "out").mkdir()
    assert import_desta(file, bases) == 2
    assert "it is there already" in capsys.readouterr().err
