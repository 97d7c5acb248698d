"""Open audio files -> samples at their own rate, channels averaged: FFmpeg, through PyAV."""

import os
import re
import struct
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import BinaryIO, cast

import av
import numpy as np
import soundfile

from .errors import HearMwmaeError

#: FFmpeg's names of the containers that are opened, and the endings of their files. No other one
#: is: some formats of FFmpeg, such as playlists, open further files and addresses.
CONTAINERS = {
    "aac": (".aac",),
    "ac3": (".ac3",),
    "aiff": (".aif", ".aiff", ".aifc"),
    "amr": (".amr",),
    "ape": (".ape",),
    "asf": (".wma", ".wmv", ".asf"),
    "au": (".au", ".snd"),
    "avi": (".avi",),
    "avr": (".avr",),
    "caf": (".caf",),
    "eac3": (".eac3",),
    "epaf": (".paf",),
    "flac": (".flac",),
    "flv": (".flv",),
    "iff": (".8svx", ".svx"),
    "ircam": (".sf", ".ircam"),
    "matroska,webm": (".webm", ".weba", ".mka", ".mkv"),
    "mov,mp4,m4a,3gp,3g2,mj2": (".m4a", ".m4b", ".m4v", ".mp4", ".mov", ".3gp", ".3g2"),
    "mp3": (".mp3", ".mp2"),
    "mpeg": (".mpg", ".mpeg"),
    "mpegts": (".mts", ".m2ts"),  # .ts is also TypeScript
    "nistsphere": (".nist", ".sph"),
    "ogg": (".ogg", ".oga", ".opus", ".ogv", ".spx"),
    "pvf": (".pvf",),
    "tta": (".tta",),
    "voc": (".voc",),
    "w64": (".w64",),
    "wav": (".wav", ".wave", ".rf64"),
    "wv": (".wv",),
}
#: Containers that say how long they are, and the seconds that may be missing: some count packets,
#: with or without what an encoder adds. FFmpeg estimates the others by the size of the file.
_TOLERANCES = dict.fromkeys(("aiff", "ape", "au", "flac", "nistsphere", "tta", "wv"), 1e-3)
_TOLERANCES |= dict.fromkeys(("asf", "avi", "caf", "flv", "matroska,webm", "ogg"), 0.1)
_TOLERANCES |= {"mov,mp4,m4a,3gp,3g2,mj2": 0.1, "mp3": 0.3}
#: Samples, over all channels, that are decoded or resampled at a time, whatever a header says.
BLOCK_SAMPLES = 1 << 18
#: Bytes that may be missing from the samples of a WAV: some writers count the header as well.
_WAV_TOLERANCE = 64

#: Of a recording: its sample rate in Hz, and (samples,) float32.
Pieces = Iterable[tuple[int, np.ndarray]]


def decode(file: BinaryIO, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, (samples,) float32) blocks of a file that can seek; the rate may change.

    Raises HearMwmaeError, possibly at the end, for a file that is not audio, damaged, or shorter
    than its header says. A header may say that the length is unknown.
    """
    if not file.seek(0, os.SEEK_END):
        raise HearMwmaeError(f"{name}: an empty file")
    announced, there = _wav_sizes(file)
    if announced > there + _WAV_TOLERANCE and not _is_placeholder(announced):
        raise HearMwmaeError(
            f"{name}: truncated, {there} of the {announced} bytes of samples that its header "
            "announces are there"
        )
    complete_wav = 0 < announced <= there
    sound = _open_by_libsndfile(file) if complete_wav or _is_vorbis_of_one_page(file) else None
    if sound is not None:
        yield from _decode_by_libsndfile(sound, name)
    else:
        yield from _mixed(_frames(file, name))


def _wav_sizes(file: BinaryIO) -> tuple[int, int]:
    """Bytes of samples that the header of a WAV announces, and bytes that are there; zeros for
    another file.

    FFmpeg and libsndfile take every size that is too large for a placeholder, without a word.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return 0, 0
    size_of_rf64 = 0
    for _ in range(100):  # chunks; a damaged file may have millions
        kind, size = struct.unpack("<4sI", file.read(8).ljust(8))
        start = file.tell()
        if kind == b"ds64":
            size_of_rf64 = int.from_bytes(file.read(16)[8:], "little")
        if kind == b"data":
            if size == 0xFFFFFFFF:
                size = size_of_rf64 or size
            return size, file.seek(0, os.SEEK_END) - start
        file.seek(start + size + size % 2)
    return 0, 0


def _is_placeholder(size: int) -> bool:
    """Whether a writer of a stream put ``size`` where it did not know the size: 0, close to 2^31 or
    2^32, or billions.
    """
    return -size % 2**31 < 2**16 or (size < 2**32 and size % 10**9 == 0)


def _open_by_libsndfile(file: BinaryIO) -> soundfile.SoundFile | None:
    """A complete WAV, which costs FFmpeg five times as much, or Ogg Vorbis of one page, which
    FFmpeg ends some milliseconds too early or late; None for a coding that it does not know.
    """
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        return None
    return sound if sound.subtype != "MPEG_LAYER_III" else None  # a guess at the length


def _is_vorbis_of_one_page(file: BinaryIO) -> bool:
    file.seek(0)
    content = file.read(1 << 17) if file.read(4) == b"OggS" else b""
    if b"\1vorbis" not in content[:64] or len(content) == 1 << 17 or _ends_inside_page(file):
        return False
    # Of one page at most: it has 64 KiB at most, and pages of headers end at sample 0.
    ends = re.findall(rb"OggS\0.(.{8})", content, re.DOTALL)
    return sum(end != bytes(8) for end in ends) == 1


def _decode_by_libsndfile(
    sound: soundfile.SoundFile, name: str
) -> Iterator[tuple[int, np.ndarray]]:
    done = 0
    with sound:
        size = max(BLOCK_SAMPLES // sound.channels, 1)
        mix = np.full(sound.channels, 1 / sound.channels, np.float32)
        while len(block := sound.read(size, dtype="float32", always_2d=True)):
            done += len(block)
            yield sound.samplerate, block @ mix
    if done < sound.frames:
        raise HearMwmaeError(f"{name}: damaged, {done} of {sound.frames} samples could be read")


def _mixed(frames: Iterable[av.AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a thousand samples or so -> blocks: each call of NumPy or soxr has its price."""
    for (rate, _, channels), same in groupby(frames, _form):
        held: list[av.AudioFrame] = []
        size = 0
        for frame in same:
            held.append(frame)
            size += frame.samples * channels
            if size >= BLOCK_SAMPLES:
                yield rate, _mean(held)
                held, size = [], 0
        if held:
            yield rate, _mean(held)


def _form(frame: av.AudioFrame) -> tuple[int, str, int]:
    return frame.sample_rate, frame.format.name, frame.layout.nb_channels


def _mean(frames: list[av.AudioFrame]) -> np.ndarray:
    """Frames of one form -> (samples,) float32, the mean of the channels."""
    form, channels = frames[0].format, frames[0].layout.nb_channels
    planar = form.is_planar and channels < 8
    if form.is_planar and not planar:  # of eight planes and more, PyAV 18 reads what is behind them
        packed = (av.AudioResampler(format=form.packed.name).resample(frame) for frame in frames)
        frames = list(chain.from_iterable(packed))
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    mix = np.full(channels, 1 / channels, np.float32)
    if samples.dtype.kind == "u":
        samples = samples.astype(np.float32) - 128
        mix /= 128
    elif samples.dtype.kind == "i":
        mix /= 2.0 ** (8 * samples.itemsize - 1)
    samples = samples.astype(np.float32, copy=False)
    return mix @ samples if planar else samples.reshape(-1, channels) @ mix


def _frames(file: BinaryIO, name: str) -> Iterator[av.AudioFrame]:
    """Of the default stream of audio, by FFmpeg."""
    seconds = 0.0
    announced = 0.0
    tolerance = 0.0
    complete = False
    try:
        with _open(file) as container:
            kind = container.format.name
            stream = _audio_stream(container, name)
            if kind in _TOLERANCES:
                announced = _seconds(container, stream)
                tolerance = _TOLERANCES[kind]
            for packet in container.demux(stream):
                if kind == "mp3" and not seconds:
                    announced = _xing_seconds(file, packet.pos, stream.rate)
                if packet.is_corrupt and kind != "wav":  # of WAV, sizes have been compared
                    break
                for frame in _frames_of(packet, kind):
                    seconds += frame.samples / frame.sample_rate
                    yield frame
                if packet.dts is None and not packet.size:
                    # The last one. PyAV 18 fails after it if the file has added streams.
                    complete = kind != "ogg" or not _ends_inside_page(file)
                    break
    except av.FFmpegError as error:
        if not seconds:
            reason = f"not an audio file, or damaged ({error.strerror})"
            raise HearMwmaeError(f"{name}: {reason}") from error
    if not complete or seconds < announced - tolerance:
        of = f" of {announced:.2f}" if announced > seconds else ""
        raise HearMwmaeError(
            f"{name}: only {seconds:.2f}{of} s could be read: truncated or damaged, "
            "or joined from streams of different formats"
        )


def _open(file: BinaryIO) -> av.container.InputContainer:
    file.seek(0)
    # As a file object: a name may not be UTF-8, or look like a protocol of FFmpeg.
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
    return av.open(file, "r", options=options, metadata_errors="replace")


def _audio_stream(container: av.container.InputContainer, name: str) -> av.AudioStream:
    stream = container.streams.best("audio")
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        raise HearMwmaeError(f"{name}: holds no audio that FFmpeg decodes")
    if stream.codec_context.name == "flac":
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # or damage is noise
    return stream


def _seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Length that a container announces; 0 if it announces none."""
    if stream.duration and stream.time_base:
        ticks = stream.duration
        if container.format.name == "ogg" and stream.codec_context.name == "opus":
            ticks -= max(stream.start_time or 0, 0)  # a recording that began during a broadcast
        return float(ticks * stream.time_base)
    # The container's length is that of its longest stream, which may be the video.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _frames_of(packet: av.Packet, kind: str) -> list[av.AudioFrame]:
    try:
        return cast("list[av.AudioFrame]", packet.decode())
    except av.InvalidDataError:
        if kind == "mp3":  # its frames are found by their first bytes: between them may be anything
            return []
        raise


def _xing_seconds(file: BinaryIO, first: int | None, rate: int) -> float:
    """Length that an MP3 announces in the frame before its first one, at byte ``first``, with what
    the encoder added; 0 without such a frame.

    FFmpeg has it too, but does not tell it from an estimate.
    """
    place = file.tell()
    file.seek(max((first or 0) - 2048, 0))
    head = file.read(min(first or 0, 2048))
    file.seek(place)
    start = max(head.rfind(b"Xing"), head.rfind(b"Info"))
    flags, frames = struct.unpack_from(">II", head + bytes(12), start + 4)
    if start < 0 or not flags & 1:
        return 0.0
    return frames * (1152 if rate >= 32000 else 576) / rate


def _ends_inside_page(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is incomplete: FFmpeg leaves it out, without a word."""
    file.seek(max(file.seek(0, os.SEEK_END) - 65307, 0))  # the largest page
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    # 27 bytes of header, the last of which counts the segments; their sizes; the segments.
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
