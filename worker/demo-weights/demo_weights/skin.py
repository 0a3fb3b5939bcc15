"""Paints skin for the teacher's heads: a picture over the front of the template, the same for all mouths of a person.

The picture covers the template's x and y, so that brows, lips and lids lie where the mesh has them. Everything is
drawn at random; no photograph of a face is used. Some people get an arbitrary pattern for a skin instead, which
teaches the student to copy what it sees.
"""

import cv2
import numpy as np

LEFT, RIGHT, BOTTOM, TOP = -0.95, 0.95, 5.7, 8.2
SCALE = 300
SIZE = (int((TOP - BOTTOM) * SCALE), int((RIGHT - LEFT) * SCALE))

# Outlines in the template's coordinates; those of the person's right side are mirrored.
LIPS = [(-0.25, 6.63), (-0.226, 6.655), (-0.192, 6.681), (-0.135, 6.724), (-0.068, 6.728), (0, 6.703)]
LIPS += [(-x, y) for x, y in LIPS[-2::-1]]
LOWER_LIPS = [(-0.217, 6.602), (-0.18, 6.571), (-0.122, 6.522), (-0.06, 6.494), (0, 6.489)]
LIPS += [(-x, y) for x, y in LOWER_LIPS] + LOWER_LIPS[::-1][1:]
BROW = [(-0.515, 7.375), (-0.45, 7.42), (-0.365, 7.452), (-0.258, 7.448), (-0.128, 7.425),
        (-0.108, 7.344), (-0.248, 7.4), (-0.355, 7.41), (-0.43, 7.39), (-0.485, 7.357)]
EYE = [(-0.433, 7.252), (-0.399, 7.231), (-0.366, 7.223), (-0.309, 7.24), (-0.252, 7.245), (-0.205, 7.254),
       (-0.171, 7.266), (-0.192, 7.282), (-0.22, 7.305), (-0.267, 7.303), (-0.316, 7.288), (-0.378, 7.28)]
# Skin colours in sRGB from light to dark.
TONES = np.array([[245, 214, 196], [235, 190, 165], [222, 170, 140], [196, 142, 110], [160, 108, 80],
                  [120, 78, 56], [82, 52, 38], [58, 38, 30]], np.float32) / 255
HAIR = np.array([[20, 16, 14], [50, 34, 24], [90, 62, 40], [150, 110, 70], [190, 160, 110], [140, 138, 135],
                 [110, 55, 30]], np.float32) / 255


def pixels(points, shift=8):
    """Converts template coordinates to fixed-point pixel positions for OpenCV."""
    points = np.asarray(points, np.float32).reshape(-1, 2)
    x, y = (points[:, 0] - LEFT) * SCALE, (TOP - points[:, 1]) * SCALE
    return np.round(np.stack([x, y], 1) * 2**shift).astype(np.int32)


def region(points, blur=0.0):
    """Returns a mask, 0 to 1, of an outline and, if it lies on one side, of its mirror image."""
    mask = np.zeros(SIZE, np.float32)
    points = np.asarray(points, np.float32)
    cv2.fillPoly(mask, [pixels(points)], 1.0, cv2.LINE_AA, 8)
    if points[:, 0].max() < 0:
        cv2.fillPoly(mask, [pixels(points * [-1, 1])], 1.0, cv2.LINE_AA, 8)
    return cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask


def noise(random, cell, size=SIZE):
    """Returns smooth noise of unit deviation whose features are about `cell` pixels wide."""
    small = random.standard_normal((int(size[0] / cell) + 3, int(size[1] / cell) + 3)).astype(np.float32)
    big = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return big / (big.std() + 1e-6)


def blob(x, y, width, height):
    rows = (TOP - (np.arange(SIZE[0]) + 0.5) / SCALE - y) / height
    columns = ((np.arange(SIZE[1]) + 0.5) / SCALE + LEFT - x) / width
    return np.exp(-0.5 * (rows[:, None] ** 2 + columns[None] ** 2)).astype(np.float32)


def pattern(random, photographs):
    """Returns a picture that is no skin: coloured noise or a part of a photograph."""
    if photographs and random.random() < 0.6:
        photograph = photographs[random.integers(len(photographs))]
        side = random.integers(96, min(photograph.shape[:2]))
        top = random.integers(0, photograph.shape[0] - side + 1)
        left = random.integers(0, photograph.shape[1] - side + 1)
        part = photograph[top:top + side, left:left + side]
        return cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    picture = np.zeros((*SIZE, 3), np.float32) + random.uniform(0.2, 0.8, 3)
    for cell in (3, 8, 25, 80):
        picture += random.uniform(0, 0.12) * noise(random, cell)[..., None] * random.uniform(-1, 1, 3)
    return picture


class Skin:
    """The colours of a person, sRGB from 0 to 1, over the template, and the shine of the surface."""

    def __init__(self, random, photographs):
        tone = random.uniform(0, len(TONES) - 1.001)
        low = TONES[int(tone)]
        self.tone = low + (TONES[int(tone) + 1] - low) * (tone % 1) + random.normal(0, 0.02, 3)
        self.hair = HAIR[random.integers(len(HAIR))] * random.uniform(0.7, 1.2)
        self.sclera = random.uniform(0.6, 0.9) * np.array([1, 0.98, 0.95])
        self.iris = [np.array(c) / 255 for c in ([60, 38, 24], [90, 60, 35], [80, 110, 130], [80, 100, 70])][
            random.integers(4)]
        self.teeth = np.array([1, 0.95, 0.86]) * random.uniform(0.55, 0.9) + random.normal(0, 0.02, 3)
        self.cavity = np.array([0.22, 0.07, 0.07]) * random.uniform(0.3, 1.3)
        self.tongue = np.array([0.62, 0.3, 0.3]) * random.uniform(0.7, 1.2)
        picture = np.ones((*SIZE, 3), np.float32) * self.tone
        if random.random() < 0.2:
            share = random.uniform(0.3, 1)
            picture = (1 - share) * picture + share * pattern(random, photographs)
        self.picture = self.paint(picture, random)

    def paint(self, picture, random):
        contrast = random.uniform(0.4, 1.6)
        for cell, strength in ((60, 0.035), (22, 0.03), (8, 0.025), (3.5, 0.025), (1.8, 0.03)):
            amount = strength * contrast * random.uniform(0.2, 1)
            tint = np.array([1, random.uniform(0.8, 1.2), random.uniform(0.7, 1.3)])
            picture = picture * (1 + amount * noise(random, cell)[..., None] * tint)
        red = np.array([1.0, 0.72, 0.7])
        for x, y, width, height in ((0.36, 6.95, 0.17, 0.14), (-0.36, 6.95, 0.17, 0.14), (0, 6.98, 0.09, 0.1),
                                    (0, 6.3, 0.15, 0.08)):
            amount = blob(x, y, width, height)[..., None] * random.uniform(0, 0.35)
            picture = picture * (1 - amount + amount * red)
        picture = self.spots(picture, random)
        picture = self.lines(picture, random)
        eye = region(EYE, 6)[..., None] * random.uniform(0, 0.35)
        picture = picture * (1 - eye)
        if random.random() < 0.4:
            picture = self.beard(picture, random)
        picture = self.lips(picture, random)
        picture = self.brows(picture, random)
        return np.clip(picture, 0.01, 1).astype(np.float32)

    def spots(self, picture, random):
        """Adds freckles and moles."""
        mask = np.zeros(SIZE, np.float32)
        for _ in range(int(random.exponential(40))):
            centre = (random.uniform(-0.65, 0.65), random.uniform(6.2, 7.8))
            radius = random.uniform(0.4, 1.8) * (2 if random.random() < 0.05 else 1)
            cv2.circle(mask, tuple(pixels(centre)[0].tolist()), int(radius * 256), random.uniform(0.1, 0.5), -1,
                       cv2.LINE_AA, 8)
        return picture * (1 - mask[..., None] * [0.5, 0.8, 0.9])

    def lines(self, picture, random):
        """Adds folds beside the nose and the mouth, and wrinkles."""
        mask = np.zeros(SIZE, np.float32)
        for side in (1, -1):
            fold = np.array([(0.17, 6.98), (0.235, 6.85), (0.285, 6.72), (0.3, 6.6)]) * [side, 1]
            fold = fold + random.normal(0, 0.012, fold.shape)
            cv2.polylines(mask, [pixels(fold)], False, random.uniform(0, 1), random.integers(1, 5), cv2.LINE_AA, 8)
            bag = np.array([(0.19, 7.2), (0.28, 7.14), (0.38, 7.15), (0.45, 7.2)]) * [side, 1]
            cv2.polylines(mask, [pixels(bag)], False, random.uniform(0, 0.7), 2, cv2.LINE_AA, 8)
        for y in random.uniform(7.5, 7.75, random.integers(0, 4)):
            line = np.stack([np.linspace(-0.4, 0.4, 9), y + random.normal(0, 0.008, 9)], 1)
            cv2.polylines(mask, [pixels(line)], False, random.uniform(0, 0.6), 1, cv2.LINE_AA, 8)
        mask = cv2.GaussianBlur(mask, (0, 0), random.uniform(1, 3.5))
        return picture * (1 - mask[..., None] * np.array([0.35, 0.45, 0.45]) * random.uniform(0, 1))

    def lips(self, picture, random):
        outline = np.array(LIPS) - [0, 6.61]
        outline = outline * [random.uniform(0.94, 1.04), random.uniform(0.85, 1.12)] + [0, 6.61]
        mask = region(outline, random.uniform(0.8, 3))[..., None] * random.uniform(0.5, 1)
        if random.random() < 0.12:
            colour = np.array([random.uniform(0.4, 0.8), random.uniform(0.05, 0.3), random.uniform(0.1, 0.35)])
        else:
            natural = self.tone * [random.uniform(0.8, 1), random.uniform(0.5, 0.85), random.uniform(0.5, 0.9)]
            colour = 0.75 * natural + 0.25 * np.array([0.75, 0.4, 0.4]) * (0.4 + self.tone.mean())
        streaks = 1 + 0.1 * random.uniform(0, 1) * cv2.blur(noise(random, 2.5), (1, 9))[..., None]
        return picture * (1 - mask) + colour * streaks * mask

    def brows(self, picture, random):
        outline = np.array(BROW) + [random.uniform(-0.02, 0.02), random.uniform(-0.02, 0.03)]
        density = random.uniform(0.2, 1)
        mask = region(outline, random.uniform(2, 4)) * density * 0.7
        hairs = np.zeros(SIZE, np.float32)
        for _ in range(int(220 * density)):
            share = random.uniform()
            upper, lower = outline[:5], outline[:4:-1]
            place = share * 4
            index, part = min(int(place), 3), place - min(int(place), 3)
            high = upper[index] * (1 - part) + upper[index + 1] * part
            low = lower[index] * (1 - part) + lower[index + 1] * part
            root = low + (high - low) * random.uniform(0, 0.8)
            tip = root + [-0.05 * random.uniform(0.5, 1.2), 0.03 * random.uniform(-0.3, 1)]
            for side in (1, -1):
                cv2.polylines(hairs, [pixels(np.array([root, tip]) * [side, 1])], False, 0.8, 1, cv2.LINE_AA, 8)
        mask = np.clip(mask + hairs * density, 0, 1)[..., None]
        picture = picture * (1 - mask) + self.hair * mask
        lash = np.zeros(SIZE, np.float32)
        width = int(random.integers(1, 4))
        for side in (1, -1):
            cv2.polylines(lash, [pixels(np.array(EYE) * [side, 1])], True, 1.0, width, cv2.LINE_AA, 8)
        lash = cv2.GaussianBlur(lash, (0, 0), 1)[..., None] * random.uniform(0.3, 0.95)
        return picture * (1 - lash) + self.hair * 0.4 * lash

    def beard(self, picture, random):
        rows = TOP - (np.arange(SIZE[0]) + 0.5) / SCALE
        columns = np.abs((np.arange(SIZE[1]) + 0.5) / SCALE + LEFT)
        line = 6.62 + 0.9 * np.clip(columns - 0.25, 0, None) ** 1.3
        area = ((rows[:, None] < line[None]) & (rows[:, None] > 5.95)).astype(np.float32)
        moustache = region([(-0.24, 6.68), (-0.13, 6.83), (0.13, 6.83), (0.24, 6.68), (0.24, 6.6), (-0.24, 6.6)])
        kind = random.integers(3)
        area = [np.maximum(area, moustache), moustache, area][kind]
        area = cv2.GaussianBlur(area.astype(np.float32), (0, 0), random.uniform(5, 14))
        grain = np.clip(0.5 + random.uniform(0.2, 0.8) * noise(random, random.uniform(1.2, 2.5)), 0, 1)
        amount = (area * grain * random.uniform(0.1, 0.9) ** 1.5)[..., None]
        return picture * (1 - amount) + self.hair * amount
