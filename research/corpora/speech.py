"""Synthetic speech: random words of dictionaries, in many languages, by free synthesisers in
Debian.

    python -m research.corpora.speech DEST [--batches 400] [--jobs 2]

Texts are one to seven random words of Debian's word lists (packages w*, hunspell-*), so they
resemble no data set. Voices: eSpeak NG in its languages and variants, Flite's and Festival's
(voices.HELD_OUT are reserved for the development task). Batch number i is a function of i and the
packages' versions alone.
"""

import csv
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from hear_mwmae.cli.options import Command, jobs_option

from .manifest import SAMPLE_RATE, Sound, Source, version_of, write_corpus
from .signals import log_uniform
from .voices import HELD_OUT, VOICES, Utterance, Voice, espeak_voices, speak

BATCH = 50
SECONDS = (0.3, 10.0)
SHARE = Path("/usr/share")
#: Of a list, evenly from all of it.
MOST_WORDS = 20_000
LENGTHS = (1, 2, 3, 4, 5, 6, 7)
LENGTH_SHARES = (0.3, 0.15, 0.15, 0.12, 0.1, 0.1, 0.08)
#: Of the batches; the rest is eSpeak NG's, which has by far the most voices.
FLITE_SHARE, FESTIVAL_SHARE = 0.05, 0.4


with Path(__file__).with_name("word_lists.csv").open(encoding="utf-8") as _file:
    #: Language -> the path of its word list in SHARE, and its encoding. A language without a list
    #: uses a neighbour's (Finnish has none at all).
    WORD_LISTS = {row["language"]: row for row in csv.DictReader(_file)}


def words(language: str) -> list[str]:
    """Words of a language with letters (and their marks) only, sorted."""
    found = WORD_LISTS[language]
    lines = (SHARE / found["path"]).read_text(found["encoding"]).splitlines()
    some = lines[:: 1 + len(lines) // MOST_WORDS]
    plain = {line.partition("/")[0].strip().lower() for line in some}
    return sorted(word for word in plain if 2 <= len(word) <= 14 and _is_letters(word))


def _is_letters(word: str) -> bool:
    return all(unicodedata.category(letter)[0] in "LM" for letter in word)


def draw_utterances(r: np.random.Generator, language: str) -> list[Utterance]:
    """Single words and phrases of up to seven, at many rates and pitches."""
    lexicon = words(language)
    drawn = []
    for _ in range(BATCH):
        length = int(r.choice(LENGTHS, p=LENGTH_SHARES))
        text = " ".join(lexicon[i] for i in r.integers(len(lexicon), size=length))
        rate = float(r.uniform(0.65, 1.35))
        pitch = log_uniform(r, 0.8, 1.25)
        drawn.append(Utterance(text, rate, pitch))
    return drawn


def render_batch(batch: tuple[int, Voice]) -> Iterator[Sound]:
    """The utterances of one voice."""
    index, voice = batch
    source = Source(voice.package, version_of(voice.package), "synthetic-speech", voice.licence)
    utterances = draw_utterances(np.random.default_rng([0, index]), voice.language)
    least, most = (round(seconds * SAMPLE_RATE) for seconds in SECONDS)
    for number, sound in enumerate(speak(voice, utterances)):
        if len(sound) >= least:
            samples = sound[:most] / max(1, np.abs(sound[:most]).max())
            yield Sound(f"{voice.engine}/{voice.name}-{index:04d}-{number:02d}", samples, source)


def plan(batches: int) -> list[Voice]:
    """The voice of every batch: all of Flite and Festival in turn, and languages and variants of
    eSpeak NG at random.
    """
    r = np.random.default_rng(0)
    heard = [voice for voice in VOICES if voice not in HELD_OUT]
    flite = [voice for voice in heard if voice.engine == "flite"]
    festival = [voice for voice in heard if voice.engine == "festival"]
    others = espeak_voices(sorted(WORD_LISTS))
    shares = [FLITE_SHARE, FESTIVAL_SHARE, 1 - FLITE_SHARE - FESTIVAL_SHARE]
    drawn = []
    for index in range(batches):
        engine = int(r.choice(3, p=shares))
        if engine == 2:
            drawn.append(others[r.integers(len(others))])
        else:
            voices = (flite, festival)[engine]
            drawn.append(voices[index % len(voices)])
    return drawn


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default=400, show_default=True, help=f"Of {BATCH} utterances each.")
@jobs_option()
def main(dest: Path, batches: int, jobs: int) -> None:
    write_corpus(dest, list(enumerate(plan(batches))), render_batch, jobs)


if __name__ == "__main__":
    main()
