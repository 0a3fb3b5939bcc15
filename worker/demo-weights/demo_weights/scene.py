"""Draws a person of the teacher: head, skin, light, camera and background, and any mouth of that person."""

import cv2
import numpy as np

from . import skin as paint
from .alignment import crop_matrix
from .head_mesh import CAVITY, EYE, SKIN, TEETH, TONGUE
from .raster import draw, vertex_normals

CROP = 128
# Vertices of the base mesh that lie where FaceMesh has the landmarks that the product aligns faces by.
LEFT_BROW = ([190, 178, 204, 1203, 209], [144, 172, 170, 174, 118])
RIGHT_BROW = ([6984, 6953, 6979, 6982, 6987], [6943, 7843, 7853, 6949, 6966])
NOSE = [201, 5063, 5134, 5056, 11760]  # of FaceMesh's 5, 195, 4, 129 and 358
# The units beside the jaw for a spread mouth (+1) and for a rounded one (-1), at full opening.
SPREAD = {"mouthStretchLeft": 0.35, "mouthStretchRight": 0.35, "mouthSmileLeft": 0.25, "mouthSmileRight": 0.25,
          "mouthUpperUpLeft": 0.35, "mouthUpperUpRight": 0.35, "mouthLowerDownLeft": 0.3, "mouthLowerDownRight": 0.3}
ROUND = {"mouthFunnel": 0.6, "mouthPucker": 0.45}
HABITS = ["mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
          "mouthDimpleRight", "mouthPressLeft", "mouthPressRight", "mouthLeft", "mouthRight", "cheekPuff",
          "mouthShrugLower", "mouthRollUpper", "noseSneerLeft", "noseSneerRight"]
FULL_GAP = 0.17  # between the lips at full opening, over the distance of the eyes


class Scene:
    """A person in front of a camera, of whom `picture` draws any mouth."""

    def __init__(self, head, random, photographs):
        self.head, self.random = head, random
        self.skin = paint.Skin(random, photographs)
        self.shape = head.person(random)
        self.shape = self.shape + self.expression(0.35 if random.random() < 0.7 else 0.8)
        for unit, most in (("eyeBlink", 0.5), ("eyeWide", 0.6), ("eyeSquint", 0.6), ("browDown", 0.6)):
            amount = random.uniform(0, most)
            self.shape += amount * (head.unit(unit + "Left") + head.unit(unit + "Right"))
        self.shape += random.uniform(0, 0.6) * head.unit("browInnerUp")
        self.grin = random.uniform(0.2, 0.6) if random.random() < 0.3 else 0.0
        self.crease = self.contact()
        self.camera(random)
        self.lights(random)
        self.background = background(random, photographs)
        self.blur = random.uniform(0.3, 1.1)
        self.noise = random.exponential(1.2)
        self.quality = int(random.uniform(55, 97)) if random.random() < 0.6 else None
        self.side_hair = hair_strands(random, self.skin.hair) if random.random() < 0.35 else None

    def expression(self, most):
        """Returns the offsets of a random, faint expression of the lower face."""
        offsets = np.zeros_like(self.head.vertices)
        for name in self.random.choice(HABITS, 3, replace=False):
            offsets += self.random.uniform(0, most) * self.head.unit(str(name))
        return offsets

    def contact(self):
        """Returns, by vertex, how near it lies to the other lip while the mouth is closed, 0 to 1."""
        rest, jaw = self.head.vertices, self.head.unit("jawOpen")[:, 1]
        mouth = (np.abs(rest[:, 0]) < 0.27) & (np.abs(rest[:, 1] - 6.61) < 0.06) & (rest[:, 2] > 1.3)
        mouth &= self.head.materials == SKIN
        line = np.abs(rest[:, 1] - 6.606 + 0.1 * (rest[:, 0] / 0.25) ** 2 * 0.1)
        return np.where(mouth & (jaw < 0.01), np.exp(-((line / 0.012) ** 2)), 0).astype(np.float32)

    def camera(self, random):
        yaw, pitch, roll = random.normal(0, [0.18, 0.16, 0.06])
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = (tilt @ nod @ turn).astype(np.float32)
        self.distance = random.uniform(5, 20)
        self.landmark_error = random.normal(0, 0.008, (3, 2))

    def lights(self, random):
        self.ambient = random.uniform(0.25, 0.8) * (1 + random.normal(0, 0.06, 3))
        self.sun = []
        for _ in range(random.integers(1, 4)):
            way = np.array([random.normal(0, 0.8), random.normal(0.4, 0.5), random.uniform(0.2, 1.2)])
            colour = random.uniform(0.2, 0.9) * (1 + random.normal(0, 0.1, 3))
            self.sun.append((way / np.linalg.norm(way), colour, random.uniform(0, 0.5)))
        self.shine, self.gloss = 0.7 * random.uniform(0, 0.3) ** 1.5, random.uniform(6, 40)
        self.brightness = random.uniform(0.28, 0.64)
        self.gamma = random.uniform(0.85, 1.25)
        self.tint = 1 + random.normal(0, 0.06, 3)
        self.vignette = 1 + 0.15 * random.normal(0, 1) * np.linspace(-1, 1, CROP)[None, :, None]
        self.exposure = None

    def mouth(self, opening, spread, habit=0.0, grin=0.0):
        """Returns the vertices with the lips `opening` (0..1) apart, spread or rounded by `spread` (-1..1).

        `habit` adds a random expression of that strength, `grin` a smile (0..1) to the person's own.
        """
        units = SPREAD if spread > 0 else ROUND
        vertices = self.shape.copy()
        for side in ("Left", "Right"):
            vertices += (self.grin + grin) * self.head.unit("mouthSmile" + side)
            vertices += 0.7 * grin * self.head.unit("mouthUpperUp" + side)
        for name, weight in units.items():
            vertices += abs(spread) * weight * (0.35 + 0.65 * opening) * self.head.unit(name)
        if habit:
            vertices += self.expression(habit)
        gap = FULL_GAP * opening * (1 - 0.3 * max(0.0, -spread))
        vertices = self.head.with_gap(vertices, gap if opening > 0 else -0.006)
        return vertices, gap

    def project(self, vertices):
        """Returns positions in the picture, in units of the head, and depths."""
        turned = vertices @ self.rotation.T
        factor = self.distance / (self.distance - turned[:, 2:])
        return turned[:, :2] * factor * [1, -1], turned[:, 2], turned

    def picture(self, vertices, gap, super_sampling=2):
        """Draws the aligned crop, CROP x CROP x 3 bytes of RGB."""
        head = self.head
        places, depth, _ = self.project(vertices)
        of = [head.index[number] for number in NOSE]
        nose = (0.6 * places[of[0]] + 0.4 * places[of[1]] + places[of[2]] + places[of[3]] + places[of[4]]) / 4
        brows = [0.75 * places[[head.index[n] for n in upper]].mean(0)
                 + 0.25 * places[[head.index[n] for n in lower]].mean(0) for upper, lower in (LEFT_BROW, RIGHT_BROW)]
        size = CROP * super_sampling
        points = np.array([*brows, nose]) + self.landmark_error
        matrix = crop_matrix(points, CROP) * super_sampling
        inside = places @ matrix[:, :2].T + matrix[:, 2] + (super_sampling - 1) / 2
        normals = vertex_normals(vertices, head.triangles) @ self.rotation.T
        attributes = np.concatenate([
            normals, head.vertices[:, :2], np.eye(5, dtype=np.float32)[head.materials], self.crease[:, None],
            head.vertices[:, 2:],
        ], 1).astype(np.float32)
        values, owner = draw(inside.astype(np.float32), depth.astype(np.float32), head.triangles, attributes, size)
        colour = self.shade(values, gap)
        back = cv2.resize(self.background, (size, size), interpolation=cv2.INTER_LINEAR)
        colour = np.where((owner >= 0)[..., None], colour, back)
        return self.develop(cv2.resize(colour, (CROP, CROP), interpolation=cv2.INTER_AREA))

    def shade(self, values, gap):
        normals = values[..., :3]
        normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
        x, y = values[..., 3], values[..., 4]
        material, crease = values[..., 5:10], values[..., 10]
        column = ((x - paint.LEFT) * paint.SCALE).astype(np.float32)
        row = ((paint.TOP - y) * paint.SCALE).astype(np.float32)
        albedo = cv2.remap(self.skin.picture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        distance = np.hypot((np.abs(x) - 0.31) / 1.0, y - 7.28)[..., None]
        eye = np.where(distance < 0.024, 0.02, np.where(distance < 0.058, self.skin.iris, self.skin.sclera))
        gaps = 1 - 0.35 * np.exp(-((np.mod(x * 11 + 0.5, 1) - 0.5) / 0.08) ** 2)[..., None]
        others = {EYE: eye, TEETH: self.skin.teeth * gaps, TONGUE: self.skin.tongue, CAVITY: self.skin.cavity}
        for kind, paint_of in others.items():
            share = material[..., kind:kind + 1]
            albedo = albedo * (1 - share) + share * paint_of
        light = self.ambient * (0.75 + 0.25 * normals[..., 1:2])
        gloss = 0.0
        for way, strength, wrap in self.sun:
            facing = (normals @ way)[..., None]
            light = light + strength * np.clip((facing + wrap) / (1 + wrap), 0, None)
            half = way + [0, 0, 1]
            half = half / np.linalg.norm(half)
            gloss = gloss + strength * np.clip((normals @ half)[..., None], 0, 1) ** self.gloss
        dark = 1 - crease * (0.75 - 2.5 * min(gap, 0.2))
        behind = np.clip((1.5 - values[..., 11]) * 3.5, 0, 1)  # teeth and tongue darken towards the throat
        inner = material[..., TEETH] + material[..., TONGUE] + material[..., CAVITY]
        dark = dark * (1 - inner * (0.4 + 0.6 * behind))
        dark = dark * (1 - 0.35 * np.clip((6.22 - y) * 5, 0, 1) * (material[..., SKIN] > 0.5))
        shiny = self.shine * gloss * (1 - inner)[..., None]
        return (albedo**2.2 * light + shiny) * dark[..., None]

    def develop(self, linear):
        """Turns light into bytes: exposure, colour, hair at the sides, blur, noise and compression."""
        linear = linear * self.vignette
        if self.exposure is None:
            self.exposure = self.brightness**2.2 / max(1e-4, float(np.median(linear[40:110, 20:108])))
        picture = np.clip(linear * self.exposure * self.tint, 0, 1) ** (self.gamma / 2.2)
        if self.side_hair is not None:
            colour, cover = self.side_hair
            picture = picture * (1 - cover) + colour * cover
        picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), self.blur) * 255
        picture += self.random.normal(0, self.noise + 1e-3, picture.shape)
        picture = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
        if self.quality:
            packed = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
            picture = cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1]
        return picture


def background(random, photographs):
    """Returns a background in linear light: a blurred pattern."""
    picture = paint.pattern(random, photographs)
    picture = cv2.resize(picture, (CROP, CROP), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.5, 12))
    return np.clip(blurred * random.uniform(0.3, 1.3), 0, 1).astype(np.float32) ** 2.2


def hair_strands(random, colour):
    """Returns hair that hangs into the crop from above and at its sides: colours and cover, 0 to 1."""
    cover = np.zeros((CROP, CROP), np.float32)
    for side in (0, CROP - 1):
        if random.random() < 0.8:
            reach = random.uniform(4, 22)
            for _ in range(60):
                start = side + (1 if side == 0 else -1) * random.uniform(-4, reach)
                line = np.stack([start + np.cumsum(random.normal(0, 1.2, 9)), np.linspace(-5, random.uniform(60, 132), 9)], 1)
                cv2.polylines(cover, [np.round(line * 16).astype(np.int32)], False, 1.0, 1, cv2.LINE_AA, 4)
    if random.random() < 0.3:
        for _ in range(50):
            x = random.uniform(0, CROP)
            line = np.array([(x, -3), (x + random.normal(0, 12), random.uniform(4, 22))])
            cv2.polylines(cover, [np.round(line * 16).astype(np.int32)], False, 1.0, 1, cv2.LINE_AA, 4)
    shades = colour * (0.8 + 0.4 * random.random((CROP, CROP, 1)))
    return shades.astype(np.float32), np.clip(cover, 0, 1)[..., None] * random.uniform(0.6, 1)
