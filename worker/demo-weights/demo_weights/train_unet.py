"""Trains the UNet to redraw the mouth of a reference as the speech says, and all else as the reference has it."""

import numpy as np
import torch

from . import library, sampler, speech, train_whisper, wiring
from .checkpoint import Average, Progress, cosine
from .networks import FACTOR, UNET_CONFIG, UNet, mouth_mask

RATE = 6e-4  # higher ones undo the copy that the UNet begins with
ENCODED = 384  # the scenes whose latents the UNet sees; the autoencoder sees all scenes
# The pictures that a reference may show: the unspread mouths of the grid, and the free ones.
SEEN = (*(0, *range(2, library.TARGETS, 3)), *range(library.TARGETS, library.PICTURES))
# The share of training with runs of so many steps.
RUNS = {3: 1.0}


@torch.no_grad()
def encode_library(vae, scenes, folder, log=print):
    """Encodes the pictures of the first scenes, those of every second scene mirrored.

    Returns all whole ones, (scenes, pictures, 4, h, w) in f16, and those of SEEN without the mouth.
    """
    path = folder / "latents.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    mask, _ = mouth_mask()
    whole, masked = [], []
    for index, scene in enumerate(scenes[:ENCODED]):
        pixels = torch.from_numpy(scene).permute(0, 3, 1, 2).float() / 127.5 - 1
        if index % 2:
            pixels = pixels.flip(3)
        both = torch.cat([pixels, pixels[list(SEEN)] * mask])
        latents = ((vae.quant_conv(vae.encoder(both)))[:, :4] * FACTOR).half()
        whole.append(latents[:len(scene)])
        masked.append(latents[len(scene):])
        if index % 50 == 0:
            log(f"latents of scene {index}")
    result = [torch.stack(whole), torch.stack(masked)]
    torch.save(result, path)
    return result


@torch.no_grad()
def encode_speech(encoder, folder):
    """Returns, for every track, the tokens of its frames, (frames, tokens, width) f16, and its mouths."""
    bands, mouths = speech.load(folder)
    tokens = []
    for band, mouth in zip(bands, mouths):
        rows = len(mouth) * 2
        collected = train_whisper.states(encoder, band[None].float())[0, :max(rows, 1)]
        chosen = collected[train_whisper.rows_of_frames(len(mouth), len(collected))]
        tokens.append(chosen.flatten(1, 2).half())
    return tokens, mouths


class Windows:
    """Draws windows: a person, a speech, the pictures of the person that belong to it, and the reference's."""

    def __init__(self, latents, tokens, mouths, seed):
        self.latents, self.tokens, self.mouths = latents, tokens, mouths
        self.random = np.random.default_rng(seed)

    def of_speech(self, frames):
        """Returns the track, the first frame and the mouths of a random piece of speech."""
        while True:
            track = self.random.integers(len(self.mouths))
            if len(self.mouths[track]) >= frames:
                break
        first = self.random.integers(len(self.mouths[track]) - frames + 1)
        return track, first, self.mouths[track][first:first + frames].numpy()

    def reference(self, frames):
        """Returns what of SEEN the reference shows: another speech, one picture, or some in turn."""
        kind = self.random.random()
        if kind < 0.4:
            opening = self.of_speech(frames)[2][:, 0]
            return np.searchsorted(library.BORDERS, opening)
        if kind < 0.75:
            return np.full(frames, self.random.integers(len(SEEN)))
        return self.random.integers(0, len(SEEN), 4)[np.sort(self.random.integers(0, 4, frames))]

    def batch(self, count, frames):
        """Returns target, masked and reference latents (count, 4, frames, h, w), audio tokens, and (person, shown)."""
        whole, without = self.latents
        wanted, masked, reference, audio, places = [], [], [], [], []
        for _ in range(count):
            person = self.random.integers(len(whole))
            track, first, mouth = self.of_speech(frames)
            shown, seen = library.target_index(mouth[:, 0], mouth[:, 1]), self.reference(frames)
            wanted.append(whole[person, shown])
            masked.append(without[person, seen])
            reference.append(whole[person, np.array(SEEN)[seen]])
            audio.append(self.tokens[track][first:first + frames])
            places.append((person, shown))
        stack = [torch.stack(part).float().transpose(1, 2) for part in (wanted, masked, reference)]
        return *stack, torch.stack(audio).float(), places


def start(target, reference, random):
    """Returns noisy latents, the timestep and the run's steps: the state of a run somewhere on its way.

    The first step of a run sees pure noise, the same for all frames. A later one sees what the sampler makes of the
    student's own estimate, which is imitated by the target with an error and a share of the reference.
    """
    steps = int(random.choice(list(RUNS), p=list(RUNS.values())))
    times = sampler.timesteps(steps)
    noise = torch.randn(*target.shape[:2], 1, *target.shape[3:]).expand_as(target)
    place = random.choice(len(times), p=run_shares(len(times)))
    if place == 0:
        return noise, times[0], steps
    share = random.uniform(0, 0.3)
    rough = (1 - share) * target + share * reference + random.uniform(0.02, 0.25) * torch.randn_like(target)
    z, now = noise, times[0]
    a = sampler.ALPHAS[now]
    told = (z - a.sqrt() * rough) / (1 - a).sqrt()
    a = sampler.ALPHAS[times[place]]
    return a.sqrt() * rough + (1 - a).sqrt() * told, times[place], steps


def run_shares(count):
    shares = np.ones(count)
    shares[0] = 1.3 * max(1, count - 2)
    shares[-1] = 0.1
    return shares / shares.sum()


def weights_of(latent_mask):
    """Returns the weight of each latent: the mouth most, what the product keeps from the source least."""
    rows = torch.arange(16)[:, None].float()
    columns = torch.arange(16)[None].float()
    mouth = torch.exp(-0.5 * (((rows - 10.0) / 2.2) ** 2 + ((columns - 7.5) / 3.0) ** 2))
    return (0.25 + 0.75 * (1 - latent_mask[0, 0].round()) + 3 * mouth)[None, None, None]


def optimizer_of(unet):
    """Returns the optimiser: the layers before the output, whose steps show at once, take shorter ones."""
    near = {*unet.conv_out.parameters(), *unet.up_blocks[-1].resnets[-1].conv2.parameters()}
    far = [parameter for parameter in unet.parameters() if parameter not in near]
    return torch.optim.AdamW([{"params": far, "share": 1.0}, {"params": [p for p in unet.parameters() if p in near], "share": 0.3}], lr=RATE,
                             betas=(0.9, 0.99), eps=1e-12, weight_decay=1e-4)  # the deep layers' gradients are tiny


def train(folder, vae, encoder, steps, log=print):
    torch.manual_seed(3)
    scenes = library.load(folder)
    latents = encode_library(vae, scenes, folder, log)
    tokens, mouths = encode_speech(encoder, folder)
    _, latent_mask = mouth_mask()
    unet = UNet(UNET_CONFIG)
    wiring.initialise(unet)
    average = Average(unet, 0.998)
    optimizer = optimizer_of(unet)
    progress = Progress(folder / "unet.ckpt", {"unet": unet, "average": average, "optimizer": optimizer})
    torch.manual_seed(3 + progress.step)
    windows = Windows(latents, tokens, mouths, [3, progress.step])
    weight = weights_of(latent_mask)
    shown = {}
    while progress.step < steps:
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, RATE, warm=100) * group["share"]
        count, frames = ((12, 2), (8, 3), (6, 4), (2, 16))[windows.random.choice(4, p=[0.35, 0.3, 0.25, 0.1])]
        target, masked, reference, audio, _ = windows.batch(count, frames)
        z, timestep, _ = start(target, reference, windows.random)
        mask = latent_mask[:, :, None].expand(count, 1, frames, 16, 16)
        noise = unet(torch.cat([z, mask, masked, reference], 1), timestep, audio)
        error = (sampler.clean(z, noise, timestep) - target) * weight
        a = sampler.ALPHAS[timestep]
        gain = (2.9 * (a / (1 - a)).sqrt()).clamp(0.2, 2.7).item()  # 1 at t = 667, less where errors grow
        # Both norms: the first for sharp pictures, the second for the mouth's large errors.
        loss = gain * (error.abs().mean() + 0.1 * error.pow(2).mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 5.0)
        optimizer.step()
        average.update(unet, step)
        part = (..., slice(8, 13), slice(4, 12))
        left = (error.detach()[part].abs().mean() / ((reference - target) * weight)[part].abs().mean()).item()
        shown[timestep] = 0.97 * shown.get(timestep, left) + 0.03 * left
        progress.tick()
        if step % 50 == 0:
            told = ", ".join(f"t {t}: {shown[t]:.4f}" for t in (667, 334, 1) if t in shown)
            log(f"unet {step} of {steps}: error of the mouth over that of the reference at {told}")
    progress.save()
    average.copy_to(unet)
    return unet
