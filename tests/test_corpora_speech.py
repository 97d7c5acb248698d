"""Synthetic speech and the task of words.

The synthesisers' places are taken by programs that write one tone per letter.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile

from corpora import dev_tasks, speech, voices
from corpora.voices import Utterance, Voice
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.tasks import read_task

# Without numpy and soundfile, whose imports take longer than the tones.
TONES = f"""#!{sys.executable} -IS
import array, math, re, sys, wave
def write(text, path, rate=1.0):
    tones = array.array("h", bytes(16000))
    for letter in filter(str.isalpha, text):
        step = 2 * math.pi * (200 + 40 * (ord(letter) % 32)) / 16000
        tones.extend(round(16384 * math.sin(step * time)) for time in range(round(1600 / rate)))
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tones.tobytes() + bytes(16000))
"""
ESPEAK = """
if "--voices=variant" in sys.argv:
    print("Pty Language\\n 5  variant  --/M  f2  !v/f2\\n 5  variant  --/M  Mike  !v/Mike serious\\n 5 variant  --/M  m1  !v/m1")
else:
    write(sys.stdin.read(), sys.argv[sys.argv.index("-w") + 1], int(sys.argv[sys.argv.index("-s") + 1]) / 170)
"""
FLITE = """
write(sys.argv[sys.argv.index("-t") + 1], sys.argv[sys.argv.index("-o") + 1])
"""
FESTIVAL = """
for text, path in re.findall(r'Utterance Text "([^"]*)"\\)\\) "([^"]*)"', sys.stdin.read()):
    if "unspeakable" not in text:
        write(text, path)
"""


@pytest.fixture
def synths(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (("espeak-ng", ESPEAK), ("flite", FLITE), ("festival", FESTIVAL)):
        (folder / name).write_text(TONES + script.replace("\\\\", "\\"))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_what_is_said_has_no_silence_around_it(synths):
    for voice in (Voice("espeak-ng", "en+f2", "en", ""), voices.FLITE[0], voices.FESTIVAL[0]):
        sounds = list(voices.speak(voice, [Utterance("abcde"), Utterance("ab")]))
        assert [len(sound) / 16000 for sound in sounds] == pytest.approx([0.57, 0.27], abs=0.03)  # and some edge


def test_voices_are_scaled_and_espeak_speaks_faster(synths):
    def peak(sound: np.ndarray) -> float:
        return np.argmax(np.abs(np.fft.rfft(sound, 16000))) / 1

    (plain,), (higher,) = (list(voices.speak(voices.FLITE[0], [Utterance("aaaa", 1.0, pitch)])) for pitch in (1.0, 1.25))
    assert peak(higher) == pytest.approx(1.25 * peak(plain), rel=0.02)
    (slow,), (fast,) = (
        list(voices.speak(Voice("espeak-ng", "en+f2", "en", ""), [Utterance("aaaa", rate)])) for rate in (1.0, 2.0)
    )
    assert len(slow) - 1120 == pytest.approx(2 * (len(fast) - 1120), rel=0.05)


def test_a_word_that_festival_cannot_say_is_empty(synths):
    sounds = list(voices.speak(voices.FESTIVAL[0], [Utterance("unspeakable"), Utterance("abc")]))
    assert len(sounds[0]) == 0 < len(sounds[1])


def test_without_the_program(synths):
    (synths / "flite").unlink()
    with pytest.raises(HearMwmaeError, match="no program flite"):
        list(voices.speak(voices.FLITE[0], [Utterance("abc")]))


@pytest.fixture
def lists(tmp_path, monkeypatch):
    share = tmp_path / "share"
    for folder in ("dict", "hunspell"):
        (share / folder).mkdir(parents=True)
    for language, name in speech.WORDS.items():
        (share / name).write_text("plain/ABC\nnot-this\nit's\n4th\na\nOther\nstraße\n" + f"word{language.replace('-', '')}\n")
    (share / "hunspell" / "sk_SK.dic").write_bytes("ľúbi/X\n".encode("iso-8859-2"))
    (share / "hunspell" / "sk_SK.aff").write_text("SET ISO8859-2\n")
    monkeypatch.setattr(speech, "SHARE", share)
    speech.words.cache_clear()
    yield share
    speech.words.cache_clear()


def test_words_are_letters_in_the_encoding_of_their_list(lists):
    assert speech.words("de") == ["other", "plain", "straße", "wordde"]
    assert speech.words("sk") == ["ľúbi"]
    speech.words.cache_clear()
    (lists / "dict" / "french").unlink()
    with pytest.raises(HearMwmaeError, match="install the word list of 'fr'"):
        speech.words("fr")


def test_held_out_voices_are_in_no_plan(synths, lists):
    plan = speech.plan(300, seed=0)
    assert plan[:50] == speech.plan(50, seed=0)  # more batches go on from fewer
    assert not set(plan) & set(voices.HELD_OUT) and {voice.engine for voice in plan} == {"espeak-ng", "flite", "festival"}
    assert {voice.name.split("+")[-1] for voice in plan if voice.engine == "espeak-ng"} == {"f2", "m1"}
    assert {voice.package for voice in plan} <= speech.LICENCES.keys()
    batch = list(speech.render_batch((0, 5, plan[5])))
    again = list(speech.render_batch((0, 5, plan[5])))
    assert len(batch) > 10 and all((a[1] == b[1]).all() for a, b in zip(batch, again, strict=True))


def test_the_task_of_words(synths, lists, tmp_path, monkeypatch):
    """A voice is in one fold only, and every fold has every word."""
    monkeypatch.setattr(dev_tasks, "WORDS", 2)
    monkeypatch.setattr(dev_tasks, "WORD_LETTERS", (4, 8))
    clips = dev_tasks.words_task(np.random.default_rng(0))
    assert dev_tasks.write_task(tmp_path / "words", clips) == 2 * 4 * dev_tasks.TIMES_SAID
    task = read_task(tmp_path / "words")
    assert [len(split) for split in task.splits] == [8] * 4 and len(voices.HELD_OUT) == 4
    assert all(task.names_in(split) == set(task.labels) for split in task.splits)
    assert soundfile.info(next(iter(task.splits[0]))).samplerate == 16000


def test_the_task_of_everyday_sounds(tmp_path, monkeypatch):
    """Of packages that are on the list, and kept from pretraining."""
    listed = dev_tasks.read_package_list()
    with dev_tasks.EVERYDAY.open() as file:
        rows = list(dev_tasks.csv.DictReader(file))
    assert {listed[row["package"]]["kind"] for row in rows} == {"development"} and len({row["class"] for row in rows}) >= 8
    for row in rows:
        folder = tmp_path / row["package"]
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(row["names"].split()):
            soundfile.write(folder / f"{name}.wav", np.sin(np.arange(8000 + 100 * number) / 5) / 2, 8000)
    monkeypatch.setattr(dev_tasks, "_audio_of", lambda package, _: {path.stem: path for path in (tmp_path / package).iterdir()})
    clips = dev_tasks.everyday_task(np.random.default_rng(0))
    assert len(clips) == sum(len(row["names"].split()) for row in rows)
    assert dev_tasks.write_task(tmp_path / "everyday", clips) == len(clips)
    task = read_task(tmp_path / "everyday")
    assert all(task.names_in(split) == set(task.labels) for split in task.splits)
