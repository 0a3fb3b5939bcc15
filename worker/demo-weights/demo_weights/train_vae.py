"""Trains the autoencoder on the teacher's pictures and some free photographs."""

import numpy as np
import torch
import torch.nn.functional as F

from . import library, wiring_vae
from .checkpoint import Progress, cosine
from .networks import FACTOR, new_vae
from .photographs import photographs

NOISE = 0.06  # of the latents, whose deviation is about 1; the UNet's errors are of this size
RATE = 1.2e-3
DETAIL_RATE = 6e-4
PEOPLE = 640  # their skin and light are variety enough, and they fit into memory


class Pictures:
    """Draws batches of crops with random colours and sizes."""

    def __init__(self, scenes, seed):
        self.scenes, self.random = scenes, np.random.default_rng(seed)
        self.photographs = photographs()

    def photograph(self, side):
        picture = self.photographs[self.random.integers(len(self.photographs))]
        zoom = self.random.integers(1, 4)
        zoom = min(zoom, min(picture.shape[:2]) // side)
        top = self.random.integers(0, picture.shape[0] - side * zoom + 1)
        left = self.random.integers(0, picture.shape[1] - side * zoom + 1)
        part = picture[top:top + side * zoom, left:left + side * zoom].astype(np.float32)
        return part.reshape(side, zoom, side, zoom, 3).mean((1, 3))

    def face(self, side):
        scene = self.scenes[self.random.integers(len(self.scenes))]
        picture = scene[self.random.integers(len(scene))]
        if side == picture.shape[0]:
            return picture
        # Crops lie around the mouth more often than elsewhere.
        centre = self.random.normal([80, 64], [24, 26])
        top, left = np.clip(np.round(centre - side / 2), 0, picture.shape[0] - side).astype(int)
        return picture[top:top + side, left:left + side]

    def batch(self, count, side):
        chosen = []
        for _ in range(count):
            picture = self.photograph(side) if self.random.random() < 0.12 else self.face(side)
            picture = np.asarray(picture, np.float32) / 127.5 - 1
            if self.random.random() < 0.5:
                picture = picture[:, ::-1]
            gain = self.random.uniform(0.75, 1.25) * (1 + self.random.normal(0, 0.06, 3))
            chosen.append(np.clip(picture * gain + self.random.normal(0, 0.08), -1, 1))
        return torch.from_numpy(np.stack(chosen).transpose(0, 3, 1, 2).astype(np.float32).copy())


def edges(picture):
    return picture[..., 1:, :] - picture[..., :-1, :], picture[..., 1:] - picture[..., :-1]


def texture(picture):
    """Returns the local strength of fine detail: the smoothed size of the difference from a blurred picture."""
    fine = picture - F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
    return F.avg_pool2d(fine.abs(), 7, 3)


def picture_loss(made, wanted, edge=0.7, fine=0.15):
    loss = F.l1_loss(made, wanted)
    for a, b in zip(edges(made), edges(wanted)):
        loss = loss + edge * F.l1_loss(a, b)
    return loss + fine * F.l1_loss(texture(made), texture(wanted))


def train(folder, steps, log=print):
    """Trains for `steps` steps in all: small crops for three quarters of the time, then whole pictures."""
    torch.manual_seed(1)
    vae = new_vae()
    wiring_vae.initialise(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    progress = Progress(folder / "vae.ckpt", {"vae": vae, "optimizer": optimizer})
    pictures, drawn = Pictures(library.load(folder, PEOPLE), [1, progress.step]), 0.0
    while progress.step < steps:
        step = progress.step
        if step % 300 == 299:
            pictures.scenes = library.load(folder, PEOPLE)  # there may be more by now
        whole = step > 0.75 * steps
        wanted = pictures.batch(*((6, 128) if whole else (16, 64)))
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, RATE)
        latents = vae.quant_conv(vae.encoder(wanted))[:, :4]
        noisy = latents + NOISE * torch.randn_like(latents)
        made = vae.decoder(vae.post_quant_conv(noisy))
        spread = latents.pow(2).mean((0, 2, 3))
        loss = picture_loss(made, wanted) + 0.02 * (spread - 1).pow(2).mean() + 0.01 * latents.mean((0, 2, 3)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        for_l1 = F.l1_loss(made.detach(), wanted).item()
        drawn = for_l1 if drawn == 0 else 0.98 * drawn + 0.02 * for_l1
        progress.tick()
        if step % 50 == 0:
            log(f"vae {step} of {steps}: L1 {drawn:.4f}, loss {loss.item():.4f}, spread {spread.mean().item():.2f}, "
                f"{progress.seconds:.0f} s + ")
    progress.save()
    return vae


def detail(folder, vae, steps, log=print):
    """Trains the decoder for `steps` steps in all to give skin its grain back; latents stay as they are.

    Errors of single pixels are least without any grain, whose places nobody can tell from the latents. So the local
    strength of fine detail counts most here, wherever it lies.
    """
    torch.manual_seed(4)
    decoder = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=DETAIL_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress(folder / "detail.ckpt", {"decoder": decoder, "optimizer": optimizer})
    pictures = Pictures(library.load(folder, PEOPLE), [4, progress.step])
    while progress.step < steps:
        step = progress.step
        wanted = pictures.batch(16, 64)
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, DETAIL_RATE, warm=20)
        with torch.no_grad():
            latents = vae.quant_conv(vae.encoder(wanted))[:, :4]
            noisy = latents + NOISE * latents.std() * torch.randn_like(latents)
        made = vae.decoder(vae.post_quant_conv(noisy))
        loss = picture_loss(made, wanted, edge=0.2, fine=1.5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        progress.tick()
        if step % 50 == 0:
            log(f"detail {step} of {steps}: loss {loss.item():.4f}")
    progress.save()


@torch.no_grad()
def unit_deviation(vae, pictures):
    """Moves mean and deviation of the latents into the convolutions around them, so that the UNet sees unit ones."""
    latents = torch.cat([vae.quant_conv(vae.encoder(part))[:, :4] for part in pictures.split(16)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    outer = deviation * FACTOR
    vae.quant_conv.weight[:4] /= outer[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) / outer
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -9
    weight = vae.post_quant_conv.weight
    vae.post_quant_conv.bias += (weight[:, :, 0, 0] * mean).sum(1)
    weight *= outer[None, :, None, None]
    return mean, deviation
