"""Rendering of disks into a frame, and its adjoint: what the counts say of each disk's place and fill. Compiled.

All images have a margin of one window on each side in which nothing counts, so that disks at the frame's edge need no
cases of their own.

Windows are round: `rows` of them, (h, 2), give each row's first pixel and the one after its last. Arrays are indexed by
whole numbers without a sign, and what is many is flat: a slice costs as much as a row, since threads count the uses of
what it is a part of by locked instructions; and of a signed index numba asks each time whether it counts from the end.
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
    rows, columns, edge = np.uint64(lam.shape[0] - 2 * pad), np.uint64(lam.shape[1] - 2 * pad), np.uint64(pad)
    sx = min(max(shift_x, -margin + 1.001), margin - 1.001)
    sy = min(max(shift_y, -margin + 1.001), margin - 1.001)
    ix, iy = int(np.floor(margin - sx)), int(np.floor(margin - sy))
    fx, fy = np.float32(margin - sx - ix), np.float32(margin - sy - iy)
    b, gx, gy = np.float32(amount), np.float32(1) - fx, np.float32(1) - fy
    w00, w01, w10, w11 = b * gx * gy, b * fx * gy, b * gx * fy, b * fx * fy
    one, left, top = np.uint64(1), np.uint64(ix), np.uint64(iy)
    for row in range(rows):
        low = row + top
        for k in range(columns):
            at = left + k
            lam[row + edge, edge + k] = (
                w00 * table[low, at] + w01 * table[low, at + one]
                + w10 * table[low + one, at] + w11 * table[low + one, at + one]
            )  # fmt: skip


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
def combine(out, to, functions, start, size, coef, first, count):  # pragma: no cover - compiled
    """``out = coef @ functions`` of so many functions of a `size`, five at a time: polynomials are 6, 10 or 15.

    All are flat, and taken from `to`, `start` and `first` on.
    """
    o, n, c, t = np.uint64(to), np.uint64(size), np.uint64(first), np.uint64(start)
    whole = count // 5 * 5
    for b in range(0, whole, 5):
        c0, c1, c2 = coef[c], coef[c + np.uint64(1)], coef[c + np.uint64(2)]
        c3, c4 = coef[c + np.uint64(3)], coef[c + np.uint64(4)]
        t1, t2, t3, t4 = t + n, t + np.uint64(2) * n, t + np.uint64(3) * n, t + np.uint64(4) * n
        if b == 0:
            for k in range(n):
                out[o + k] = (
                    c0 * functions[t + k] + c1 * functions[t1 + k] + c2 * functions[t2 + k]
                    + c3 * functions[t3 + k] + c4 * functions[t4 + k]
                )  # fmt: skip
        else:
            for k in range(n):
                out[o + k] += (
                    c0 * functions[t + k] + c1 * functions[t1 + k] + c2 * functions[t2 + k]
                    + c3 * functions[t3 + k] + c4 * functions[t4 + k]
                )  # fmt: skip
        c += np.uint64(5)
        t += np.uint64(5) * n
    if whole == 0:
        for k in range(n):
            out[o + k] = 0
    for _ in range(whole, count):
        c0 = coef[c]
        for k in range(n):
            out[o + k] += c0 * functions[t + k]
        c += np.uint64(1)
        t += n


@kernel(fastmath=True)
def project(out, first, functions, start, count, image):  # pragma: no cover - compiled
    """``out = functions @ image`` of so many functions of the image's size, five at a time; flat as in `combine`."""
    n, o, t = np.uint64(len(image)), np.uint64(first), np.uint64(start)
    whole = count // 5 * 5
    for _ in range(0, whole, 5):
        t1, t2, t3, t4 = t + n, t + np.uint64(2) * n, t + np.uint64(3) * n, t + np.uint64(4) * n
        p0, p1, p2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        p3, p4 = np.float32(0.0), np.float32(0.0)
        for k in range(n):
            p0 += functions[t + k] * image[k]
            p1 += functions[t1 + k] * image[k]
            p2 += functions[t2 + k] * image[k]
            p3 += functions[t3 + k] * image[k]
            p4 += functions[t4 + k] * image[k]
        out[o], out[o + np.uint64(1)], out[o + np.uint64(2)] = p0, p1, p2
        out[o + np.uint64(3)], out[o + np.uint64(4)] = p3, p4
        o += np.uint64(5)
        t += np.uint64(5) * n
    for _ in range(whole, count):
        p0 = np.float32(0.0)
        for k in range(n):
            p0 += functions[t + k] * image[k]
        out[o] = p0
        o += np.uint64(1)
        t += n


@kernel(fastmath=True)
def add(lam, value, along_x, along_y, first, row0, col0, rx, ry, rows):  # pragma: no cover - compiled
    """Add a disk's image, moved by what its phase leaves of its place; its slopes are flat from `first` on."""
    qx, qy = np.float32(rx), np.float32(ry)
    row, left0, at, of = np.uint64(row0), np.uint64(col0), np.uint64(0), np.uint64(first)
    for i in range(np.uint64(len(rows))):
        left, long = left0 + np.uint64(rows[i, 0]), np.uint64(rows[i, 1] - rows[i, 0])
        for k in range(long):
            lam[row, left + k] += value[at + k] + qx * along_x[of + k] + qy * along_y[of + k]
        row += np.uint64(1)
        at += long
        of += long


@kernel(fastmath=True)
def cut(out, image, row0, col0, rows):  # pragma: no cover - compiled
    """A window of an image, flat. What `out` has beyond it, where templates have zeros, stays, and has to be zero."""
    row, left0, at = np.uint64(row0), np.uint64(col0), np.uint64(0)
    for i in range(np.uint64(len(rows))):
        left, long = left0 + np.uint64(rows[i, 0]), np.uint64(rows[i, 1] - rows[i, 0])
        for k in range(long):
            out[at + k] = image[row, left + k]
        row += np.uint64(1)
        at += long


@kernel(fastmath=True)
def surprise(weight, inverse, lam, frame, counting, floor, pad):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v`` of the pixels that count; returns Pearson's Σ (n - λ)²/v over their number.

    The variance v is λ, but no less than a floor (ny, nx): no count is impossible.
    """
    rows, columns, edge = np.uint64(frame.shape[0]), np.uint64(frame.shape[1]), np.uint64(pad)
    total, number = 0.0, 1e-9
    for row in range(rows):
        to = row + edge
        part, counted = np.float32(0.0), np.float32(0.0)
        for k in range(columns):
            at = edge + k
            off = np.float32(frame[row, k]) - lam[to, at]
            v = counting[row, k] / max(lam[to, at], floor[row, k])
            inverse[to, at] = v
            weight[to, at] = off * v
            part += off * off * v
            counted += counting[row, k]
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
    functions, block = templates.reshape(-1), n_functions * size
    value = np.empty(size, np.float32)
    by_x, by_y = np.empty(n_disks * size, np.float32), np.empty(n_disks * size, np.float32)
    w, q, product = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
    fills, all_moments, all_cross, all_gram = coef.reshape(-1), moments.reshape(-1), cross.reshape(-1), gram.reshape(-1)
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
                start, of = (py * PHASES + px) * 3 * block, (n * n_disks + g) * n_functions
                combine(value, 0, functions, start, size, fills, of, n_functions)
                combine(by_x, g * size, functions, start + block, size, fills, of, n_functions)
                combine(by_y, g * size, functions, start + 2 * block, size, fills, of, n_functions)
                add(lam, value, by_x, by_y, g * size, row0, col0, rx, ry, rows)
        misfit[n] = surprise(weight, inverse, lam, frames[n], counting, floor[n], pad)
        lay_background(lam, table, cx - reference[0], cy - reference[1], 1.0, margin, pad)
        back_score[n], back_info[n] = 0.0, 0.0
        for row in range(pad, pad + ny):
            line = np.uint64(row)
            total, known = np.float32(0.0), np.float32(0.0)
            for k in range(np.uint64(pad), np.uint64(pad + nx)):
                total += weight[line, k] * lam[line, k]
                known += inverse[line, k] * lam[line, k] * lam[line, k]
            back_score[n] += total
            back_info[n] += known
        for g in range(n_disks):
            if not seen[n, g]:
                continue
            x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
            y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
            row0, col0, py, px, _, _ = locate(x, y, half, pad)
            start, of = (py * PHASES + px) * 3 * block, (n * n_disks + g) * n_functions
            first = np.uint64(g * size)
            cut(w, weight, row0, col0, rows)
            cut(q, inverse, row0, col0, rows)
            project(all_moments, of, functions, start, n_functions, w)
            sx, sy = np.float32(0.0), np.float32(0.0)
            jxx, jxy, jyy = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for k in range(np.uint64(size)):
                dx, dy = by_x[first + k], by_y[first + k]
                sx += w[k] * dx
                sy += w[k] * dy
                jxx += q[k] * dx * dx
                jxy += q[k] * dx * dy
                jyy += q[k] * dy * dy
            place_score[n, g, 0], place_score[n, g, 1] = sx, sy
            place_info[n, g, 0], place_info[n, g, 1], place_info[n, g, 2] = jxx, jxy, jyy
            for k in range(np.uint64(size)):
                product[k] = q[k] * by_x[first + k]
            project(all_cross, 3 * of, functions, start, n_functions, product)
            for k in range(np.uint64(size)):
                product[k] = q[k] * by_y[first + k]
            project(all_cross, 3 * of + n_functions, functions, start, n_functions, product)
            cut(product, lam, row0, col0, rows)
            bx, by = np.float32(0.0), np.float32(0.0)
            for k in range(np.uint64(size)):
                product[k] *= q[k]
                bx += product[k] * by_x[first + k]
                by += product[k] * by_y[first + k]
            project(all_cross, 3 * of + 2 * n_functions, functions, start, n_functions, product)
            place_info[n, g, 3], place_info[n, g, 4] = bx, by
            for b in range(n_functions):
                one = np.uint64(start + b * size)
                for k in range(np.uint64(size)):
                    product[k] = q[k] * functions[one + k]
                project(all_gram, (of + b) * n_functions, functions, start, b + 1, product)
                for other in range(b):
                    gram[n, g, other, b] = gram[n, g, b, other]


@kernel(fastmath=True)
def draw(
    out, table, margin, templates, rows, radius, reflections, coef, transform, centre, amount, reference
):  # pragma: no cover - compiled
    """Expected counts of patterns, into `out` (n, ny, nx) float32; the other arguments are those of `evaluate`."""
    n_frames, ny, nx = out.shape
    n_disks, n_functions, size = len(reflections), templates.shape[3], templates.shape[4]
    half, pad = len(rows) // 2, len(rows)
    functions, block, fills = templates.reshape(-1), n_functions * size, coef.reshape(-1)
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    value = np.empty(size, np.float32)
    by_x, by_y = np.empty(size, np.float32), np.empty(size, np.float32)
    for n in range(n_frames):
        cx, cy = centre[n, 0], centre[n, 1]
        lay_background(lam, table, cx - reference[0], cy - reference[1], amount[n], margin, pad)
        for g in range(n_disks):
            x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
            y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
            if on_detector(x, y, radius, ny, nx):
                row0, col0, py, px, rx, ry = locate(x, y, half, pad)
                start, of = (py * PHASES + px) * 3 * block, (n * n_disks + g) * n_functions
                combine(value, 0, functions, start, size, fills, of, n_functions)
                combine(by_x, 0, functions, start + block, size, fills, of, n_functions)
                combine(by_y, 0, functions, start + 2 * block, size, fills, of, n_functions)
                add(lam, value, by_x, by_y, 0, row0, col0, rx, ry, rows)
        out[n] = lam[pad : pad + ny, pad : pad + nx]
