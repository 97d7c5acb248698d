"""Sounds that sound alike: the nearest neighbours of every file of a folder, or of one file.

python examples/similarity_search.py FOLDER [SOUND] [-k 3]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import hear_mwmae
from hear_mwmae.audio import find_audio


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="searched for audio at any depth")
    parser.add_argument(
        "sound",
        type=Path,
        nargs="?",
        help="the file whose neighbours are wanted; every file when not given",
    )
    parser.add_argument("-k", type=int, default=3, help="neighbours of each, 3 when not given")
    args = parser.parse_args()

    files = find_audio([args.folder])
    model = hear_mwmae.load_model()
    library = model.embed(files)  # (files, size), whatever their lengths and rates
    center = library.mean(dim=0)  # what all sounds share says nothing about any of them
    library = torch.nn.functional.normalize(library - center)

    if args.sound:
        query = torch.nn.functional.normalize(model.embed(args.sound) - center)
        show(args.sound.name, query[0] @ library.T, files, args.k)
        return
    for number, file in enumerate(files):
        similarity = library[number] @ library.T
        similarity[number] = -1  # not its own neighbour
        show(file.name, similarity, files, min(args.k, len(files) - 1))


def show(name: str, similarity: torch.Tensor, files: list[Path], k: int) -> None:
    cosines, nearest = similarity.topk(min(k, len(files)))
    neighbours = (
        f"{files[n].name} {cosine:.2f}"
        for n, cosine in zip(nearest.tolist(), cosines.tolist(), strict=True)
    )
    print(f"{name}: {', '.join(neighbours)}")


if __name__ == "__main__":
    main()
