"""Single notes and drum hits of a General MIDI soundfont, rendered by FluidSynth, with a manifest for `hear-mwmae pack`.

    python -m hear_mwmae.training.soundfont /usr/share/sounds/sf2/FluidR3_GM.sf2 DEST \\
        --package fluid-soundfont-gm --version 3.1-5.3 --licence MIT

Recorded single notes are rare in a distribution of software; a soundfont has those of every instrument at every pitch.
Instruments, pitches, tunings, loudness and lengths are drawn from the seed. It needs the program ``fluidsynth``.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import mido
import numpy as np
import soundfile
import torch
import torchaudio

from ..commands import Command
from ..errors import HearMwmaeError
from .debian_audio import MIN_SECONDS, SAMPLE_RATE, write_manifest

KIND = "rendered"
#: Every note has as many seconds for itself, begins LEAD into them, and is cut off where they end.
SLOT, LEAD = 2.6, 0.02
HOLD_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 2.2)
PROGRAMS, DRUM_CHANNEL = 128, 9
#: MIDI numbers: from C1 to E7, and General MIDI's drums.
PITCHES, DRUMS, VELOCITIES = (24, 100), (27, 87), (30, 127)
#: Of the pitch wheel, two semitones each way.
LARGEST_BEND = 8191
RENDER_RATE = 48_000
#: MIDI ticks per second at its default tempo, 120 beats per minute.
TICKS_PER_BEAT, TICKS_PER_SECOND = 480, 960
#: Peaks below this are an instrument's way of not having that note; what has decayed to this part of the peak is cut off.
MIN_PEAK, DECAYED = 2e-3, 1e-3


@dataclass(frozen=True)
class Note:
    channel: int
    program: int
    pitch: int
    velocity: int
    seconds: float
    bend: int


def draw_notes(count: int, drums: int, seed: int) -> list[Note]:
    """``count`` notes of any instrument, half of them out of tune, then ``drums`` hits, all out of tune."""
    rng = np.random.default_rng(seed)

    def between(ends: tuple[int, int]) -> int:
        return int(rng.integers(ends[0], ends[1] + 1))

    def bend() -> int:
        return between((-LARGEST_BEND, LARGEST_BEND))

    notes = []
    for _ in range(count):
        program, hold = int(rng.integers(PROGRAMS)), float(rng.choice(HOLD_SECONDS))
        notes.append(Note(0, program, between(PITCHES), between(VELOCITIES), hold, bend() if rng.random() < 0.5 else 0))
    notes += [Note(DRUM_CHANNEL, 0, between(DRUMS), between(VELOCITIES), 0.5, bend()) for _ in range(drums)]
    return notes


def midi(notes: list[Note]) -> mido.MidiFile:
    """The notes, one in each slot."""
    track = mido.MidiTrack()
    now = 0
    for number, note in enumerate(notes):
        begin, off = number * SLOT, {"channel": note.channel, "note": note.pitch}
        events = [
            (begin, mido.Message("program_change", channel=note.channel, program=note.program)),
            (begin, mido.Message("pitchwheel", channel=note.channel, pitch=note.bend)),
            (begin + LEAD, mido.Message("note_on", velocity=note.velocity, **off)),
            (begin + LEAD + note.seconds, mido.Message("note_off", **off)),
            (begin + SLOT - LEAD, mido.Message("control_change", channel=note.channel, control=120, value=0)),  # silence
        ]
        for seconds, message in events:
            tick = round(seconds * TICKS_PER_SECOND)
            message.time, now = tick - now, tick
            track.append(message)
    track.append(mido.MetaMessage("end_of_track", time=round(len(notes) * SLOT * TICKS_PER_SECOND) - now))
    return mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, tracks=[track])


def render(soundfont: Path, notes: list[Note]) -> list[np.ndarray]:
    """(samples,) float32 at 16 kHz for each note, peaks at 1 at most; empty where the soundfont has no such sound."""
    with tempfile.TemporaryDirectory() as folder:
        score, wave = Path(folder, "notes.mid"), Path(folder, "notes.wav")
        midi(notes).save(score)
        command = ["fluidsynth", "-ni", "-R", "0", "-C", "0", "-g", "0.6", "-r", str(RENDER_RATE), "-F", wave, soundfont, score]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise HearMwmaeError(
                "there is no program fluidsynth: install FluidSynth (on Debian, the package fluidsynth)"
            ) from error
        if done.returncode or not wave.is_file() or "Failed to load" in done.stderr:
            raise HearMwmaeError(f"fluidsynth cannot render {soundfont}: {done.stderr.strip() or done.stdout.strip()}")
        audio, _ = soundfile.read(wave, dtype="float32", always_2d=True)
    length = round(SLOT * RENDER_RATE)
    return [_trim(audio[number * length : (number + 1) * length].mean(axis=1)) for number in range(len(notes))]


def _trim(slot: np.ndarray) -> np.ndarray:
    note = torchaudio.functional.resample(torch.from_numpy(slot), RENDER_RATE, SAMPLE_RATE).numpy()
    peak = np.abs(note).max(initial=0)
    if peak < MIN_PEAK:
        return note[:0]
    last = np.flatnonzero(np.abs(note) > DECAYED * peak)[-1]
    return note[: max(last + 1, round(MIN_SECONDS * SAMPLE_RATE))] / max(peak, 1)


@click.command(cls=Command, help=__doc__)
@click.argument("soundfont", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--package", default="", help="Where the soundfont comes from, for the manifest.")
@click.option("--version", default="", help="Of that package.")
@click.option("--licence", default="", help="Of the soundfont.")
@click.option("--notes", default=4200, show_default=True, help="Number of notes.")
@click.option("--drums", default=1500, show_default=True, help="Number of drum hits.")
@click.option("--seed", default=0, show_default=True)
def main(soundfont: Path, dest: Path, package: str, version: str, licence: str, notes: int, drums: int, seed: int) -> None:
    """Run the command line."""
    (dest / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, audio in enumerate(render(soundfont, draw_notes(notes, drums, seed))):
        if len(audio):
            path = f"audio/{number:06d}.flac"
            soundfile.write(dest / path, np.round(audio * 32767).astype(np.int16), SAMPLE_RATE)
            rows.append((path, round(len(audio) / SAMPLE_RATE, 3), package, version, KIND, licence))
    write_manifest(dest, rows)
    click.echo(f"{len(rows):,} notes and hits, {sum(row[1] for row in rows) / 3600:.2f} hours -> {dest}")


if __name__ == "__main__":
    main()
