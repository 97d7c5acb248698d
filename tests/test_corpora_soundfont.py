"""Notes from soundfonts, and the tasks made of them.

FluidSynth's place is taken by a program that plays the score with sines.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from corpora import dev_tasks, manifest, notes, soundfont
from corpora.manifest import read_manifest
from corpora.soundfont import Note
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.tasks import read_task

SYNTH = f"""#!{sys.executable}
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
        notes.append((message.note + bend, message.note < 100, begun[message.channel, message.note], now))
audio = np.zeros((round(now * rate), 2))
for pitch, velocity, begin, end in notes:
    time = np.arange(round((end - begin) * rate)) / rate
    wave_of_note = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) * (velocity > 0) / 2
    audio[round(begin * rate) :][: len(time)] = wave_of_note[:, None]
soundfile.write(wave, audio, rate)
"""


@pytest.fixture
def synth(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "fluidsynth"
    program.parent.mkdir()
    program.write_text(SYNTH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    (tmp_path / "font.sf2").touch()
    return tmp_path / "font.sf2"


SLOT = 3.0


class Here(ThreadPoolExecutor):
    """In place of processes, which would not see what a test replaces."""

    def __init__(self, jobs, context, initializer):
        super().__init__(1)


def test_every_note_sounds_in_its_own_slot(synth):
    r = np.random.default_rng(3)
    drawn = [notes.draw_note(r) for _ in range(20)] + [notes.draw_hit(r) for _ in range(4)]
    assert len({note.program for note in drawn}) > 10 and {note.channel for note in drawn[20:]} == {soundfont.DRUM_CHANNEL}
    for note, sound in zip(drawn, soundfont.render(synth, [[note] for note in drawn], SLOT), strict=True):
        if note.pitch >= 100:  # which this font lacks
            assert len(sound) == 0
            continue
        held = min(note.seconds, SLOT - 2 * soundfont.LEAD)
        assert len(sound) / 16000 == pytest.approx(soundfont.LEAD + held, abs=0.01)
        spectrum = np.abs(np.fft.rfft(sound, 16000 * 4))
        expected = 440 * 2 ** ((note.pitch + note.bend / 8192 * 2 - 69) / 12)
        assert np.argmax(spectrum) / 4 == pytest.approx(expected, rel=0.02, abs=3)


def test_notes_of_a_slot_begin_when_they_say(synth):
    (sound,) = soundfont.render(synth, [[Note(0, 1, 60, 90, 0.5, 0, 0.5), Note(1, 2, 72, 90, 0.5, 0, 1.5)]], SLOT)
    loud = [np.abs(sound[round(t * 16000) :][:1600]).max() > 0.1 for t in (0.2, 0.6, 1.2, 1.6)]
    assert loud == [False, True, False, True] and len(sound) / 16000 == pytest.approx(2.0, abs=0.01)


def test_random_music_is_within_its_ten_seconds():
    scores = [notes.draw_score(np.random.default_rng(seed), instruments=True) for seed in range(30)]
    assert all(0 < note.begin < notes.SCORE_SLOT and 21 <= note.pitch <= 108 for score in scores for note in score)
    assert {len({note.channel for note in score} - {soundfont.DRUM_CHANNEL}) for score in scores} == {1, 2, 3, 4}
    drums = notes.draw_score(np.random.default_rng(0), instruments=False)
    assert drums and {note.channel for note in drums} == {soundfont.DRUM_CHANNEL}


def test_a_manifest_for_pack(synth, tmp_path, monkeypatch):
    """Both kinds, resumed; a folder of other settings is refused."""
    monkeypatch.setattr(notes, "FOLDER", synth.parent)
    monkeypatch.setattr(notes, "FONTS", {synth.name: ("font", "MIT", True, 1.0)})
    monkeypatch.setattr(notes, "version_of", lambda package: "1-2")
    monkeypatch.setattr(notes, "NOTES_EACH", 6)
    monkeypatch.setattr(notes, "SCORES_EACH", 2)
    monkeypatch.setattr(manifest, "ProcessPoolExecutor", Here)
    command = [str(tmp_path / "notes"), "--batches"]
    for batches in ("1", "2"):
        result = CliRunner().invoke(notes.main, [*command, batches])
        assert result.exit_code == 0, result.output
    rows = list(read_manifest(tmp_path / "notes" / manifest.MANIFEST))
    assert {(row["package"], row["version"], row["licence"]) for row in rows} == {("font", "1-2", "MIT")}
    assert {row["kind"] for row in rows} == {"rendered", "scores"} and len(rows) >= 6
    for row in rows:
        info = soundfile.info(tmp_path / "notes" / row["path"])
        assert info.samplerate == 16000 and info.duration == pytest.approx(float(row["seconds"]), abs=1e-3)
    result = CliRunner().invoke(notes.main, [*command, "2", "--seed", "1"])
    assert result.exit_code == 1 and "other settings" in result.output and "Traceback" not in result.output


def test_without_fluidsynth(synth):
    (synth.parent / "bin" / "fluidsynth").unlink()
    with pytest.raises(HearMwmaeError, match="install FluidSynth"):
        soundfont.render(synth, [[Note(0, 0, 60, 90, 0.5)]], SLOT)


def test_tasks_of_pitch(synth, tmp_path, monkeypatch):
    """In HEAR's format, as the probe and the kit's check read it; instruments of one fold are in no
    other.
    """
    monkeypatch.setattr(dev_tasks, "SOUNDFONT", synth)
    monkeypatch.setattr(dev_tasks, "INSTRUMENTS", 8)
    monkeypatch.setattr(dev_tasks, "TUNED_DRUMS", (41, 60))
    result = CliRunner().invoke(dev_tasks.main, [str(tmp_path / "tasks"), "--task", "pitch", "--task", "tuning"])
    assert result.exit_code == 0, result.output
    for name, clips in (("pitch", 80), ("tuning", 60)):
        assert f"{name}: {clips} clips" in result.output
        folds = read_task(tmp_path / "tasks" / name).splits
        assert len(folds) == 4 and sum(map(len, folds)) == clips
    instruments = [int(path.stem) // 10 % 4 for fold in read_task(tmp_path / "tasks" / "pitch").splits for path in fold]
    assert instruments == sorted(instruments)  # ten notes an instrument, fold by instrument
    path, (label,) = next(iter(read_task(tmp_path / "tasks" / "tuning").splits[0].items()))
    audio, _ = soundfile.read(path)
    assert float(label) in dev_tasks.TUNINGS and (audio[-1600:] != 0).mean() > 0.99 and np.abs(audio).max() <= 1
