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
from pathlib import Path

import click
import numpy as np

from hear_mwmae.cli.options import Command, jobs_option

from .manifest import SAMPLE_RATE, Sound, Source, write_corpus
from .voices import HELD_OUT, VOICES, Utterance, Voice, espeak_voices, speak

BATCH = 50
SECONDS = (0.3, 10.0)
SHARE = Path("/usr/share")
#: Languages and their word lists, in SHARE. A language without a dictionary uses a neighbour's
#: (Finnish has none at all).
WORD_LISTS = """
an dict/catalan, bg dict/bulgarian, ca dict/catalan, da dict/danish, de dict/ngerman,
en dict/american-english, en-gb dict/british-english, en-gb-scotland dict/british-english,
en-us dict/american-english, eo dict/esperanto, es dict/spanish, es-419 dict/spanish,
fr dict/french, ga dict/irish, it dict/italian, mt dict/italian, nb dict/bokmaal, nl dict/dutch,
pl dict/polish, pt dict/portuguese, pt-br dict/brazilian, sv dict/swedish, uk dict/ukrainian,
af hunspell/af_ZA.dic, be hunspell/be_BY.dic, bn hunspell/bn_BD.dic, cs hunspell/cs_CZ.dic,
el hunspell/el_GR.dic, eu hunspell/eu.dic, fi hunspell/eu.dic, gu hunspell/gu_IN.dic,
hi hunspell/hi_IN.dic, hr hunspell/hr_HR.dic, hu hunspell/hu_HU.dic, id hunspell/id_ID.dic,
is hunspell/is_IS.dic, lt hunspell/lt_LT.dic, lv hunspell/lv_LV.dic, mr hunspell/ne_NP.dic,
ms hunspell/id_ID.dic, ne hunspell/ne_NP.dic, ro hunspell/ro_RO.dic, ru hunspell/ru_RU.dic,
sk hunspell/sk_SK.dic, sl hunspell/sl_SI.dic, sr hunspell/sr_RS.dic, sw hunspell/sw_TZ.dic,
te hunspell/te_IN.dic, tr hunspell/tr_TR.dic, vi hunspell/vi_VN.dic
"""
#: Of a list, evenly from all of it.
MOST_WORDS = 20_000
LENGTHS = (1, 2, 3, 4, 5, 6, 7)
LENGTH_SHARES = (0.3, 0.15, 0.15, 0.12, 0.1, 0.1, 0.08)
#: Of the batches; the rest is eSpeak NG's, which has by far the most voices.
FLITE_SHARE, FESTIVAL_SHARE = 0.05, 0.4


def word_lists() -> dict[str, Path]:
    """Language -> its word list."""
    pairs = (pair.split() for pair in WORD_LISTS.split(","))
    return {language: SHARE / path for language, path in pairs}


def words(language: str) -> list[str]:
    """Words of a language with letters (and their marks) only, sorted."""
    path = word_lists()[language]
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
    heard = [voice for voice in VOICES if voice not in HELD_OUT]
    flite = [voice for voice in heard if voice.engine == "flite"]
    festival = [voice for voice in heard if voice.engine == "festival"]
    others = espeak_voices(sorted(word_lists()))
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


def version_of(package: str) -> str:
    """Version of an installed Debian package."""
    return subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", package], text=True)


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default=400, show_default=True, help=f"Of {BATCH} utterances each.")
@click.option("--seed", default=0, show_default=True)
@jobs_option()
def main(dest: Path, batches: int, seed: int, jobs: int) -> None:
    voices = plan(batches, seed)
    versions = {package: version_of(package) for package in {voice.package for voice in voices}}
    todo = []
    for index, voice in enumerate(voices):
        source = Source(voice.package, versions[voice.package], "synthetic-speech", voice.licence)
        todo.append((seed, index, voice, source))
    write_corpus(dest, todo, render_batch, jobs)


if __name__ == "__main__":
    main()
