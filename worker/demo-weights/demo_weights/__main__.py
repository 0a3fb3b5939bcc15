"""Trains the demo weights from nothing: `python -m demo_weights --work DIR OUT`. The same command goes on after a stop."""

import argparse
import json
import time
from pathlib import Path

import torch

from . import export, library, speech, train_unet, train_vae, train_whisper, wiring_vae

STEPS = {"scenes": 6000, "tracks": 320, "whisper": 2200, "vae": 1400, "detail": 400, "unet": 2400, "mouth": 7000,
         "whole": 10000}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of weights to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, speech and checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    for name, count in STEPS.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"number of {name} or steps of that stage")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def log(text):
        print(f"{time.monotonic() - began:7.0f} s  {text}", flush=True)

    library.make(options.work, options.scenes, log)
    speech.make(options.work, options.tracks, log)
    encoder, _ = train_whisper.train(options.work, options.whisper, log=log)
    encoder.eval().requires_grad_(False)
    vae = finished_vae(options, log)
    train_vae.detail(options.work, vae, options.detail, log)
    unet = trained_unet(options, vae, encoder, log)
    export.write(options.out, unet, vae, encoder)
    log(f"wrote {options.out}: {export.parameters(unet, vae, encoder) / 1e6:.2f} million values, "
        f"{sum(path.stat().st_size for path in options.out.rglob('*.safetensors')) / 1e6:.2f} MB")


def trained_unet(options, vae, encoder, log):
    """Returns the UNet after the phases of its own, of which each goes on from the one before it."""
    unet = None
    for phase in (train_unet.COPY, train_unet.MOUTH, train_unet.WHOLE):
        begin = unet.state_dict() if unet else None
        unet = train_unet.train(options.work, vae, encoder, getattr(options, phase.name), phase, begin, log)
    return unet


def finished_vae(options, log):
    """Returns the autoencoder with latents of unit deviation, trained if that is still to be done."""
    path = options.work / "vae.pt"
    if not path.exists():
        vae = train_vae.train(options.work, options.vae, log)
        pictures = train_vae.Pictures(library.load(options.work, train_vae.PEOPLE), 9).batch(96, 128)
        mean, deviation = train_vae.unit_deviation(vae, pictures)
        log(f"latents: mean {mean.tolist()}, deviation {deviation.tolist()}")
        torch.save(vae.state_dict(), path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    vae = train_vae.new_vae()
    wiring_vae.initialise(vae)  # for the hooks that keep the constants; the values are replaced
    vae.load_state_dict(torch.load(path, weights_only=True))
    return vae


main()
