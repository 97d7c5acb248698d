"""Notes from soundfonts. FluidSynth's place is taken by a program that plays the score with sines."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from hear_mwmae.training import soundfont, soundfont_tasks
from hear_mwmae.training.hear_task import read_task
from hear_mwmae.training.pack import MANIFEST

SYNTH = f"""#!{sys.executable}
import sys, mido, numpy as np, soundfile
wave, score = sys.argv[sys.argv.index("-F") + 1], sys.argv[-1]
rate, now, bend, begun, notes = {soundfont.RENDER_RATE}, 0.0, 0, {{}}, []
for message in mido.MidiFile(score):
    now += message.time
    if message.type == "pitchwheel":
        bend = message.pitch / 8192 * 2
    elif message.type == "note_on":
        begun[message.note] = now
    elif message.type == "note_off":
        notes.append((message.note + bend, message.velocity if message.note < 100 else 0, begun[message.note], now))
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


def test_every_note_sounds_in_its_own_slot(synth):
    notes = soundfont.draw_notes(20, 4, seed=3)
    assert notes == soundfont.draw_notes(20, 4, seed=3) != soundfont.draw_notes(20, 4, seed=4)
    assert len({note.program for note in notes}) > 10 and [note.channel for note in notes[20:]] == [9] * 4
    sounds = soundfont.render(synth, notes)
    for note, sound in zip(notes, sounds, strict=True):
        if note.pitch == 100:  # which this font lacks
            assert len(sound) == 0
            continue
        assert len(sound) / 16000 == pytest.approx(soundfont.LEAD + note.seconds, abs=0.01)
        spectrum = np.abs(np.fft.rfft(sound, 16000 * 4))
        expected = 440 * 2 ** ((note.pitch + note.bend / 8192 * 2 - 69) / 12)
        assert np.argmax(spectrum) / 4 == pytest.approx(expected, rel=0.02, abs=3)


def test_a_manifest_for_pack(synth, tmp_path):
    options = ["--notes", "3", "--drums", "2", "--package", "font", "--version", "1-2", "--licence", "MIT"]
    result = CliRunner().invoke(soundfont.main, [str(synth), str(tmp_path / "notes"), *options])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "notes" / MANIFEST).open()))
    assert len(rows) == 5 and {(row["package"], row["version"], row["kind"], row["licence"]) for row in rows} == {
        ("font", "1-2", "rendered", "MIT")
    }
    for row in rows:
        info = soundfile.info(tmp_path / "notes" / row["path"])
        assert info.samplerate == 16000 and info.duration == pytest.approx(float(row["seconds"]), abs=1e-3)


def test_without_fluidsynth(synth, tmp_path):
    (tmp_path / "bin" / "fluidsynth").unlink()
    result = CliRunner().invoke(soundfont.main, [str(synth), str(tmp_path / "notes")])
    assert result.exit_code == 1 and "install FluidSynth" in result.output and "Traceback" not in result.output


def test_tasks_of_pitch(synth, tmp_path, monkeypatch):
    """In HEAR's format, as the probe and the kit's check read it; instruments of one fold are in no other."""
    monkeypatch.setattr(soundfont_tasks, "INSTRUMENTS", 8)
    monkeypatch.setattr(soundfont_tasks, "TUNED_DRUMS", (41, 60))
    result = CliRunner().invoke(soundfont_tasks.main, [str(synth), str(tmp_path / "tasks")])
    assert result.exit_code == 0, result.output
    for name, clips in (("pitch", 80), ("tuning", 60)):
        assert f"{name}: {clips} clips" in result.output
        folds = read_task(tmp_path / "tasks" / name).splits
        assert len(folds) == 4 and sum(map(len, folds)) == clips
    pitches = [int(path.stem) // 10 % 4 for fold in read_task(tmp_path / "tasks" / "pitch").splits for path in fold]
    assert pitches == sorted(pitches)  # ten notes an instrument, fold by instrument
    path, (label,) = next(iter(read_task(tmp_path / "tasks" / "tuning").splits[0].items()))
    audio, _ = soundfile.read(path)
    assert float(label) in soundfont_tasks.TUNINGS and 0 < np.abs(audio[-1600:]).min() < np.abs(audio).max() <= 1
