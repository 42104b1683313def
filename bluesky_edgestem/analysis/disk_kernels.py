"""Rendering of disks into a frame, and its adjoint: what the counts say of each disk's place and fill. Compiled.

All images have a margin of one window on each side in which nothing counts, so that disks at the frame's edge need no
cases of their own.

Windows are round: `rows` of them, (h, 2), give each row's first pixel and the one after its last. They are narrow, and
what numba does to slice one more row takes as long as the row. So rows are indexed from the window's first column on,
unsigned: of a signed index it would ask each time whether it counts from the end.
"""

from __future__ import annotations

import numpy as np

from .disk_aperture import PHASES
from .kernels import kernel

#: Disks are read whose centre is this many radii or more inside the frame. Of what is beyond the edge, learning knows
#: little, and in a grain that is turned it would show.
INSIDE = 0.6


@kernel(fastmath=True)
def lay_background(lam, table, shift_x, shift_y, amount, margin, pad):  # pragma: no cover - compiled
    """Set the image to the background, tabulated with a margin around the frame, of a beam moved by a shift."""
    ny, nx = lam.shape[0] - 2 * pad, lam.shape[1] - 2 * pad
    sx = min(max(shift_x, -margin + 1.001), margin - 1.001)
    sy = min(max(shift_y, -margin + 1.001), margin - 1.001)
    ix, iy = int(np.floor(margin - sx)), int(np.floor(margin - sy))
    fx, fy = np.float32(margin - sx - ix), np.float32(margin - sy - iy)
    b, gx, gy = np.float32(amount), np.float32(1) - fx, np.float32(1) - fy
    w00, w01, w10, w11 = b * gx * gy, b * fx * gy, b * gx * fy, b * fx * fy
    for row in range(ny):
        out = lam[row + pad, pad : pad + nx]
        low, high = table[row + iy, ix : ix + nx + 1], table[row + iy + 1, ix : ix + nx + 1]
        for k in range(nx):
            out[k] = w00 * low[k] + w01 * low[k + 1] + w10 * high[k] + w11 * high[k + 1]


@kernel(fastmath=True)
def locate(x, y, half, pad):  # pragma: no cover - compiled
    """First row and column of a disk's window in a padded image, phases along y and x, and what is left of x and y."""
    ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    px = min(int((x - ix + 0.5) * PHASES), PHASES - 1)
    py = min(int((y - iy + 0.5) * PHASES), PHASES - 1)
    rx = x - ix + 0.5 - (px + 0.5) / PHASES
    ry = y - iy + 0.5 - (py + 0.5) / PHASES
    return iy - half + pad, ix - half + pad, py, px, rx, ry


@kernel(fastmath=True)
def combine(out, templates, coef):  # pragma: no cover - compiled
    """``out = coef @ templates`` (b, pixels), five functions at a time: of polynomials there are 6, 10 or 15."""
    n, size = len(coef), out.shape[0]
    whole = n // 5 * 5
    out[:] = 0
    for b in range(0, whole, 5):
        c0, c1, c2, c3, c4 = coef[b], coef[b + 1], coef[b + 2], coef[b + 3], coef[b + 4]
        t0, t1, t2, t3, t4 = templates[b], templates[b + 1], templates[b + 2], templates[b + 3], templates[b + 4]
        for k in range(size):
            out[k] += c0 * t0[k] + c1 * t1[k] + c2 * t2[k] + c3 * t3[k] + c4 * t4[k]
    for b in range(whole, n):
        c0, t0 = coef[b], templates[b]
        for k in range(size):
            out[k] += c0 * t0[k]


@kernel(fastmath=True)
def project(out, templates, image):  # pragma: no cover - compiled
    """``out = templates (b, pixels) @ image``."""
    for b in range(len(out)):
        total = np.float32(0.0)
        t = templates[b]
        for k in range(image.shape[0]):
            total += t[k] * image[k]
        out[b] = total


@kernel(fastmath=True)
def add(lam, value, along_x, along_y, row0, col0, rx, ry, rows):  # pragma: no cover - compiled
    """Add a disk's image, moved by what its phase leaves of its place, to the rows of its window."""
    qx, qy = np.float32(rx), np.float32(ry)
    top, at = np.uint64(row0), np.uint64(0)
    for row in range(np.uint64(len(rows))):
        out, left, long = lam[top + row], np.uint64(col0 + rows[row, 0]), np.uint64(rows[row, 1] - rows[row, 0])
        for k in range(long):
            out[left + k] += value[at + k] + qx * along_x[at + k] + qy * along_y[at + k]
        at += long


@kernel(fastmath=True)
def cut(out, image, row0, col0, rows):  # pragma: no cover - compiled
    """A window of an image, flat."""
    at = 0
    for row in range(len(rows)):
        first, last = rows[row, 0], rows[row, 1]
        line, to = image[row0 + row, col0 + first : col0 + last], out[at : at + last - first]
        for k in range(len(line)):
            to[k] = line[k]
        at += last - first


@kernel(fastmath=True)
def surprise(weight, inverse, lam, frame, counting, floor, pad):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v`` of the pixels that count; returns Pearson's Σ (n - λ)²/v over their number.

    The variance v is λ, but no less than a floor (ny, nx): no count is impossible.
    """
    ny, nx = frame.shape
    total, number = 0.0, 1e-9
    for row in range(ny):
        line, n, g = lam[row + pad, pad : pad + nx], frame[row], counting[row]
        w, v, least = weight[row + pad, pad : pad + nx], inverse[row + pad, pad : pad + nx], floor[row]
        part, counted = np.float32(0.0), np.float32(0.0)
        for k in range(nx):
            v[k] = g[k] / max(line[k], least[k])
        for k in range(nx):
            w[k] = (np.float32(n[k]) - line[k]) * v[k]
        for k in range(nx):
            part += w[k] * (np.float32(n[k]) - line[k])
            counted += g[k]
        total += part
        number += counted
    return total / number


@kernel
def on_detector(x, y, radius, ny, nx):  # pragma: no cover - compiled
    """Whether any part of a disk is inside the frame; all of it, where the radius is given negative."""
    return -radius < x < nx - 1 + radius and -radius < y < ny - 1 + radius


@kernel(fastmath=True)
def leave_out(counting, x, y, reach):  # pragma: no cover - compiled
    """Let the pixels of a disk not count, with as much around it as its blur reaches."""
    for row in range(max(int(np.ceil(y - reach)), 0), min(int(np.floor(y + reach)) + 1, len(counting))):
        wide = np.sqrt(reach * reach - (row - y) ** 2)
        part = counting[row, max(int(np.ceil(x - wide)), 0) : max(int(np.floor(x + wide)) + 1, 0)]
        for k in range(len(part)):
            part[k] = 0


@kernel(fastmath=True)
def evaluate(
    frames,
    good,
    table,
    margin,
    templates,
    rows,
    radius,
    reflections,
    coef,
    transform,
    centre,
    amount,
    reference,
    floor,
    moments,
    gram,
    cross,
    place_info,
    place_score,
    back_score,
    back_info,
    misfit,
    seen,
):  # pragma: no cover - compiled
    """Score and information of patterns (n) whose disks (g) each have a fill of their own.

    Given are all up to `floor`: `coef` (n, g, b) [counts per pixel], `amount` (n,) of the background, `reference` (2,)
    the beam's place for which its table is, `floor` (n, ny, nx) of the variance. Filled are `moments` (n, g, b), `gram`
    (n, g, b, b), `cross` (n, g, 3, b) of place along x, y and background with fill, `place_info` (n, g, 5) xx, xy, yy,
    x and y with background, `place_score` (n, g, 2), `back_score`, `back_info` and `misfit` (n,), `seen` (n, g).

    Pixels of a disk that the frame's edge cuts deeper than `INSIDE` do not count, nor those of one whose coefficients
    are all zero: of it, or of its part outside, little is known, and what it holds would be read as a displacement.
    """
    n_frames, ny, nx = frames.shape
    n_disks, n_functions, size = len(reflections), templates.shape[3], templates.shape[4]
    half, pad = len(rows) // 2, len(rows)
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    weight, inverse = np.zeros_like(lam), np.zeros_like(lam)
    value = np.empty(size, np.float32)
    by_x, by_y = np.empty((n_disks, size), np.float32), np.empty((n_disks, size), np.float32)
    w, q, product = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    counting = np.empty((ny, nx), np.float32)
    for n in range(n_frames):
        cx, cy = centre[n, 0], centre[n, 1]
        lay_background(lam, table, cx - reference[0], cy - reference[1], amount[n], margin, pad)
        counting[:] = good
        for g in range(n_disks):
            x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
            y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
            seen[n, g] = on_detector(x, y, -INSIDE * radius, ny, nx) and np.any(coef[n, g] != 0)
            if not seen[n, g] and on_detector(x, y, half, ny, nx):
                leave_out(counting, x, y, half)
            if seen[n, g]:
                row0, col0, py, px, rx, ry = locate(x, y, half, pad)
                combine(value, templates[py, px, 0], coef[n, g])
                combine(by_x[g], templates[py, px, 1], coef[n, g])
                combine(by_y[g], templates[py, px, 2], coef[n, g])
                add(lam, value, by_x[g], by_y[g], row0, col0, rx, ry, rows)
        misfit[n] = surprise(weight, inverse, lam, frames[n], counting, floor[n], pad)
        lay_background(lam, table, cx - reference[0], cy - reference[1], 1.0, margin, pad)
        back_score[n], back_info[n] = 0.0, 0.0
        for row in range(pad, pad + ny):
            w_line, v_line, line = weight[row, pad : pad + nx], inverse[row, pad : pad + nx], lam[row, pad : pad + nx]
            total, known = np.float32(0.0), np.float32(0.0)
            for k in range(nx):
                total += w_line[k] * line[k]
                known += v_line[k] * line[k] * line[k]
            back_score[n] += total
            back_info[n] += known
        for g in range(n_disks):
            if not seen[n, g]:
                continue
            x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
            y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
            row0, col0, py, px, _, _ = locate(x, y, half, pad)
            t, dx, dy = templates[py, px, 0], by_x[g], by_y[g]
            cut(w, weight, row0, col0, rows)
            cut(q, inverse, row0, col0, rows)
            project(moments[n, g], t, w)
            sx, sy = np.float32(0.0), np.float32(0.0)
            jxx, jxy, jyy = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for k in range(size):
                sx += w[k] * dx[k]
                sy += w[k] * dy[k]
                jxx += q[k] * dx[k] * dx[k]
                jxy += q[k] * dx[k] * dy[k]
                jyy += q[k] * dy[k] * dy[k]
            place_score[n, g, 0], place_score[n, g, 1] = sx, sy
            place_info[n, g, 0], place_info[n, g, 1], place_info[n, g, 2] = jxx, jxy, jyy
            for k in range(size):
                product[k] = q[k] * dx[k]
            project(cross[n, g, 0], t, product)
            for k in range(size):
                product[k] = q[k] * dy[k]
            project(cross[n, g, 1], t, product)
            cut(product, lam, row0, col0, rows)
            bx, by = np.float32(0.0), np.float32(0.0)
            for k in range(size):
                product[k] *= q[k]
                bx += product[k] * dx[k]
                by += product[k] * dy[k]
            project(cross[n, g, 2], t, product)
            place_info[n, g, 3], place_info[n, g, 4] = bx, by
            for b in range(n_functions):
                for k in range(size):
                    product[k] = q[k] * t[b, k]
                project(gram[n, g, b, : b + 1], t, product)
                for other in range(b):
                    gram[n, g, other, b] = gram[n, g, b, other]


@kernel(fastmath=True)
def draw(
    out, table, margin, templates, rows, radius, reflections, coef, transform, centre, amount, reference
):  # pragma: no cover - compiled
    """Expected counts of patterns, into `out` (n, ny, nx) float32; the other arguments are those of `evaluate`."""
    n_frames, ny, nx = out.shape
    size = templates.shape[4]
    half, pad = len(rows) // 2, len(rows)
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    value = np.empty(size, np.float32)
    by_x, by_y = np.empty(size, np.float32), np.empty(size, np.float32)
    for n in range(n_frames):
        cx, cy = centre[n, 0], centre[n, 1]
        lay_background(lam, table, cx - reference[0], cy - reference[1], amount[n], margin, pad)
        for g in range(len(reflections)):
            x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
            y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
            if on_detector(x, y, radius, ny, nx):
                row0, col0, py, px, rx, ry = locate(x, y, half, pad)
                combine(value, templates[py, px, 0], coef[n, g])
                combine(by_x, templates[py, px, 1], coef[n, g])
                combine(by_y, templates[py, px, 2], coef[n, g])
                add(lam, value, by_x, by_y, row0, col0, rx, ry, rows)
        out[n] = lam[pad : pad + ny, pad : pad + nx]
