"""Names of Dynamic-SUPERB's instances: presentations with one clip and two, rows of its table, ALL, and older names."""

import pytest

from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import dimensions
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import closest, current_name
from caad_ds.evaluation.result_kinds.dynamic_superb import Instances, score_instances
from caad_ds.evaluation.scoring.bootstrap_scores import RULES
from tests.evaluation.benchmarks.superb_files import (
    COUNTING,
    PLAIN,
    SPOKEN,
    reasons,
    row,
    second,
    table,
    write_jsonl,
    write_parquet,
)
from tests.evaluation.benchmarks.superb_files import MATCHING as PAIR

# The 55 names of the benchmark's first release, as its own repositories list them.
FIRST = """
BirdSoundDetection_Warblrb10k ChordClassification_AcousticGuitarAndPiano EnvironmentalSoundClassification_AnimalsESC50
EnvironmentalSoundClassification_ExteriorAndUrbanNoisesESC50 LanguageIdentification_VoxForge SpeechDetection_LJSpeech
EnvironmentalSoundClassification_HumanAndNonSpeechSoundsESC50 SpeechDetection_LibriSpeechTestClean
EnvironmentalSoundClassification_InteriorAndDomesticSoundsESC50 SpeechDetection_LibriSpeechTestOther
EnvironmentalSoundClassification_NaturalSoundscapesAndWaterSoundsESC50 SpeechTextMatching_LJSpeech
SpeechTextMatching_LibriSpeechTestClean SpeechTextMatching_LibriSpeechTestOther SpokenTermDetection_LJSpeech
SpokenTermDetection_LibriSpeechTestClean SpokenTermDetection_LibriSpeechTestOther
SpeechCommandRecognition_GoogleSpeechCommandsV1 EnhancementDetection_LibrittsTestCleanWham
NoiseDetectiongaussian_LJSpeechMusan NoiseDetectiongaussian_VCTKMusan NoiseDetectionmusic_LJSpeechMusan
NoiseDetectionmusic_VCTKMusan NoiseDetectionnoise_LJSpeechMusan NoiseDetectionnoise_VCTKMusan
NoiseDetectionspeech_LJSpeechMusan NoiseDetectionspeech_VCTKMusan NoiseSNRLevelPredictiongaussian_VCTKMusan
NoiseSNRLevelPredictionmusic_VCTKMusan NoiseSNRLevelPredictionnoise_VCTKMusan NoiseSNRLevelPredictionspeech_VCTKMusan
ReverberationDetectionlargeroom_LJSpeechRirsNoises ReverberationDetectionlargeroom_VCTKRirsNoises
ReverberationDetectionmediumroom_LJSpeechRirsNoises ReverberationDetectionmediumroom_VCTKRirsNoises
ReverberationDetectionsmallroom_LJSpeechRirsNoises ReverberationDetectionsmallroom_VCTKRirsNoises
AccentClassification_AccentdbExtended DialogueEmotionClassification_DailyTalk StressDetection_MIRSD
EmotionRecognition_MultimodalEmotionlinesDataset HowFarAreYou_3DSpeaker SpoofDetection_ASVspoof2015
SpoofDetection_ASVspoof2017 DialogueActClassification_DailyTalk Intent_Classification_FluentSpeechCommands_Action
Intent_Classification_FluentSpeechCommands_Location Intent_Classification_FluentSpeechCommands_Object
SarcasmDetection_Mustard DialogueActPairing_DailyTalk SpeakerCounting_LibriTTSTestClean
SpeakerVerification_LibriSpeechTestClean SpeakerVerification_VCTK MultiSpeakerDetection_LibriSpeechTestClean
MultiSpeakerDetection_VCTK
""".split()


def test_two_clips_and_one_are_two_rows_whatever_their_folder_is_called(tmp_path):
    write_parquet(tmp_path / "tables", PLAIN, table(3, audio2=second(3)))
    assert [item.id for item in load(tmp_path / "tables").items] == [f"{PAIR}/{k}" for k in range(3)]
    one, two = row(PLAIN), row(PLAIN, clips=("0.wav", "1.wav"))
    assert {item.subset for item in load(write_jsonl(tmp_path / "one", [one, one])).items} == {PLAIN}
    both = load(write_jsonl(tmp_path / "both", [one, {**two, "category": f"DS@{PAIR}"}]))
    assert [(item.subset, len(item.clips)) for item in both.items] == [(PLAIN, 1), (PAIR, 2)]
    assert not both.rejected


def test_a_row_that_lacks_an_audio_fills_no_other_presentation(tmp_path):
    two = row(PLAIN, clips=("0.wav", "1.wav"))
    lines = [two, row(PLAIN), row(COUNTING, clips=("0.wav", "1.wav")), row(COUNTING)]
    benchmark = load(write_jsonl(tmp_path / "ds", [*lines, row("DialogueActPairing_DailyTalk-multiaudio")]))
    assert [item.id for item in benchmark.items] == [f"{COUNTING}/1", f"{PAIR}/0"]
    assert reasons(benchmark) == {
        f"{PLAIN}/1": f"holds 1 audio where most of {PLAIN} hold 2",
        f"{COUNTING}/0": f"holds 2 audios; {COUNTING} asks about one",
        "DialogueActPairing_DailyTalk-multiaudio/0": "holds 1 audio; DialogueActPairing_DailyTalk-multiaudio asks "
        "about two",
    }


def test_one_row_with_too_many_audios_stops_no_others(tmp_path):
    lines = [row(PLAIN), row(PLAIN), row(PLAIN, clips=("0.wav", "1.wav")), row(PLAIN, clips=("0.wav",) * 3)]
    benchmark = load(write_jsonl(tmp_path / "ds", lines))
    assert [item.id for item in benchmark.items] == [f"{PLAIN}/0", f"{PLAIN}/1"]
    assert list(reasons(benchmark)) == [f"{PLAIN}/2", f"{PLAIN}/3"]


def test_one_row_of_the_table_is_not_filled_twice(tmp_path):
    for name in (PLAIN, PAIR):
        write_parquet(tmp_path, name, table(3, audio2=second(3)))
    for name in ("NoiseDetection_VCTK_MUSAN-Music", "NoiseDetectionmusic_VCTKMusan"):
        write_parquet(tmp_path, name, table(2))
    benchmark = load(tmp_path)
    assert [item.id for item in benchmark.items] == [
        *(f"NoiseDetection_VCTK_MUSAN-Music/{k}" for k in range(2)),
        *(f"{PAIR}/{k}" for k in range(3)),
    ]
    assert reasons(benchmark) == {
        PLAIN: f"holds {PAIR}, and so does {PAIR}; leave one of them",
        "NoiseDetectionmusic_VCTKMusan": "holds NoiseDetection_VCTK_MUSAN-Music, and so does "
        "NoiseDetection_VCTK_MUSAN-Music; leave one of them",
    }


def scores_of(instances, complete=True):
    right = dict.fromkeys(RULES, True)
    rows = [{"id": f"{name}/0", "subset": name, **right} for name in instances]
    return score_instances([rows], complete=complete)


def test_all_is_the_authors_only_with_all_of_their_list():
    every = [name for name, dimension in dimensions().items() if dimension != "AUDIO"]
    official = [name for name in every if f"{name}-multiaudio" not in every]
    whole, partial = (Instances().notes(scores_of(names))[0] for names in (every, official))
    assert whole == "ALL: as the authors' over all rows of all 51 instances outside AUDIO."
    assert scores_of(official)["overall"]["name"] == "mean of 48 of 51"
    assert partial.startswith("mean of 48 of 51: not the authors' figure")
    assert (
        Instances().notes(scores_of(every, complete=False))[0].startswith("ALL (not all rows): not the authors' figure")
    )


@pytest.mark.parametrize(("limit", "limited"), [(None, False), (2, False), (1, True)])
def test_a_limit_that_leaves_rows_out_is_known(tmp_path, limit, limited):
    write_parquet(tmp_path, PLAIN, table(2))
    assert load(tmp_path, limit=limit).limited is limited


def test_names_of_the_first_release_are_those_of_today():
    assert len(FIRST) == 55
    assert {current_name(name) for name in FIRST} == {name for name in dimensions() if not name.endswith("-multiaudio")}
    assert {current_name(name) for name in dimensions()} == set(dimensions()), "no two instances are spelled alike"
    assert current_name("DynamicSuperb___SpokenTermDetection_LJSpeech") == SPOKEN
    assert (
        current_name("datasets--DynamicSuperb--NoiseDetection_VCTK_MUSAN-Gaussian")
        == "NoiseDetection_VCTK-MUSAN-Gaussian"
    )


def test_an_older_name_counts_and_an_unknown_one_is_reported_with_what_it_resembles(tmp_path):
    write_parquet(tmp_path, "NoiseDetectiongaussian_LJSpeechMusan", table(2))
    lines = [
        row("EnvironmentalSoundClassification_AnimalsESC50"),
        row("SpeakerCounting_LibriTT"),
        row("Mine"),
    ]
    names = {item.subset for item in load(tmp_path).items}
    assert names == {"NoiseDetection_LJSpeech_MUSAN-Gaussian"}
    scores = scores_of({item.subset for item in load(write_jsonl(tmp_path / "ds", lines)).items})
    assert list(scores["dimensions"]) == ["AUDIO (1 of 7)"] and len(scores["unknown"]) == 2
    note = f"no dimension is known to hold them: Mine, SpeakerCounting_LibriTT (is it {COUNTING}?)."
    assert Instances().notes(scores)[-1].endswith(note)
    assert closest("Mine") is None
