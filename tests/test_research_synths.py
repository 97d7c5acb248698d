"""Corpora that are played or spoken by programs, and the development tasks.

The places of FluidSynth and of the speech synthesisers are taken by programs that write tones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner
from test_research_corpora import run

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.tasks import read_task
from research.corpora import debian_audio, dev_tasks, manifest, notes, soundfont, speech, voices
from research.corpora.manifest import Source
from research.corpora.soundfont import Note
from research.corpora.voices import Utterance, Voice

FLUIDSYNTH = f"""#!{sys.executable}
import sys, mido, numpy as np, soundfile
wave, score = sys.argv[sys.argv.index("-F") + 1], sys.argv[-1]
rate, now, bend, begun, notes = {soundfont.RENDER_RATE}, 0.0, 0, {{}}, []
for message in mido.MidiFile(score):
    now += message.time
    if message.type == "pitchwheel":
        bend = message.pitch / 8192 * 2
    elif message.type == "note_on":
        begun[message.channel, message.note] = now
    elif message.type == "note_off":
        key = message.channel, message.note
        notes.append((message.note + bend, message.note < 100, begun[key], now))
audio = np.zeros((round(now * rate), 2))
for pitch, has, begin, end in notes:
    time = np.arange(round((end - begin) * rate)) / rate
    tone = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) * has / 2
    audio[round(begin * rate) :][: len(time)] = tone[:, None]
soundfile.write(wave, audio, rate)
"""
# Without numpy and soundfile, whose imports take longer than the tones.
TONES = f"""#!{sys.executable} -IS
import array, math, re, sys, wave
def write(text, path, rate=1.0):
    tones = array.array("h", bytes(16000))
    for letter in filter(str.isalpha, text):
        step = 2 * math.pi * (200 + 40 * (ord(letter) % 32)) / 16000
        times = range(round(1600 / rate))
        tones.extend(round(16384 * math.sin(step * time)) for time in times)
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tones.tobytes() + bytes(16000))
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
"""
ESPEAK = r"""
if "--voices=variant" in sys.argv:
    print("Pty\n 5  variant  --/M  f2  !v/f2\n 5  variant  --/M  Mike  !v/Mike serious")
else:
    write(sys.stdin.read(), option("-w"), int(option("-s")) / 170)
"""
FLITE = """
write(option("-t"), option("-o"))
"""
FESTIVAL = r"""
for text, path in re.findall(r'Utterance Text "([^"]*)"\)\) "([^"]*)"', sys.stdin.read()):
    if "unspeakable" not in text:
        write(text, path)
"""
PROGRAMS = {"fluidsynth": FLUIDSYNTH, "espeak-ng": TONES + ESPEAK, "flite": TONES + FLITE}


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (PROGRAMS | {"festival": TONES + FESTIVAL}).items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    (tmp_path / "font.sf2").touch()
    return tmp_path


SLOT = 3.0


def test_every_note_sounds_in_its_own_slot(programs):
    r = np.random.default_rng(3)
    drawn = [notes.draw_note(r) for _ in range(16)] + [notes.draw_hit(r) for _ in range(4)]
    sounds = soundfont.render(programs / "font.sf2", [[note] for note in drawn], SLOT)
    for note, sound in zip(drawn, sounds, strict=True):
        if note.pitch >= 100:  # which this font lacks
            assert len(sound) == 0
            continue
        held = min(note.seconds, SLOT - 2 * soundfont.LEAD)
        assert len(sound) / 16000 == pytest.approx(soundfont.LEAD + held, abs=0.01)
        expected = 440 * 2 ** ((note.pitch + note.bend / 8192 * 2 - 69) / 12)
        found = np.argmax(np.abs(np.fft.rfft(sound, 16000 * 4))) / 4
        assert found == pytest.approx(expected, rel=0.02, abs=3)


def test_notes_of_a_slot_begin_when_they_say(programs):
    chord = [Note(0, 1, 60, 90, 0.5, 0, 0.5), Note(1, 2, 72, 90, 0.5, 0, 1.5)]
    (sound,) = soundfont.render(programs / "font.sf2", [chord], SLOT)
    loud = [np.abs(sound[round(t * 16000) :][:1600]).max() > 0.1 for t in (0.2, 0.6, 1.2, 1.6)]
    assert loud == [False, True, False, True]


def test_random_music_is_within_its_ten_seconds():
    scores = [notes.draw_score(np.random.default_rng(seed), True) for seed in range(30)]
    drums = soundfont.DRUM_CHANNEL
    for note in (note for score in scores for note in score):
        assert 0 < note.begin < notes.SCORE_SLOT and 21 <= note.pitch <= 108
    assert {len({note.channel for note in score} - {drums}) for score in scores} == {1, 2, 3, 4}
    only_drums = notes.draw_score(np.random.default_rng(0), instruments=False)
    assert {note.channel for note in only_drums} == {drums}


def test_the_corpus_of_notes(programs, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", programs)
    monkeypatch.setattr(notes, "FONTS", {"font.sf2": notes.Font("font", "MIT", 1.0)})
    monkeypatch.setattr(notes, "version_of", lambda package: "1-2")
    monkeypatch.setattr(notes, "NOTES_EACH", 6)
    monkeypatch.setattr(notes, "SCORES_EACH", 2)
    run(notes.main, programs / "notes", "--batches", 2, "--jobs", 1)
    rows = manifest.read_manifest(programs / "notes" / "manifest.csv")
    assert set(rows["kind"]) == {"rendered", "scores"} and set(rows["version"]) == {"1-2"}
    assert len(rows) >= 6


def test_a_program_or_a_package_that_is_missing_is_one_line(programs, monkeypatch):
    (programs / "bin" / "fluidsynth").unlink()
    command = [str(programs / "tasks"), "--task", "pitch"]
    done = CliRunner().invoke(dev_tasks.main, command)
    assert done.exit_code == 1 and "fluidsynth: No such file" in done.output
    monkeypatch.setenv("PATH", "/usr/bin")
    if Path("/usr/bin/dpkg-query").exists():
        with pytest.raises(HearMwmaeError, match="no-such-package is not installed"):
            speech.version_of("no-such-package")


def test_what_is_said_has_no_silence_around_it(programs):
    for voice in (Voice("espeak-ng", "en+f2", "en", ""), voices.FLITE[0], voices.FESTIVAL[0]):
        sounds = voices.speak(voice, [Utterance("abcde"), Utterance("ab")])
        lengths = [len(sound) / 16000 for sound in sounds]
        assert lengths == pytest.approx([0.57, 0.27], abs=0.03)  # and some edge
    unspeakable, other = voices.speak(voice, [Utterance("unspeakable"), Utterance("abc")])
    assert len(unspeakable) == 0 < len(other)


def test_voices_are_scaled_and_espeak_speaks_faster(programs):
    (plain,) = voices.speak(voices.FLITE[0], [Utterance("aaaa")])
    (higher,) = voices.speak(voices.FLITE[0], [Utterance("aaaa", 1.0, 1.25)])
    peaks = [np.argmax(np.abs(np.fft.rfft(sound, 16000))) for sound in (plain, higher)]
    assert peaks[1] == pytest.approx(1.25 * peaks[0], rel=0.02)
    espeak = Voice("espeak-ng", "en+f2", "en", "")
    slow, fast = voices.speak(espeak, [Utterance("aaaa", rate) for rate in (1.0, 2.0)])
    assert len(slow) - 1120 == pytest.approx(2 * (len(fast) - 1120), rel=0.05)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    share = tmp_path / "share"
    monkeypatch.setattr(speech, "SHARE", share)
    for language, path in speech.word_lists().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        own = f"word{language.replace('-', '')}"
        path.write_text(f"plain/ABC\nnot-this\nit's\n4th\na\nOther\nstraße\n{own}\n")
    (share / "hunspell" / "sk_SK.dic").write_bytes("ľúbi/X\n".encode("iso-8859-2"))
    (share / "hunspell" / "sk_SK.aff").write_text("SET ISO8859-2\n")
    speech.words.cache_clear()
    yield share
    speech.words.cache_clear()


def test_words_are_letters_in_the_encoding_of_their_list(lists):
    assert speech.words("de") == ["other", "plain", "straße", "wordde"]
    assert speech.words("sk") == ["ľúbi"]
    (lists / "dict" / "french").unlink()
    with pytest.raises(HearMwmaeError, match="install the word list of 'fr'"):
        speech.words("fr")


def test_held_out_voices_are_in_no_plan(programs, lists, monkeypatch):
    monkeypatch.setattr(speech, "BATCH", 5)
    plan = speech.plan(300, seed=0)
    assert plan[:50] == speech.plan(50, seed=0)
    assert not set(plan) & set(voices.HELD_OUT)
    assert {voice.engine for voice in plan} == {"espeak-ng", "flite", "festival"}
    assert {voice.package for voice in plan} <= speech.LICENCES.keys()
    source = Source("p", "1", "synthetic-speech", "MIT")
    batch, again = (list(speech.render_batch((0, 5, plan[5], source))) for _ in range(2))
    assert len(batch) > 1
    assert all((a.samples == b.samples).all() for a, b in zip(batch, again, strict=True))


def test_tasks_of_pitch(programs, monkeypatch):
    """In HEAR's format, as the probe reads it; instruments of one fold are in no other."""
    monkeypatch.setattr(dev_tasks, "SOUNDFONT", programs / "font.sf2")
    monkeypatch.setattr(dev_tasks, "INSTRUMENTS", 8)
    monkeypatch.setattr(dev_tasks, "TUNED_DRUMS", (41, 60))
    run(dev_tasks.main, programs / "tasks", "--task", "pitch", "--task", "tuning")
    pitch, tuning = (read_task(programs / "tasks" / name) for name in ("pitch", "tuning"))
    assert [len(split) for split in pitch.splits] == [20] * 4
    instruments = [int(path.stem) // 10 % 4 for split in pitch.splits for path in split]
    assert instruments == sorted(instruments)  # ten notes an instrument, fold by instrument
    assert sum(map(len, tuning.splits)) == 60
    path, (label,) = next(iter(tuning.splits[0].items()))
    audio, _ = soundfile.read(path)
    assert float(label) in dev_tasks.TUNINGS
    assert (audio[-1600:] != 0).mean() > 0.99 and np.abs(audio).max() <= 1


def test_the_task_of_words(programs, lists, monkeypatch):
    """A voice is in one fold only, and every fold has every word."""
    monkeypatch.setattr(dev_tasks, "WORDS", 2)
    clips = dev_tasks.words_task(np.random.default_rng(0))
    dev_tasks.write_task(programs / "words", clips)
    task = read_task(programs / "words")
    assert [len(split) for split in task.splits] == [8] * 4
    for split in task.splits:
        assert {label for labels in split.values() for label in labels} == set(task.labels)


def test_the_task_of_everyday_sounds(tmp_path, monkeypatch):
    """Of packages that are on the list, and kept from pretraining."""
    listed = debian_audio.read_package_list()
    rows = pd.read_csv(dev_tasks.EVERYDAY)
    assert {listed[package]["kind"] for package in rows["package"]} == {"development"}
    for package, names in zip(rows["package"], rows["names"], strict=True):
        (tmp_path / package).mkdir(exist_ok=True)
        for number, name in enumerate(names.split()):
            tone = np.sin(np.arange(8000 + 100 * number) / 5) / 2
            soundfile.write(tmp_path / package / f"{name}.wav", tone, 8000)
    there = {
        package: {p.stem: p for p in (tmp_path / package).iterdir()}
        for package in listed
        if (tmp_path / package).is_dir()
    }
    monkeypatch.setattr(dev_tasks, "audio_of", lambda package, _: there[package])
    clips = dev_tasks.everyday_task(np.random.default_rng(0))
    assert len(clips) == rows["names"].str.split().str.len().sum()
    assert {clip.label for clip in clips} == set(rows["class"])
    assert {len(clip.sound) for clip in clips if clip.label == "bird"} > {16000}
