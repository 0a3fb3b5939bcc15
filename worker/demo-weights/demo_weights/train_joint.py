"""The last stage: the UNet and the decoder are tuned together on the pictures that a run of three steps gives."""

import numpy as np
import torch
import torch.nn.functional as F

from . import library, sampler, train_unet, train_vae, wiring
from .checkpoint import Average, Progress, cosine
from .networks import FACTOR, UNET_CONFIG, UNet, mouth_mask

RATE = 2.5e-4
STEPS = 3
TOP = 40  # the rows of the picture from here on count; those above are pasted from the source


def train(folder, vae, unet_state, encoder, steps, log=print):
    """Returns the tuned UNet; the decoder is tuned in place. The encoder of pictures and that of speech stay."""
    torch.manual_seed(4)
    scenes = library.load(folder)
    latents = train_unet.encode_library(vae, scenes, folder, log)
    tokens, mouths = train_unet.encode_speech(encoder, folder)
    mask, latent_mask = mouth_mask()
    unet = UNet(UNET_CONFIG)
    wiring.initialise(unet)  # for the hooks that keep the wires; the values are replaced
    unet.load_state_dict(unet_state)
    decoder = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    both = torch.nn.ModuleDict({"unet": unet, "decoder": decoder})
    average = Average(both, 0.995)
    optimizer = torch.optim.AdamW(both.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-12, weight_decay=1e-4)
    progress = Progress(folder / "joint.ckpt", {"both": both, "average": average, "optimizer": optimizer})
    torch.manual_seed(4 + progress.step)
    windows = train_unet.Windows(latents, tokens, mouths, [4, progress.step])
    free = train_vae.Pictures(scenes, [5, progress.step])
    weight = train_unet.weights_of(latent_mask)
    shown = 0.0
    while progress.step < steps:
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, RATE)
        count, frames = ((4, 2), (2, 4), (1, 8))[windows.random.integers(3)]
        target, masked, reference, audio, places = windows.batch(count, frames)
        conditioning = torch.cat([
            latent_mask[:, :, None].expand(count, 1, frames, 16, 16), masked, reference], 1)
        late = windows.random.random() < 0.75
        times = sampler.timesteps(STEPS)
        z = torch.randn(count, 4, 1, 16, 16).expand(-1, -1, frames, -1, -1)
        timestep = times[1] if late else times[0]
        if late:
            with torch.no_grad():
                z = sampler.advance(z, unet(torch.cat([z, conditioning], 1), times[0], audio), times[0], STEPS)
        made = sampler.clean(z, unet(torch.cat([z, conditioning], 1), timestep, audio), timestep)
        loss = 0.3 * ((made - target) * weight).abs().mean()
        wanted = torch.cat([pictures_of(scenes, *place) for place in places])
        images = decode(vae, made.transpose(1, 2).flatten(0, 1))
        loss = loss + sharp_loss(images[:, :, TOP:], wanted[:, :, TOP:])
        loss = loss + 2 * sharp_loss(images[:, :, 64:104, 32:96], wanted[:, :, 64:104, 32:96])
        if step % 2 == 0:  # the decoder stays one for all pictures
            kept = free.batch(4, 64)
            with torch.no_grad():
                plain = vae.quant_conv(vae.encoder(kept))[:, :4] * FACTOR
            loss = loss + 0.7 * sharp_loss(decode(vae, plain), kept)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step()
        average.update(both, step + 50)
        shown = loss.item() if step == 0 else 0.98 * shown + 0.02 * loss.item()
        progress.tick()
        if step % 50 == 0:
            log(f"joint {step} of {steps}: loss {shown:.4f}")
    progress.save()
    average.copy_to(both)
    return unet


def smooth(picture):
    return F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)


def textures(picture):
    """Returns the local strength of fine detail across rows and across columns."""
    for fine in (picture[..., 1:-1, :] * 2 - picture[..., 2:, :] - picture[..., :-2, :],
                 picture[..., 1:-1] * 2 - picture[..., 2:] - picture[..., :-2]):
        yield F.avg_pool2d(fine.abs(), 9, 4)


def sharp_loss(made, wanted):
    """Compares pictures: smoothed ones exactly, edges less so, and of the finest detail mainly its strength.

    A plain distance would be smallest without pores and noise, which the decoder cannot know; skin would be too smooth.
    """
    loss = F.l1_loss(smooth(made), smooth(wanted)) + 0.4 * F.l1_loss(made, wanted)
    for a, b in zip(train_vae.edges(made), train_vae.edges(wanted)):
        loss = loss + 0.35 * F.l1_loss(a, b)
    for a, b in zip(textures(made), textures(wanted)):
        loss = loss + 0.3 * F.l1_loss(a, b)
    return loss


def decode(vae, latents):
    return vae.decoder(vae.post_quant_conv(latents / FACTOR))


def pictures_of(scenes, person, shown):
    """Returns pictures of a person, mirrored as the latents are, in -1..1."""
    pictures = scenes[person][np.asarray(shown)]
    if person % 2:
        pictures = pictures[:, :, ::-1]
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
