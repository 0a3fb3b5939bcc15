"""A small rasteriser: triangles with a depth buffer, and the interpolation of what the vertices carry."""

import numba
import numpy as np


@numba.njit(cache=True, fastmath=True)
def draw(points, depth, triangles, attributes, size):
    """Draws triangles into a square picture.

    `points` are pixel positions, `depth` grows towards the viewer, and `attributes` are values of the vertices.
    Returns the interpolated attributes, (size, size, count), and the index of the triangle in front or -1.
    """
    count = attributes.shape[1]
    nearest = np.full((size, size), -1e9, np.float32)
    owner = np.full((size, size), -1, np.int32)
    shares = np.zeros((size, size, 2), np.float32)
    for index in range(triangles.shape[0]):
        a, b, c = triangles[index]
        ax, ay = points[a]
        bx, by = points[b]
        cx, cy = points[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        left = max(0, int(np.floor(min(ax, bx, cx))))
        right = min(size - 1, int(np.ceil(max(ax, bx, cx))))
        top = max(0, int(np.floor(min(ay, by, cy))))
        bottom = min(size - 1, int(np.ceil(max(ay, by, cy))))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
                v = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
                if u < -1e-4 or v < -1e-4 or u + v > 1.0001:  # neighbours overlap, so that no crack is left
                    continue
                z = depth[a] + u * (depth[b] - depth[a]) + v * (depth[c] - depth[a])
                if z > nearest[y, x]:
                    nearest[y, x] = z
                    owner[y, x] = index
                    shares[y, x, 0] = u
                    shares[y, x, 1] = v
    values = np.zeros((size, size, count), np.float32)
    for y in range(size):
        for x in range(size):
            index = owner[y, x]
            if index < 0:
                continue
            a, b, c = triangles[index]
            u, v = shares[y, x]
            for k in range(count):
                values[y, x, k] = (1 - u - v) * attributes[a, k] + u * attributes[b, k] + v * attributes[c, k]
    return values, owner


@numba.njit(cache=True)
def vertex_normals(vertices, triangles):
    """Returns the unit normals of the vertices, weighted by the areas of their triangles."""
    normals = np.zeros_like(vertices)
    for index in range(triangles.shape[0]):
        a, b, c = triangles[index]
        normal = np.cross(vertices[b] - vertices[a], vertices[c] - vertices[a])
        normals[a] += normal
        normals[b] += normal
        normals[c] += normal
    for index in range(normals.shape[0]):
        length = np.sqrt((normals[index] ** 2).sum())
        if length > 0:
            normals[index] /= length
    return normals
