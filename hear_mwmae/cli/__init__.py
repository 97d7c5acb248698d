"""The `hear-mwmae` command.

The modules import torch and other slow libraries inside their commands, so that `--help` and
`--version` are fast.
"""

import click

from .._version import __version__
from .embed import embed
from .models import convert, export, info, probe, push
from .options import Group
from .training import pack, pretrain


@click.group(cls=Group, context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Audio embeddings from MW-MAE, the Multi-Window Masked Autoencoder.

    \b
    hear-mwmae embed talk.wav                    show the embedding of one file
    hear-mwmae embed clips/ -o clips.npz         one embedding per file of a folder
    hear-mwmae embed talk.mp3 --timestamps -o talk.parquet     one embedding per time step
    hear-mwmae info                              describe the embedded model
    """


for command in (embed, info, convert, export, push, pack, pretrain, probe):
    main.add_command(command)
