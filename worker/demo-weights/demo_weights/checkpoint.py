"""Checkpoints that survive an interruption: a stage writes its state now and then, and goes on from it."""

import os
import time
from pathlib import Path

import torch


class Progress:
    """The state of a training stage: networks, optimiser and step, kept in one file."""

    def __init__(self, path, parts, every=150):
        self.path, self.parts, self.every = Path(path), parts, every
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            stored = torch.load(self.path, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(stored[name])
            self.step, self.seconds = stored["step"], stored["seconds"]
        self.saved = self.began = time.monotonic()

    def save(self):
        now = time.monotonic()
        self.seconds += now - self.began
        self.began = self.saved = now
        states = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        torch.save({**states, "step": self.step, "seconds": self.seconds}, partial)
        os.replace(partial, self.path)

    def tick(self):
        """Counts a step, and saves if the last time is long ago."""
        self.step += 1
        if time.monotonic() - self.saved > self.every:
            self.save()


class Average(torch.nn.Module):
    """An exponential average of a network's parameters."""

    def __init__(self, network, decay):
        super().__init__()
        self.decay = decay
        self.values = torch.nn.ParameterList(
            torch.nn.Parameter(p.detach().clone(), requires_grad=False) for p in network.parameters())

    @torch.no_grad()
    def update(self, network, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        for value, parameter in zip(self.values, network.parameters()):
            value.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, network):
        for value, parameter in zip(self.values, network.parameters()):
            parameter.copy_(value)


def cosine(step, steps, peak, warm=100, last=0.02):
    """Returns the learning rate: a linear rise, then half a cosine down to a share of the peak."""
    rise = min(1.0, (step + 1) / warm)
    share = min(1.0, step / steps)
    return peak * rise * (last + (1 - last) * 0.5 * (1 + torch.cos(torch.tensor(share * torch.pi)).item()))
