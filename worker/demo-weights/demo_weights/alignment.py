"""The alignment of faces as the product does it: three landmarks are moved onto a template by a similarity."""

import numpy as np

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])


def face_size(side):
    """Returns width and height of the aligned face before it is resized to a square of `side` pixels."""
    ratio = side / 256 * 2.8
    return int(75 * ratio), int(100 * ratio)


def similarity(points, side):
    """Returns the 2 x 3 matrix from the picture to the aligned face of `face_size`."""
    target = TEMPLATE * (side / 256 * 2.8)
    middle, wanted = points.mean(0), target.mean(0)
    source_deviation, target_deviation = (np.sqrt(((p - p.mean(0)) ** 2).sum() / 5) for p in (points, target))
    source, goal = (points - middle) / source_deviation, (target - wanted) / target_deviation
    angle = np.arctan2((source[:, 0] * goal[:, 1] - source[:, 1] * goal[:, 0]).sum(), (source * goal).sum())
    scale = target_deviation / source_deviation
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = wanted - turn @ middle + goal[2] - source[2]
    return np.concatenate([turn, shift[:, None]], 1)


def crop_matrix(points, side):
    """Returns the 2 x 3 matrix from the picture to the square crop of `side` pixels, pixel centres at integers."""
    width, height = face_size(side)
    stretch = np.array([side / width, side / height])
    matrix = similarity(points, side) * stretch[:, None]
    matrix[:, 2] += 0.5 * stretch - 0.5
    return matrix
