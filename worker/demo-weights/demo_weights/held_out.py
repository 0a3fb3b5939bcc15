"""Makes speech for judging weights: `python -m demo_weights.held_out FOLDER`.

It writes two voices that training never hears, and 12 speeches of other voices to compare with, 21 s each.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from .phonemes import HELD_OUT, RATE
from .speech import Studio

SECONDS = 21
VOICES = {"f5": "en-us+f5", "kal16": "flite:kal16"}
OTHERS = 12


def write(path, samples):
    wavfile.write(path, RATE, np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16))


def main():
    folder, studio = Path(sys.argv[1]), Studio()
    for name, voice in VOICES.items():
        assert voice in HELD_OUT, voice
        samples, _ = studio.track(np.random.default_rng(77), voice, SECONDS)
        write(folder / f"{name}.wav", samples)
    for number in range(OTHERS):
        samples, _ = studio.track(np.random.default_rng(1000 + number), seconds=SECONDS)
        write(folder / f"other-{number:02}.wav", samples)


if __name__ == "__main__":
    main()
