"""Judges a folder of weights by the product's own output: `python -m demo_weights.judge --help`.

Each face is rendered with each speech, and `latentfarm sync` tells the openings of the lips and the loudness. The true
speech is compared with others at lag 0: those that are given, and the true one turned by fractions of its length.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile

FPS = 25
OTHERS = 20  # speeches that the true one is compared with


def loudness(path, frames):
    """Returns the loudness of frames at FPS, from 0 at 30 dB below the track's level to 1 at the level."""
    rate, samples = wavfile.read(path)
    samples = samples.astype(np.float64).reshape(len(samples), -1).mean(1)
    block = rate // 100
    power = (samples[:len(samples) // block * block].reshape(-1, block) ** 2).mean(1)
    level = 10 * np.log10(np.maximum(power, 1e-9))
    height = np.clip((level - np.percentile(level, 90)) / 30 + 1, 0, 1)
    smooth = np.convolve(height, np.ones(12) / 12, "same")
    middles = ((np.arange(frames) + 0.5) * 100 / FPS).astype(int)
    return np.where(middles < len(smooth), smooth[np.minimum(middles, len(smooth) - 1)], 0)


def fit(lips, loud):
    seen = np.isfinite(lips)
    return np.corrcoef(lips[seen], loud[seen])[0, 1]


def judge(options, face, speech, steps, folder):
    out = folder / "out.mp4"
    common = [options.bin / "latentfarm", "render", face, speech, "-o", out, "--force", "--json", "--allow-no-face"]
    named = ["--weights", options.weights] if options.weights else []
    printed = subprocess.run([*common, *named, "--steps", str(steps)], check=True, capture_output=True, text=True).stdout
    report = json.loads(printed.strip().splitlines()[-1])
    measured = json.loads(subprocess.run([options.bin / "latentfarm", "sync", out, speech, "--json"], check=True,
                                         capture_output=True, text=True).stdout)
    lips = np.array([np.nan if value is None else value / 1000 for value in measured["lips"]])
    own = np.array(measured["loudness"]) / 255
    others = [loudness(other, len(lips)) for other in options.other[:OTHERS]]
    turns = OTHERS - len(others)
    others += [np.roll(own, turn * len(own) // (turns + 1)) for turn in range(1, turns + 1)]
    others = np.array([fit(lips, other) for other in others])
    true, silence = fit(lips, own), measured["fit"]["silence"] or {}
    return {"face": face.stem, "speech": speech.stem, "steps": steps, "frames": len(lips), "r at lag 0": round(true, 3),
            "lag": measured["fit"]["lag_frames"], "rank": int(1 + (others >= true).sum()),
            "others": round(float(np.abs(others).mean()), 3), "silence": silence.get("opening"),
            "opening": measured["fit"]["opening"], "seconds": report.get("seconds")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="folder of the programs")
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the demo weights)")
    parser.add_argument("--face", type=Path, nargs="+", required=True, help="videos of one face")
    parser.add_argument("--speech", type=Path, nargs="+", required=True, help="WAV files of 20 s or more")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="WAV files of other speeches")
    parser.add_argument("--steps", type=int, nargs="+", default=[3])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in options.steps:
            for face in options.face:
                for speech in options.speech:
                    rows.append(judge(options, face, speech, steps, Path(folder)))
                    print(json.dumps(rows[-1]), flush=True)
            chosen = [row for row in rows if row["steps"] == steps]
            print(json.dumps({"steps": steps, "median r": float(np.median([row["r at lag 0"] for row in chosen])),
                              "first of 21": sum(row["rank"] == 1 for row in chosen), "of": len(chosen)}), flush=True)


if __name__ == "__main__":
    main()
