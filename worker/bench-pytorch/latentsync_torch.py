"""LatentSync's networks in PyTorch, for comparisons of speed and results: inference only, in f32 on the CPU.

The UNet computes what the published UNet3DConditionModel does, operation for operation: convolutions frame by
frame, ResNet norms over all frames, attention through F.scaled_dot_product_attention. The autoencoder is that
of diffusers, the audio encoder that of openai-whisper. The weights come from a folder that latentfarm can read.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import safe_open
from torch import nn
from whisper.model import AudioEncoder


def per_frame(layer, x):
    """Applies a 2-D layer to every frame of (batch, channels, frames, h, w)."""
    batch, _, frames, _, _ = x.shape
    y = layer(x.permute(0, 2, 1, 3, 4).flatten(0, 1))
    return y.unflatten(0, (batch, frames)).permute(0, 2, 1, 3, 4)


class Attention(nn.Module):
    def __init__(self, width, context_width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class GeGlu(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([GeGlu(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    def __init__(self, config, width):
        super().__init__()
        heads = config["attention_head_dim"]  # the number of heads, despite its name
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, config["cross_attention_dim"], heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x, audio):
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), audio) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.norm = nn.GroupNorm(config["norm_num_groups"], channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, channels)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, audio):
        """Takes x as (batch, channels, frames, h, w) and audio as (batch x frames, tokens, width)."""
        batch, _, frames, h, w = x.shape
        images = x.permute(0, 2, 1, 3, 4).flatten(0, 1)
        tokens = self.proj_in(self.norm(images)).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.transformer_blocks[0](tokens, audio)
        y = self.proj_out(tokens.unflatten(1, (h, w)).permute(0, 3, 1, 2).contiguous()) + images
        return y.unflatten(0, (batch, frames)).permute(0, 2, 1, 3, 4)


class PositionTable(nn.Module):
    def __init__(self, longest, width):
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, longest, width))

    def forward(self, x):
        return x + self.pe[:, : x.shape[1]]


class TemporalAttention(Attention):
    def __init__(self, motion, width):
        super().__init__(width, width, motion["num_attention_heads"])
        self.pos_encoder = PositionTable(motion["temporal_position_encoding_max_len"], width)

    def forward(self, x, frames):
        """Lets every position of (batch x frames, positions, width) attend over the frames."""
        positions = x.shape[1]
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        x = super().forward(self.pos_encoder(x))
        return x.unflatten(0, (-1, positions)).transpose(1, 2).flatten(0, 1)


class TemporalBlock(nn.Module):
    def __init__(self, motion, width):
        super().__init__()
        count = len(motion["attention_block_types"])
        self.attention_blocks = nn.ModuleList(TemporalAttention(motion, width) for _ in range(count))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(count))
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x, frames):
        for attention, norm in zip(self.attention_blocks, self.norms):
            x = attention(norm(x), frames) + x
        return self.ff(self.ff_norm(x)) + x


class TemporalTransformer(nn.Module):
    def __init__(self, motion, channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(motion, channels) for _ in range(motion["num_transformer_block"])
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x):
        batch, _, frames, h, w = x.shape
        images = x.permute(0, 2, 1, 3, 4).flatten(0, 1)
        tokens = self.proj_in(self.norm(images).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, frames)
        y = self.proj_out(tokens).unflatten(1, (h, w)).permute(0, 3, 1, 2).contiguous() + images
        return y.unflatten(0, (batch, frames)).permute(0, 2, 1, 3, 4)


class MotionModule(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(config["motion_module_kwargs"], channels)

    def forward(self, x):
        return self.temporal_transformer(x)


class ResnetBlock(nn.Module):
    def __init__(self, config, inputs, outputs):
        super().__init__()
        groups, eps = config["norm_num_groups"], config["norm_eps"]
        self.norm1 = nn.GroupNorm(groups, inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config["block_out_channels"][0], outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x, time):
        hidden = per_frame(self.conv1, F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None, None]
        hidden = per_frame(self.conv2, F.silu(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            x = per_frame(self.conv_shortcut, x)
        return x + hidden


class Resampler(nn.Module):
    """A convolution that halves the size, or that follows an upsampling to a given size."""

    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x, size=None):
        if size is not None:
            x = F.interpolate(x, size=(x.shape[2], *size), mode="nearest")
        return per_frame(self.conv, x)


class Block(nn.Module):
    """Layers of a ResNet block, a spatial transformer and a motion module, the latter two if the configuration has them."""

    def __init__(self, config, widths, attention, motion, sampler=None):
        super().__init__()
        outputs = widths[0][1]
        self.resnets = nn.ModuleList(ResnetBlock(config, *pair) for pair in widths)
        if attention:
            self.attentions = nn.ModuleList(SpatialTransformer(config, outputs) for _ in range(attention))
        if motion:
            self.motion_modules = nn.ModuleList(MotionModule(config, outputs) for _ in range(motion))
        if sampler == "down":
            self.downsamplers = nn.ModuleList([Resampler(outputs, 2)])
        if sampler == "up":
            self.upsamplers = nn.ModuleList([Resampler(outputs, 1)])

    def layer(self, index, x, time, audio):
        x = self.resnets[index](x, time)
        for name in ("attentions", "motion_modules"):
            modules = getattr(self, name, ())
            if index < len(modules):
                x = modules[index](x, audio) if name == "attentions" else modules[index](x)
        return x


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        channels = config["block_out_channels"]
        first, last, count = channels[0], channels[-1], config["layers_per_block"]
        self.config = config
        self.conv_in = nn.Conv2d(config["in_channels"], first, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(first, 4 * first), "linear_2": nn.Linear(4 * first, 4 * first)}
        )

        def motion(level, decoder):
            wanted = config["use_motion_module"] and 2**level in config["motion_module_resolutions"]
            return wanted and (decoder or not config["motion_module_decoder_only"])

        self.down_blocks = nn.ModuleList()
        skips, width = [first], first
        for level, outputs in enumerate(channels):
            widths = [(width if i == 0 else outputs, outputs) for i in range(count)]
            attention = config["down_block_types"][level].startswith("CrossAttn")
            sampler = "down" if level + 1 < len(channels) else None
            self.down_blocks.append(
                Block(config, widths, attention * count, motion(level, False) * count, sampler)
            )
            skips += [outputs] * (count + (sampler is not None))
            width = outputs
        mid_motion = config["use_motion_module"] and config["motion_module_mid_block"]
        self.mid_block = Block(config, [(last, last)] * 2, 1, int(mid_motion))
        self.up_blocks = nn.ModuleList()
        for index, outputs in enumerate(reversed(channels)):
            level = len(channels) - 1 - index
            widths = []
            for _ in range(count + 1):
                widths.append((width + skips.pop(), outputs))
                width = outputs
            attention = config["up_block_types"][index].startswith("CrossAttn")
            self.up_blocks.append(
                Block(
                    config,
                    widths,
                    attention * (count + 1),
                    motion(level, True) * (count + 1),
                    "up" if level else None,
                )
            )
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], first, eps=config["norm_eps"])
        self.conv_out = nn.Conv2d(first, config["out_channels"], 3, padding=1)

    def time(self, timestep, batch):
        half = self.config["block_out_channels"][0] // 2
        weight = self.conv_norm_out.weight
        steps = torch.arange(half, dtype=torch.float32, device=weight.device)
        angles = timestep * torch.exp(-math.log(10000) * steps / (half - self.config["freq_shift"]))
        halves = [torch.cos(angles), torch.sin(angles)]
        if not self.config["flip_sin_to_cos"]:
            halves.reverse()
        hidden = F.silu(self.time_embedding["linear_1"](torch.cat(halves)[None].to(weight.dtype)))
        return self.time_embedding["linear_2"](hidden).expand(batch, -1)

    def forward(self, latents, timestep, audio):
        """Maps latents (batch, 13, frames, h, w), a number and audio (batch, frames, tokens, width) to (batch, 4, frames, h, w)."""
        time = self.time(timestep, latents.shape[0])
        audio = audio.flatten(0, 1)
        x = per_frame(self.conv_in, latents)
        skips = [x]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                x = block.layer(index, x, time, audio)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.layer(0, x, time, audio)
        x = self.mid_block.resnets[1](x, time)
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = block.layer(index, torch.cat([x, skips.pop()], dim=1), time, audio)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, skips[-1].shape[3:])
        return per_frame(self.conv_out, F.silu(self.conv_norm_out(x)))


class WhisperStates(AudioEncoder):
    """openai-whisper's encoder, which returns the states of all layers without the final norm, as LatentSync needs them."""

    def forward(self, mel):
        """Maps (1, 80, 3000) to (1500, layers + 1, width)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).permute(0, 2, 1) + self.positional_embedding
        states = [x]
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return torch.stack(states, dim=2)[0]


# ---- loading ----

LEGACY_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def modern_vae_name(name):
    if "mid_block.attentions.0." in name:
        for old, new in LEGACY_NAMES.items():
            name = name.replace(old, new)
    return name


def tensors(path, prefix="", rename=lambda name: name):
    """Yields the f32 tensors under a prefix one at a time; a safetensors file is mapped and never wholly in memory."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name.startswith(prefix):
                    yield rename(name.removeprefix(prefix)), file.get_tensor(name).float()
        return
    stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    for key in ("state_dict", "model_state_dict"):
        stored = stored.get(key, stored)
    for name, tensor in stored.items():
        if name.startswith(prefix):
            yield rename(name.removeprefix(prefix)), tensor.float()


def filled(build, named):
    """Builds a network without memory and gives it the tensors, whose names and shapes must all fit."""
    with torch.device("meta"):
        network = build()
    network.load_state_dict(dict(named), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def load_unet(path, config):
    return filled(lambda: UNet(config), tensors(path))


def load_vae(path, config):
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    return filled(lambda: AutoencoderKL(**plain), tensors(path, rename=modern_vae_name))


def load_whisper(path, dims):
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    encoder = WhisperStates(*(dims[name] for name in names))
    encoder.load_state_dict(dict(tensors(path, prefix="encoder.")), strict=True)
    return encoder.eval().requires_grad_(False)


class Folder:
    """A folder of weights as `latentfarm-worker weights synth` writes it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.unet_config = json.loads((self.folder / "unet_config.json").read_text())
        self.vae_config = json.loads((self.folder / "vae/config.json").read_text())
        self.dims = json.loads((self.folder / "whisper/tiny.json").read_text())
        note = self.folder / "latentfarm.json"
        self.note = json.loads(note.read_text()) if note.exists() else {}

    def unet(self):
        return load_unet(self.folder / "latentsync_unet.safetensors", self.unet_config)

    def vae(self):
        return load_vae(self.folder / "vae/diffusion_pytorch_model.safetensors", self.vae_config)

    def whisper(self):
        return load_whisper(self.folder / "whisper/tiny.safetensors", self.dims)
