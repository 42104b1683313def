"""The encoder: Fisher scoring of frames by a base pattern whose fills and information are known beforehand. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per
disk and scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its
pixels count.
"""

from __future__ import annotations

import numpy as np

from .disk_kernels import add, combine, cut, lay_background, locate, on_detector, project, slopes, surprise
from .kernels import kernel

#: Disks move by no more than this in one step [pixels].
_FARTHEST = 1.5
#: Brightness and codes, which are of order one, change by no more than this in one step.
_MOST_BRIGHTNESS, _MOST_CODE = 0.1, 0.5
#: Steps at most, and what a last step promises of the log-likelihood: before it, too, all was within half a standard
#: deviation of where it is most likely.
_MOST_STEPS, _AT_REST = 24, 0.1
#: Least variance of a pixel in each step, over the frame's mean: at first, when disks may be a pixel off, edges where
#: little is expected must not decide.
FLOORS = np.array([1.0, 0.2, 0.05], np.float32)
#: Where the information of map and beam stands among the sums over disks, 6 by 6, lower half.
_SQUARES = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [1, 2, 0, 0, 0, 0],
        [3, 4, 6, 0, 0, 0],
        [4, 5, 7, 8, 0, 0],
        [9, 10, 11, 12, 15, 0],
        [11, 12, 13, 14, 16, 17],
    ]
)


@kernel
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


@kernel(fastmath=True)
def _window_sums(w, q, dx, dy, level):  # pragma: no cover - compiled
    """Score of a disk's place along x and y, information of the place, and of its level."""
    sx, sy, place, inside = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(w.shape[0]):
        sx += w[k] * dx[k]
        sy += w[k] * dy[k]
        place += q[k] * (dx[k] * dx[k] + dy[k] * dy[k])
        inside += q[k] * level[k] * level[k]
    return sx, sy, place, inside


@kernel(fastmath=True)
def _background_sum(weight, table, shift_x, shift_y, margin, pad):  # pragma: no cover - compiled
    """Σ weight · background, of a beam at the nearest whole pixel."""
    ny, nx = weight.shape[0] - 2 * pad, weight.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5))
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5))
    total = 0.0
    for row in range(ny):
        w, b = weight[row + pad, pad : pad + nx], table[row + iy, ix : ix + nx]
        part = np.float32(0.0)
        for k in range(nx):
            part += w[k] * b[k]
        total += part
    return total


@kernel(fastmath=True)
def encode(
    frames,
    good,
    table,
    margin,
    beam,
    templates,
    radius,
    reflections,
    fills,
    known,
    place_known,
    level_known,
    back_known,
    which,
    share,
    spread,
    transform,
    centre,
    codes,
    background,
    covariance,
    misfit,
    scatter,
):  # pragma: no cover - compiled
    """Refine `transform` (n, 2, 2) and `centre` (n, 2), and fill the rest of what follows `spread`.

    `fills` (t, g, K + 1, b); `known` (t, g, 3 + K + 1, 3 + K + 1), the information of place x, y, background and codes
    in the mean pattern of one electron; `place_known`, `level_known` (t, g), what place and level have of it,
    `back_known` (t,), the background; `which` (n,) of the t rotations. `share` and `spread` are the background's, of
    the electrons.
    Filled are `codes` (n, K + 1) and `background` (n,) of one electron, `covariance` (n, 6, 6), `misfit` (n,), and
    `scatter` (n,): by how much single disks would rather lie elsewhere than on the lattice, squared, over what counting
    noise explains.
    """
    n_frames, ny, nx = frames.shape
    n_disks, n_functions, count = len(reflections), templates.shape[2], fills.shape[2]
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
    scale, step, squares = np.empty(total), np.empty(total), np.empty(18)
    relative, local = np.empty(count, np.float32), np.empty(count, np.float32)
    for n in range(n_frames):
        t = which[n]
        dose = 0.0
        for row in range(ny):
            for k in range(nx):
                dose += frames[n, row, k] * good[row, k]
        covariance[n] = np.nan
        misfit[n] = np.nan
        scatter[n] = np.nan
        if dose <= 0:
            continue
        codes[n] = 0
        codes[n, 0] = 1
        background[n] = share
        solvable = True
        for turn in range(_MOST_STEPS):
            cx, cy = centre[n, 0], centre[n, 1]
            lay_background(lam, table, cx - beam[0], cy - beam[1], background[n] * dose, margin, pad)
            for k in range(count):
                relative[k] = codes[n, k] * dose
            for g in range(n_disks):
                x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
                y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
                seen[g] = on_detector(x, y, radius, ny, nx)
                if not seen[g]:
                    continue
                combine(coef, fills[t, g], relative)
                rows[g], columns[g], py[g], px[g], rx, ry = locate(x, y, half, pad)
                combine(middle, templates[py[g], px[g]], coef)
                slopes(value, by_x[g], by_y[g], width)
                add(lam, middle, by_x[g], by_y[g], rows[g], columns[g], rx, ry, width)
            floor[:] = FLOORS[min(turn, len(FLOORS) - 1)] * np.float32(dose / (ny * nx))
            misfit[n] = surprise(weight, inverse, lam, frames[n], good, floor, pad)
            matrix[:] = 0
            score[:] = 0
            away, freedom = 0.0, -6.0 - count
            squares[:] = 0
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
                project(local, fills[t, g], moments)
                # The mean pattern's information, stretched to what this frame's disk has.
                p = np.sqrt(place / (dose * place_known[t, g])) if place_known[t, g] > 0 else 0.0
                f = np.sqrt(level * dose / level_known[t, g]) if level_known[t, g] > 0 else 0.0
                gx, gy = reflections[g, 0], reflections[g, 1]
                score[0] += sx * gx
                score[1] += sx * gy
                score[2] += sy * gx
                score[3] += sy * gy
                score[4] += sx
                score[5] += sy
                for k in range(count):
                    score[7 + k] += local[k] * dose
                j = known[t, g]
                xx, xy, yy = p * p * dose * j[0, 0], p * p * dose * j[1, 0], p * p * dose * j[1, 1]
                det = xx * yy - xy * xy
                if det > 0:
                    away += (sx * sx * yy - 2 * sx * sy * xy + sy * sy * xx) / det
                    freedom += 2
                squares[0] += gx * gx * xx
                squares[1] += gx * gy * xx
                squares[2] += gy * gy * xx
                squares[3] += gx * gx * xy
                squares[4] += gx * gy * xy
                squares[5] += gy * gy * xy
                squares[6] += gx * gx * yy
                squares[7] += gx * gy * yy
                squares[8] += gy * gy * yy
                squares[9] += gx * xx
                squares[10] += gy * xx
                squares[11] += gx * xy
                squares[12] += gy * xy
                squares[13] += gx * yy
                squares[14] += gy * yy
                squares[15] += xx
                squares[16] += xy
                squares[17] += yy
                across, within = p * f * dose, f * f * dose
                for k in range(1 + count):
                    row, of = matrix[6 + k], j[2 + k]
                    bx, by = across * of[0], across * of[1]
                    row[0] += bx * gx
                    row[1] += bx * gy
                    row[2] += by * gx
                    row[3] += by * gy
                    row[4] += bx
                    row[5] += by
                    if k > 0:
                        to, part = row[6:total], of[2:]
                        for b in range(1 + count):
                            to[b] += within * part[b]
            for i in range(6):
                for k in range(i + 1):
                    matrix[i, k] = squares[_SQUARES[i, k]]
            matrix[6, 6] += 1 / (spread * share + 1 / dose) ** 2
            score[6] -= (background[n] - share) / (spread * share + 1 / dose) ** 2
            for k in range(1, count):
                matrix[7 + k, 7 + k] += 1
                score[7 + k] -= codes[n, k] / codes[n, 0]
            solvable = _inverse(matrix, solved, scale)
            if not solvable:
                break
            gain = 0.0
            for i in range(total):
                step[i] = 0
                for k in range(total):
                    step[i] += solved[i, k] * score[k]
                gain += 0.5 * step[i] * score[i]
            far = 1e-12
            for g in range(n_disks):
                if seen[g]:
                    gx, gy = reflections[g, 0], reflections[g, 1]
                    far = max(
                        far, abs(step[0] * gx + step[1] * gy + step[4]), abs(step[2] * gx + step[3] * gy + step[5])
                    )
            part_taken = min(1.0, _FARTHEST / far)
            transform[n, 0, 0] += part_taken * step[0]
            transform[n, 0, 1] += part_taken * step[1]
            transform[n, 1, 0] += part_taken * step[2]
            transform[n, 1, 1] += part_taken * step[3]
            centre[n, 0] += part_taken * step[4]
            centre[n, 1] += part_taken * step[5]
            background[n] = max(background[n] + part_taken * step[6], 0.0)
            for k in range(count):
                most = _MOST_BRIGHTNESS if k == 0 else _MOST_CODE
                codes[n, k] += min(max(part_taken * step[7 + k], -most), most)
            codes[n, 0] = max(codes[n, 0], 1e-3)
            if turn >= len(FLOORS) - 1 and gain < _AT_REST:
                break
        if solvable:
            covariance[n] = solved[:6, :6]
            scatter[n] = away / max(freedom, 1.0)
