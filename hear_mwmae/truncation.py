"""Whether a file is as long as its header says: libsndfile mostly reads truncated files without an
error.
"""

from __future__ import annotations

import os
import re
from io import FileIO
from typing import BinaryIO

import soundfile

#: Lengths from here on mean "unknown": libsndfile uses 2^63 - 1.
UNKNOWN_FRAMES = 1 << 62
#: Data sizes in the headers of streamed WAV files: of SoX, of arecord; close to 2^32, of FFmpeg and
#: others.
STREAMED_BYTES = frozenset((0x7FFFF000, 0x80000000, *range(0xFFFFFF00, 0x100000000)))
#: Share of a complete MP3 that libsndfile may leave unread: tags.
TAGS_SHARE = 0.1


def announced_frames(file: soundfile.SoundFile, stream: BinaryIO | FileIO) -> int:
    """Frames that the header of ``file`` announces; :data:`UNKNOWN_FRAMES` or more if it announces
    none.

    Args:
        stream: the same file; its position is restored.
    """
    position = stream.tell()
    try:
        if file.format == "MP3" and not _names_length(stream):
            return UNKNOWN_FRAMES  # libsndfile's is a guess, by the size of the file and of the first frame
        stream.seek(0)
        if file.format == "NIST" and (count := re.search(rb"sample_count -i (\d+)", stream.read(1024))):
            return int(count[1])
        if file.format == "AVR" and (frames := re.search(r"Frames\s*: (\d+)", file.extra_info)):
            return int(frames[1])
        return file.frames
    finally:
        stream.seek(position)


def is_cut_short(file: soundfile.SoundFile, stream: BinaryIO | FileIO) -> bool:
    """Whether ``file``, opened and not read yet, is visibly truncated; ``stream`` as above."""
    position = stream.tell()
    try:
        return _lacks_data(file.extra_info) or _lacks_page(stream)
    finally:
        stream.seek(position)


def is_left_unread(file: soundfile.SoundFile, stream: BinaryIO | FileIO) -> bool:
    """Whether libsndfile stopped far from the end of an MP3, because of its estimated length."""
    return file.format == "MP3" and 0 < stream.tell() < stream.seek(0, os.SEEK_END) * (1 - TAGS_SHARE)


def _names_length(stream: BinaryIO | FileIO) -> bool:
    """Whether the first frame of an MP3 announces the number of frames."""
    stream.seek(0)
    head = stream.read(10)
    # A tag comes first; its size has seven bits a byte.
    tag = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    stream.seek(tag if head.startswith(b"ID3") else 0)
    return re.search(b"Xing|Info|VBRI", stream.read(2048)) is not None


def _lacks_data(log: str) -> bool:
    """Whether libsndfile's log says that there are fewer samples than the header announces."""
    sizes = [
        # WAV, AIFF, AU, CAF, SVX, W64, RF64; WVE; and RF64 again, whose data may be larger than the
        # file.
        *re.findall(r"^\s*(?:data|SSND|Data Size|BODY|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE),
        *re.findall(r"^Data length (\d+) should be (\d+)", log, re.MULTILINE),
        *(pair[::-1] for pair in re.findall(r"^Length : (\d+)\nRF64\n(?:.*\n)*?\s*Data size : (\d+)", log, re.MULTILINE)),
    ]
    pairs = [(int(announced), int(actual)) for announced, actual in sizes]
    short = any(actual < announced < UNKNOWN_FRAMES and announced not in STREAMED_BYTES for announced, actual in pairs)
    return short or "Seems to be a truncated file" in log  # VOC


def _lacks_page(stream: BinaryIO | FileIO) -> bool:
    """Whether the last page of an Ogg file (Vorbis, Opus) is incomplete."""
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return False
    stream.seek(max(stream.seek(0, os.SEEK_END) - 65307, 0))  # the largest page
    tail = stream.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    # 27 bytes of header, the last of which counts the segments; their sizes; the segments.
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
