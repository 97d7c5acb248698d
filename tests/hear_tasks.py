"""Small tasks in HEAR's format, of generated sounds."""

import json
from pathlib import Path

import numpy as np
import soundfile


def tone(rng: np.random.Generator, high: bool, seconds: float) -> np.ndarray:
    hertz = rng.uniform(200, 400) * (8 if high else 1)
    samples = int(16000 * seconds)
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16000)
    return wave + 0.01 * rng.standard_normal(samples)


def make_task(folder: Path, kind: str, seconds: float) -> Path:
    """Low and high tones: one label per clip over folds, or any number of labels.

    Args:
        kind: ``"multiclass"`` or ``"multilabel"``.
    """
    folds = kind == "multiclass"
    splits = ["fold00", "fold01", "fold02"] if folds else ["train", "valid", "test"]
    metadata = {
        "task_name": folder.name,
        "version": "v1",
        "embedding_type": "scene",
        "prediction_type": kind,
        "split_mode": "presplit_kfold" if folds else "trainvaltest",
        "sample_duration": seconds,
        "evaluation": ["top1_acc" if folds else "mAP"],
        "splits": splits,
    }
    folder.mkdir(parents=True)
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,high\n1,low\n")
    rng = np.random.default_rng(len(kind))
    for split in splits:
        (folder / "16000" / split).mkdir(parents=True)
        labels = {}
        for number in range(12):
            name, high = f"{split}-{number}.wav", bool(number % 2)
            if kind == "multilabel":
                low = number % 3 > 0
                audio = tone(rng, True, seconds) * high + tone(rng, False, seconds) * low
                labels[name] = ["high"] * high + ["low"] * low
            else:
                audio, labels[name] = tone(rng, high, seconds), ["high" if high else "low"]
            soundfile.write(folder / "16000" / split / name, audio, 16000)
        (folder / f"{split}.json").write_text(json.dumps(labels))
    return folder
