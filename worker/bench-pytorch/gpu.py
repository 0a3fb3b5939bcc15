#!/usr/bin/env python3
"""Times PyTorch in f16 on a GPU: one pass of the published UNet over 16 frames, and the autoencoder of Stable Diffusion 1.

    gpu.py PX..            prints one JSON object a line: the network, the resolution, the milliseconds of every repetition

The weights are random, since only the time matters. The modules are plain PyTorch with its own attention, so that the script
needs only torch and safetensors. The UNet is that of `latentsync_torch.py`; `bench.py` compares its outputs with ours.
"""

import json
import sys
import time
import types
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

FRAMES, TOKENS, REPEAT = 16, 50, 8
UNET_CONFIG = Path(__file__).resolve().parents[1] / "latentsync/src/published/unet_config.json"


def timed(run):
    """Returns the sorted milliseconds of every repetition, without the first one."""
    seconds = []
    with torch.inference_mode():
        for _ in range(REPEAT + 1):
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return [round(1000 * second, 2) for second in sorted(seconds[1:])]


def report(what, px, **figures):
    peak = torch.cuda.max_memory_allocated() >> 20
    print(json.dumps({"torch": what, "px": px, **figures, "peak_mib": peak}), flush=True)
    torch.cuda.reset_peak_memory_stats()


class Residual(nn.Module):
    def __init__(self, channels, output):
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(32, channels, eps=1e-6), nn.SiLU(), nn.Conv2d(channels, output, 3, padding=1)
        )
        self.second = nn.Sequential(
            nn.GroupNorm(32, output, eps=1e-6), nn.SiLU(), nn.Conv2d(output, output, 3, padding=1)
        )
        self.skip = nn.Identity() if channels == output else nn.Conv2d(channels, output, 1)

    def forward(self, x):
        return self.skip(x) + self.second(self.first(x))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


def middle(channels):
    return [Residual(channels, channels), Attention(channels), Residual(channels, channels)]


def encoder():
    layers, width = [nn.Conv2d(3, 128, 3, padding=1)], 128
    for level, output in enumerate((128, 256, 512, 512)):
        layers += [Residual(width, output), Residual(output, output)]
        width = output
        if level < 3:
            layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(output, output, 3, stride=2)]
    layers += [*middle(512), nn.GroupNorm(32, 512), nn.SiLU(), nn.Conv2d(512, 8, 3, padding=1), nn.Conv2d(8, 8, 1)]
    return nn.Sequential(*layers)


def decoder():
    layers, width = [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 512, 3, padding=1), *middle(512)], 512
    for level, output in enumerate((512, 512, 256, 128)):
        layers += [Residual(width, output), Residual(output, output), Residual(output, output)]
        width = output
        if level < 3:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(output, output, 3, padding=1)]
    layers += [nn.GroupNorm(32, 128), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1)]
    return nn.Sequential(*layers)


def published_unet():
    """Makes the published UNet with random weights; stand-ins replace the modules that it does not need."""
    for module, names in (("diffusers", ["AutoencoderKL"]), ("whisper", []), ("whisper.model", ["AudioEncoder"])):
        stand_in = types.ModuleType(module)
        for name in names:
            setattr(stand_in, name, type(name, (), {}))
        sys.modules.setdefault(module, stand_in)
    from latentsync_torch import UNet

    config = json.loads(UNET_CONFIG.read_text())
    with torch.device("cuda"):
        return UNet(config).half().eval(), config


def channels_last(network):
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)


def main():
    sizes = [int(word) for word in sys.argv[1:]] or [256, 512]
    half = {"device": "cuda", "dtype": torch.float16}
    unet, config = published_unet()
    audio = torch.randn(1, FRAMES, TOKENS, config["cross_attention_dim"], **half)
    timestep = torch.tensor(500, device="cuda")
    for layout in ("contiguous", "channels_last"):
        if layout == "channels_last":
            channels_last(unet)
        for px in sizes:
            latents = torch.randn(1, 13, FRAMES, px // 8, px // 8, **half)
            report("unet", px, layout=layout, ms=timed(lambda: unet(latents, timestep, audio)))
    del unet
    for name, network, channels, factor in (("vae-encode", encoder(), 3, 1), ("vae-decode", decoder(), 4, 8)):
        network = network.to(**half)
        for px in sizes:
            for batch in (1, 16):
                x = torch.randn(batch, channels, px // factor, px // factor, **half)
                report(name, px, batch=batch, ms=timed(lambda: network(x)))


if __name__ == "__main__":
    main()
