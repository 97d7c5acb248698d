"""Free speech synthesisers as subprocesses: eSpeak NG, Flite and Festival, with their voices in
Debian.
"""

import csv
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from .manifest import SAMPLE_RATE, resample


class Voice(NamedTuple):
    """A voice: a row of voices.csv, or one of eSpeak NG's."""

    engine: str
    name: str  #: in the engine
    language: str
    package: str  #: Debian's, of its sound
    encoding: str  #: of the text that a voice of Festival reads
    licence: str  #: of its recordings or models, parts of which are in what it says


class Utterance(NamedTuple):
    """A text, and factors of the voice's own rate and pitch."""

    text: str
    rate: float = 1.0
    pitch: float = 1.0


with Path(__file__).with_name("voices.csv").open(encoding="utf-8") as _file:
    #: Of Flite and Festival.
    VOICES = [Voice(**row) for row in csv.DictReader(_file)]
#: English voices of the development task of words, which training never hears. All are of real
#: speakers.
HELD_OUT_NAMES = ("awb", "rms", "kal_diphone", "ked_diphone")
HELD_OUT = [voice for voice in VOICES if voice.name in HELD_OUT_NAMES]


def espeak_voices(languages: Sequence[str]) -> list[Voice]:
    """Every language in every variant of eSpeak NG (other resonances, breath, other sources of the
    voice).
    """
    variants = []
    for line in _run(["espeak-ng", "--voices=variant"], "").splitlines():
        _, found, rest = line.partition("!v/")
        name = rest.split("  ")[0].strip()
        if found and " " not in name:
            variants.append(name)
    return [
        # What it says is computed; the licence is its own.
        Voice("espeak-ng", f"{language}+{variant}", language, "espeak-ng", "utf-8", "GPL-3+")
        for language in languages
        for variant in variants
    ]


def speak(voice: Voice, utterances: Sequence[Utterance]) -> Iterator[np.ndarray]:
    """(samples,) float32 at 16 kHz for each utterance, without silence at the ends; empty if the
    voice cannot pronounce it.

    eSpeak NG changes the pitch; the other engines scale the voice, as of a smaller or larger
    speaker.
    """
    with tempfile.TemporaryDirectory() as folder:
        waves = [Path(folder, f"{number}.wav") for number in range(len(utterances))]
        if voice.engine == "festival":
            script = _festival_script(voice, utterances, waves)
            _run(["festival", "-b", "--pipe"], script, voice.encoding)
        for utterance, wave in zip(utterances, waves, strict=True):
            if voice.engine == "espeak-ng":
                rate = str(round(170 * utterance.rate))
                pitch = str(round(np.clip(50 * utterance.pitch, 0, 99)))
                command = ["espeak-ng", "-v", voice.name, "-s", rate, "-p", pitch, "-w", wave]
                _run(command, utterance.text)
                yield _read(wave, 1.0)
            else:
                if voice.engine == "flite":
                    stretch = f"duration_stretch={1 / utterance.rate:.3f}"
                    command = ["flite", "-voice", voice.name, "--setf", stretch]
                    _run([*command, "-t", utterance.text, "-o", wave], "")
                yield _read(wave, utterance.pitch)


def _festival_script(voice: Voice, utterances: Sequence[Utterance], waves: Sequence[Path]) -> str:
    """A word that a voice cannot pronounce is an error in Scheme, which must not stop the
    others.
    """
    lines = [f"(voice_{voice.name})"]
    for utterance, wave in zip(utterances, waves, strict=True):
        text = utterance.text.replace("\\", "").replace('"', "")
        said = f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{wave}" \'riff)'
        lines.append(f"(Parameter.set 'Duration_Stretch {1 / utterance.rate:.3f})")
        lines.append(f"(unwind-protect {said} nil)")
    return "\n".join(lines) + "\n"


def _read(wave: Path, pitch: float) -> np.ndarray:
    if not wave.is_file() or wave.stat().st_size < 1000:
        return np.zeros(0, np.float32)
    audio, rate = soundfile.read(wave, dtype="float32")
    audio = resample(audio, round(rate * pitch))
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max(initial=0))
    if not len(loud):
        return audio[:0]
    return audio[max(0, loud[0] - SAMPLE_RATE // 50) : loud[-1] + SAMPLE_RATE // 20]


def _run(command: Sequence[str | Path], text: str, encoding: str = "utf-8") -> str:
    content = text.encode(encoding, "ignore")
    done = subprocess.run(command, input=content, capture_output=True, timeout=600)
    return done.stdout.decode("utf-8", "replace")
