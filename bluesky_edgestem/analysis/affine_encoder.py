"""The encoder: Fisher scoring of frames by a base pattern whose fills and information are known beforehand. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per
disk and scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its
pixels count.
"""

from __future__ import annotations

import numpy as np

from .disk_kernels import INSIDE, add, combine, lay_background, leave_out, locate, on_detector, project, slopes
from .kernels import kernel

#: Disks move by no more than this in one step [pixels].
_FARTHEST = 1.5
#: Brightness and codes, which are of order one, change by no more than this in one step.
_MOST_BRIGHTNESS, _MOST_CODE = 0.1, 1.0
#: Steps at most, in all and of the leading disks alone.
_MOST_STEPS, _MOST_LEADING = 24, 10
#: Gain in log-likelihood which a step promises that is the last of the leading disks, and what may be left after the
#: last of all: a tenth of a standard deviation.
_LED, _AT_REST = 4.0, 0.1
#: By how much the gain is expected to fall from step to step, before two are known.
_FALL = 0.2
#: Moves that are remembered for what they did to the score.
_MEMORY = 5
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


@kernel(fastmath={"reassoc", "contract"})
def _factor(matrix, low, scale):  # pragma: no cover - compiled
    """Cholesky's factor of a positive definite matrix, diagonal scaled to one; false if it is not."""
    n = len(matrix)
    for i in range(n):
        if not matrix[i, i] > 0:
            return False
        scale[i] = 1 / np.sqrt(matrix[i, i])
    for i in range(n):
        row = low[i]
        for j in range(i + 1):
            total, other = 0.0, low[j]
            for k in range(j):
                total += row[k] * other[k]
            total = matrix[i, j] * scale[i] * scale[j] - total
            if j < i:
                row[j] = total / other[j]
            elif total > 1e-10:
                row[j] = np.sqrt(total)
            else:
                return False
    return True


@kernel(fastmath={"reassoc", "contract"})
def _solve(out, low, scale, vector):  # pragma: no cover - compiled
    """``out = matrix⁻¹ vector`` of a matrix that was factored."""
    n = len(vector)
    for i in range(n):
        total, row = 0.0, low[i]
        for k in range(i):
            total += row[k] * out[k]
        out[i] = (vector[i] * scale[i] - total) / row[i]
    for i in range(n - 1, -1, -1):
        out[i] /= low[i, i]
        row = low[i]
        for k in range(i):
            out[k] -= row[k] * out[i]
    for i in range(n):
        out[i] *= scale[i]


@kernel(fastmath={"reassoc", "contract"})
def _quasi_newton(step, low, scale, score, moves, changes, known, weights, left):  # pragma: no cover - compiled
    """The step that the factored information proposes, corrected by what the last moves did to the score (L-BFGS)."""
    n = len(score)
    for k in range(n):
        left[k] = score[k]
    for i in range(known - 1, -1, -1):
        move, change = moves[i], changes[i]
        along, curved = 0.0, 0.0
        for k in range(n):
            along += move[k] * left[k]
            curved += move[k] * change[k]
        weights[i] = along / curved
        for k in range(n):
            left[k] -= weights[i] * change[k]
    _solve(step, low, scale, left)
    for i in range(known):
        move, change = moves[i], changes[i]
        along, curved = 0.0, 0.0
        for k in range(n):
            along += change[k] * step[k]
            curved += move[k] * change[k]
        for k in range(n):
            step[k] += (weights[i] - along / curved) * move[k]


@kernel
def _remember(moves, changes, known, move, before, score):  # pragma: no cover - compiled
    """Keep a move and how it changed the score, the oldest forgotten; returns how many are kept."""
    curved, long, far = 0.0, 0.0, 0.0
    for k in range(len(score)):
        change = before[k] - score[k]
        curved += move[k] * change
        long += move[k] * move[k]
        far += change * change
    if not curved > 1e-3 * np.sqrt(long * far):  # the likelihood is not concave along it
        return known
    if known == len(moves):
        for i in range(known - 1):
            moves[i] = moves[i + 1]
            changes[i] = changes[i + 1]
        known -= 1
    moves[known] = move
    changes[known] = before - score
    return known + 1


@kernel(fastmath=True)
def _padded(out, image, good, pad):  # pragma: no cover - compiled
    """Set the inside of a padded image to what good pixels hold; returns its sum."""
    ny, nx = image.shape
    total = 0.0
    for row in range(ny):
        line, g, to = image[row], good[row], out[row + pad, pad : pad + nx]
        part = np.float32(0.0)
        for k in range(nx):
            to[k] = np.float32(line[k]) * g[k]
            part += to[k]
        total += part
    return total


@kernel
def _set(out, image):  # pragma: no cover - compiled
    """``out[:] = image``, by rows, which is as fast as memory."""
    for row in range(out.shape[0]):
        to, of = out[row], image[row]
        for k in range(out.shape[1]):
            to[k] = of[k]


@kernel(fastmath=True)
def _lay_window(lam, table, shift_x, shift_y, amount, row0, col0, width, margin, pad):  # pragma: no cover - compiled
    """As `lay_background`, in one window, of a beam at the nearest whole pixel."""
    ny, nx = lam.shape[0] - 2 * pad, lam.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5)) - pad
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5)) - pad
    b = np.float32(amount)
    first, last = max(col0, pad), min(col0 + width, pad + nx)
    for row in range(max(row0, pad), min(row0 + width, pad + ny)):
        out, t = lam[row, first:last], table[row + iy, first + ix : last + ix]
        for k in range(last - first):
            out[k] = b * t[k]


@kernel(fastmath=True)
def _weigh(w, q, counts, lam, good, least, row0, col0, width):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v`` of a window, flat; v is λ, but no less than a floor: no count is impossible."""
    for row in range(width):
        columns, part = slice(col0, col0 + width), slice(row * width, (row + 1) * width)
        n, line, g = counts[row0 + row, columns], lam[row0 + row, columns], good[row0 + row, columns]
        left, inverse = w[part], q[part]
        for k in range(width):
            each = g[k] / max(line[k], least)
            inverse[k] = each
            left[k] = (n[k] - line[k]) * each


@kernel(fastmath=True)
def _whole(counts, lam, good, least, table, shift_x, shift_y, margin, pad):  # pragma: no cover - compiled
    """Pearson's Σ (n - λ)²/v over the number of pixels, and the score Σ (n - λ)/v · b of the background."""
    ny, nx = lam.shape[0] - 2 * pad, lam.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5))
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5))
    total, score, number = 0.0, 0.0, 1e-9
    for row in range(ny):
        inside = slice(pad, pad + nx)
        n, line, g = counts[row + pad, inside], lam[row + pad, inside], good[row + pad, inside]
        b = table[row + iy, ix : ix + nx]
        part, along, counted = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for k in range(nx):
            left = n[k] - line[k]
            w = left * g[k] / max(line[k], least)
            part += w * left
            along += w * b[k]
            counted += g[k]
        total += part
        score += along
        number += counted
    return total / number, score


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
    order,
    leading,
    telling,
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
    doses,
):  # pragma: no cover - compiled
    """Refine `transform` (n, 2, 2) and `centre` (n, 2), and fill the rest of what follows `spread`.

    First by the disks that tell most of the map, alone, with the background that patterns have on average; then by all
    that tell something of it. Pixels of the others do not count, nor do those of a disk that the edge cuts deep.

    `fills` (t, g, K + 1, b); `known` (t, g, 3 + K + 1, 3 + K + 1), the information of place x, y, background and codes
    in the mean pattern of one electron; `place_known`, `level_known` (t, g), what place and level have of it,
    `back_known` (t,), the background; `order` (t, g) of the disks by what they tell, `leading`, `telling` (t,) how many
    of them tell most, and what there is; `which` (n,) of the t rotations. `share` and `spread` are the background's, of
    the electrons.
    Filled are `codes` (n, K + 1) and `background` (n,) of one electron, `covariance` (n, 6, 6), `misfit` (n,),
    `scatter` (n,): by how much single disks would rather lie elsewhere than on the lattice, squared, over what counting
    noise explains; and `doses` (n,), the electrons on good pixels.
    """
    n_frames, ny, nx = frames.shape
    n_disks, n_functions, count = len(reflections), templates.shape[2], fills.shape[2]
    size = templates.shape[3]
    width = int(np.sqrt(size) + 0.5)
    half, pad, total = width // 2, width, 7 + count
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    counts, usable, counting = np.zeros_like(lam), np.zeros_like(lam), np.zeros_like(lam)
    usable[pad : pad + ny, pad : pad + nx] = good
    value = np.zeros(size + 6 * width, np.float32)
    middle = value[3 * width : 3 * width + size]
    by_x, by_y = np.empty((n_disks, size), np.float32), np.empty((n_disks, size), np.float32)
    w, q = np.empty(size, np.float32), np.empty(size, np.float32)
    coef, moments = np.empty(n_functions, np.float32), np.empty(n_functions, np.float32)
    seen = np.empty(n_disks, np.bool_)
    rows, columns = np.empty(n_disks, np.int64), np.empty(n_disks, np.int64)
    py, px = np.empty(n_disks, np.int64), np.empty(n_disks, np.int64)
    left_x, left_y = np.empty(n_disks), np.empty(n_disks)
    matrix, low, score = np.empty((total, total)), np.zeros((total, total)), np.empty(total)
    scale, step, left, squares = np.empty(total), np.empty(total), np.empty(total), np.empty(18)
    relative, local = np.empty(count, np.float32), np.empty(count, np.float32)
    move, earlier, weights = np.zeros(total), np.zeros(total), np.empty(_MEMORY)
    moves, changes = np.empty((_MEMORY, total)), np.empty((_MEMORY, total))
    for n in range(n_frames):
        t = which[n]
        dose = doses[n] = _padded(counts, frames[n], good, pad)
        covariance[n] = np.nan
        misfit[n] = np.nan
        scatter[n] = np.nan
        if dose <= 0:
            continue
        codes[n] = 0
        codes[n, 0] = 1
        background[n] = share
        solvable, remembered, comparable = True, 0, False
        led, masked, before = False, False, np.inf
        for turn in range(_MOST_STEPS):
            cx, cy = centre[n, 0], centre[n, 1]
            shift_x, shift_y = cx - beam[0], cy - beam[1]
            used = telling[t] if led else leading[t]
            first = led and not masked
            if first:
                _set(counting, usable)
                masked = True
            for i in range(n_disks if first else used):
                g = order[t, i]
                x = cx + transform[n, 0, 0] * reflections[g, 0] + transform[n, 0, 1] * reflections[g, 1]
                y = cy + transform[n, 1, 0] * reflections[g, 0] + transform[n, 1, 1] * reflections[g, 1]
                if first or not led:
                    seen[g] = i < used and on_detector(x, y, -INSIDE * radius, ny, nx)
                else:  # what counts stays as it was
                    seen[g] = seen[g] and on_detector(x, y, half, ny, nx)
                if seen[g]:
                    rows[g], columns[g], py[g], px[g], left_x[g], left_y[g] = locate(x, y, half, pad)
                    if not led:
                        _lay_window(lam, table, shift_x, shift_y, share * dose, rows[g], columns[g], width, margin, pad)
                elif first and on_detector(x, y, half, ny, nx):
                    leave_out(counting, x + pad, y + pad, half)
            if led:
                lay_background(lam, table, shift_x, shift_y, background[n] * dose, margin, pad)
            for k in range(count):
                relative[k] = codes[n, k] * dose
            for i in range(used):
                g = order[t, i]
                if not seen[g]:
                    continue
                combine(coef, fills[t, g], relative)
                combine(middle, templates[py[g], px[g]], coef)
                slopes(value, by_x[g], by_y[g], width)
                add(lam, middle, by_x[g], by_y[g], rows[g], columns[g], left_x[g], left_y[g], width)
            least = np.float32(FLOORS[min(turn, len(FLOORS) - 1)] * dose / (ny * nx))
            matrix[:] = 0
            score[:] = 0
            away, freedom = 0.0, -6.0 - count
            squares[:] = 0
            if led:
                misfit[n], of_background = _whole(counts, lam, counting, least, table, shift_x, shift_y, margin, pad)
                matrix[6, 6] = back_known[t] * dose
                score[6] = dose * of_background
            for i in range(used):
                g = order[t, i]
                if not seen[g]:
                    continue
                functions = templates[py[g], px[g]]
                _weigh(w, q, counts, lam, counting if led else usable, least, rows[g], columns[g], width)
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
            if led:
                matrix[6, 6] += 1 / (spread * share + 1 / dose) ** 2
                score[6] -= (background[n] - share) / (spread * share + 1 / dose) ** 2
            else:  # as it is in other patterns
                matrix[6, :] = 0
                matrix[7:, 6] = 0
                matrix[6, 6] = 1
            for k in range(1, count):
                matrix[7 + k, 7 + k] += 1
                score[7 + k] -= codes[n, k] / codes[n, 0]
            solvable = _factor(matrix, low, scale)
            if not solvable:
                break
            if comparable:
                remembered = _remember(moves, changes, remembered, move, earlier, score)
            _quasi_newton(step, low, scale, score, moves, changes, remembered, weights, left)
            gain = 0.0
            for i in range(total):
                gain += 0.5 * step[i] * score[i]
            far = 1e-12
            for i in range(used):
                g = order[t, i]
                if seen[g]:
                    gx, gy = reflections[g, 0], reflections[g, 1]
                    far = max(
                        far, abs(step[0] * gx + step[1] * gy + step[4]), abs(step[2] * gx + step[3] * gy + step[5])
                    )
            part_taken = min(1.0, _FARTHEST / far)
            earlier[:] = score
            comparable = turn >= len(FLOORS) - 1
            for i in range(total):
                move[i] = part_taken * step[i]
                if i > 6:
                    most = _MOST_BRIGHTNESS if i == 7 else _MOST_CODE
                    move[i] = min(max(move[i], -most), most)
            move[6] = max(move[6], -background[n])
            move[7] = max(move[7], 1e-3 - codes[n, 0])
            transform[n, 0, 0] += move[0]
            transform[n, 0, 1] += move[1]
            transform[n, 1, 0] += move[2]
            transform[n, 1, 1] += move[3]
            centre[n, 0] += move[4]
            centre[n, 1] += move[5]
            background[n] += move[6]
            for k in range(count):
                codes[n, k] += move[7 + k]
            if led:
                if turn >= len(FLOORS) and gain * min(gain / before, 1.0) < _AT_REST:
                    break
                before = gain
            elif turn >= len(FLOORS) - 1 and (gain < _LED or turn >= _MOST_LEADING - 1):
                led, before, remembered, comparable = True, gain / _FALL, 0, False
        if solvable:
            for i in range(6):
                left[:] = 0
                left[i] = 1
                _solve(step, low, scale, left)
                covariance[n, i] = step[:6]
            scatter[n] = away / max(freedom, 1.0)
