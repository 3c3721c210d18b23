"""Voxtral: prompts, features, answers and files equal those of mistral-common and its own processor."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, START_AUDIO
from caad_ds.models import auto, hub_models, processor_reader
from caad_ds.models.prompts.tekken import TEMPLATE, tekken_tokenizer
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.models.tekken_processor import MOST_WINDOWS
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import audio, sample
from tests.models.families.tiny.text import SECONDS

mistral_common = pytest.importorskip("mistral_common", reason="its processor needs mistral_common")
from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # noqa: E402
from transformers import AutoProcessor, AutoTokenizer, MistralCommonBackend, VoxtralProcessor  # noqa: E402

from tests.models.families.tiny import voxtral as tiny_voxtral  # noqa: E402

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
MARK, CLIP, COUNT = f"{START_AUDIO}{AUDIO}{END_AUDIO}\n", audio("clip", 0.3), 25
SOME = ["Is the tone high?", " a ", "\n", "  ", "It is low. ", "beep\n\n", "é🙂"]
TEXTS = st.text(max_size=12) | st.sampled_from(SOME)
CONTENTS = st.lists(TEXTS, min_size=1, max_size=3)  # the texts before, between and after its audios
CHATS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENTS), min_size=1, max_size=5)


@pytest.fixture(scope="module", params=["v7", "v11", "v13"])
def versioned(request, tmp_path_factory):
    """A model whose tekken.json has one of the versions of mistral-common's rules, and its folder."""
    folder = tiny_voxtral.write(tmp_path_factory.mktemp(request.param), version=request.param)
    return auto.load(folder), folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A model folder, not to be changed."""
    return tiny_voxtral.write(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def lm(source):
    made = auto.load(source)
    made.module.eval()
    return made


@pytest.fixture
def copy(source, tmp_path) -> Path:
    """A copy of the folder, to be broken."""
    return Path(shutil.copytree(source, tmp_path / "copy"))


# -- prompts ----------------------------------------------------------------------------------------------------------


def record(chat, answer: str | None = None) -> dict:
    """The record of a conversation, whose contents are lists of texts around audios."""
    messages = [{"role": role, "content": MARK.join(texts)} for role, texts in chat]
    return {"id": "r", "audios": [{"path": ""}] * audios(chat), "messages": messages, "response": answer}


def audios(chat) -> int:
    return sum(len(texts) - 1 for _, texts in chat)


def given_to_mistral(chat) -> list[dict]:
    """The same as VoxtralProcessor is given it."""
    filled = []
    for role, (first, *rest) in chat:
        content = [{"type": "text", "text": first}] if first else []
        for text in rest:
            content += [{"type": "audio", "base64": tiny_voxtral.wav(CLIP)}]
            content += [{"type": "text", "text": text}] if text else []
        filled.append({"role": role, "content": content if rest else first})
    return filled


def is_usual(chat, version: str) -> bool:
    """Whether a conversation is one that must be taken: turns that alternate up to the user's, with texts in them."""
    roles = [role for role, _ in chat]
    first = roles.index("user") if "user" in roles else len(roles)
    alternate = roles[first:] == ["user", "assistant"] * (len(roles[first:]) // 2) + ["user"]
    plain = all(len(texts) == 1 for role, texts in chat if role != "user")
    answered = all(texts != [""] for role, texts in chat if role == "assistant")
    beside = version == "v13" or not ("system" in roles and audios(chat))
    return set(roles[:first]) <= {"system"} and alternate and plain and answered and beside


def test_prompts_are_those_of_mistral_common(versioned):
    """Whatever the conversation: the same ids, or a refusal, which mistral-common's own always meet."""
    lm, folder = versioned
    seen = {"taken": 0, "refused": 0}

    @settings(max_examples=300, **QUIET)
    @given(CHATS)
    def compare(chat):
        try:
            own = tiny_voxtral.encoded(lm.reader.processor.own, given_to_mistral(chat))["input_ids"][0].tolist()
        except Exception:  # each kind of refusal has a class of its own there
            own = None
        try:
            found = lm.reader.prompts.encode(record(chat), with_answer=False, positions=[COUNT] * audios(chat)).prompt
        except UserError as error:
            assert not is_usual(chat, folder.name[:3].rstrip("0")), error
            seen["refused"] += 1
            return
        assert own is not None and found == own
        seen["taken"] += 1

    compare()
    assert min(seen.values()) > 5, seen


def test_answers_are_those_of_mistral_common(source, lm):
    """Their tokens and their end, as its conversations for fine-tuning have them."""
    own = MistralCommonBackend.from_pretrained(source, mode="finetuning")

    @settings(max_examples=200, **QUIET)
    @given(TEXTS.filter(lambda text: text and not text.endswith(" ")))
    def compare(answer):
        encoded = lm.reader.prompts.encode(record([("user", ["Is it", "?"])], answer), positions=[COUNT])
        chat = [*given_to_mistral([("user", ["Is it", "?"])]), {"role": "assistant", "content": answer}]
        assert encoded.prompt + encoded.answer == own.apply_chat_template(chat, return_dict=True)["input_ids"]

    compare()
    assert lm.reader.prompts.turn.end == own.eos_token_id == 2 == lm.stops


@pytest.mark.parametrize("token", [*tiny_voxtral.CONTROL.values(), "<SPECIAL_20>"])
def test_control_tokens_in_texts_are_refused(lm, token):
    for chat, answer in (
        ([("user", [f"he said{token}stop"])], "a"),
        ([("user", ["a", token])], "a"),
        ([("system", [token]), ("user", ["a"])], "a"),
        ([("user", ["a"])], f"{token} yes"),
    ):
        with pytest.raises(UserError, match=r"^record r: its .* holds "):
            lm.reader.prompts.encode(record(chat, answer), positions=[COUNT] * audios(chat))


def test_a_system_message_beside_audio(versioned):
    """Refused where mistral-common refuses it, with the remedy."""
    lm, folder = versioned
    chat = [("system", ["Be brief."]), ("user", ["", "Is it low?"])]
    if folder.name.startswith("v13"):
        assert lm.reader.prompts.encode(record(chat, "a"), positions=[COUNT]).prompt
        return
    with pytest.raises(UserError, match=r"no system message beside audio; leave out the system message"):
        lm.reader.prompts.encode(record(chat, "a"), positions=[COUNT])
    assert lm.reader.prompts.encode(record([chat[0], ("user", ["Is it low?"])], "a")).prompt


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """mistral-common's own vocabulary, its first 20,000 pieces, and the tokenizer of transformers made of it."""
    values = json.loads((Path(mistral_common.__file__).parent / "data/tekken_240911.json").read_text())
    values["special_tokens"] = tiny_voxtral.control(1000)
    values["audio"] = tiny_voxtral.audio(30, 128)
    values["config"] |= {"version": "v7", "default_vocab_size": 21_000}
    file = tmp_path_factory.mktemp("real") / "tekken.json"
    file.write_text(json.dumps(values))
    return Tekkenizer.from_file(file), tekken_tokenizer(file, TEMPLATE)


@pytest.mark.slow
def test_every_character_becomes_the_same_tokens(real):
    own, found = real
    characters = [f"a{chr(n)}B {chr(n)}{chr(n)}\n" for n in range(0x110000) if not 0xD800 <= n < 0xE000]
    texts = ["".join(characters[start : start + 50]) for start in range(0, len(characters), 50)]
    for start in range(0, len(texts), 100):
        some = texts[start : start + 100]
        ids = found(some, add_special_tokens=False)["input_ids"]
        assert ids == [own.encode(text, bos=False, eos=False) for text in some]


def test_texts_of_the_real_vocabulary(real):
    """Any text becomes the same tokens, and any tokens the same text."""
    own, found = real
    assert len(found) == own.n_words == len(set(found.get_vocab().values())) == 21_000
    words = st.lists(st.sampled_from(["the", " of", "ing", "aa", "A", "É", "中文", "\r\n", "  ", "1", "'s", "--", "ए"]))

    @settings(max_examples=500, **QUIET)
    @given(st.text() | words.map("".join), st.lists(st.integers(1000, 20_999), max_size=20))
    def compare(text, ids):
        assert found(text, add_special_tokens=False)["input_ids"] == own.encode(text, bos=False, eos=False)
        assert found.decode([*ids, own.eos_id], skip_special_tokens=True) == own.decode([*ids, own.eos_id])

    compare()


# -- audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[1], [31_999], [32_000], [32_001], [100_000, 400]])
def test_features_are_those_of_its_own_processor(lm, lengths):
    """Number for number, of one window and of several, whose levels go together."""
    clips = [audio(str(n), length / 16_000) * 0.1 ** np.linspace(0, 3, length) for n, length in enumerate(lengths)]
    clips = [clip.astype(np.float32) for clip in clips]
    features = lm.reader.features(clips)
    own = tiny_voxtral.processor_inputs(lm.reader.processor, "a", clips)
    torch.testing.assert_close(lm.reader.inputs(features.audio)["input_features"], own["input_features"])
    assert sum(features.positions) == (own["input_ids"] == 24).sum()
    assert features.positions == [lm.reader.positions_of(length / 16_000) for length in lengths]


def test_the_longest_audio(lm):
    assert lm.reader.longest_seconds == MOST_WINDOWS * SECONDS
    assert lm.reader.positions_of(lm.reader.longest_seconds) == MOST_WINDOWS * COUNT


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_trained_model_keeps_its_transcript_and_template(copy, tmp_path):
    """Also where the folder that it came from is gone; its own processor reads the files as before."""
    lm = auto.load(copy)
    lm.reader.set_transcript("after_audio")
    lm.reader.tokenizer.chat_template = "{%- set unused = 1 -%}" + lm.reader.tokenizer.chat_template
    before = lm.reader.identity()
    shutil.rmtree(copy)
    lm.save(tmp_path / "saved")
    again = auto.load(tmp_path / "saved")
    assert again.reader.transcript == "after_audio" and again.reader.identity() == before
    own = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert isinstance(own, VoxtralProcessor) and isinstance(own.tokenizer, MistralCommonBackend)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "saved"), MistralCommonBackend)


def test_what_is_saved_of_an_untouched_model_is_the_published_layout(lm, tmp_path):
    lm.reader.processor.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["preprocessor_config.json", "tekken.json"]


def test_bf16_keeps_the_places_of_its_tower_in_fp32(source, tmp_path):
    """As its own class does; they are saved so."""
    lm = auto.load(source, torch.bfloat16)
    assert lm.tower.embed_positions.weight.dtype == torch.float32
    lm.save(tmp_path)
    again = tiny_voxtral.MODEL.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(again.model.audio_tower.embed_positions.weight, lm.tower.embed_positions.weight)


def broken(folder: Path, **changes) -> None:
    """Write other values of a tekken.json; None removes one."""
    values = json.loads((folder / "tekken.json").read_text())
    values |= changes
    kept = {name: value for name, value in values.items() if value is not None}
    (folder / "tekken.json").write_text(json.dumps(kept))


def test_broken_files_are_refused_by_name(copy, monkeypatch):
    def refusal() -> str:
        with pytest.raises(UserError) as error:
            auto.load(copy)
        found = str(error.value)
        assert found.startswith(f"{copy}: ") and "\n" not in found and len(found) < 500
        return found

    whole = (copy / "tekken.json").read_text()
    broken(copy, audio=None)
    assert "its tekken.json has no audio section" in refusal()
    broken(copy, audio=tiny_voxtral.audio(SECONDS + 1))
    assert "windows of 3.0 s at 16000 Hz, its feature extractor of 2 s" in refusal()
    broken(copy, audio=tiny_voxtral.audio(), vocab=[])
    assert "no processor there that loads" in refusal()
    (copy / "tekken.json").write_text(whole[:1000])
    assert "no processor there that loads (JSONDecodeError: " in refusal()
    values = json.loads(whole)
    values["special_tokens"][4]["token_str"], values["special_tokens"][9]["token_str"] = "[TOOL_CALLS]", "[/INST]"
    (copy / "tekken.json").write_text(json.dumps(values))
    auto.load(copy)  # another number for a token is no fault
    (copy / "tekken.json").unlink()
    assert "its processor lacks a tokenizer (tekken.json)" in refusal()
    (copy / "tekken.json").write_text(whole)
    (copy / "processor_config.json").unlink()
    assert "its processor lacks a feature extractor" in refusal()
    monkeypatch.setattr(processor_reader, "find_spec", lambda name: None if "mistral" in name else find_spec(name))
    assert "needs mistral_common; pip install 'caad-ds[voxtral]'" in refusal()


def test_prompts_that_mistral_common_writes_otherwise_are_refused(source, monkeypatch):
    own = MistralCommonBackend.apply_chat_template

    def other(self, *args, **kwargs):
        found = own(self, *args, **kwargs)
        return found | {"input_ids": [*found["input_ids"], 3]}

    monkeypatch.setattr(MistralCommonBackend, "apply_chat_template", other)
    with pytest.raises(UserError, match=r"mistral-common writes other prompts of its tekken.json \(version 7\)"):
        auto.load(source)


def test_a_hub_id_is_read_without_the_second_copy_of_the_weights(monkeypatch, source):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.update(how) or str(source))
    hub_models.snapshot.cache_clear()
    assert auto.local_folder("mistralai/Voxtral-of-a-test") == source
    hub_models.snapshot.cache_clear()
    names = [
        "config.json",
        "tekken.json",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "notes.md",
    ]
    chosen = [
        name for name in names
        if any(Path(name).match(each) for each in asked["allow_patterns"])
        and not any(Path(name).match(each) for each in asked["ignore_patterns"])
    ]  # fmt: skip
    assert chosen == names[:3]


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_two_of_one_vocabulary_share_all_of_it(lm, tmp_path):
    other = auto.load(tiny_voxtral.write(tmp_path, hidden=16, seed=1))
    rows = len(lm.head().weight), len(other.head().weight)
    assert SharedVocabulary.of(lm.reader, other.reader, rows) == SharedVocabulary(rows[0])
    assert lm.reader.identity() == other.reader.identity()
    assert lm.reader.check(sample("a", 0.5)) == other.reader.check(sample("a", 0.5))
