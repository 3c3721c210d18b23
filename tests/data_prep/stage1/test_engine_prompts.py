"""How engines of Stage 1 write prompts: contents that look like control, templates that refuse, switches."""

import pytest
from transformers import AutoTokenizer

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from data_prep.stage1 import pseudo_gt
from data_prep.stage1.engines.engine_options import Server
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.local import chat_prompt_encoder
from data_prep.stage1.engines.openai import OpenAIEngine
from data_prep.stage1.engines.transformers import TransformersEngine
from tests.data_prep.lines import read
from tests.data_prep.llm import TEMPLATE

REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
SWITCHED = TEMPLATE + "{% if not enable_thinking %}none{% endif %}"
NOBODY = Server("http://127.0.0.1:9/v1")


@pytest.fixture
def retemplated(tiny_llm, tmp_path):
    """The tiny model's tokenizer with another chat template."""

    def save(template):
        tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "words")
        return str(tmp_path / "words")

    return save


def answers(engine, records) -> dict[str, str]:
    return {answer.id: answer.reason for answer in engine.answers([records], ())}


def test_a_description_that_holds_a_control_token_rejects_its_record_alone(tiny_llm, described):
    records = read(described)
    records[2]["seed_description"] += "</s>"
    found = answers(TransformersEngine(str(tiny_llm), GenerationSettings("", max_new_tokens=2), device="cpu"), records)
    reason = "record: its user message 1 holds '</s>', which is a control token of the tokenizer; remove it"
    assert found[records[2]["id"]] == reason and len(found) == 8
    assert sum(reason.startswith("record: ") for reason in found.values()) == 1


def test_an_answer_that_spells_a_control_token_is_rejected(tiny_llm, described):
    engine = TransformersEngine(str(tiny_llm), device="cpu")
    spelled = engine.tokenizer("a<", add_special_tokens=False)["input_ids"]
    spelled += engine.tokenizer("/s>", add_special_tokens=False)["input_ids"]
    answer = engine._answer(read(described)[0]["id"], [*spelled, 1])
    assert answer.response == "a</s>" and answer.reason.startswith("markup: its answer holds '</s>'")


def test_a_server_is_sent_no_markup(described):
    engine = OpenAIEngine("m", GenerationSettings(), NOBODY)
    records = read(described)[:1]
    records[0]["seed_description"] += " <|im_end|>"
    [reason] = answers(engine, records).values()
    assert reason.startswith("record: its text holds '<|im_end|>', which the server may read as a control token")


def test_switches_reach_a_server(described):
    engine = OpenAIEngine("m", GenerationSettings(switches={"enable_thinking": False}), NOBODY)
    request = engine._request(read(described)[0])
    assert request["extra_body"] == {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("merge", [False, True])
def test_a_template_that_refuses_the_system_role_gets_it_merged(retemplated, described, merge):
    generation = GenerationSettings("Be brief.", merge_system=merge)
    prompt_encoder, record = chat_prompt_encoder(retemplated(REFUSING), generation), read(described)[0]
    asked = {"id": "a", "messages": generation.messages(record), "audios": []}
    if merge:
        assert "user: Be brief.\n\n[00:00" in prompt_encoder.tokenizer.decode(prompt_encoder.prompt(asked)[0])
    else:
        with pytest.raises(UserError, match=r"record a: the chat template refuses it: no system role; .*--merge-"):
            prompt_encoder.prompt(asked)


def test_a_switch_of_the_template_is_set(retemplated, described):
    folder, record = retemplated(SWITCHED), read(described)[0]
    for generation, end in (
        (GenerationSettings(), "none"),
        (GenerationSettings(switches={"enable_thinking": True}), "assistant:"),
    ):
        prompt_encoder = chat_prompt_encoder(folder, generation)
        asked = {"id": "a", "messages": generation.messages(record), "audios": []}
        assert prompt_encoder.tokenizer.decode(prompt_encoder.prompt(asked)[0]).endswith(end)
    with pytest.raises(UserError, match=r"--template-switch: the chat template of .* does not read 'thinking'"):
        chat_prompt_encoder(folder, GenerationSettings(switches={"thinking": True}))


def test_what_a_template_is_set_to_is_recorded(described, prep, tmp_path, tiny_llm):
    out = tmp_path / "answered.jsonl"
    common = ("--manifest", described, "--out", out, "--engine", "transformers", "--model", tiny_llm, "--device", "cpu")
    with pytest.raises(UserError, match="does not read 'enable_thinking'"):
        prep(pseudo_gt, *common, "--template-switch", "enable_thinking=false")
    out.with_suffix(".partial.jsonl").unlink(missing_ok=True)
    for wrong in ("enable_thinking", "day=2024-07-26", "list=[1]", "number=.inf", "open={"):
        with pytest.raises(SystemExit):
            prep(pseudo_gt, *common, "--template-switch", wrong)
    with pytest.raises(UserError, match="--template-switch: --engine template does not read it"):
        prep(pseudo_gt, *common[:4], "--engine", "template", "--template-switch", "a=1")
    prep(pseudo_gt, "--manifest", described, "--out", out, "--engine", "template", "--merge-system")
    assert "merge_system" not in read_json(out.with_suffix(".settings.json"), "")
