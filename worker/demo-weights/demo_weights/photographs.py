"""Photographs that are in the public domain or under CC0, from scikit-image: patterns and food for the autoencoder."""

import functools
from pathlib import Path

import cv2
import skimage

# NASA's portrait of Eileen Collins is in the public domain; the others are under CC0 by scikit-image's own list.
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "brick.png", "grass.png", "gravel.png", "camera.png")


@functools.cache
def photographs():
    """Returns the photographs of the installed package as RGB bytes."""
    folder = Path(skimage.__file__).parent / "data"
    read = [cv2.imread(str(folder / name), cv2.IMREAD_COLOR) for name in NAMES]
    return [picture[..., ::-1].copy() for picture in read if picture is not None]
