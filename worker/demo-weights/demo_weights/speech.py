"""Makes the tracks of speech, with the mouth that belongs to each frame of the video, and their spectrograms."""

from pathlib import Path

import numpy as np
import torch
import whisper
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, fftconvolve, sosfilt

from .phonemes import FLITE, HELD_OUT, LANGUAGES, RATE, VARIANTS, Espeak, flite, sentence, viseme

FPS = 25
HOP = RATE // FPS
LONGEST = 30 * RATE


def loudness(samples, frames):
    """Returns the loudness of each frame of the video: the root of the mean square around its middle."""
    power = gaussian_filter1d(samples.astype(np.float64) ** 2, 0.025 * RATE, truncate=3)
    middles = np.minimum(np.arange(frames) * HOP + HOP // 2, len(power) - 1)
    return np.sqrt(np.maximum(power[middles], 0))


def mouth_of(samples, phonemes):
    """Returns opening (0..1) and spread (-1..1) for each frame: loudness times what the phoneme allows."""
    frames = int(np.ceil(len(samples) / HOP))
    level = loudness(samples, frames)
    loud = np.percentile(level[level > 0.02 * level.max()], 92) if level.max() > 0 else 1.0
    opening = np.clip(((level / loud) ** 0.65 - 0.12) / 0.88, 0, 1.1)
    fine = 8  # samples of the phoneme track for each frame
    factor, spread = np.ones(frames * fine), np.zeros(frames * fine)
    for (start, name), (end, _) in zip(phonemes, [*phonemes[1:], (len(samples) / RATE, "")]):
        part = slice(int(start * FPS * fine), max(int(end * FPS * fine), int(start * FPS * fine) + 1))
        factor[part], spread[part] = viseme(name)
    factor = gaussian_filter1d(factor, 0.5 * fine).reshape(frames, fine).mean(1)
    spread = gaussian_filter1d(spread, 1.0 * fine).reshape(frames, fine).mean(1)
    opening = gaussian_filter1d(opening * factor, 0.6)
    opening[opening < 0.04] = 0
    return np.stack([np.clip(opening, 0, 1), np.clip(1.3 * spread, -1, 1)], 1).astype(np.float32)


class Studio:
    """Makes random tracks of speech by random voices."""

    def __init__(self):
        self.espeak = Espeak()

    def utterance(self, random, voice):
        text = sentence(random)
        if voice.startswith("flite:"):
            return flite(text, voice.removeprefix("flite:"), random.uniform(0.85, 1.2))
        return self.espeak.speak(text, voice, random.uniform(120, 220), random.uniform(25, 75), random.uniform(30, 70))

    def voice(self, random):
        if random.random() < 0.35:
            return "flite:" + str(random.choice(FLITE))
        while True:
            voice = f"{random.choice(LANGUAGES)}+{random.choice(VARIANTS)}"
            if voice not in HELD_OUT:
                return voice

    def track(self, random, voice=None, seconds=None):
        """Returns samples and mouths of a track: sentences of one voice with pauses of silence between them."""
        voice = voice or self.voice(random)
        wanted = (seconds or random.choice([6, 12, 20, 29])) * RATE
        samples, phonemes, length = [], [], 0
        while length < wanted:
            pause = np.zeros(int(random.exponential(0.35) * RATE) + 1, np.float32)
            if random.random() < 0.15:
                pause = np.zeros(int(random.uniform(0.5, 2.5) * RATE), np.float32)
            spoken, names = self.utterance(random, voice)
            if len(spoken) == 0:
                voice = self.voice(random)
                continue
            phonemes.append((length / RATE, "_"))
            length += len(pause)
            phonemes += [(length / RATE + start, name) for start, name in names]
            length += len(spoken)
            phonemes.append((length / RATE, "_"))
            samples += [pause, spoken * random.uniform(0.8, 1.2)]
        samples = np.concatenate(samples)[:min(wanted, LONGEST)]
        mouth = mouth_of(samples, [(start, name) for start, name in phonemes if start < len(samples) / RATE])
        return recorded(samples, random), mouth


def recorded(samples, random):
    """Makes a track sound recorded: room, band, noise and level."""
    peak = np.abs(samples).max() + 1e-6
    samples = samples / peak
    if random.random() < 0.3:
        time = np.arange(int(0.3 * RATE)) / RATE
        room = random.standard_normal(len(time)) * np.exp(-time / random.uniform(0.015, 0.06))
        room[0] = random.uniform(5, 20)
        samples = fftconvolve(samples, room)[:len(samples)]
        samples /= np.abs(samples).max() + 1e-6
    if random.random() < 0.3:
        tilt = random.choice(["lowpass", "highpass"])
        edge = random.uniform(2500, 7000) if tilt == "lowpass" else random.uniform(80, 400)
        samples = sosfilt(butter(2, edge, tilt, fs=RATE, output="sos"), samples)
    if random.random() < 0.5:
        noise = random.standard_normal(len(samples))
        if random.random() < 0.6:
            noise = sosfilt(butter(1, random.uniform(150, 2000), fs=RATE, output="sos"), noise)
        level = np.sqrt((samples**2).mean()) * 10 ** (-random.uniform(18, 55) / 20)
        samples = samples + noise * level / (noise.std() + 1e-9)
    samples = samples / (np.abs(samples).max() + 1e-6) * 10 ** (-random.uniform(0, 18) / 20)
    return (np.round(samples * 32767) / 32768).astype(np.float32)


def spectrogram(samples):
    """Returns Whisper's log-mel spectrogram, (80, 3000), with zeros past the end of the track, as the product has it."""
    bands = whisper.log_mel_spectrogram(torch.from_numpy(samples))
    bands = bands[:, :min(len(samples) // 160, 3000)]
    return torch.nn.functional.pad(bands, (0, 3000 - bands.shape[1]))


def make(folder, tracks, log=print):
    """Writes the tracks of speech that are missing: samples, mouths and spectrograms."""
    folder = Path(folder) / "speech"
    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio()
    for seed in range(tracks):
        path = folder / f"{seed:04d}.npz"
        if path.exists():
            continue
        samples, mouth = studio.track(np.random.default_rng([7, seed]))
        bands = spectrogram(samples).numpy().astype(np.float16)
        np.savez(path.with_suffix(".tmp.npz"), samples=(samples * 32767).astype(np.int16), mouth=mouth, bands=bands)
        path.with_suffix(".tmp.npz").replace(path)
        if seed % 20 == 0:
            log(f"speech {seed} of {tracks}")


def load(folder):
    """Returns spectrograms (tracks, 80, 3000) in f16 and a list of mouths, (frames, 2) each."""
    paths = sorted((Path(folder) / "speech").glob("????.npz"))
    stored = [np.load(path) for path in paths]
    return torch.from_numpy(np.stack([s["bands"] for s in stored])), [torch.from_numpy(s["mouth"]) for s in stored]
