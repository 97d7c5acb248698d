"""Synthetic speech: random words of dictionaries, in many languages, by free synthesisers in
Debian.

    python -m research.corpora.speech DEST [--batches 400] [--seed 0] [--jobs 2]

Texts are one to seven random words of Debian's word lists (packages w*, hunspell-*), so they
resemble no data set. Voices: eSpeak NG in its languages and variants, Flite's and Festival's
(voices.HELD_OUT are reserved for the development task). Batch number i is a function of (seed, i)
and the packages' versions alone.
"""

import re
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import click
import numpy as np

from hear_mwmae.cli.options import Command, jobs_option
from hear_mwmae.errors import HearMwmaeError

from .manifest import SAMPLE_RATE, Sound, Source, write_corpus
from .voices import FESTIVAL, FLITE, HELD_OUT, Utterance, Voice, espeak_voices, speak

KIND = "synthetic-speech"
BATCH = 50
SECONDS = (0.3, 10.0)
SHARE = Path("/usr/share")
#: Languages and their word lists, in SHARE/dict.
DICT = """
an catalan, bg bulgarian, ca catalan, da danish, de ngerman, en american-english,
en-gb british-english, en-gb-scotland british-english, en-us american-english, eo esperanto,
es spanish, es-419 spanish, fr french, ga irish, it italian, mt italian, nb bokmaal, nl dutch,
pl polish, pt portuguese, pt-br brazilian, sv swedish, uk ukrainian
"""
#: In SHARE/hunspell. A language without a dictionary uses a neighbour's (Finnish has none at all).
HUNSPELL = """
af af_ZA, be be_BY, bn bn_BD, cs cs_CZ, el el_GR, eu eu, fi eu, gu gu_IN, hi hi_IN, hr hr_HR,
hu hu_HU, id id_ID, is is_IS, lt lt_LT, lv lv_LV, mr ne_NP, ms id_ID, ne ne_NP, ro ro_RO, ru ru_RU,
sk sk_SK, sl sl_SI, sr sr_RS, sw sw_TZ, te te_IN, tr tr_TR, vi vi_VN
"""
#: Of a list, evenly from all of it.
MOST_WORDS = 20_000
LENGTHS = (1, 2, 3, 4, 5, 6, 7)
LENGTH_SHARES = (0.3, 0.15, 0.15, 0.12, 0.1, 0.1, 0.08)
#: Of the batches; the rest is eSpeak NG's, which has by far the most voices.
FLITE_SHARE, FESTIVAL_SHARE = 0.05, 0.4
#: Of a voice's recordings or models, parts of which are in what it says. What eSpeak NG says is
#: computed; the licence is its own.
LICENCES = {
    "espeak-ng": "GPL-3+",
    "festvox-ca-ona-hts": "LGPL-2.1+",
    "festvox-czech-dita": "GPL-3+",
    "festvox-czech-krb": "GPL-3+",
    "festvox-czech-machac": "GPL-3+",
    "festvox-czech-ph": "GPL-2+",
    "festvox-italp16k": "GPL-2+",
    "festvox-itapc16k": "GPL-2+",
    "festvox-ru": "BSD-like (festvox-ru)",
    "festvox-suopuhe-lj": "LGPL-2+",
    "festvox-suopuhe-mv": "LGPL-2+",
    "festvox-us-slt-hts": "BSD-3-clause",
    "flite": "CMU-Flite (BSD-like)",
}


def word_lists() -> dict[str, Path]:
    """Language -> its word list."""
    plain = {language: SHARE / "dict" / name for language, name in _pairs(DICT)}
    spelling = {language: SHARE / "hunspell" / f"{name}.dic" for language, name in _pairs(HUNSPELL)}
    return plain | spelling


def _pairs(text: str) -> list[list[str]]:
    return [pair.split() for pair in text.split(",")]


@lru_cache
def words(language: str) -> list[str]:
    """Words of a language with letters (and their marks) only, sorted."""
    path = word_lists()[language]
    if not path.is_file():
        packages = "on Debian, packages w* and hunspell-*"
        raise HearMwmaeError(f"no {path}: install the word list of {language!r} ({packages})")
    raw = path.read_bytes()
    lines = raw.decode(_encoding(path, raw)).splitlines()
    some = lines[:: 1 + len(lines) // MOST_WORDS]
    found = {line.partition("/")[0].strip().lower() for line in some}
    return sorted(word for word in found if 2 <= len(word) <= 14 and _is_letters(word))


def _is_letters(word: str) -> bool:
    return all(unicodedata.category(letter)[0] in "LM" for letter in word)


def _encoding(path: Path, raw: bytes) -> str:
    """Encoding by the dictionary's rules; a plain list that is not UTF-8 is in Latin-1."""
    rules = path.with_suffix(".aff")
    if path.suffix == ".dic" and rules.is_file():
        found = re.search(rb"^SET\s+(\S+)", rules.read_bytes(), re.MULTILINE)
        if found:
            return found[1].decode()
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def draw_utterances(r: np.random.Generator, language: str) -> list[Utterance]:
    """Single words and phrases of up to seven, at many rates and pitches."""
    lexicon = words(language)
    drawn = []
    for _ in range(BATCH):
        length = int(r.choice(LENGTHS, p=LENGTH_SHARES))
        text = " ".join(lexicon[i] for i in r.integers(len(lexicon), size=length))
        rate = float(r.uniform(0.65, 1.35))
        pitch = float(np.exp(r.uniform(np.log(0.8), np.log(1.25))))
        drawn.append(Utterance(text, rate, pitch))
    return drawn


def render_batch(batch: tuple[int, int, Voice, Source]) -> Iterator[Sound]:
    """The utterances of one voice."""
    seed, index, voice, source = batch
    utterances = draw_utterances(np.random.default_rng([seed, index]), voice.language)
    least, most = (round(seconds * SAMPLE_RATE) for seconds in SECONDS)
    for number, sound in enumerate(speak(voice, utterances)):
        if len(sound) >= least:
            samples = sound[:most] / max(1, np.abs(sound[:most]).max())
            yield Sound(f"{voice.engine}/{voice.name}-{index:04d}-{number:02d}", samples, source)


def plan(batches: int, seed: int) -> list[Voice]:
    """The voice of every batch: all of Flite and Festival in turn, and languages and variants of
    eSpeak NG at random.
    """
    r = np.random.default_rng(seed)
    mine = [[v for v in voices if v not in HELD_OUT] for voices in (FLITE, FESTIVAL)]
    others = espeak_voices(sorted(word_lists()))
    shares = [FLITE_SHARE, FESTIVAL_SHARE, 1 - FLITE_SHARE - FESTIVAL_SHARE]
    drawn = []
    for index in range(batches):
        engine = int(r.choice(3, p=shares))
        if engine == 2:
            drawn.append(others[r.integers(len(others))])
        else:
            drawn.append(mine[engine][index % len(mine[engine])])
    return drawn


def version_of(package: str) -> str:
    """Version of an installed Debian package; HearMwmaeError if it is not installed."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise HearMwmaeError(f"the Debian package {package} is not installed")
    return done.stdout


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default=400, show_default=True, help=f"Of {BATCH} utterances each.")
@click.option("--seed", default=0, show_default=True)
@jobs_option()
def main(dest: Path, batches: int, seed: int, jobs: int) -> None:
    voices = plan(batches, seed)
    sources = {}
    for package in {voice.package for voice in voices}:
        sources[package] = Source(package, version_of(package), KIND, LICENCES[package])
    todo = [(seed, index, v, sources[v.package]) for index, v in enumerate(voices)]
    write_corpus(dest, todo, render_batch, jobs)


if __name__ == "__main__":
    main()
