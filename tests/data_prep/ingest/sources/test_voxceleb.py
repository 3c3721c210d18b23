"""VoxCeleb1 and 2: two tables of speakers, wav and m4a."""

import numpy as np
import pytest

VOX1 = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
VOX2 = "\ufeffVoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\n"


def test_a_clip_of_voxceleb1_has_gender_nationality_and_set(corpus, ingest):
    lines = "id10001\tA.J._Buckley\tm\tIreland\tdev\nid10270\tEartha_Kitt\tf\tUSA\ttest\n"
    corpus("vox1_meta.csv", VOX1 + lines)
    corpus("dev/wav/id10001/1zcIwhmdeo4/00001.wav")
    corpus("test/wav/id10270/-6uYqmx31kE/00003.wav")
    found = ingest("voxceleb")
    assert list(found.records) == ["id10001-1zcIwhmdeo4-00001", "id10270--6uYqmx31kE-00003"] and not found.rejected
    first, second = (record["metadata"] for record in found.records.values())
    assert first == {"speaker": "id10001", "gender": "male", "nationality": "Ireland", "split": "dev"}
    assert (second["gender"], second["split"]) == ("female", "test")
    assert found.records["id10001-1zcIwhmdeo4-00001"]["audios"][0]["text"] == ""


def test_voxceleb2s_m4a_is_read(corpus, ingest):
    av = pytest.importorskip("av")
    corpus("vox2_meta.csv", VOX2 + "id00012 ,n000012 ,m ,dev\n")
    path = corpus("dev/aac/id00012/21Uxsk56VDQ/00001.m4a", "")
    with av.open(str(path), "w", format="ipod") as file:
        stream = file.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.sin(np.arange(4_800, dtype=np.float32))[None] / 4, "fltp", "mono")
        frame.sample_rate, frame.pts = 16_000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    found = ingest("voxceleb")
    assert list(found.records) == ["id00012-21Uxsk56VDQ-00001"] and not found.rejected


def test_voxceleb2_is_taken_where_it_was_converted(corpus, ingest):
    corpus("vox2_meta.csv", VOX2 + "id00012 ,n000012 ,m ,dev\n")
    corpus("dev/aac/id00012/21Uxsk56VDQ/00001.m4a", "AAC")
    corpus("dev/aac/id00012/21Uxsk56VDQ/00001.wav")
    corpus("dev/aac/id00012/21Uxsk56VDQ/00002.m4a", "AAC")
    found = ingest("voxceleb")
    assert found.records["id00012-21Uxsk56VDQ-00001"]["metadata"] == {
        "speaker": "id00012",
        "gender": "male",
        "split": "dev",
    }
    assert "does not decode" in found.rejected["id00012-21Uxsk56VDQ-00002"] and len(found.rejected) == 1


def test_a_broken_line_and_a_speaker_without_one_are_rejected(corpus, ingest):
    lines = ["id10001\tA.J._Buckley\tm\tIreland\tdev", "id10002 A.R._Rahman m India dev", "id10003\tX\tq\tUSA\tdev"]
    corpus("vox1_meta.csv", VOX1 + "\n".join(lines) + "\n")
    for speaker in ("id10001", "id10002", "id10003"):
        corpus(f"wav/{speaker}/1zcIwhmdeo4/00001.wav")
    found = ingest("voxceleb")
    assert list(found.records) == ["id10001-1zcIwhmdeo4-00001"] and len(found.rejected) == 4
    assert "it is no line of 5 columns" in found.reason("vox1_meta.csv line 3")
    assert "gender m or f" in found.reason("vox1_meta.csv line 4")
    assert "no line for speaker id10002" in found.rejected["id10002-1zcIwhmdeo4-00001"]


def test_audio_or_metadata_alone_are_refused(corpus, refused):
    corpus("wav/id10001/1zcIwhmdeo4/00001.wav")
    assert "neither vox1_meta.csv nor vox2_meta.csv" in refused("voxceleb")


def test_metadata_alone_are_refused(corpus, refused):
    corpus("vox1_meta.csv", VOX1)
    assert "none of the folders wav, aac" in refused("voxceleb")
