"""Draws the library of teacher pictures: for each person all openings of the mouth, and some references with other mouths.

A scene's file holds TARGETS target pictures and REFERENCES pictures of free mouths, all of one person under one light,
as bytes (pictures, side, side, 3). The scenes are independent of each other: each has its own seed. Many people matter
more than many pictures of each: with 640 people the error on people whom training never saw was twice that on the seen.
"""

import os
from pathlib import Path

import numpy as np

from .head_mesh import Head
from .photographs import photographs
from .scene import Scene

LEVELS = (0.0, 0.1, 0.2, 0.32, 0.45, 0.6, 0.8, 1.0)
REFERENCES = 8
TARGETS = len(LEVELS)
PICTURES = TARGETS + REFERENCES
# The openings between which the next level is nearer.
BORDERS = np.array([0.5 * (a + b) for a, b in zip(LEVELS, LEVELS[1:])])


def draw_scene(head, seed):
    """Draws all pictures of a scene."""
    random = np.random.default_rng([20251128, seed])
    scene = Scene(head, random, photographs())
    # Targets are neither spread nor rounded: that would double what so small a network has to learn.
    pictures = [scene.picture(*scene.mouth(level, 0.0)) for level in LEVELS]
    for index in range(REFERENCES):
        grin = random.uniform(0.3, 1) if index % 2 else 0.0
        opening = random.uniform(0, 1) ** 1.5 if random.random() < 0.85 else 0.0
        habit = random.uniform(0, 0.8)
        pictures.append(scene.picture(*scene.mouth(opening, random.uniform(-1, 1), habit, grin)))
    return np.stack(pictures)


def make(folder, scenes, log=print):
    """Draws the scenes that are missing in a folder; several processes may work on one folder."""
    folder = Path(folder)
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    head = Head(folder / "head.npz")
    for seed in range(scenes):
        path = folder / f"scenes/{seed:04d}.npy"
        claim = folder / f"scenes/{seed:04d}.{os.getpid()}.tmp.npy"
        if path.exists() or any(path.parent.glob(f"{seed:04d}.*.tmp.npy")):
            continue
        claim.touch()
        np.save(claim, draw_scene(head, seed))
        claim.replace(path)
        if seed % 20 == 0:
            log(f"scene {seed} of {scenes}")


def paths(folder):
    """Returns the files of the scenes drawn so far, in the order of their seeds."""
    return sorted((Path(folder) / "scenes").glob("????.npy"))


def load(folder, most):
    """Returns the first scenes drawn so far, at most so many, (scenes, pictures, side, side, 3) bytes."""
    return np.stack([np.load(path) for path in paths(folder)[:most]])
