"""The encoder: Fisher scoring of frames by a base pattern whose fills and information are known beforehand. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per disk and
scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its pixels count.
"""

from __future__ import annotations

import numba
import numpy as np

from .disk_kernels import add, combine, cut, lay_background, locate, on_detector, project, slopes, surprise

#: Disks move by no more than this in one step [pixels].
_FARTHEST = 1.5
#: Least variance of a pixel in each step, over the frame's mean: at first, when disks may be a pixel off, edges where
#: little is expected must not decide.
FLOORS = np.array([1.0, 0.2, 0.05], np.float32)


@numba.njit(cache=True, nogil=True)
def _inverse(matrix, out, scale):  # pragma: no cover - compiled
    """Inverse of a positive definite matrix by Cholesky's method, diagonal scaled to one; false if it is not."""
    n = len(matrix)
    for i in range(n):
        if not matrix[i, i] > 0:
            return False
        scale[i] = 1 / np.sqrt(matrix[i, i])
    low = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j] * scale[i] * scale[j]
            for k in range(j):
                total -= low[i, k] * low[j, k]
            if i == j:
                if not total > 1e-10:
                    return False
                low[i, i] = np.sqrt(total)
            else:
                low[i, j] = total / low[j, j]
    inverse = np.zeros((n, n))
    for j in range(n):
        inverse[j, j] = 1 / low[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for k in range(j, i):
                total -= low[i, k] * inverse[k, j]
            inverse[i, j] = total / low[i, i]
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(i, n):
                total += inverse[k, i] * inverse[k, j]
            out[i, j] = out[j, i] = total * scale[i] * scale[j]
    return True


@numba.njit(cache=True, nogil=True, fastmath=True)
def _window_sums(w, q, dx, dy, level):  # pragma: no cover - compiled
    """Score of a disk's place along x and y, information of the place, and of its level."""
    sx, sy, place, inside = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(w.shape[0]):
        sx += w[k] * dx[k]
        sy += w[k] * dy[k]
        place += q[k] * (dx[k] * dx[k] + dy[k] * dy[k])
        inside += q[k] * level[k] * level[k]
    return sx, sy, place, inside


@numba.njit(cache=True, nogil=True, fastmath=True)
def _background_sum(weight, table, shift_x, shift_y, margin, pad):  # pragma: no cover - compiled
    """Σ weight · background, of a beam at the nearest whole pixel."""
    ny, nx = weight.shape[0] - 2 * pad, weight.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5))
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5))
    total = 0.0
    for row in range(ny):
        w, b = weight[row + pad], table[row + iy]
        part = np.float32(0.0)
        for k in range(nx):
            part += w[pad + k] * b[ix + k]
        total += part
    return total


@numba.njit(cache=True, nogil=True, fastmath=True)
def encode(
    frames, good, table, margin, beam, templates, radius, reflections, fills, known, place_known, level_known,
    back_known, which, share, spread, transform, centre, codes, background, covariance, misfit,
):  # pragma: no cover - compiled
    """Refine `transform` (n, 2, 2) and `centre` (n, 2), and fill the rest of what follows `spread`.

    `fills` (t, K + 1, g, b), `known` (t, g, 3 + K + 1, 3 + K + 1) the information of place x, y, background and codes in the
    mean pattern of one electron, with `place_known` and `level_known` (t, g) that of place and level it has, `back_known`
    (t,) the background's; `which` (n,) of the t rotations. `share` and `spread` are the background's, of the electrons.
    Filled are `codes` (n, K + 1) and `background` (n,) of one electron, `covariance` (n, 6, 6), `misfit` (n,).
    """
    n_frames, ny, nx = frames.shape
    n_disks, n_functions, count = len(reflections), templates.shape[2], fills.shape[1]
    size = templates.shape[3]
    width = int(np.sqrt(size) + 0.5)
    half, pad, total = width // 2, width, 7 + count
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    weight, inverse = np.zeros_like(lam), np.zeros_like(lam)
    value = np.zeros(size + 6 * width, np.float32)
    middle = value[3 * width : 3 * width + size]
    by_x, by_y = np.empty((n_disks, size), np.float32), np.empty((n_disks, size), np.float32)
    w, q = np.empty(size, np.float32), np.empty(size, np.float32)
    coef, moments = np.empty(n_functions, np.float32), np.empty(n_functions, np.float32)
    seen = np.empty(n_disks, np.bool_)
    rows, columns = np.empty(n_disks, np.int64), np.empty(n_disks, np.int64)
    py, px = np.empty(n_disks, np.int64), np.empty(n_disks, np.int64)
    floor = np.empty((ny, nx), np.float32)
    matrix, solved, score = np.empty((total, total)), np.zeros((total, total)), np.empty(total)
    scale, local, step = np.empty(total), np.empty(3 + count), np.empty(total)
    stretch = np.empty(3 + count)
    for n in range(n_frames):
        t = which[n]
        dose = 0.0
        for row in range(ny):
            for k in range(nx):
                dose += frames[n, row, k] * good[row, k]
        covariance[n] = np.nan
        misfit[n] = np.nan
        if dose <= 0:
            continue
        codes[n] = 0
        codes[n, 0] = 1
        background[n] = share
        solvable = True
        for turn in range(len(FLOORS)):
            cx, cy = centre[n, 0], centre[n, 1]
            lay_background(lam, table, cx - beam[0], cy - beam[1], background[n] * dose, margin, pad)
            for g in range(n_disks):
                x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
                y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
                seen[g] = on_detector(x, y, radius, ny, nx)
                if not seen[g]:
                    continue
                coef[:] = 0
                for k in range(count):
                    amount = np.float32(codes[n, k] * dose)
                    for b in range(n_functions):
                        coef[b] += amount * fills[t, k, g, b]
                rows[g], columns[g], py[g], px[g], rx, ry = locate(x, y, half, pad)
                combine(middle, templates[py[g], px[g]], coef)
                slopes(value, by_x[g], by_y[g], width)
                add(lam, middle, by_x[g], by_y[g], rows[g], columns[g], rx, ry, width)
            floor[:] = FLOORS[turn] * np.float32(dose / (ny * nx))
            misfit[n] = surprise(weight, inverse, lam, frames[n], good, floor, pad)
            matrix[:] = 0
            score[:] = 0
            matrix[6, 6] = back_known[t] * dose
            score[6] = dose * _background_sum(weight, table, cx - beam[0], cy - beam[1], margin, pad)
            for g in range(n_disks):
                if not seen[g]:
                    continue
                functions = templates[py[g], px[g]]
                cut(w, weight, rows[g], columns[g], width)
                cut(q, inverse, rows[g], columns[g], width)
                sx, sy, place, level = _window_sums(w, q, by_x[g], by_y[g], functions[0])
                project(moments, functions, w)
                local[0], local[1], local[2] = sx, sy, 0.0
                for k in range(count):
                    part = np.float32(0.0)
                    for b in range(n_functions):
                        part += moments[b] * fills[t, k, g, b]
                    local[3 + k] = part * dose
                # The mean pattern's information, stretched to what this frame's disk has.
                p = np.sqrt(place / (dose * max(place_known[t, g], 1e-30))) if place_known[t, g] > 0 else 0.0
                f = np.sqrt(level * dose / max(level_known[t, g], 1e-30)) if level_known[t, g] > 0 else 0.0
                stretch[0], stretch[1] = p, p
                stretch[2:] = f
                gx, gy = reflections[g, 0], reflections[g, 1]
                for i in range(2):
                    score[2 * i] += local[i] * gx
                    score[2 * i + 1] += local[i] * gy
                    score[4 + i] += local[i]
                for k in range(count):
                    score[7 + k] += local[3 + k]
                j = known[t, g]
                for a in range(2):
                    for b in range(a + 1):
                        part = j[a, b] * stretch[a] * stretch[b] * dose
                        matrix[2 * a, 2 * b] += part * gx * gx
                        matrix[2 * a, 2 * b + 1] += part * gx * gy
                        matrix[2 * a + 1, 2 * b] += part * gx * gy
                        matrix[2 * a + 1, 2 * b + 1] += part * gy * gy
                        matrix[4 + a, 2 * b] += part * gx
                        matrix[4 + a, 2 * b + 1] += part * gy
                        if a != b:
                            matrix[4 + b, 2 * a] += part * gx
                            matrix[4 + b, 2 * a + 1] += part * gy
                        matrix[4 + a, 4 + b] += part
                for k in range(1 + count):
                    for a in range(2):
                        part = j[2 + k, a] * stretch[2 + k] * stretch[a] * dose
                        matrix[6 + k, 2 * a] += part * gx
                        matrix[6 + k, 2 * a + 1] += part * gy
                        matrix[6 + k, 4 + a] += part
                    for b in range(k + 1):
                        if k > 0:
                            matrix[6 + k, 6 + b] += j[2 + k, 2 + b] * stretch[2 + k] * stretch[2 + b] * dose
            matrix[6, 6] += 1 / (spread * share + 1 / dose) ** 2
            score[6] -= (background[n] - share) / (spread * share + 1 / dose) ** 2
            for k in range(1, count):
                matrix[7 + k, 7 + k] += 1
                score[7 + k] -= codes[n, k] / codes[n, 0]
            solvable = _inverse(matrix, solved, scale)
            if not solvable:
                break
            for i in range(total):
                step[i] = 0
                for k in range(total):
                    step[i] += solved[i, k] * score[k]
            far = 1e-12
            for g in range(n_disks):
                if seen[g]:
                    gx, gy = reflections[g, 0], reflections[g, 1]
                    far = max(far, abs(step[0] * gx + step[1] * gy + step[4]), abs(step[2] * gx + step[3] * gy + step[5]))
            part_taken = min(1.0, _FARTHEST / far)
            transform[n, 0, 0] += part_taken * step[0]
            transform[n, 0, 1] += part_taken * step[1]
            transform[n, 1, 0] += part_taken * step[2]
            transform[n, 1, 1] += part_taken * step[3]
            centre[n, 0] += part_taken * step[4]
            centre[n, 1] += part_taken * step[5]
            background[n] = max(background[n] + part_taken * step[6], 0.0)
            for k in range(count):
                codes[n, k] += part_taken * step[7 + k]
            codes[n, 0] = max(codes[n, 0], 1e-3)
        if solvable:
            covariance[n] = solved[:6, :6]
