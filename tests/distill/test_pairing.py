"""Teacher and student with a batch each: one answer for both, and the tokens over which their logits are compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import IGNORE
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.models import auto
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM, SpeechReader
from caad_ds.models.prompts.train_tokenizer import TEMPLATE, train_tokenizer
from caad_ds.models.reader import Reader
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.training.run_identity import prompts_identity
from caad_ds.utils.errors import UserError
from tests.models.small import sample
from tests.tolerance import assert_close, path
from tests.training.tiny import amplify, encoder, llama, shared_vocabulary

POSITIONS = 100  # more than there are tokens in a batch, or frames in a window
SAMPLES = [sample("a"), sample("b", audios=2, text="beep beep"), sample("c", text="", response="The tone is high.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tokenizer that knows the tests' words."""
    made = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["The tone is high.", "It is low.", "beep Is the tone high or low?"] * 3, 60, made)
    return made


@pytest.fixture
def tokenizer(folder) -> Callable:
    """The tokenizer, perhaps with another `template` or with `added` tokens."""

    def made(template: str | None = None, added: tuple[str, ...] = ()) -> Any:
        changed = AutoTokenizer.from_pretrained(folder)
        changed.add_tokens(list(added))
        changed.chat_template = template or changed.chat_template
        return changed

    return made


def speech_lm(tokenizer: Any, layers: int = 1, hidden: int = 32, queries: int = 4) -> SpeechAudioLM:
    """Return a random model whose states depend on the audio, with an untied head."""
    speech_encoder = encoder()
    llm = llama(layers, len(tokenizer), hidden, tied=False)
    model = build(llm, speech_encoder, None, num_queries=queries, qformer_layers=1, qformer_heads=2)
    for part in (model.connector, model.llm.model.layers, model.llm.lm_head):
        amplify(part)
    model.eval()
    return SpeechAudioLM(model, speech_encoder, tokenizer)


# -- batches --------------------------------------------------------------------------------------------------------


def test_two_that_read_alike_have_one_batch(tokenizer):
    student, teacher = (SpeechReader(tokenizer(), encoder(), 4) for _ in range(2))
    pairing = Pairing(student, teacher, "zero_mel")
    paired = pairing(SAMPLES)
    assert pairing.alike and paired.teacher is paired.student and pairing.readers == [student]
    moved = paired.ignoring(torch.tensor([True, False, False]))
    assert moved.teacher is moved.student and len(moved.student.targets) < len(paired.student.targets)


OTHERWISE = {
    "queries": {"queries": 2},
    "window": {"seconds": 2},
    "transcript": {"transcript": "none"},
    "template": {"template": TEMPLATE.replace("<s>", "<s>beep ")},
}


@pytest.mark.parametrize("differs", OTHERWISE)
def test_two_that_read_otherwise_share_the_answers_ids(tokenizer, differs):
    changes: dict = {"queries": 4, "seconds": 1, "transcript": None, "template": None} | OTHERWISE[differs]
    student = SpeechReader(tokenizer(changes["template"]), encoder(seconds=changes["seconds"]), changes["queries"])
    student.set_transcript(changes["transcript"])
    teacher = SpeechReader(tokenizer(), encoder(), 4)
    pairing = Pairing(student, teacher, "zero_mel", SharedVocabulary.of(student, teacher, (60, 60)))
    assert not pairing.alike and pairing.readers == [student, teacher]
    paired = pairing(SAMPLES)
    ours, theirs, second = paired.student, paired.teacher, paired.negative
    for batch, reader in ((ours, student), (theirs, teacher)):
        for row, each in enumerate(SAMPLES):
            prompt, heard = reader.prompts.prompt(each.record)
            kept = batch.attention_mask[row].bool()
            answer = pairing.check(each).answer
            assert batch.input_ids[row][kept].tolist() == [*prompt, *answer]
            assert batch.labels[row][kept].tolist() == [IGNORE] * len(prompt) + answer
            assert batch.audio_mask[row][kept].tolist() == heard + [False] * len(answer)
    assert ours.keys == theirs.keys and torch.equal(ours.targets, theirs.targets)
    assert torch.equal(ours.sample_of_row, theirs.sample_of_row)
    assert set(ours.audio_positions.tolist()) == {changes["queries"]} and set(theirs.audio_positions.tolist()) == {4}
    assert [batch.audio["features"].shape[-1] for batch in (ours, theirs)] == [100 * changes["seconds"], 100]
    # The second path is the teacher's.
    assert second is not None and torch.equal(second.input_ids, theirs.input_ids)
    assert not second.audio["features"].any()
    assert pairing.length(SAMPLES[1]) == max(each.length(SAMPLES[1]) for each in (student, teacher))


def test_a_sample_whose_answer_the_teacher_writes_otherwise_is_refused_by_name(tokenizer):
    trimmed = tokenizer()
    trimmed.chat_template = trimmed.chat_template.replace("message['content']", "message['content'] | trim")
    student, teacher = SpeechReader(trimmed, encoder(), 4), SpeechReader(tokenizer(), encoder(), 4)
    pairing = Pairing(student, teacher, "zero_mel")
    assert pairing.check(sample("a")).answer == teacher.check(sample("a")).answer
    with pytest.raises(UserError, match=r"^sample b: teacher and student make other tokens of its answer \(the f"):
        pairing.check(sample("b", response="  It is low."))


@pytest.mark.parametrize("readable", ["teacher", "student"])
def test_a_sample_that_one_of_both_cannot_read_is_refused_by_name(tokenizer, readable):
    student, teacher = SpeechReader(tokenizer(), encoder(), 4), SpeechReader(tokenizer(), encoder(), 2)
    other = {"teacher": student, "student": teacher}[readable]
    other.limit(300, 10, f"the LLM of {readable}'s partner")
    with pytest.raises(UserError, match=rf"^sample a: .* tokens, the LLM of {readable}'s partner reads 10"):
        Pairing(student, teacher).check(sample("a"))


# -- the shared vocabulary --------------------------------------------------------------------------------------------


def shared(student: Any, teacher: Any, rows: tuple[int, int] | None = None) -> SharedVocabulary:
    """What models on two tokenizers have in common."""
    ours, theirs = (SpeechReader(each, encoder(), 4) for each in (student, teacher))
    return SharedVocabulary.of(ours, theirs, rows or (len(student), len(teacher)))


def test_heads_padded_to_different_sizes_share_the_smaller_ones_rows(tokenizer):
    size = len(tokenizer())
    assert shared(tokenizer(), tokenizer(), (size + 4, size + 8)) == SharedVocabulary(size + 4)


def test_tokens_that_differ_at_the_end_leave_a_prefix(tokenizer):
    student, teacher = tokenizer(added=("<a>", "<b>")), tokenizer(added=("<a>", "<c>", "<d>"))
    found = shared(student, teacher)
    assert found == SharedVocabulary(len(tokenizer()) + 1)
    assert found.holds(found.size - 1) and not found.holds(found.size)


def test_tokens_that_differ_in_the_middle_are_left_out(tokenizer):
    plain = tokenizer()
    student = tokenizer(added=("<a>", "<same>"))
    teacher = tokenizer(added=("<b>", "<same>"))
    size = len(plain)
    found = shared(student, teacher)
    assert found.size == size + 1 and found.ids.tolist() == [*range(size), size + 1]
    assert [found.holds(token) for token in (0, size - 1, size, size + 1)] == [True, True, False, True]
    z = torch.arange(2.0 * (size + 2)).view(2, -1)
    masked = found.masked(z)
    assert masked[:, size].eq(-torch.inf).all() and masked.isfinite().sum() == 2 * found.size
    assert torch.equal(masked[:, found.ids], z[:, found.ids])


def test_vocabularies_of_two_kinds_are_refused_with_both_names(tokenizer, tmp_path):
    other = train_tokenizer(["other words, otherwise cut"] * 9, 50, tmp_path)
    with pytest.raises(UserError, match="have different vocabularies of answers: ") as caught:
        shared(other, tokenizer())
    assert str(caught.value).startswith(f"teacher {tokenizer().name_or_path} and student {tmp_path} have ")


def test_other_ends_of_an_answer_are_refused_with_both(tokenizer):
    other = tokenizer()
    other.eos_token = "<pad>"
    with pytest.raises(UserError, match=r"end an answer differently: '</s>' \(2\), '<pad>' \(3\); set student\.tok"):
        shared(other, tokenizer())


@pytest.mark.parametrize("token", [0, None], ids=["the first", "the last"])
def test_an_answer_with_a_token_that_is_another_to_the_teacher_is_refused_by_name(tokenizer, monkeypatch, token):
    student, teacher = SpeechReader(tokenizer(), encoder(), 4), SpeechReader(tokenizer(), encoder(), 2)
    answer = student.check(sample("a")).answer
    unlike = answer[-2] if token is None else token
    others = torch.tensor([number for number in range(60) if number != unlike])
    pairing = Pairing(student, teacher, None, SharedVocabulary(len(others), others))
    changed = [unlike, *answer]
    for reader in (student, teacher):
        encoded = reader.check(sample("a"))
        monkeypatch.setattr(reader, "check", lambda *_, e=encoded, **__: type(e)(e.prompt, e.is_audio, changed))
    with pytest.raises(UserError, match=rf"^sample a: its answer holds '.*' \({unlike}\), which is another token to"):
        pairing.check(sample("a"))


# -- the loss over it -------------------------------------------------------------------------------------------------


def test_the_loss_runs_over_the_shared_tokens(tokenizer):
    """As plain PyTorch computes it on the logits without the others; these get no gradient."""
    teacher = speech_lm(tokenizer(added=("<b>", "<c>", "<same>")), 2)
    student = speech_lm(tokenizer(added=("<a>", "<d>", "<same>", "<e>")), 1, 16, queries=2)
    found = shared_vocabulary(student, teacher)
    assert found.ids is not None and found.size == len(found.ids) == len(tokenizer()) + 1
    paired = Pairing(student.reader, teacher.reader, "zero_mel", found)(SAMPLES)
    with torch.no_grad():
        positive, negative = (teacher.hidden(teacher.prepare(batch)) for batch in (paired.teacher, paired.negative))
    cfg, batch = ObjectiveSection(), student.prepare(paired.student)
    module = StudentObjective(student, cfg, shared=found)
    loss, kd, ce, diagnostics = module(batch, positive, negative, teacher.head(), len(batch.targets))
    loss.backward()
    got = student.generator.lm_head.weight.grad.clone()
    student.module.zero_grad()

    z_s = student.head().logits(student.hidden(batch))[:, found.ids]
    z_pos, z_neg = (teacher.head().logits(states)[:, found.ids] for states in (positive, negative))
    q = torch.softmax((z_pos + cfg.alpha * (z_pos - z_neg)) / cfg.temperature, -1)
    log_p = torch.log_softmax(z_s / cfg.temperature, -1)
    expected_kd = cfg.temperature**2 * (q * (q.log() - log_p)).sum(-1).mean()
    places = torch.tensor([found.ids.tolist().index(token) for token in batch.targets.tolist()])
    expected_ce = torch.nn.functional.cross_entropy(z_s, places)
    expected = cfg.kd_weight * expected_kd + (1 - cfg.kd_weight) * expected_ce
    expected.backward()

    terms = path(teacher.module, teacher.encoder, positions=POSITIONS)
    magnitude = float(max(z.detach().abs().max() for z in (z_s, z_pos, z_neg)))
    for value, other in ((loss, expected), (kd, expected_kd), (ce, expected_ce)):
        assert_close(value, other, terms, magnitude)
    assert float(diagnostics["rows"]) == len(batch.targets)
    assert_close(got, student.generator.lm_head.weight.grad, terms)
    alone = torch.ones(len(got), dtype=torch.bool)
    alone[found.ids] = False
    assert alone.sum() == 3 and not got[alone].any() and got[found.ids].abs().max() > 0


# -- the transcription ------------------------------------------------------------------------------------------------


def test_a_prompt_without_transcript_is_that_of_audio_without_text(tokenizer):
    readers: list[Reader] = [SpeechReader(tokenizer(), encoder(), 4) for _ in range(2)]
    assert [each.transcript for each in readers] == ["after_audio", "after_audio"]
    readers[1].set_transcript("none")
    assert readers[1].transcript == "none"
    spoken, silent = sample("a", text="beep beep"), sample("a", text="")
    with_text, without = (each.check(spoken) for each in readers)
    assert without == readers[0].check(silent) and len(with_text.prompt) > len(without.prompt)
    assert with_text.answer == without.answer
    before, after = (prompts_identity(each) for each in readers)
    assert before != after and readers[0].identity() != readers[1].identity()
    readers[1].set_transcript("after_audio")
    assert prompts_identity(readers[1]) == before


@pytest.mark.parametrize("transcript", ["none", "after_audio"])
def test_a_saved_model_keeps_whether_its_prompts_have_the_transcript(tokenizer, tmp_path, transcript):
    model = speech_lm(tokenizer())
    model.reader.set_transcript(transcript)
    model.save(tmp_path / "model")
    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    assert settings["caad_transcript"] == transcript
    again = auto.load(tmp_path / "model").reader
    assert again.transcript == transcript and again.identity() == model.reader.identity()
    assert again.check(SAMPLES[1]) == model.reader.check(SAMPLES[1])
