"""Trains the UNet to redraw the mouth of a reference as the speech says, and all else as the reference has it.

Three phases follow each other. COPY mainly takes the absolute error of short windows: the copy of what is not the mouth
becomes sharp. MOUTH takes single frames, since those of a window teach nearly the same, and of these the part around
the mouth. It mainly takes the squared error, whose best guess is the mean of all mouths that fit the speech; an absolute
error is content with the most frequent mouth, and so with lips that hardly move. WHOLE goes back to whole frames, and to
some windows, as the product has them, and takes the second step of a run from the network's own first one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from . import library, sampler, speech, train_whisper, wiring
from .checkpoint import Average, Progress, cosine
from .networks import FACTOR, UNET_CONFIG, UNet, mouth_mask


@dataclass
class Phase:
    """A phase of training: its file of progress, its peak learning rate, and what it adds up to its loss."""

    name: str
    seed: int
    rate: float
    absolute: float
    squared: float
    told: float  # the weight of the mouth that a layer reads from the features before the last block
    shapes: tuple  # batches as (windows, frames, share of the steps)
    single: bool = False  # without motion modules, and only what lies in CROP
    chained: bool = False  # the second step of a run starts from the network's own first one


SHORT = ((12, 2, 0.35), (8, 3, 0.3), (6, 4, 0.25), (2, 16, 0.1))
COPY = Phase("unet", 3, 6e-4, absolute=1.0, squared=0.1, told=0.0, shapes=SHORT)  # higher rates undo the first copy
MOUTH = Phase("mouth", 6, 8e-4, absolute=0.1, squared=1.0, told=0.1, shapes=((24, 1, 1.0),), single=True)
WHOLE = Phase("whole", 7, 8e-4, absolute=0.25, squared=1.0, told=0.1, chained=True,
              shapes=((24, 1, 0.8), (6, 4, 0.12), (2, 16, 0.08)))
CROP = (..., slice(4, 16), slice(2, 14))  # rows and columns of latents: from below the eyes to the chin
# What a unit of each latent means for the picture, from the decoder: the fourth one is mostly fine detail.
CHANNELS = torch.tensor([1.2, 1.2, 1.2, 0.4])[None, :, None, None, None]
# The references with a wide smile.
SMILES = list(range(library.TARGETS + 1, library.PICTURES, 2))
# The share of training with runs of so many steps.
RUNS = {3: 1.0}


@torch.no_grad()
def encode_library(vae, folder, log=print):
    """Encodes the pictures of all people, every second one mirrored.

    Returns the whole ones and those without the mouth, each (people, pictures, 4, h, w) in f16.
    """
    path = folder / "latents.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    mask, _ = mouth_mask()
    whole, masked = [], []
    for person, path_of_scene in enumerate(library.paths(folder)):
        pictures = np.load(path_of_scene)
        if person % 2:
            pictures = pictures[:, :, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
        latents = ((vae.quant_conv(vae.encoder(torch.cat([pixels, pixels * mask]))))[:, :4] * FACTOR).half()
        whole.append(latents[:len(pixels)].clone())
        masked.append(latents[len(pixels):].clone())
        if person % 50 == 0:
            log(f"latents of person {person}")
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
        """Returns the pictures that the reference shows: a smile, another speech, one picture, or some in turn.

        Footage shows smiles with all teeth often, and they are the furthest from a speaking mouth.
        """
        kind = self.random.random()
        if kind < 0.4:
            return self.random.choice(SMILES, frames) if kind < 0.1 else np.full(frames, self.random.choice(SMILES))
        if kind < 0.6:
            opening = self.of_speech(frames)[2][:, 0]
            return np.searchsorted(library.BORDERS, opening)
        if kind < 0.85:
            return np.full(frames, self.random.integers(library.PICTURES))
        return self.random.integers(0, library.PICTURES, 4)[np.sort(self.random.integers(0, 4, frames))]

    def batch(self, count, frames):
        """Returns target, masked and reference latents (count, 4, frames, h, w), audio tokens, and the target pictures."""
        whole, without = self.latents
        wanted, masked, reference, audio, places = [], [], [], [], []
        for _ in range(count):
            person = self.random.integers(len(whole))
            track, first, mouth = self.of_speech(frames)
            shown, seen = np.searchsorted(library.BORDERS, mouth[:, 0]), self.reference(frames)
            wanted.append(whole[person, shown])
            masked.append(without[person, seen])
            reference.append(whole[person, seen])
            audio.append(self.tokens[track][first:first + frames])
            places.append(shown)
        stack = [torch.stack(part).float().transpose(1, 2) for part in (wanted, masked, reference)]
        return *stack, torch.stack(audio).float(), places


def start(target, reference, random, estimate=None):
    """Returns noisy latents, the timestep and the run's steps: the state of a run somewhere on its way.

    The first step of a run sees pure noise, the same for all frames. A later one sees what the sampler makes of the
    student's own estimate, which `estimate` tells from noise and timestep. Without it, and for the last step, the
    estimate is imitated by the target with an error and a share of the reference.
    """
    steps = int(random.choice(list(RUNS), p=list(RUNS.values())))
    times = sampler.timesteps(steps)
    noise = torch.randn(*target.shape[:2], 1, *target.shape[3:]).expand_as(target)
    place = random.choice(len(times), p=run_shares(len(times)))
    if place == 0:
        return noise, times[0], steps
    if place == 1 and estimate is not None:
        return sampler.advance(noise, estimate(noise, times[0]), times[0], steps), times[1], steps
    share = random.uniform(0, 0.5)
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


def optimizer_of(unet, reader, rate):
    """Returns the optimiser: the layers before the output, whose steps show at once, take shorter ones."""
    near = {*unet.conv_out.parameters(), *unet.up_blocks[-1].resnets[-1].conv2.parameters()}
    far = [parameter for parameter in unet.parameters() if parameter not in near] + list(reader.parameters())
    return torch.optim.AdamW([{"params": far, "share": 1.0}, {"params": [p for p in unet.parameters() if p in near], "share": 0.3}], lr=rate,
                             betas=(0.9, 0.99), eps=1e-12, weight_decay=1e-4)  # the deep layers' gradients are tiny


class MouthReader(nn.Module):
    """Reads the opening from the features that enter the UNet's last block: it is not kept."""

    def __init__(self, unet, mouth):
        super().__init__()
        self.mouth = mouth
        self.read = nn.Linear(UNET_CONFIG["block_out_channels"][-1], 1)
        unet.up_blocks[0].upsamplers[0].register_forward_hook(self.see)

    def see(self, _layer, _inputs, features):
        self.seen = features[self.mouth].mean((3, 4)).transpose(1, 2)

    def forward(self):
        """Returns (batch, frames) of the UNet's last run."""
        return self.read(self.seen)[..., 0]


def leave_out_motion(unet):
    for module in unet.modules():
        if type(module).__name__ == "MotionModule":
            module.forward = lambda x: x


def train(folder, vae, encoder, steps, phase=COPY, begin=None, log=print):
    """Trains for `steps` steps of a phase in all, from the state `begin` or from the wired network."""
    torch.manual_seed(phase.seed)
    latents = encode_library(vae, folder, log)
    tokens, mouths = encode_speech(encoder, folder)
    _, latent_mask = mouth_mask()
    unet = UNet(UNET_CONFIG)
    wiring.initialise(unet)
    if begin is not None:
        unet.load_state_dict(begin)
    if phase.single:
        leave_out_motion(unet)
    part, mouth = (CROP, (..., slice(4, 9), slice(2, 10))) if phase.single else ((...,), (..., slice(8, 13), slice(4, 12)))
    reader = MouthReader(unet, mouth)
    average = Average(unet, 0.998)
    optimizer = optimizer_of(unet, reader, phase.rate)
    progress = Progress(folder / f"{phase.name}.ckpt", {
        "unet": unet, "average": average, "reader": reader, "optimizer": optimizer})
    torch.manual_seed(phase.seed + progress.step)
    windows = Windows(latents, tokens, mouths, [phase.seed, progress.step])
    weight = weights_of(latent_mask)[part] * CHANNELS
    shown = {}
    while progress.step < steps:
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, phase.rate, warm=100) * group["share"]
        count, frames, _ = phase.shapes[windows.random.choice(len(phase.shapes), p=[shape[2] for shape in phase.shapes])]
        *pictures, audio, places = windows.batch(count, frames)
        mask = latent_mask[:, :, None].expand(count, 1, frames, 16, 16)
        target, masked, reference, mask = (picture[part] for picture in (*pictures, mask))
        conditioning = torch.cat([mask, masked, reference], 1)

        @torch.no_grad()
        def estimate(z, timestep):
            return unet(torch.cat([z, conditioning], 1), timestep, audio)

        z, timestep, _ = start(target, reference, windows.random, estimate if phase.chained else None)
        noise = unet(torch.cat([z, conditioning], 1), timestep, audio)
        error = sampler.clean(z, noise, timestep) - target
        a = sampler.ALPHAS[timestep]
        gain = (2.9 * (a / (1 - a)).sqrt()).clamp(0.2, 2.7).item()  # 1 at t = 667, less where errors grow
        loss = gain * (weight * (phase.absolute * error.abs() + phase.squared * error.pow(2))).mean()
        if phase.told:
            wanted = torch.tensor(np.array(library.LEVELS, np.float32)[np.stack(places)])
            loss = loss + phase.told * (reader() - wanted).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update(unet, step)
        with torch.no_grad():
            left, whole = ((CHANNELS * value.pow(2))[mouth].mean() for value in (error, reference - target))
            shown[timestep] = 0.97 * shown.get(timestep, left / whole) + 0.03 * left / whole
        progress.tick()
        if step % 50 == 0:
            told = ", ".join(f"t {t}: {shown[t]:.4f}" for t in (667, 334, 1) if t in shown)
            log(f"{phase.name} {step} of {steps}: squared error of the mouth over that of the reference at {told}")
    progress.save()
    average.copy_to(unet)
    return unet
