#!/usr/bin/env python3
"""Times LatentSync's networks in PyTorch on the CPU, and checks their results.

    bench.py --weights DIR --threads 2 --parts unet,vae-decode        prints times as JSON
    bench.py --weights DIR --check-goldens GOLDENS                    compares results with stored tensors
    bench.py --weights DIR --check-outputs SAVED                      compares them with `latentfarm-worker bench --save`
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from whisper.audio import log_mel_spectrogram

from latentsync_torch import Folder, load_unet, load_vae, load_whisper

PARTS = ("load", "mel", "whisper", "vae-encode", "vae-decode", "unet", "window")
TIMESTEP = 501
SCALING = 0.18215
# Limits of the relative L2 and the largest absolute difference of a correct f32 computation.
LIMITS = {"unet": (1e-5, 1e-4), "vae": (1e-5, 5e-5), "whisper": (1e-5, 2e-4), "mel": (2e-5, 2e-4)}
# Limit of the relative difference for outputs of full-size weights, whose values are larger.
OUTPUT_LIMIT = 2e-5


def log(text):
    print(text, file=sys.stderr, flush=True)


# ---- memory and time ----


def status_bytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def measured(part, run, repeat, warm_up=None):
    was_reset = reset_peak()
    baseline = status_bytes("VmRSS:")
    log(f"{part}: warming up")
    (warm_up or run)()
    seconds = []
    computed_before = time.process_time()
    for repetition in range(1, repeat + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
        log(f"{part}: {repetition} of {repeat} took {seconds[-1]:.3f} s")
    return {
        "part": part,
        "seconds": seconds,
        "cpu_seconds": (time.process_time() - computed_before) / repeat,
        "baseline_bytes": baseline,
        "peak_bytes": status_bytes("VmHWM:"),
        "peak_was_reset": was_reset,
    }


# ---- parts ----


class Networks:
    """Loads each network when it is first used, so that a part holds only the weights that it needs."""

    def __init__(self, folder):
        self.folder = folder
        self.loaded = {}

    def __getattr__(self, name):
        if name not in self.loaded:
            log(f"loading {name}")
            self.loaded[name] = getattr(self.folder, name)()
        return self.loaded[name]


def tone():
    n = torch.arange(480_000, dtype=torch.float64)
    return (9000 * torch.sin(n * (0.05 + n * 1e-6))).trunc().float() / 32768


def vae_encode(vae, pixels):
    return vae.encode(pixels).latent_dist.parameters


def vae_decode(vae, latents):
    return vae.decode(latents).sample


def window(networks, frames, steps, side):
    """Runs one window without guidance: two encodes a frame, the steps, one decode a frame, masking and pasting."""
    config = networks.folder.unet_config
    tokens = 10 * (networks.folder.dims["n_audio_layer"] + 1)
    vae, unet = networks.vae, networks.unet
    faces = torch.rand(frames, 3, side, side) * 2 - 1
    mask = torch.ones(1, 1, side, side)
    mask[:, :, side // 2 :] = 0

    def latents_of(pixels):
        return vae.encode(pixels).latent_dist.sample() * SCALING

    masked = torch.cat([latents_of(face[None] * mask) for face in faces])
    reference = torch.cat([latents_of(face[None]) for face in faces])
    latent_mask = mask[:, :, ::8, ::8].expand(frames, -1, -1, -1)
    latents = torch.randn(1, 4, side // 8, side // 8).expand(frames, -1, -1, -1)
    audio = torch.randn(1, frames, tokens, config["cross_attention_dim"])
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    ratio = 1000 // steps
    for step in reversed(range(steps)):
        timestep = step * ratio + 1
        given = torch.cat([latents, latent_mask, masked, reference], dim=1)
        noise = unet(given.transpose(0, 1)[None], timestep, audio)[0].transpose(0, 1)
        now, before = alphas[timestep], alphas[max(timestep - ratio, 0)]
        clean = (latents - (1 - now).sqrt() * noise) / now.sqrt()
        latents = before.sqrt() * clean + (1 - before).sqrt() * noise
    decoded = torch.cat([vae.decode(one[None] / SCALING).sample for one in latents])
    return decoded * (1 - mask) + faces * mask


def runner(part, networks, args):
    """Returns the work of a part, with its networks loaded, and its warm-up if that differs."""
    side, frames = args.resolution, args.frames
    dims = networks.folder.dims
    if part == "load":
        folder = networks.folder
        return lambda: (folder.unet(), folder.vae(), folder.whisper()), None
    if part == "mel":
        samples = tone()
        return lambda: log_mel_spectrogram(samples), None
    if part == "whisper":
        encoder, mel = networks.whisper, torch.randn(1, 80, 3000)
        return lambda: encoder(mel), None
    if part == "vae-encode":
        vae, pixels = networks.vae, torch.rand(1, 3, side, side) * 2 - 1
        return lambda: vae_encode(vae, pixels), None
    if part == "vae-decode":
        vae, latents = networks.vae, torch.randn(1, 4, side // 8, side // 8)
        return lambda: vae_decode(vae, latents), None
    unet = networks.unet
    if part == "unet":
        latents = torch.randn(1, 13, frames, side // 8, side // 8)
        tokens = 10 * (dims["n_audio_layer"] + 1)
        audio = torch.randn(1, frames, tokens, networks.folder.unet_config["cross_attention_dim"])
        return lambda: unet(latents, TIMESTEP, audio), None
    networks.vae
    return (
        lambda: window(networks, frames, args.steps, side),
        lambda: window(networks, min(2, frames), 1, side),
    )


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return ""


def report(networks, args):
    load_average = os.getloadavg()[0]
    parts = []
    for part in args.parts:
        run, warm_up = runner(part, networks, args)
        parts.append(measured(part, run, args.repeat, warm_up))
    return {
        "software": f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "resolution_px": args.resolution,
        "frames": args.frames,
        "steps": args.steps,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average": load_average},
        "weights": {"identity": "", "kind": networks.folder.note.get("kind", "trained")},
        "parts": parts,
    }


# ---- checks ----


class Check:
    def __init__(self):
        self.failed = self.count = 0

    def __call__(self, what, result, wanted, relative_limit, absolute_limit=float("inf")):
        assert result.shape == wanted.shape, f"{what}: {tuple(result.shape)}, wanted {tuple(wanted.shape)}"
        difference = result.double() - wanted.double()
        relative = (difference.norm() / wanted.double().norm()).item()
        largest = difference.abs().max().item()
        good = relative <= relative_limit and largest <= absolute_limit
        self.count += 1
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: relative {relative:.1e}, largest {largest:.1e}")


def cases(tensors):
    return sorted({name.split(".")[0] for name in tensors if name.startswith("case")})


def check_goldens(folder, check):
    for io_path in sorted(folder.glob("unet_*_io.safetensors")):
        name = io_path.name.removesuffix("_io.safetensors")
        config = json.loads((folder / f"{name}_config.json").read_text())
        unet = load_unet(folder / f"{name}.safetensors", config)
        io = load_file(io_path)
        for case in cases(io):
            out = unet(io[f"{case}.sample"], io[f"{case}.timestep"].item(), io[f"{case}.audio"])
            check(f"{name} {case}", out, io[f"{case}.out"], *LIMITS["unet"])
    vae = load_vae(folder / "vae_legacy.safetensors", json.loads((folder / "vae_config.json").read_text()))
    io = load_file(folder / "vae_io.safetensors")
    for case in cases(io):
        moments = vae_encode(vae, io[f"{case}.image"])
        check(f"vae {case} moments", moments, io[f"{case}.moments"], *LIMITS["vae"])
        decoded = vae_decode(vae, io[f"{case}.decode_in"])
        check(f"vae {case} decode", decoded, io[f"{case}.decode_out"], *LIMITS["vae"])
    io = load_file(folder / "whisper_io.safetensors")
    mel = log_mel_spectrogram(io["audio"])
    check("log-mel", mel, io["log_mel"], *LIMITS["mel"])
    dims = json.loads((folder / "whisper_dims.json").read_text())
    encoder = load_whisper(folder / "whisper_tinytest.pt", dims)
    given = torch.nn.functional.pad(io["log_mel"], (0, 3000 - io["log_mel"].shape[1]))[None]
    wanted = io["encoder_embeddings_head"].transpose(0, 1)
    check("whisper states", encoder(given)[: wanted.shape[0]], wanted, *LIMITS["whisper"])


def check_outputs(folder, networks, check):
    runs = {
        "mel": lambda given: log_mel_spectrogram(given["samples"])[None],
        "whisper": lambda given: networks.whisper(given["mel"]),
        "vae-encode": lambda given: vae_encode(networks.vae, given["pixels"]),
        "vae-decode": lambda given: vae_decode(networks.vae, given["latents"]),
        "unet": lambda given: networks.unet(given["latents"], given["timestep"].item(), given["audio"]),
    }
    for part, run in runs.items():
        path = folder / f"{part}.safetensors"
        if path.exists():
            given = load_file(path)
            check(part, run(given), given["output"], OUTPUT_LIMIT)


def part_names(text):
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(PARTS)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Folder, help="folder from `latentfarm-worker weights synth`")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--parts", type=part_names, default=list(PARTS), metavar="PART,...")
    parser.add_argument("--resolution", type=int, help="default: what the weights were made for")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--check-goldens", type=Path, metavar="DIR")
    parser.add_argument("--check-outputs", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.weights is None and args.check_goldens is None:
        parser.error("--weights is needed")
    if args.resolution is None and args.weights is not None:
        args.resolution = args.weights.note.get("resolution_px") or 256
    torch.set_num_threads(args.threads)
    log(f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}, {args.threads} threads")
    networks = Networks(args.weights)
    with torch.inference_mode():
        if args.check_goldens or args.check_outputs:
            check = Check()
            if args.check_goldens:
                check_goldens(args.check_goldens, check)
            if args.check_outputs:
                check_outputs(args.check_outputs, networks, check)
            print(f"{check.count} checked, {check.failed} failed")
            return 1 if check.failed or not check.count else 0
        json.dump(report(networks, args), sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
