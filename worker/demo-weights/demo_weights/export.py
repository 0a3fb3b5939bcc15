"""Writes a folder of weights that the product loads: three f16 files, their configurations, and digests."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .networks import AUDIO, UNET_CONFIG, VAE_CONFIG

NOTE = "a small model that was trained on drawn faces and synthetic speech, for 3 steps without guidance"


def halves(network, prefix=""):
    return {prefix + name: value.detach().half().contiguous() for name, value in network.state_dict().items()}


def write(folder, unet, vae, encoder):
    """Writes the folder anew; until it is complete, the old one stays."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("vae", "whisper"):
        (partial / part).mkdir(parents=True)
    (partial / "unet_config.json").write_text(json.dumps(UNET_CONFIG, indent=2) + "\n")
    (partial / "vae/config.json").write_text(json.dumps(VAE_CONFIG, indent=2) + "\n")
    (partial / "whisper/tiny.json").write_text(json.dumps(AUDIO, indent=2) + "\n")
    save_file(halves(unet), partial / "latentsync_unet.safetensors")
    save_file(halves(vae), partial / "vae/diffusion_pytorch_model.safetensors")
    save_file(halves(encoder, "encoder."), partial / "whisper/tiny.safetensors")
    files = {}
    for path in sorted(partial.rglob("*.safetensors")):
        data = path.read_bytes()
        files[str(path.relative_to(partial))] = {
            "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "source": "worker/demo-weights"}
    note = {"files": files, "made_by": "demo", "note": NOTE, "resolution_px": 128, "kind": "demo", "steps": 3}
    (partial / "latentfarm.json").write_text(json.dumps(note, indent=2) + "\n")
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def parameters(*networks):
    return sum(value.numel() for network in networks for value in network.state_dict().values())
