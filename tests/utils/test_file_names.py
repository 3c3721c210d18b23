"""Ids as file names: no two share one, and each is one that a file system takes."""

from hypothesis import given
from hypothesis import strategies as st

from caad_ds.utils.file_names import encoded, file_name, stems

IDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=120), unique=True, max_size=6)


@given(IDS, st.sampled_from(["", ".wav", ".adversarial.json"]))
def test_no_two_ids_share_a_file_whatever_their_case_and_length(ids, suffix):
    ids = list(dict.fromkeys([*ids, *(name.upper() for name in ids), *(name * 4 for name in ids)]))
    names = [name + suffix for name in stems(ids, len(suffix)).values()]
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert name.isascii() and len(name) <= 255 and name.endswith(suffix)
        assert not set(name) & set('/\\\0:*?"<>| ') and name.removesuffix(suffix).strip(".")


def test_ids_that_were_one_file_are_two():
    assert file_name("a/b", ".wav") == "a%2Fb.wav" and file_name("a_b", ".wav") == "a_b.wav"
    assert file_name("..") == "%2E%2E" and file_name("a%2Fb") == "a%252Fb"
    first, second = file_name("x" * 300 + "a", ".wav"), file_name("x" * 300 + "b", ".wav")
    assert first != second and len(first) == len(second) == 255


def test_a_name_that_needs_no_hash_is_as_packed():
    assert stems(["a.b", "ž"]) == {"a.b": encoded("a.b"), "ž": "%C5%BE"}
