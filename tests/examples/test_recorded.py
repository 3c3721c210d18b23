"""Recorded speech: the corpus layout, noise on half of it, and splits by level."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.data.audio.decode import load
from caad_ds.utils.errors import UserError
from data_prep.common.hashing import fraction
from data_prep.common.manifest import write_manifest
from data_prep.ingest.sources.fillets_ng import GAME, records
from data_prep.split import read_rules, splits_of
from data_prep.synthetic.add_noise import add_noise, mix
from tests.data.tones import record, tone
from tests.root import CONFIGS
from tests.tolerance import LEAST_BIT, decibels

SCRIPT = """
dialogId("door-m-hello", "font_small", "He said \\"hello\\".")
dialogId("door-v-why", "font_big",
         "Why?")
dialogId("door-p-other", "font_statue", "I am no fish.")
"""
RULES = CONFIGS / "recorded" / "splits.yaml"


@pytest.fixture
def game(tmp_path: Path) -> Path:
    for level in ("door", "cellar"):
        for language in ("cs", "nl", "en"):
            for name in ("door-m-hello", "door-v-why", "door-p-other", "door-x-untold"):
                tone(tmp_path / GAME / "sound" / level / language / f"{name}.ogg", 300)
        script = tmp_path / GAME / "script" / level / "dialogs_en.lua"
        script.parent.mkdir(parents=True)
        script.write_text(SCRIPT)
    return tmp_path


def test_the_unpacked_packages_give_a_record_per_spoken_subtitle(game):
    found = list(records(game))
    assert len(found) == len({row["id"] for row in found}) == 8
    assert Counter(row["metadata"]["speaker"] for row in found) == dict.fromkeys(
        ["cs-small", "cs-big", "nl-small", "nl-big"], 2
    )
    first = next(row for row in found if row["id"] == "cs-door-door-m-hello")
    assert first["metadata"] == {"gender": "female", "language": "Czech", "speaker": "cs-small", "level": "door"}
    assert first["audios"][0]["text"] == 'He said "hello".'
    assert all(Path(row["audios"][0]["path"]).is_file() for row in found)


def test_a_root_without_the_packages_is_named(tmp_path):
    with pytest.raises(UserError, match="--root"):
        list(records(tmp_path))


@pytest.fixture
def clips(tmp_path: Path) -> list[dict]:
    for number in range(24):
        tone(tmp_path / "clips" / f"{number}.ogg", 200 + 20 * number, rate=22_050)
    return [record(f"clip-{n}", tmp_path / "clips" / f"{n}.ogg", level=f"level-{n % 6}") for n in range(24)]


def test_noise_is_added_to_a_fixed_half_and_both_halves_are_written_alike(clips, tmp_path):
    done = add_noise(clips, tmp_path / "a")
    again = add_noise(clips[::-1], tmp_path / "b")[::-1]
    labels = [row["metadata"]["noise"] for row in done]
    assert labels == [row["metadata"]["noise"] for row in again]
    assert labels.count("noisy") == labels.count("clean") == 12
    for before, after in zip(clips, done, strict=True):
        info = soundfile.info(after["audios"][0]["path"])
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
        assert after["audios"][0]["duration"] == pytest.approx(info.duration)
        assert "noise" not in before["metadata"]
    first = [Path(row["audios"][0]["path"]).read_bytes() for row in done]
    assert first == [Path(row["audios"][0]["path"]).read_bytes() for row in add_noise(clips, tmp_path / "c")]


@pytest.mark.parametrize("key", ["snr_db", "brouhaha_snr_db", "c50_db", "loudness_lufs"])
def test_what_was_measured_without_the_noise_is_not_kept_beside_it(clips, tmp_path, key):
    clips[3]["metadata"][key] = 30.0
    with pytest.raises(UserError, match=f"its '{key}' was measured without the noise; add noise first"):
        add_noise(clips, tmp_path / "a")


@pytest.mark.parametrize("snr", [0.0, 6.0, 12.0])
def test_the_signal_to_noise_ratio_is_the_one_asked_for(snr):
    rng = np.random.default_rng(0)
    speech = 0.1 * np.sin(np.arange(16_000) / 10)
    added = mix(speech, rng.standard_normal(16_000), snr) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr, abs=decibels(len(speech)))


def test_noisy_records_have_the_level_asked_for_and_clean_ones_are_unchanged(clips, tmp_path):
    for before, after in zip(clips, add_noise(clips, tmp_path / "a", snr=(20.0, 20.0)), strict=True):
        speech, written = (load(Path(row["audios"][0]["path"])).astype(np.float64) for row in (before, after))
        if after["metadata"]["noise"] == "clean":
            np.testing.assert_allclose(written, speech, atol=LEAST_BIT)
        else:
            added = written - speech
            assert np.abs(written).max() < 0.9, "nothing was scaled down"
            found = 10 * np.log10(speech @ speech / (added @ added))
            steps = LEAST_BIT / 2 / np.sqrt(np.mean(added**2))  # of the noise's amplitude: what 16 bits may add to it
            assert found == pytest.approx(20.0, abs=20 * np.log10(1 + steps))


def test_manifests_that_share_a_folder_do_not_overwrite_each_others_audio(clips, tmp_path):
    first = add_noise(clips, tmp_path / "a", seed=0)
    before = [Path(row["audios"][0]["path"]).read_bytes() for row in first]
    add_noise(clips[:12], tmp_path / "a", seed=1)
    assert before == [Path(row["audios"][0]["path"]).read_bytes() for row in first]


def test_mixing_never_clips():
    loud = np.sign(np.sin(np.arange(1600)))
    assert np.abs(mix(loud, np.ones(1600), 0.0)).max() <= 1.0


def test_undecodable_audio_rejects_its_record_alone(clips, tmp_path, capsys):
    Path(clips[5]["audios"][0]["path"]).write_bytes(b"")
    manifest, out = tmp_path / "m.jsonl", tmp_path / "noisy.jsonl"
    write_manifest(manifest, clips)
    arguments = ["--manifest", str(manifest), "--out", str(out), "--audio-dir", str(tmp_path / "a")]
    assert main(["prep", "add-noise", *arguments]) == 0
    kept = [row["id"] for row in clips if row["id"] != clips[5]["id"]]
    assert [row["id"] for row in map(json.loads, out.read_text().splitlines())] == kept
    assert "1 rejected" in capsys.readouterr().out
    assert "5.ogg does not decode" in (tmp_path / "noisy.rejected.jsonl").read_text()


def test_the_shipped_rules_keep_levels_apart_within_a_run():
    rows = [
        {"id": f"{code}-{level}", "metadata": {"language": code, "level": f"level-{level}"}}
        for code in ("Czech", "Dutch")
        for level in range(200)
    ]
    splits: dict[str, list] = defaultdict(list)
    rules = read_rules(RULES)
    for row in rows:
        for name in splits_of(row, rules):
            splits[name].append(row)
    for run in ("both", "czech"):
        levels = [
            {row["metadata"]["level"] for row in splits[f"{run}/{name}"]}
            for name in ("teacher", "distill", "validation", "test_known")
        ]
        assert sum(map(len, levels)) == len(set.union(*levels)) == 200
    languages = {name: {row["metadata"]["language"] for row in members} for name, members in splits.items()}
    assert languages["both/teacher"] == languages["both/test_known"] == {"Czech", "Dutch"}
    assert all(languages[name] == {"Czech"} for name in languages if name.startswith("czech") and "other" not in name)
    assert languages["czech/test_other"] == {"Dutch"}
    heard = {
        row["metadata"]["level"] for name in ("teacher", "distill", "validation") for row in splits[f"czech/{name}"]
    }
    assert not heard & {row["metadata"]["level"] for row in splits["czech/test_other"]}


def test_the_share_of_a_name_never_changes():
    assert fraction("airplane") == pytest.approx(0.0597004)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- {name: a, hash_of: level, form: 0.1}", r"unknown key 0.form; did you mean 0.from\?"),
        ("- {name: ../a, hash_of: level}", "0.name: '../a' does not match"),
        ("- {name: a, hash_of: level, to: 2}", "0.to: expected less"),
        ("- {name: a", "it is not YAML"),
        ("name: a", "the file: expected a list, found a mapping"),
    ],
)
def test_rules_that_do_not_hold_are_refused(tmp_path, text, complaint):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_rules(tmp_path / "rules.yaml")


def test_overlapping_empty_and_unanswerable_rules_are_refused_and_nothing_is_written(clips, tmp_path, capsys):
    manifest, rules, out = tmp_path / "m.jsonl", tmp_path / "rules.yaml", tmp_path / "out"
    write_manifest(manifest, clips)
    for text, complaint in (
        ("- {name: r/a, hash_of: level}\n- {name: r/b, hash_of: level, from: 0.1}", "make their rules disjoint"),
        ("- {name: b, hash_of: level}\n- {name: r/a, where: {level: [none]}, hash_of: level}", "is empty"),
        ("- {name: a, hash_of: stage}", "is empty, no record matches its rule"),
        ("- {name: a, hash_of: stage}", "it has no metadata 'stage', which split 'a' asks for"),
    ):
        rules.write_text(text)
        assert main(["prep", "split", "--manifest", str(manifest), "--rules", str(rules), "--out", str(out)]) == 2
        assert complaint in capsys.readouterr().err and not list(out.rglob("*.jsonl"))


def test_records_without_what_a_rule_hashes_and_those_in_no_split_are_counted(clips, tmp_path, capsys):
    manifest, rules, out = tmp_path / "m.jsonl", tmp_path / "rules.yaml", tmp_path / "out"
    del clips[3]["metadata"]["level"]
    write_manifest(manifest, clips)
    rules.write_text("[{name: a, hash_of: level, to: 0.5}]")
    assert main(["prep", "split", "--manifest", str(manifest), "--rules", str(rules), "--out", str(out)]) == 0
    kept = len((out / "a.jsonl").read_text().splitlines())
    assert 0 < kept < len(clips) - 1
    assert f"{len(clips) - 1 - kept} records in no split; 1 rejected" in capsys.readouterr().out
    assert "clip-3" in (out / "m.split.rejected.jsonl").read_text()


def test_splits_beside_their_manifest_leave_it_and_its_list_of_rejected_ones_alone(clips, tmp_path, capsys):
    manifest, rules = tmp_path / "all.jsonl", tmp_path / "rules.yaml"
    listed = tmp_path / "all.rejected.jsonl"
    write_manifest(manifest, clips)
    listed.write_text("what ingest left out")
    before = manifest.read_bytes()
    for name, status in (("a", 0), ("all", 2)):
        rules.write_text(f"[{{name: {name}, hash_of: level, to: 0.5}}]")
        assert (
            main(["prep", "split", "--manifest", str(manifest), "--rules", str(rules), "--out", str(tmp_path)])
            == status
        )
    assert "that is what is read" in capsys.readouterr().err
    assert manifest.read_bytes() == before and listed.read_text() == "what ingest left out"
    noisy = ["prep", "add-noise", "--manifest", str(manifest), "--out", str(manifest)]
    assert main([*noisy, "--audio-dir", str(tmp_path / "noisy")]) == 2 and not (tmp_path / "noisy").exists()
