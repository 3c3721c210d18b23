"""A user's mistake ends both ranks of a run with one line, whichever of them finds it, and changes nothing."""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from caad_ds.data.sampler import GlobalOrder
from caad_ds.distill.teacher_cache.segments import read_segments
from caad_ds.utils.files import sole_writer
from tests.training.launching import refusal
from tests.training.teacher.in_process import with_cache
from tests.training.teacher.mistakes import FORMS, STEPS, content, flip, other_template, other_weights
from tests.training.teacher.ranks import soft_cap
from tests.training.tiny import CLIPS

MADE_WITH = "teacher.cache.path {cache}: it was made with another "
DAMAGED = "its rows are damaged (its bytes have another sha256); compute them with the teacher: `"


@dataclass
class Place:
    """What a mistake is made with.

    Args:
        cache: the folder of a whole cache, which may be damaged.
        made: a folder that is not there yet.
        more: a data set that the cache has no rows of.
        changed: the cache's data set with another answer of clip-07.
        held: what is released when the ranks have ended.
    """

    world: Path
    cache: Path
    made: Path
    more: Path
    changed: Path
    held: ExitStack

    @property
    def fills(self) -> dict:
        """The keys with which a run fills the cache further."""
        return {"data": {"validation": str(self.more)}}


Mistake = Callable[[Place], dict]  # makes it, and returns the keys of the run


def flipped(rank: int) -> Mistake:
    """A bit of the first row that a rank reads."""
    number = GlobalOrder(CLIPS, 8, 0).micro_batches(0, 2, rank, 1)[0][0]

    def flip_row(at: Place) -> dict:
        for segment in read_segments(at.cache):
            for entry in segment.entries:
                if entry.key == f"clip-{number:02d}":
                    flip(at.cache / f"{segment.name}.rows", entry.offset)
        return {"run": {"seed": 0}}

    return flip_row


def truncated(at: Place) -> dict:
    rows = min(at.cache.glob("*.rows"))
    os.truncate(rows, rows.stat().st_size - 1)
    return {}


def flipped_head(at: Place) -> dict:
    flip(at.cache / "head.safetensors", -2)
    return {}


def damaged_key(at: Place) -> dict:
    (at.cache / "cache.json").write_text("{")
    return {}


def no_key(at: Place) -> dict:
    (at.cache / "cache.json").unlink()
    return {}


def filled_by_another(at: Place) -> dict:
    at.held.enter_context(sole_writer(at.cache, inside=True))
    return at.fills


def case(name: str, form: str, mistake: Mistake, *said: str, often: bool = False):
    """A mistake in a run on a cache of FORMS, and texts of its line; only tested by default if `often`."""
    return pytest.param(form, mistake, said, id=name, marks=[] if often else pytest.mark.slow)


CASES = [
    # What the cache was made with: all ranks find it.
    case("weights", "pair", lambda at: other_weights(at.world, at.made), MADE_WITH + "teacher (its files): "),
    case("template", "pair", lambda at: other_template(at.world, at.made), MADE_WITH + "teacher (its files): "),
    case(
        "negative", "pair", lambda at: {"teacher": {"negative": "noise"}},
        MADE_WITH + "negative (teacher.negative): zero_mel, here noise; restore that, or name another folder",
        often=True,
    ),
    case(
        "answer_cut", "pair", lambda at: {"data": {"max_answer_tokens": 4}},
        MADE_WITH + "answer cut (data.max_answer_tokens): 300, here 4; ",
    ),
    case("alpha", "contrast", lambda at: {"objective": {"alpha": 0.5}}, MADE_WITH + "objective.alpha: 1.0, here 0.5; "),
    case(
        "alpha_gate", "contrast", lambda at: {"objective": {"alpha_gate": "text_certainty"}},
        MADE_WITH + "objective.alpha_gate: none, here text_certainty; ",
    ),
    case("gate_m", "gated", lambda at: {"objective": {"gate_m": 3.0}}, MADE_WITH + "objective.gate_m: ", "here 3.0; "),
    # What a contrast is refused for: of a config by all ranks, of a teacher by the one that prepares the cache.
    case(
        "plausibility", "contrast", lambda at: {"objective": {"plausibility": 0.1}},
        "teacher.cache.form contrast does not store; set it to pair",
    ),
    case(
        "soft_cap", "contrast", lambda at: at.fills | {"prepare": soft_cap},
        "teacher.cache.form contrast: the logits of a caad_speech_lm have a soft cap", "set it to pair",
    ),
    # Damage, found as the cache is opened or, by one rank, as a step reads the sample.
    case("damaged_key", "pair", damaged_key, "{cache}/cache.json: cannot be read as JSON", "name another"),
    case("no_key", "pair", no_key, "path {cache}: it has segments and no cache.json", "restore that file"),
    case("truncated", "pair", truncated, "bytes, its index says", "run `caad-ds prep verify {cache} --drop-damaged`"),
    case(
        "head", "pair", flipped_head,
        "{cache}/head.safetensors: the teacher's LM head cannot be read (its bytes have another sha256)", "remove the",
    ),
    case("rows_of_rank_0", "pair", flipped(0), DAMAGED, "(rank 0)"),
    case("rows_of_rank_1", "pair", flipped(1), DAMAGED, "(rank 1)", often=True),
    # Samples.
    case(
        "other_data", "pair", lambda at: {"cache": {"fill": False}, "data": {"train": str(at.more)}},
        "sample other-clip-0", "teacher.cache.path {cache} has no rows of it (it has none), nor of 5 others",
    ),
    case(
        "changed_sample", "pair", lambda at: {"data": {"train": str(at.changed)}},
        "sample clip-07: teacher.cache.path {cache} has no rows of it (its text, audio or answer has changed since",
    ),
    # Another process.
    case(
        "another_run", "pair", filled_by_another, "another process is writing {cache}: wait until it ends", often=True
    ),
]  # fmt: skip


@pytest.mark.parametrize(("form", "mistake", "said"), CASES)
def test_two_ranks_refuse_together(world, caches, others, changed, tmp_path, form, mistake, said):
    cache = shutil.copytree(caches / form, tmp_path / "cache")
    with ExitStack() as held:
        place = Place(world, cache, tmp_path / "made", others(tmp_path / "more"), changed, held)
        keys = mistake(place)
        prepare = keys.pop("prepare", None)
        changes = {name: FORMS[form].get(name, {}) | keys.get(name, {}) for name in FORMS[form] | keys}
        before = content(cache)
        line = refusal(with_cache(world, tmp_path / "out", cache, **STEPS | changes), ranks=2, prepare=prepare)
        assert content(cache) == before
    assert all(text.format(cache=cache) in line for text in said), line
