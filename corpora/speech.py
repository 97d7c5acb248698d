"""Synthetic speech: random words of dictionaries, in many languages, by free synthesisers in
Debian.

    python -m corpora.speech DEST [--batches 400] [--seed 0] [--jobs 2]

Texts are one to seven random words of Debian's word lists (packages w*, hunspell-*), so they
resemble no data set. Voices: eSpeak NG in its languages and variants, Flite's and Festival's
(voices.HELD_OUT are reserved for the development task). Batch number i is a function of (seed, i)
and the packages' versions alone.
"""

from __future__ import annotations

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

from .manifest import SAMPLE_RATE, Source, render_batches
from .voices import FESTIVAL, FLITE, HELD_OUT, Utterance, Voice, espeak_voices, speak

KIND = "synthetic-speech"
BATCH = 50
SECONDS = (0.3, 10.0)
#: Language -> word list, below /usr/share. A language without a list uses a neighbour's (Finnish
#: has no list, no dictionary).
WORDS = {
    **{"en": "dict/american-english", "en-gb": "dict/british-english", "de": "dict/ngerman", "fr": "dict/french"},
    **{"es": "dict/spanish", "it": "dict/italian", "pt": "dict/portuguese", "pt-br": "dict/brazilian", "ca": "dict/catalan"},
    **{"nl": "dict/dutch", "da": "dict/danish", "sv": "dict/swedish", "nb": "dict/bokmaal", "pl": "dict/polish"},
    **{"bg": "dict/bulgarian", "uk": "dict/ukrainian", "ga": "dict/irish", "eo": "dict/esperanto"},
    **{"ru": "hunspell/ru_RU.dic", "cs": "hunspell/cs_CZ.dic", "hu": "hunspell/hu_HU.dic", "ro": "hunspell/ro_RO.dic"},
    **{"el": "hunspell/el_GR.dic", "sk": "hunspell/sk_SK.dic", "hr": "hunspell/hr_HR.dic", "lt": "hunspell/lt_LT.dic"},
    **{"lv": "hunspell/lv_LV.dic", "sw": "hunspell/sw_TZ.dic", "id": "hunspell/id_ID.dic", "vi": "hunspell/vi_VN.dic"},
    **{"te": "hunspell/te_IN.dic", "hi": "hunspell/hi_IN.dic", "is": "hunspell/is_IS.dic", "tr": "hunspell/tr_TR.dic"},
    **{"sr": "hunspell/sr_RS.dic", "eu": "hunspell/eu.dic", "bn": "hunspell/bn_BD.dic", "gu": "hunspell/gu_IN.dic"},
    **{"ne": "hunspell/ne_NP.dic", "af": "hunspell/af_ZA.dic", "be": "hunspell/be_BY.dic", "mr": "hunspell/ne_NP.dic"},
    **{"fi": "hunspell/eu.dic", "mt": "dict/italian", "en-us": "dict/american-english", "en-gb-scotland": "dict/british-english"},
    **{"ms": "hunspell/id_ID.dic", "es-419": "dict/spanish", "sl": "hunspell/sl_SI.dic", "an": "dict/catalan"},
}
SHARE = Path("/usr/share")
#: Of a list, evenly from all of it.
MOST_WORDS = 20_000
#: Of the batches; the rest is eSpeak NG's, which has by far the most voices.
FLITE_SHARE, FESTIVAL_SHARE = 0.05, 0.4
#: Of a voice's recordings or models, parts of which are in what it says. What eSpeak NG says is
#: computed; the licence is its own.
LICENCES = {
    **{
        "espeak-ng": "GPL-3+",
        "flite": "CMU-Flite (BSD-like)",
        "festvox-us-slt-hts": "BSD-3-clause",
        "festvox-ca-ona-hts": "LGPL-2.1+",
    },
    **dict.fromkeys(("festvox-czech-dita", "festvox-czech-krb", "festvox-czech-machac"), "GPL-3+"),
    **{
        "festvox-czech-ph": "GPL-2+",
        "festvox-italp16k": "GPL-2+",
        "festvox-itapc16k": "GPL-2+",
        "festvox-ru": "BSD-like (festvox-ru)",
    },
    **dict.fromkeys(("festvox-suopuhe-lj", "festvox-suopuhe-mv"), "LGPL-2+"),
}


@lru_cache
def words(language: str) -> list[str]:
    """Words of a language with letters (and their marks) only, sorted."""
    path = SHARE / WORDS[language]
    if not path.is_file():
        raise HearMwmaeError(f"no {path}: install the word list of {language!r} (on Debian, packages w* and hunspell-*)")
    raw = path.read_bytes()
    lines = raw.decode(_encoding(path, raw)).splitlines()
    found = {line.partition("/")[0].strip().lower() for line in lines[:: 1 + len(lines) // MOST_WORDS]}
    return sorted(
        word for word in found if 2 <= len(word) <= 14 and all(unicodedata.category(letter)[0] in "LM" for letter in word)
    )


def _encoding(path: Path, raw: bytes) -> str:
    """Encoding by the dictionary's rules; a plain list that is not UTF-8 is in Latin-1."""
    rules = path.with_suffix(".aff")
    if path.suffix == ".dic" and rules.is_file() and (found := re.search(rb"^SET\s+(\S+)", rules.read_bytes(), re.MULTILINE)):
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
        length = int(r.choice([1, 2, 3, 4, 5, 6, 7], p=[0.3, 0.15, 0.15, 0.12, 0.1, 0.1, 0.08]))
        text = " ".join(lexicon[i] for i in r.integers(len(lexicon), size=length))
        drawn.append(Utterance(text, float(r.uniform(0.65, 1.35)), float(np.exp(r.uniform(np.log(0.8), np.log(1.25))))))
    return drawn


def render_batch(batch: tuple[int, int, Voice]) -> Iterator[tuple[str, np.ndarray]]:
    """The utterances of one voice."""
    seed, index, voice = batch
    utterances = draw_utterances(np.random.default_rng([seed, index]), voice.language)
    low, high = (round(seconds * SAMPLE_RATE) for seconds in SECONDS)
    for number, sound in enumerate(speak(voice, utterances)):
        if len(sound) >= low:
            yield f"{voice.engine}/{voice.name}-{index:04d}-{number:02d}", sound[:high] / max(1, np.abs(sound[:high]).max())


def plan(batches: int, seed: int) -> list[Voice]:
    """The voice of every batch: all of Flite and Festival in turn, and languages and variants of
    eSpeak NG at random.
    """
    r = np.random.default_rng(seed)
    mine = [[voice for voice in voices if voice not in HELD_OUT] for voices in (FLITE, FESTIVAL)]
    others = espeak_voices(sorted(WORDS))
    drawn = []
    for index in range(batches):
        engine = int(r.choice(3, p=[FLITE_SHARE, FESTIVAL_SHARE, 1 - FLITE_SHARE - FESTIVAL_SHARE]))
        drawn.append(others[r.integers(len(others))] if engine == 2 else mine[engine][index % len(mine[engine])])
    return drawn


def version_of(package: str) -> str:
    """Version of an installed Debian package; HearMwmaeError if it is not installed."""
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise HearMwmaeError(f"the Debian package {package} is not installed")
    return done.stdout


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default=400, show_default=True, type=click.IntRange(1), help=f"Of {BATCH} utterances, one voice each.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@jobs_option()
def main(dest: Path, batches: int, seed: int, jobs: int) -> None:
    """Run the command line."""
    chosen = plan(batches, seed)
    # Of all voices, drawn or not: a larger number of batches extends a smaller corpus.
    packages = {voice.package for voice in (*FLITE, *FESTIVAL, *chosen) if voice not in HELD_OUT}
    versions = {package: version_of(package) for package in sorted(packages)}
    sources = {package: Source(package, version, KIND, LICENCES[package]) for package, version in versions.items()}
    todo = {f"{index:04d}": (sources[voice.package], (seed, index, voice)) for index, voice in enumerate(chosen)}
    render_batches(dest, todo, render_batch, {"seed": seed, "versions": versions, "resampler": "soxr"}, jobs)


if __name__ == "__main__":
    main()
