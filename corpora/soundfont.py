"""Notes of soundfonts, played by FluidSynth."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import soundfile

from hear_mwmae.errors import HearMwmaeError

from .manifest import MIN_SECONDS, SAMPLE_RATE, resample

#: A note begins this long after its slot, unless it says when.
LEAD = 0.02
DRUM_CHANNEL = 9
#: Of the pitch wheel, two semitones each way.
LARGEST_BEND = 8191
RENDER_RATE = 48_000
#: MIDI ticks per second at its default tempo, 120 beats per minute.
TICKS_PER_BEAT, TICKS_PER_SECOND = 480, 960
#: Peaks below this are an instrument's way of not having that note; what has decayed to this part
#: of the peak is cut off.
MIN_PEAK, DECAYED = 2e-3, 1e-3
ALL_SOUND_OFF = 120


class Note(NamedTuple):
    """One note or drum hit: MIDI numbers, and seconds from the beginning of its slot."""

    channel: int
    program: int
    pitch: int
    velocity: int
    seconds: float
    bend: int = 0
    begin: float = LEAD


def midi(slots: Sequence[Sequence[Note]], seconds: float) -> mido.MidiFile:
    """A score of slots of ``seconds`` each, one after another; what still sounds at the end of its
    slot is cut off.
    """
    events = []
    for number, notes in enumerate(slots):
        start = number * seconds
        for note in notes:
            begin, channel, off = start + note.begin, note.channel, {"channel": note.channel, "note": note.pitch}
            events += [
                (begin - LEAD / 2, mido.Message("program_change", channel=channel, program=note.program)),
                (begin - LEAD / 2, mido.Message("pitchwheel", channel=channel, pitch=note.bend)),
                (begin, mido.Message("note_on", velocity=note.velocity, **off)),
                (min(begin + note.seconds, start + seconds - LEAD), mido.Message("note_off", **off)),
            ]
        for channel in {note.channel for note in notes}:
            silence = mido.Message("control_change", channel=channel, control=ALL_SOUND_OFF, value=0)
            events.append((start + seconds - LEAD, silence))
    track, now = mido.MidiTrack(), 0
    for time, message in sorted(events, key=lambda event: event[0]):  # in order of time; the others stay in theirs
        tick = round(time * TICKS_PER_SECOND)
        message.time, now = tick - now, tick
        track.append(message)
    track.append(mido.MetaMessage("end_of_track", time=round(len(slots) * seconds * TICKS_PER_SECOND) - now))
    return mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, tracks=[track])


def render(soundfont: Path, slots: Sequence[Sequence[Note]], seconds: float, room: bool = False) -> list[np.ndarray]:
    """(samples,) float32 at 16 kHz for each slot, peaks at most 1; empty if the soundfont has no
    such sound.

    ``room`` adds FluidSynth's reverberation. Raises HearMwmaeError without FluidSynth, and if it
    cannot render the notes.
    """
    with tempfile.TemporaryDirectory() as folder:
        score, wave = Path(folder, "score.mid"), Path(folder, "score.wav")
        midi(slots, seconds).save(score)
        options = ["-R", str(int(room)), "-C", "0", "-g", "0.6", "-r", str(RENDER_RATE), "-F", wave]
        try:
            done = subprocess.run(["fluidsynth", "-ni", *options, soundfont, score], capture_output=True, text=True)
        except FileNotFoundError as error:
            message = "there is no program fluidsynth: install FluidSynth (on Debian, the package fluidsynth)"
            raise HearMwmaeError(message) from error
        if done.returncode or not wave.is_file() or "Failed to load" in done.stderr:
            raise HearMwmaeError(f"fluidsynth cannot render {soundfont}: {done.stderr.strip() or done.stdout.strip()}")
        audio, _ = soundfile.read(wave, dtype="float32", always_2d=True)
    length = round(seconds * RENDER_RATE)
    return [_trim(audio[number * length : (number + 1) * length].mean(axis=1)) for number in range(len(slots))]


def _trim(slot: np.ndarray) -> np.ndarray:
    sound = resample(slot, RENDER_RATE)
    peak = np.abs(sound).max(initial=0)
    if peak < MIN_PEAK:
        return sound[:0]
    last = np.flatnonzero(np.abs(sound) > DECAYED * peak)[-1]
    return sound[: max(last + 1, round(MIN_SECONDS * SAMPLE_RATE))] / max(peak, 1)
