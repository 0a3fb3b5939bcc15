"""The product's sampler, DDIM with leading timesteps, for networks and windows of training and tests."""

import torch

from .networks import alphas

ALPHAS = alphas()


def timesteps(steps):
    ratio = 1000 // steps
    return [min(index * ratio + 1, 999) for index in reversed(range(steps))]


def clean(z, noise, timestep):
    """Returns the latents without noise that a prediction of the noise stands for."""
    a = ALPHAS[timestep]
    return (z - (1 - a).sqrt() * noise) / a.sqrt()


def advance(z, noise, timestep, steps):
    """Takes one step of a run of `steps` steps."""
    before = ALPHAS[max(timestep - 1000 // steps, 0)]
    return before.sqrt() * clean(z, noise, timestep) + (1 - before).sqrt() * noise


@torch.no_grad()
def sample(unet, conditioning, audio, steps, seed=0):
    """Returns latents (batch, 4, frames, h, w) for conditioning (batch, 9, frames, h, w): mask, masked, reference."""
    batch, _, frames, height, width = conditioning.shape
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, 4, 1, height, width, generator=generator).expand(-1, -1, frames, -1, -1)
    for timestep in timesteps(steps):
        noise = unet(torch.cat([z, conditioning], 1), timestep, audio)
        z = advance(z, noise, timestep, steps)
    return z
