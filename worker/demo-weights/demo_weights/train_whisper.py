"""Trains the audio encoder to tell opening and spread of the mouth from the spectrogram.

A frame's tokens are those of ten rows. The encoder is trained through two probes. The first takes the plain mean of
a frame's tokens: this is what a cross-attention that has learnt nothing yet hands on. The second attends again, with
that mean as its query, and so finds the rows in the middle of the frame by their places: this is what two layers of
cross-attention can do.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from . import speech
from .checkpoint import Progress, cosine
from .networks import AUDIO, new_whisper

ROWS = AUDIO["n_audio_ctx"]
WIDTH = AUDIO["n_audio_state"]
PLACES = 8  # pairs of sine and cosine in the position table; the other columns are zero
OFFSETS = (-3.0, 0.0, 3.0)  # rows that the first heads look at; the last head begins without a place
RATE = 2.5e-3


def initialise(encoder):
    """Gives the position table its own columns, and lets the first heads attend to rows near their own."""
    speeds = torch.tensor([0.9 * 0.62**index for index in range(PLACES)])
    angles = torch.arange(ROWS)[:, None] * speeds
    with torch.no_grad():
        table = torch.zeros(ROWS, WIDTH)
        table[:, 0:2 * PLACES:2], table[:, 1:2 * PLACES:2] = torch.sin(angles), torch.cos(angles)
        encoder.positional_embedding.copy_(table)
        encoder.conv2.weight[:2 * PLACES] = 0
        encoder.conv2.bias[:2 * PLACES] = 0
        for block in encoder.blocks:
            block.attn.query.weight.mul_(0.3)
            block.attn.key.weight.mul_(0.3)
            for head, offset in enumerate(OFFSETS):
                rows = slice(head * 16, head * 16 + 16)
                block.attn.query.weight[rows], block.attn.key.weight[rows] = 0, 0
                block.attn.query.bias[rows] = 0
                for place in range(PLACES):
                    at, turn = 2 * place, offset * speeds[place].item()
                    gain = 1.3
                    row = head * 16 + at
                    # The key is the place itself, the query the place `offset` rows on.
                    block.attn.key.weight[row, at] = block.attn.key.weight[row + 1, at + 1] = gain
                    block.attn.query.weight[row, at], block.attn.query.weight[row, at + 1] = (
                        gain * math.cos(turn), gain * math.sin(turn))
                    block.attn.query.weight[row + 1, at], block.attn.query.weight[row + 1, at + 1] = (
                        -gain * math.sin(turn), gain * math.cos(turn))


def states(encoder, bands, first=0):
    """Maps (batch, 80, 2 x rows) to the states of all layers, (batch, rows, layers + 1, width)."""
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(bands)))).permute(0, 2, 1)
    x = x + encoder.positional_embedding[first:first + x.shape[1]]
    collected = [x]
    for block in encoder.blocks:
        x = block(x)
        collected.append(x)
    return torch.stack(collected, 2)


def rows_of_frames(frames, rows):
    """Returns the ten rows of each of the first frames at 25 a second, (frames, 10)."""
    middle = torch.arange(frames)[:, None] * 2
    return (middle + torch.arange(-4, 6)).clamp(0, rows - 1)


class Probe(nn.Module):
    """Tells the mouth twice: from the mean of a frame's tokens, and from a second look at them."""

    HEADS = 4

    def __init__(self):
        super().__init__()
        self.read, self.read_again = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        with torch.no_grad():
            for layer in (self.query, self.key):
                layer.weight.mul_(0.3)
            for head in range(self.HEADS):
                for place in range(2 * PLACES):
                    self.key.weight[16 * head + place, :] = 0
                    self.query.weight[16 * head + place, :] = 0
                    self.key.weight[16 * head + place, place] = 1.3
                    speed = 0.9 * 0.62 ** (place // 2)
                    shrink = math.sin(5 * speed) / (10 * math.sin(speed / 2))
                    self.query.weight[16 * head + place, place] = 1.3 * max(min(1 / shrink, 3), -3)

    def forward(self, collected, frames):
        """Maps states (batch, rows, layers, width) to two estimates (batch, frames, 2)."""
        rows = rows_of_frames(frames, collected.shape[1])
        tokens = collected[:, rows].flatten(2, 3)
        mean = tokens.mean(2)
        batch, _, count, _ = tokens.shape
        query = self.query(mean).view(batch, frames, 1, self.HEADS, -1).transpose(2, 3)
        key, value = (part(tokens).view(batch, frames, count, self.HEADS, -1).transpose(2, 3)
                      for part in (self.key, self.value))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).flatten(2)
        return self.read(mean), self.read_again(seen)


def train(folder, steps, batch=6, log=print):
    torch.manual_seed(2)
    bands, mouths = speech.load(folder)
    encoder, probe = new_whisper(), Probe()
    initialise(encoder)
    parameters = [*encoder.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    progress = Progress(folder / "whisper.ckpt", {"encoder": encoder, "probe": probe, "optimizer": optimizer})
    generator = torch.Generator().manual_seed(progress.step)
    held = max(4, len(bands) // 16)  # the last tracks are for measuring
    shown = 0.0
    while progress.step < steps:
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, RATE)
        whole = step > 0.85 * steps
        rows = ROWS if whole else 300
        inputs, wanted, weights = [], [], []
        for _ in range(2 if whole else batch):
            track = torch.randint(len(bands) - held, (1,), generator=generator).item()
            frames = len(mouths[track])
            first = 0 if whole else 2 * torch.randint(max(1, frames - rows // 2 + 1), (1,), generator=generator).item()
            part = bands[track, :, 2 * first:2 * (first + rows)].float()
            inputs.append(F.pad(part, (0, 2 * rows - part.shape[1])))
            mouth = mouths[track][first // 2:(first + rows) // 2]
            weights.append(F.pad(torch.ones(len(mouth)), (0, rows // 2 - len(mouth)), value=0.2))
            wanted.append(F.pad(mouth, (0, 0, 0, rows // 2 - len(mouth))))
        wanted, weights = torch.stack(wanted), torch.stack(weights)[..., None]
        place = 0 if whole else torch.randint(ROWS - rows + 1, (1,), generator=generator).item()
        inner = slice(5, -5) if not whole else slice(None)
        loss = 0.0
        for told in probe(states(encoder, torch.stack(inputs), place), rows // 2):
            error = (told - wanted)[:, inner] ** 2 * weights[:, inner]
            open_weight = 0.15 + wanted[:, inner, :1]
            loss = loss + error[..., 0].mean() + 0.15 * (error[..., 1:] * open_weight).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        shown = loss.item() if step == 0 else 0.98 * shown + 0.02 * loss.item()
        progress.tick()
        if step % 100 == 0:
            log(f"whisper {step} of {steps}: loss {shown:.4f}, {measure(encoder, probe, bands, mouths, held)}")
    progress.save()
    log(f"whisper: {measure(encoder, probe, bands, mouths, held)}")
    return encoder, probe


@torch.no_grad()
def measure(encoder, probe, bands, mouths, held):
    """Returns, as text, the correlation of told and wanted opening and spread over tracks kept out of training."""
    told, wanted = [], []
    for track in range(len(bands) - held, len(bands), max(1, held // 6)):
        frames = len(mouths[track])
        told.append(torch.cat([part[0] for part in probe(states(encoder, bands[track:track + 1].float()), frames)], 1))
        wanted.append(mouths[track])
    told, wanted = torch.cat(told), torch.cat(wanted)
    r = [torch.corrcoef(torch.stack([told[:, k], wanted[:, k % 2]]))[0, 1].item() for k in range(4)]
    closed = told[wanted[:, 0] == 0, 2]
    return (f"held-out r {r[0]:.3f} {r[1]:.3f}, second look {r[2]:.3f} {r[3]:.3f}, "
            f"told in silence {closed.mean():.3f} (95 %: {closed.quantile(0.95):.3f})")
