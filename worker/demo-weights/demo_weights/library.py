"""Draws the library of teacher pictures: for each person a grid of mouths and some references with other mouths.

A scene's file holds LEVELS x SHAPES target pictures and REFERENCES pictures of free mouths, all of one person under
one light, as bytes (pictures, side, side, 3). The scenes are independent of each other: each has its own seed.
"""

import os
from pathlib import Path

import numpy as np

from .head_mesh import Head
from .photographs import photographs
from .scene import Scene

LEVELS = (0.0, 0.1, 0.2, 0.32, 0.45, 0.6, 0.8, 1.0)
SHAPES = (-1.0, 0.0, 1.0)
REFERENCES = 8
TARGETS = 1 + (len(LEVELS) - 1) * len(SHAPES)
PICTURES = TARGETS + REFERENCES
# The openings between which the next level is nearer.
BORDERS = np.array([0.5 * (a + b) for a, b in zip(LEVELS, LEVELS[1:])])


def target_index(opening, spread):
    """Returns the pictures of the grid that are nearest to openings and spreads, arrays of one shape."""
    level = np.searchsorted(BORDERS, opening)
    shape = np.clip(np.round(np.asarray(spread)), -1, 1).astype(int) + 1
    return np.where(level == 0, 0, 1 + (level - 1) * len(SHAPES) + shape)


def mouth_of_target(index):
    """Returns opening and spread, (..., 2) f32, of pictures of the grid."""
    index = np.asarray(index)
    level, shape = np.divmod(np.maximum(index - 1, 0), len(SHAPES))
    opening, spread = np.array(LEVELS)[level + 1], np.array(SHAPES)[shape]
    return np.where(index[..., None] == 0, 0, np.stack([opening, spread], -1)).astype(np.float32)


def draw_scene(head, seed):
    """Draws all pictures of a scene."""
    random = np.random.default_rng([20251128, seed])
    scene = Scene(head, random, photographs())
    pictures = [scene.picture(*scene.mouth(0.0, 0.0))]
    for level in LEVELS[1:]:
        pictures += [scene.picture(*scene.mouth(level, shape)) for shape in SHAPES]
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


def load(folder):
    """Returns the scenes drawn so far, (scenes, pictures, side, side, 3) bytes, in the order of their seeds."""
    paths = sorted((Path(folder) / "scenes").glob("????.npy"))
    return np.stack([np.load(path) for path in paths])
