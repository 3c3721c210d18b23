"""The verdict on a teacher, for made-up likelihoods."""

import json
from dataclasses import replace

import numpy as np
import pytest

from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.generalisation import (
    HEARD,
    OVERFITTED,
    UNDERTRAINED,
    UNKNOWN,
    NeutralAnswers,
    validation_losses,
)
from caad_ds.evaluation.teacher_check.verdict import Attribute, judge, signal_metrics

POS, NEG, CONTRAST = Signal(), Signal("silence"), Signal("silence", 1.0)


def attribute(pos, neg, contrast, rows=200, name="gender"):
    """Likelihoods of two options from log-odds: of the right one for z_pos and z_c, of option 0 for z_neg."""
    gt = np.arange(rows) % 2
    sign = np.where(gt == 0, 1.0, -1.0)[:, None]

    def of(odds):
        return np.stack([odds, np.zeros_like(odds)], axis=-1)

    signals = {
        POS: of(sign * np.broadcast_to(pos, (rows, 4))),
        NEG: of(np.broadcast_to(neg, (rows, 4)).astype(float)),
        CONTRAST: of(sign * np.broadcast_to(contrast, (rows, 4))),
    }
    return Attribute(name, gt, signals)


def verdict(*attributes):
    table = {signal: signal_metrics(list(attributes), signal) for signal in (POS, NEG, CONTRAST)}
    return judge(list(attributes), table)


BIASED, FREED = [1, 2, -1, 1], [1, 2, 1, 1]


def test_takes_a_negative_that_is_in_distribution_and_helps():
    found = verdict(attribute(BIASED, 0.1, FREED))
    assert (found["negative"], found["alpha"]) == ("silence", 1.0)
    words = " ".join(found["lines"])
    assert "a text bias to remove: faithful 100.0, adversarial 0.0" in words
    assert "silence: in the teacher's distribution" in words and "a necessary sign, not a proof" in words
    assert "adversarial 0.0 -> 100.0" in words


def test_refuses_a_negative_that_says_something_arbitrary():
    found = verdict(attribute(BIASED, 6.0, FREED))
    assert (found["negative"], found["alpha"]) == (None, 0.0)
    assert "silence: outside the teacher's distribution" in " ".join(found["lines"])
    assert "audio dropout" in found["lines"][-1]


def test_refuses_a_contrast_that_costs_neutral_accuracy():
    found = verdict(attribute(BIASED, 0.1, [-1, 2, 1, 1]))
    assert found["negative"] is None
    assert "neutral accuracy falls at alpha 1" in " ".join(found["lines"])


def test_without_bias_there_is_nothing_to_take():
    found = verdict(attribute(FREED, 0.1, FREED))
    assert found["negative"] is None
    assert any("little text bias" in line for line in found["lines"])
    assert "little text bias" in found["lines"][-1] and "not recommended" in found["lines"][-1]


def test_a_gain_where_there_is_little_bias_recommends_nothing():
    wrong = np.where(np.arange(200) < 6, -1.0, 1.0)[:, None]
    nearly_free = np.concatenate([np.ones((200, 2)), wrong, np.ones((200, 1))], axis=1)
    found = verdict(attribute(nearly_free, 0.1, FREED))
    assert (found["negative"], found["alpha"]) == (None, 0.0)
    assert "faithful 100.0, adversarial 97.0" in " ".join(found["lines"])


def test_a_contrast_must_raise_adversarial_accuracy():
    found = verdict(attribute(BIASED, 0.1, BIASED))
    assert found["negative"] is None
    assert "no contrast raises adversarial accuracy" in found["lines"][-1]


def test_every_audible_attribute_must_be_in_distribution():
    found = verdict(attribute(BIASED, 0.1, FREED, rows=800), attribute(BIASED, 6.0, FREED, rows=20, name="noise"))
    assert found["negative"] is None
    assert "silence: outside the teacher's distribution (entropy without audio over the labels': noise 0.0" in " ".join(
        found["lines"]
    )


def test_too_few_rows_are_told_from_an_attribute_that_is_not_heard():
    few = attribute(BIASED, 0.1, FREED, rows=2, name="rate")
    none = attribute([-1, 1, -1, -1], 0.1, FREED, rows=40, name="accent")
    line = verdict(attribute(FREED, 0.1, FREED), few, none)["lines"][0]
    assert line.startswith("The teacher does not hear accent (0.0")
    assert "Too few rows to tell if the teacher hears rate (100.0" in line
    below = attribute([-1, 1, -1, -1], 0.1, FREED, rows=5, name="tone")  # 0 of 5, where chance is three of five
    assert verdict(attribute(FREED, 0.1, FREED), below)["lines"][0].startswith("The teacher does not hear tone")
    one_label = replace(few, gt=np.zeros(2, int))
    assert verdict(attribute(FREED, 0.1, FREED), one_label)["lines"][0].startswith("The teacher does not hear rate")


def test_an_attribute_that_the_teacher_cannot_hear_is_no_bias():
    coin = np.random.default_rng(0).choice([-1.0, 1.0], (200, 1))
    follows_the_text = np.concatenate([coin, np.full((200, 1), 1.0), np.full((200, 1), -1.0), coin], axis=1)
    found = verdict(attribute(FREED, 0.1, FREED), attribute(follows_the_text, 6.0, FREED, name="accent"))
    bias, silence = found["lines"][1:3]
    assert bias.startswith("There is little text bias to remove: faithful 100.0, adversarial 100.0 on gender;")
    assert bias.endswith("not counted, since not heard: accent.")
    assert silence.startswith("silence: in the teacher's distribution")


def test_a_few_right_answers_are_no_proof():
    """A normal interval of answers that agree has no width, and that of a few is too narrow."""

    def leaking(rows):
        return verdict(attribute(BIASED, np.where(np.arange(rows) % 2, -0.1, 0.1)[:, None], FREED, rows=rows))["lines"]

    few = "Too few rows to tell if the teacher hears gender (100.0, 95% interval 34.2 to 100.0; commonest label 50.0)"
    assert leaking(2)[0].startswith(few), "a coin, one in four"
    assert "gives answers away" not in " ".join(leaking(2)) and "gives answers away" in " ".join(leaking(10))
    wrong = np.where(np.arange(40) < 4, -1.0, 1.0)[:, None]
    nearly = np.concatenate([np.ones((40, 2)), wrong, np.ones((40, 1))], axis=1)
    advice = verdict(attribute(nearly, 0.1, FREED, rows=40))["lines"][-1]
    assert advice.endswith("The gain is within the noise of 40 items."), "four of four, p = 0.125"


def test_a_teacher_that_hears_nothing_is_to_be_trained():
    coin = np.random.default_rng(0).choice([-1.0, 1.0], (200, 1)) * np.ones(4)
    found = verdict(attribute(coin, 0.1, coin))
    assert found["negative"] is None
    assert not any("text bias" in line for line in found["lines"])
    assert found["lines"][-1].startswith("Do not distil from this teacher")


def deaf(rows=120, name="accent"):
    """An attribute about which the teacher guesses."""
    coin = np.random.default_rng(0).choice([-1.0, 1.0], (rows, 1)) * np.ones(4)
    return attribute(coin, 0.1, coin, rows=rows, name=name)


def judged(attribute, training=None, losses=None):
    table = {signal: signal_metrics([attribute], signal) for signal in (POS, NEG, CONTRAST)}
    return judge([attribute], table, training, losses)


def right(share, rows=120):
    return NeutralAnswers(np.arange(rows) < share * rows, 0.5)


@pytest.mark.parametrize(
    ("training", "losses", "found", "words"),
    [
        (None, None, UNKNOWN, "Give --train-benchmark"),
        (right(0.82), None, OVERFITTED, "Train on more speakers and clips, stop earlier"),
        (right(0.52), None, UNDERTRAINED, "train it further"),
        (right(0.82, 20), None, OVERFITTED, "95% interval"),
        (right(0.5, 4), {10: 2.0, 20: 2.4}, UNDERTRAINED, "train it further"),
        (None, {10: 2.0, 20: 2.4}, OVERFITTED, "lowest at step 10 (2.0000) and rose to 2.4000 at step 20"),
        (None, {10: 2.0, 20: 1.5}, UNDERTRAINED, "still falling, 2.0000 at step 10 and 1.5000 at step 20"),
        (None, {10: 2.0, 20: 2.01}, UNKNOWN, "Give --train-benchmark"),
        (None, {20: 2.01}, UNKNOWN, "Give --train-benchmark"),
    ],
)
def test_a_teacher_that_hears_nothing_was_trained_too_little_or_too_long(training, losses, found, words):
    verdict = judged(deaf(), {} if training is None else {"accent": training}, losses)
    assert verdict["findings"] == {"accent": found}
    assert verdict["lines"][-1].startswith("Do not distil from this teacher: it hears none of the attributes.")
    assert words in " ".join(verdict["lines"])
    assert ("worse" in verdict["lines"][-1]) == (found == OVERFITTED)


def test_what_is_heard_and_in_part_memorised_is_named():
    heard = attribute([1, 2, 1, 1], 0.1, FREED)
    assert not any("memorised" in line for line in judged(heard, {"gender": right(1.0)})["lines"])
    wrong = np.where(np.arange(200) < 50, -1.0, 1.0)[:, None]
    found = judged(attribute(wrong * np.ones(4), 0.1, FREED), {"gender": right(1.0)})
    assert found["findings"] == {"gender": HEARD}
    assert any(line.startswith("gender: 100.0") and "in part memorised" in line for line in found["lines"])


def test_the_run_beside_the_model_tells_its_validation_losses(tmp_path):
    for step, validation in ((10, {"loss": 2.0}), (9, {"loss": 3.0}), (11, {}), (12, {"loss": float("nan")})):
        folder = tmp_path / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"state": {"step": step, "validation": validation}}))
    (tmp_path / "checkpoints/step-00000012/state.json").write_text("{cut")
    assert list(validation_losses(tmp_path / "model").items()) == [(9, 3.0), (10, 2.0)]
    assert validation_losses(tmp_path / "elsewhere/model") == {}


def test_an_attribute_that_the_teacher_cannot_hear_is_named_and_does_not_choose():
    coin = np.random.default_rng(0).choice([-1.0, 1.0], (200, 1))
    deaf = attribute(coin * np.ones(4), 0.1, coin * np.array([1, 1, 5, 1]), name="accent")
    found = verdict(attribute(FREED, 0.1, FREED), deaf)
    assert found["inaudible"] == ["accent"]
    assert "does not hear accent" in found["lines"][0]
    assert found["negative"] is None
