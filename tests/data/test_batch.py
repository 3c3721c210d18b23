"""Batches of any samples: joining, choosing, dropping and resizing audio keep everything else as it was."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.data.batch import IGNORE, Batch, PairedBatch, len_of

PLACEHOLDER, PAD = 99, 98
SIDES = ("right", "left")


@dataclass(frozen=True)
class Audio:
    """So many positions in the text; `width` numbers of `value` as the model's input."""

    positions: int
    value: int
    width: int


@dataclass(frozen=True)
class Row:
    """A sample: texts and audios in turn, then the answer."""

    key: str
    parts: tuple[tuple[int, ...] | Audio, ...]
    answer: tuple[int, ...]

    @property
    def audios(self) -> list[Audio]:
        return [part for part in self.parts if isinstance(part, Audio)]

    def without_audio(self) -> "Row":
        return replace(self, parts=tuple(part for part in self.parts if not isinstance(part, Audio)))


def flat(row: Row) -> list[tuple[int, bool, int]]:
    """Return (token, whether it is audio, label) of each position."""
    found: list[tuple[int, bool, int]] = []
    for part in row.parts:
        audio = isinstance(part, Audio)
        tokens = [PLACEHOLDER] * part.positions if isinstance(part, Audio) else part
        found += [(token, audio, IGNORE) for token in tokens]
    return found + [(token, False, token) for token in row.answer]


def inputs(audios: list[Audio]) -> dict[str, torch.Tensor]:
    """Two inputs, each as wide as its longest audio."""
    width = max((audio.width for audio in audios), default=1)
    features, mask = torch.zeros(len(audios), 2, width), torch.zeros(len(audios), width, dtype=torch.long)
    for number, audio in enumerate(audios):
        features[number, :, : audio.width] = audio.value
        mask[number, : audio.width] = 1
    return {"features": features, "mask": mask}


def batch_of(rows: list[Row], side: str = "right") -> Batch:
    """The rows as a batch, an audio that several share being there once."""
    columns = [flat(row) for row in rows]
    length = max(map(len, columns))

    def padded(made: list[list[int]], value: int) -> torch.Tensor:
        gaps = [[value] * (length - len(each)) for each in made]
        return torch.tensor(
            [gap + each if side == "left" else each + gap for gap, each in zip(gaps, made, strict=True)]
        )

    audios = [audio for row in rows for audio in row.audios]
    different = list(dict.fromkeys(audios))
    return Batch(
        keys=[row.key for row in rows],
        input_ids=padded([[token for token, _, _ in each] for each in columns], PAD),
        attention_mask=padded([[1] * len(each) for each in columns], 0),
        audio_mask=padded([[audio for _, audio, _ in each] for each in columns], 0).bool(),
        labels=padded([[label for _, _, label in each] for each in columns], IGNORE),
        audio=inputs(different),
        audio_index=torch.tensor([different.index(audio) for audio in audios], dtype=torch.long),
        audio_sample=torch.tensor([n for n, row in enumerate(rows) for _ in row.audios], dtype=torch.long),
        audio_positions=torch.tensor([audio.positions for audio in audios], dtype=torch.long),
    )


def rows_of(batch: Batch) -> list[tuple]:
    """What a batch says: of each sample its key, its attended positions and its audios."""
    found = []
    placed = batch.placed()
    for number, key in enumerate(batch.keys):
        kept = batch.attention_mask[number].bool()
        columns = (each[number, kept].tolist() for each in (batch.input_ids, batch.audio_mask, batch.labels))
        audios = []
        for place in (batch.audio_sample == number).nonzero().flatten().tolist():
            width = int(placed["mask"][place].sum())
            values = placed["features"][place]
            assert (values[:, width:] == 0).all() and (values[:, :width] == values[0, 0]).all()
            audios.append(Audio(int(batch.audio_positions[place]), int(values[0, 0]), width))
        found.append((key, list(zip(*columns, strict=True)), audios))
    return found


def expected_rows(rows: list[Row]) -> list[tuple]:
    return [(row.key, flat(row), row.audios) for row in rows]


def check_form(batch: Batch, side: str) -> None:
    """What holds for any batch."""
    lengths = batch.attention_mask.sum(1)
    at = torch.arange(batch.input_ids.shape[1])
    expected = at >= len(at) - lengths[:, None] if side == "left" else at < lengths[:, None]
    assert torch.equal(batch.attention_mask.bool(), expected), f"padded on the {side}"
    assert batch.input_ids.dtype == batch.labels.dtype == batch.attention_mask.dtype == torch.long
    assert batch.audio_mask.dtype == torch.bool
    # Families count placeholders whatever the mask says.
    assert torch.equal(batch.input_ids == PLACEHOLDER, batch.audio_mask)
    assert (batch.labels[~expected] == IGNORE).all()
    per_sample = torch.zeros(len(batch.keys), dtype=torch.long)
    per_sample.index_add_(0, batch.audio_sample, batch.audio_positions)
    assert torch.equal(batch.audio_mask.sum(1), per_sample)
    assert (batch.audio_sample.diff() >= 0).all() and len(batch.audio_sample) == len(batch.audio_index)
    assert torch.equal(batch.input_ids.flatten()[batch.answer_rows + 1], batch.targets)
    expected_samples = [n for n, row in enumerate(batch.labels) for label in row[1:] if label != IGNORE]
    assert batch.sample_of_row.tolist() == expected_samples


TEXT = st.lists(st.integers(1, 50), min_size=1, max_size=4).map(tuple)
AUDIO = st.builds(Audio, st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))


@st.composite
def samples(draw, answered: bool, least: int = 1) -> list[Row]:
    """Draw up to four samples, each with up to two audios, at the start, at the end, or adjacent."""
    rows = []
    for number in range(draw(st.integers(least, 4))):
        parts = [draw(TEXT), *draw(st.lists(AUDIO, max_size=2))]
        if draw(st.booleans()):
            parts.append(draw(TEXT))
        rows.append(Row(f"s{number}", tuple(draw(st.permutations(parts))), draw(TEXT) if answered else ()))
    return rows


@st.composite
def batches(draw) -> tuple[list[Row], str]:
    """Draw rows and their padding side: left for prompts, right for answered samples."""
    side = draw(st.sampled_from(SIDES))
    return draw(samples(answered=side == "right")), side


@given(batches())
def test_a_batch_says_what_its_samples_say(given_rows):
    rows, side = given_rows
    batch = batch_of(rows, side)
    check_form(batch, side)
    assert rows_of(batch) == expected_rows(rows) and batch.is_prompt is (side == "left")


@given(st.data(), st.sampled_from(SIDES), st.booleans())
def test_joined_batches_say_what_each_said(data, side, answered):
    several = data.draw(st.lists(samples(answered=answered), min_size=1, max_size=3))
    parts = [batch_of(rows, side) for rows in several]
    joined = Batch.cat(parts, pad=side)
    check_form(joined, side)
    assert rows_of(joined) == [each for rows in several for each in expected_rows(rows)]
    assert torch.equal(joined.targets, torch.cat([part.targets for part in parts]))
    assert len_of(joined.audio) == sum(len_of(part.audio) for part in parts)
    again = [joined.select(torch.arange(first, first + len(part.keys))) for first, part in starts(parts)]
    assert [rows_of(each) for each in again] == [rows_of(part) for part in parts]


def starts(parts: list[Batch]) -> list[tuple[int, Batch]]:
    first, found = 0, []
    for part in parts:
        found.append((first, part))
        first += len(part.keys)
    return found


@given(st.data(), st.sampled_from(SIDES))
def test_a_constant_is_one_row_of_a_joined_batch_and_another_is_not_taken_for_it(data, side):
    first, second = (batch_of(data.draw(samples(answered=True)), side) for _ in range(2))

    def constant(batch: Batch, name: str, value: int) -> Batch:
        index = torch.zeros_like(batch.audio_index)
        return batch.with_audio(inputs([Audio(1, value, 2)]), index, batch.audio_positions, constant=name)

    same = Batch.cat([constant(first, "silence", 3), constant(second, "silence", 3)], pad=side)
    assert len_of(same.audio) == 1 and same.constant == "silence" and not same.audio_index.any()
    other = Batch.cat([constant(first, "silence", 3), constant(second, "noise", 4)], pad=side)
    assert len_of(other.audio) == 2 and other.constant == ""
    assert other.placed()["features"][:, 0, 0].tolist() == [3] * len(first.audio_index) + [4] * len(second.audio_index)
    for made in (same, other):
        audios = [audio for _, _, audios in rows_of(made) for audio in audios]
        assert [audio.positions for audio in audios] == [*first.audio_positions, *second.audio_positions]


@given(st.data(), batches())
def test_chosen_samples_are_as_they_were(data, given_rows):
    rows, side = given_rows
    order = data.draw(st.permutations(range(len(rows))))
    order = order[: data.draw(st.integers(1, len(rows)))]
    chosen = batch_of(rows, side).select(torch.tensor(order))
    check_form(chosen, side)
    assert rows_of(chosen) == expected_rows([rows[number] for number in order])


@given(st.data(), batches())
def test_other_audio_moves_what_follows_and_changes_nothing_else(data, given_rows):
    rows, side = given_rows
    batch = batch_of(rows, side)
    replaced = [replace(row, parts=tuple(data.draw(AUDIO) if isinstance(p, Audio) else p for p in row.parts))
                for row in rows]  # fmt: skip
    expected = batch_of(replaced, side)
    found = batch.with_audio(expected.audio, expected.audio_index, expected.audio_positions)
    check_form(found, side)
    assert rows_of(found) == expected_rows(replaced)
    back = found.with_audio(batch.audio, batch.audio_index, batch.audio_positions)
    check_form(back, side)
    assert rows_of(back) == expected_rows(rows)


@given(batches())
def test_audio_of_as_many_positions_moves_nothing(given_rows):
    rows, side = given_rows
    batch = batch_of(rows, side)
    zeros = {name: torch.zeros_like(value) for name, value in batch.audio.items()}
    found = batch.with_audio(zeros, batch.audio_index, batch.audio_positions.clone())
    assert all(torch.equal(getattr(found, name), getattr(batch, name)) for name in ("input_ids", "labels"))
    assert found.audio is zeros and found.constant == ""


@given(st.data(), batches())
def test_removed_audio_leaves_no_trace(data, given_rows):
    rows, side = given_rows
    batch = batch_of(rows, side)
    some = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    found = batch.without_audio(torch.tensor(some))
    check_form(found, side)
    assert rows_of(found) == expected_rows(
        [row.without_audio() if removed else row for row, removed in zip(rows, some)]
    )
    every = batch.without_audio()
    check_form(every, side)
    assert rows_of(every) == expected_rows([row.without_audio() for row in rows])
    assert len_of(every.audio) == 0 and every.input_ids.shape == found.input_ids.shape == batch.input_ids.shape


@given(st.data(), samples(answered=True))
def test_a_dropped_sample_is_its_other_path_and_the_rest_stay(data, rows):
    """What audio dropout does: joined with the negative, then for each sample the one or the other."""
    some = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    batch = batch_of(rows)
    mixed = Batch.cat([batch, batch.without_audio()]).select(torch.arange(len(rows)) + len(rows) * torch.tensor(some))
    check_form(mixed, "right")
    assert rows_of(mixed) == expected_rows(
        [row.without_audio() if dropped else row for row, dropped in zip(rows, some)]
    )


@given(st.data(), samples(answered=True), st.sampled_from(SIDES))
def test_ignored_answers_count_for_nothing_and_are_still_read(data, rows, side):
    some = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    batch = batch_of(rows, side)
    found = batch.ignoring(torch.tensor(some))
    counted = [label for row, ignored in zip(rows, some) for label in row.answer if not ignored]
    assert found.targets.tolist() == counted
    assert torch.equal(found.input_ids, batch.input_ids) and torch.equal(found.attention_mask, batch.attention_mask)
    pair = PairedBatch(batch, batch, batch.without_audio()).ignoring(torch.tensor(some))
    assert pair.teacher is pair.student and pair.student.targets.tolist() == counted
    assert pair.negative is not None and pair.negative.targets.tolist() == counted


@pytest.mark.parametrize("side", SIDES)
def test_one_batch_is_joined_as_it_is(side):
    batch = batch_of([Row("a", ((1, 2), Audio(2, 3, 1)), (4,))], side)
    assert Batch.cat([batch], pad=side) is batch
