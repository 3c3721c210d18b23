"""Records keep unknown keys, byte for byte; a wrong shape is refused with file and line."""

import json
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caad_ds.data.audio_markers import MARKERS
from caad_ds.data.record import FIELDS
from caad_ds.data.tar_members import BrokenSample, parse
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import load_manifest, read_manifest, write_manifest
from tests.data.audio.hostile import FLAC, member

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
PLAIN = TEXTS.filter(lambda text: not any(marker in text for marker in MARKERS))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
SECONDS = st.none() | st.integers(0, 1 << 80) | st.floats(0, 1e300)
GOOD = {
    "id": "a",
    "audios": [{"path": "a.wav", "text": "hi", "offset": 0.5, "duration": 2}],
    "messages": [{"role": "user", "content": "<|AUDIO|> Who?"}],
    "metadata": {"speaker": "s1"},
    "seed_description": "[00:00-00:02] hi",
    "response": "A man.",
    "source": "demo",
}


@st.composite
def objects(draw, required, optional, known):
    """An object with keys of the user's own, in any order."""
    fields = draw(st.fixed_dictionaries(required, optional=optional))
    own = draw(st.dictionaries(TEXTS.filter(lambda name: name not in known), VALUES, max_size=3))
    return dict(draw(st.permutations([*fields.items(), *own.items()])))


@st.composite
def records(draw):
    """Records of a manifest, one message for all their audios."""
    names = st.from_regex(r"[a-z]{1,8}\.wav", fullmatch=True)
    known = {"text": st.none() | PLAIN, "offset": SECONDS, "duration": SECONDS}
    audios = st.lists(objects({"path": names}, known, ("path", *known)), min_size=1, max_size=2)
    row = draw(
        objects(
            {"id": PLAIN.filter(bool), "audios": audios},
            {
                "metadata": st.none() | st.dictionaries(TEXTS, VALUES, max_size=3),
                "seed_description": st.none() | TEXTS,
                "response": st.none() | PLAIN,
                "source": st.none() | TEXTS,
                "messages": st.none() | st.just([]),
            },
            FIELDS,
        )
    )
    if row.get("messages") is not None and draw(st.booleans()):
        turn = {"role": st.just("user"), "content": st.just("<|AUDIO|>" * len(row["audios"]))}
        row["messages"] = [draw(objects(turn, {}, turn))]
    return row


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(records(), min_size=1, max_size=3, unique_by=lambda row: row["id"]))
def test_what_is_read_and_written_again_has_the_same_bytes(rows, tmp_path):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "m.jsonl").write_bytes(lines.encode())
    write_manifest(tmp_path / "again.jsonl", load_manifest(tmp_path / "m.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == lines.encode()


WRONG = [
    (("id",), 3, "field 'id' must be a text, not 3"),
    (("id",), "", "field 'id' is missing or empty"),
    (("id",), ..., "field 'id' is missing or empty"),
    (("audios",), {"path": "a"}, "field 'audios' must be a list, not {'path': 'a'}"),
    (("audios",), [], "field 'audios' is missing or empty"),
    (("audios",), ..., "field 'audios' is missing or empty"),
    (("messages",), "hi", "field 'messages' must be a list, not 'hi'"),
    (("metadata",), [], "field 'metadata' must be an object, not []"),
    (("seed_description",), 1, "field 'seed_description' must be a text, not 1"),
    (("response",), ["x"], "field 'response' must be a text, not ['x']"),
    (("response",), "<|AUDIO|>", "'response' holds '<|AUDIO|>', which marks audio in a message; remove it"),
    (("source",), True, "field 'source' must be a text, not True"),
    (("audios", 0), "a.wav", "each of 'audios' must be an object with a 'path', not 'a.wav'"),
    (("audios", 0), {"text": "hi"}, "each of 'audios' must be an object with a 'path', not {'text': 'hi'}"),
    (("audios", 0), {"path": None}, "each of 'audios' must be an object with a 'path', not {'path': None}"),
    (("audios", 0), {"path": "\0"}, r"each of 'audios' must be an object with a 'path', not {'path': '\x00'}"),
    (("audios", 0, "text"), 7, "'text' of an audio must be a text, not 7"),
    (("audios", 0, "text"), [], "'text' of an audio must be a text, not []"),
    (("audios", 0, "text"), "<start_audio>", "'text' of an audio holds '<start_audio>', which marks audio in a "
     "message; remove it"),
    (("audios", 0, "offset"), -1, "'offset' of an audio must be a number of seconds, not -1"),
    (("audios", 0, "offset"), "", "'offset' of an audio must be a number of seconds, not ''"),
    (("audios", 0, "duration"), "2.5", "'duration' of an audio must be a number of seconds, not '2.5'"),
    (("messages", 0), "hi", "each of 'messages' must have a 'role' and a 'content' in text, not 'hi'"),
    (("messages", 0), {"content": "<|AUDIO|>"}, "each of 'messages' must have a 'role' and a 'content' in text, not "
     "{'content': '<|AUDIO|>'}"),
    (("messages", 0, "content"), None, "each of 'messages' must have a 'role' and a 'content' in text, not "
     "{'role': 'user', 'content': None}"),
    (("messages", 0, "content"), "Who?", "'messages' hold 0 <|AUDIO|> but 'audios' has 1; make them equal"),
]  # fmt: skip


def changed(place, value) -> dict:
    """`GOOD` with another value in one place, or none there."""
    row = deepcopy(GOOD)
    *path, last = place
    held = row
    for key in path:
        held = held[key]
    if value is ...:
        del held[last]
    else:
        held[last] = value
    return row


@pytest.mark.parametrize(("place", "value", "fault"), WRONG)
def test_a_wrong_shape_is_refused_with_file_and_line(tmp_path, place, value, fault):
    row = changed(place, value)
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps({**GOOD, 'id': 'first'})}\n{json.dumps(row)}\n")
    first, refused = read_manifest(path)
    assert first["id"] == "first"
    assert refused.reason == (f"m.jsonl line 2: {fault}" if refused.id == "a" else fault)
    assert refused.id in ("a", "m.jsonl line 2")
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}: ") and "m.jsonl line 2" in str(caught.value)
    with pytest.raises(UserError) as caught:
        write_manifest(tmp_path / "out.jsonl", [row])
    assert str(caught.value) == f"record {row.get('id')!r}: {fault}" and not (tmp_path / "out.jsonl").exists()


def packed(row: object) -> bytes:
    """The tar members of a sample."""
    return member("a.json", json.dumps(row).encode()) + member("a.flac", FLAC)


def test_a_sample_of_another_tool_needs_no_more_than_a_prompt_is_made_of():
    row = {"messages": [{"role": "user", "content": "<|AUDIO|>", "lab": 1}, {}], "audios": [{}], "response": "", "x": 1}
    record, audios = parse(packed(row), "a")
    assert json.dumps(record) == json.dumps(row) and audios == [FLAC]
    record, _ = parse(packed({**row, "response": "\ud800"}), "a")  # the prompt refuses it, and says which text holds it
    assert record["response"] == "\ud800"


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("audios",), ..., "the record is not an object with a list `audios`"),
        (("messages",), {}, "the record is not an object with a list `messages`"),
        (("response",), None, "the record is not an object with a str `response`"),
        (("audios", 0), 1, "each of `audios` must be an object with text in text"),
        (("audios", 0, "text"), 1, "each of `audios` must be an object with text in text"),
        (("messages", 0), 1, "each of `messages` must be an object with role and content in text"),
        (("messages", 0, "role"), 1, "each of `messages` must be an object with role and content in text"),
        (("messages", 0, "content"), [1], "each of `messages` must be an object with role and content in text"),
        (("messages", 0, "content"), None, "its messages hold 0 <|AUDIO|>, its record 1 audios"),
    ],
)
def test_a_wrong_shape_is_refused_from_a_shard(place, value, fault):
    with pytest.raises(BrokenSample) as caught:
        parse(packed(changed(place, value)), "a")
    assert str(caught.value) == fault


@pytest.mark.parametrize("row", [None, [], "text", 1])
def test_a_sample_that_is_no_object_is_refused(row):
    with pytest.raises(BrokenSample, match="the record is not an object with a list `audios`"):
        parse(packed(row), "a")
