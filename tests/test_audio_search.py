"""Audio files are found in folders, behind links and under odd names."""

import os
from pathlib import Path

import pytest

from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import find_audio


def test_what_a_folder_hides_is_skipped(tmp_path):
    """What macOS, Jupyter and desktops leave in folders; what is named itself is read."""
    hidden = ("._a.wav", ".ipynb_checkpoints/b.wav", "__MACOSX/a.wav", "deep/.trash/c/d.wav")
    for name in ("b.wav", "a.FLAC", "notes.txt", "deep/e.wav", *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = [tmp_path / name for name in ("a.FLAC", "b.wav", "deep/e.wav")]
    assert find_audio([tmp_path]) == found
    for name in ("notes.txt", *hidden):
        assert find_audio([tmp_path / name]) == [tmp_path / name]
    assert find_audio([tmp_path / "deep" / ".trash"]) == [tmp_path / hidden[-1]]


def test_find_audio_follows_links(tmp_path):
    """Each folder once, also where links go round in a circle; links to nothing are for the reader
    to report.
    """
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "gone.wav").symlink_to(tmp_path / "nowhere")
    assert [str(path.relative_to(tmp_path)) for path in find_audio([tmp_path / "here"])] == [
        "here/a.wav",
        "here/gone.wav",
        "here/link/a.wav",
    ]


def test_paths_that_fail_do_not_keep_the_others_from_being_found(tmp_path, monkeypatch):
    for name in ("good/a.wav", "good/locked/b.wav", "good/z.wav", "empty/._a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refused)
    reasons = {
        "mistyped": "no such file or directory",
        "good": "locked: folder cannot be read: permission denied",
        "empty": "holds no audio files",
        "a" * 300: "file name too long",
    }
    paths = [tmp_path / name for name in reasons]
    failures: list[tuple[Path, str]] = []
    files = find_audio(paths, failures)
    assert files == [tmp_path / "good" / "a.wav", tmp_path / "good" / "z.wav"]
    for path, (place, problem) in zip(paths, failures, strict=True):
        assert reasons[path.name] in f"{place}: {problem}"
        with pytest.raises(HearMwmaeError, match=reasons[path.name]):
            find_audio([path])
