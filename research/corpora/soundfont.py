"""Notes of soundfonts, played by FluidSynth."""

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
#: A lower peak is an instrument's way of not having that note.
MIN_PEAK = 2e-3
#: What has decayed to this part of the peak is cut off.
DECAYED = 1e-3
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
        end = start + seconds - LEAD
        for note in notes:
            begin = start + note.begin
            key = {"channel": note.channel, "note": note.pitch}
            program = mido.Message("program_change", channel=note.channel, program=note.program)
            bend = mido.Message("pitchwheel", channel=note.channel, pitch=note.bend)
            events += [
                (begin - LEAD / 2, program),
                (begin - LEAD / 2, bend),
                (begin, mido.Message("note_on", velocity=note.velocity, **key)),
                (min(begin + note.seconds, end), mido.Message("note_off", **key)),
            ]
        for channel in {note.channel for note in notes}:
            off = mido.Message("control_change", channel=channel, control=ALL_SOUND_OFF, value=0)
            events.append((end, off))
    track = mido.MidiTrack()
    now = 0
    for time, message in sorted(events, key=lambda event: event[0]):  # equal times keep their order
        tick = round(time * TICKS_PER_SECOND)
        message.time = tick - now
        now = tick
        track.append(message)
    rest = round(len(slots) * seconds * TICKS_PER_SECOND) - now
    track.append(mido.MetaMessage("end_of_track", time=rest))
    return mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, tracks=[track])


def render(
    soundfont: Path, slots: Sequence[Sequence[Note]], seconds: float, room: bool = False
) -> list[np.ndarray]:
    """(samples,) float32 at 16 kHz for each slot, peaks at most 1; empty if the soundfont has no
    such sound.

    ``room`` adds FluidSynth's reverberation. Raises HearMwmaeError if it cannot render the notes.
    """
    with tempfile.TemporaryDirectory() as folder:
        score = Path(folder, "score.mid")
        wave = Path(folder, "score.wav")
        midi(slots, seconds).save(score)
        effects = ["-R", str(int(room)), "-C", "0", "-g", "0.6"]
        command = ["fluidsynth", "-ni", *effects, "-r", str(RENDER_RATE), "-F", wave]
        done = subprocess.run([*command, soundfont, score], capture_output=True, text=True)
        if done.returncode or not wave.is_file() or "Failed to load" in done.stderr:
            reason = done.stderr.strip() or done.stdout.strip()
            raise HearMwmaeError(f"fluidsynth cannot render {soundfont}: {reason}")
        audio, _ = soundfile.read(wave, dtype="float32", always_2d=True)
    length = round(seconds * RENDER_RATE)
    starts = range(0, len(slots) * length, length)
    return [_trim(audio[start : start + length].mean(axis=1)) for start in starts]


def _trim(slot: np.ndarray) -> np.ndarray:
    sound = resample(slot, RENDER_RATE)
    peak = np.abs(sound).max(initial=0)
    if peak < MIN_PEAK:
        return sound[:0]
    last = np.flatnonzero(np.abs(sound) > DECAYED * peak)[-1]
    return sound[: max(last + 1, round(MIN_SECONDS * SAMPLE_RATE))] / max(peak, 1)
