"""Trains the demo weights from nothing: `python -m demo_weights --work DIR OUT`. The same command goes on after a stop."""

import argparse
import json
import time
from pathlib import Path

import torch

from . import export, library, speech, train_joint, train_unet, train_vae, train_whisper, wiring_vae
from .networks import UNET_CONFIG, UNet

STEPS = {"scenes": 640, "tracks": 320, "whisper": 2200, "vae": 1400, "unet": 2400, "joint": 700}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of weights to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, speech and checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--until", choices=["vae", "unet", "joint"], default="joint", help="last stage to train")
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
    if options.until == "vae":
        return

    if options.until == "joint" and (options.work / "joint.ckpt").exists():
        unet = UNet(UNET_CONFIG)  # the checkpoint of the last stage replaces its values
    else:
        unet = train_unet.train(options.work, vae, encoder, options.unet, log)
    if options.until == "joint":
        unet = train_joint.train(options.work, vae, unet.state_dict(), encoder, options.joint, log)
    export.write(options.out, unet, vae, encoder)
    log(f"wrote {options.out}: {export.parameters(unet, vae, encoder) / 1e6:.2f} million values, "
        f"{sum(path.stat().st_size for path in options.out.rglob('*.safetensors')) / 1e6:.2f} MB")


def finished_vae(options, log):
    """Returns the autoencoder with latents of unit deviation, trained if that is still to be done."""
    path = options.work / "vae.pt"
    if not path.exists():
        vae = train_vae.train(options.work, options.vae, log)
        pictures = train_vae.Pictures(library.load(options.work), 9).batch(96, 128)
        mean, deviation = train_vae.unit_deviation(vae, pictures)
        log(f"latents: mean {mean.tolist()}, deviation {deviation.tolist()}")
        torch.save(vae.state_dict(), path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    vae = train_vae.new_vae()
    wiring_vae.initialise(vae)  # for the hooks that keep the constants; the values are replaced
    vae.load_state_dict(torch.load(path, weights_only=True))
    return vae


main()
