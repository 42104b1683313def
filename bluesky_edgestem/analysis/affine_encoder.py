"""The encoder: Fisher scoring of frames by a base pattern whose fills and information are known beforehand. Compiled.

First by the disks that tell most of the map, alone; then by all that tell something of it. Steps take the information
of `map_information` and what earlier ones did to the score (`quasi_newton`).
"""

from __future__ import annotations

import numpy as np

from .cholesky import factor, solve
from .disk_kernels import lay_background
from .kernels import kernel
from .map_information import add_information, room
from .placed_disks import add_disks, lay_background_around, mask, place, windows
from .quasi_newton import corrected_step, remember
from .window_likelihood import of_frame, padded, weigh

#: Disks move by no more than this in one step [pixels].
_FARTHEST = 1.5
#: Brightness and codes, which are of order one, change by no more than this in one step.
_MOST_BRIGHTNESS, _MOST_CODE = 0.1, 1.0
#: Steps at most, in all and of the leading disks alone.
_MOST_STEPS, _MOST_LEADING = 24, 10
#: Gain in log-likelihood which a step promises that is the last of the leading disks, and what may be left after the
#: last of all: of some twenty unknowns, each is then a seventh of a standard deviation off.
_LED, _AT_REST = 8.0, 0.2
#: By how much the gain is expected to fall from step to step, before two are known.
_FALL = 0.2
#: Moves that are remembered for what they did to the score.
_MEMORY = 5
#: Fills follow the map's rotation where it has changed by more than this [rad]: what fills are wrong by moves the map's
#: rotation by up to a fifth of it.
_TURNED = 5e-4
#: An angle that no map's is near. Not infinity, which compiled code may suppose not to occur.
_FAR_OFF = 1e3
#: Least variance of a pixel in each step, over the frame's mean: at first, when disks may be a pixel off, edges where
#: little is expected must not decide.
_FLOORS = np.array([1.0, 0.2, 0.05], np.float32)


@kernel
def _copy(out, image):  # pragma: no cover - compiled
    """``out[:] = image``, which is as fast as memory."""
    for row in range(np.uint64(out.shape[0])):
        for k in range(np.uint64(out.shape[1])):
            out[row, k] = image[row, k]


@kernel
def _beyond(transform, angle):  # pragma: no cover - compiled
    """By how much the rotation of a map (2, 2) is beyond an angle [rad]."""
    by = np.arctan2(transform[1, 0] - transform[0, 1], transform[0, 0] + transform[1, 1]) - angle
    return by - 2 * np.pi * np.rint(by / (2 * np.pi))


@kernel(fastmath=True)
def _turn(out, fills, slopes, by, count, whole, part):  # pragma: no cover - compiled
    """Fills turned by so much more, ``fills + by * slopes``: of `count` rows of `whole` numbers the first `part`.

    All are flat; `out` has those alone.
    """
    n, skipped, to, of = np.uint64(part), np.uint64(whole), np.uint64(0), np.uint64(0)
    for _ in range(count):
        for k in range(n):
            out[to + k] = fills[of + k] + by * slopes[of + k]
        to += n
        of += skipped


@kernel(fastmath=True)
def _limited(move, step, at, disks, reflections, background, codes):  # pragma: no cover - compiled
    """Set `move` to the step as far as it can be trusted: no disk goes far, and nothing becomes negative."""
    far = 1e-12
    for g in disks:
        if at.seen[g]:
            gx, gy = reflections[g, 0], reflections[g, 1]
            far = max(far, abs(step[0] * gx + step[1] * gy + step[4]), abs(step[2] * gx + step[3] * gy + step[5]))
    part_taken = min(1.0, _FARTHEST / far)
    for i in range(len(step)):
        move[i] = part_taken * step[i]
        if i > 6:
            most = _MOST_BRIGHTNESS if i == 7 else _MOST_CODE
            move[i] = min(max(move[i], -most), most)
    move[6] = max(move[6], -background)
    move[7] = max(move[7], 1e-3 - codes[0])


@kernel(fastmath=True)
def encode(
    frames,
    good,
    table,
    margin,
    beam,
    templates,
    rows,
    radius,
    reflections,
    angle,
    turned_fills,
    slopes,
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
    brightest,
):  # pragma: no cover - compiled
    """Refine `transform` (n, 2, 2) and `centre` (n, 2), and fill the rest of what follows `spread`.

    First by the disks that tell most of the map, alone, with the background that patterns have on average; then by all
    that tell something of it. Pixels of the others do not count, nor do those of a disk that the edge cuts deep.

    `turned_fills` (t, K + 1, g, b), in the order of `order`, are those at `angle` (t,) [rad], `slopes`, as many, what
    they change by [1/rad]; `known` (t, g, m), packed, the information of map, beam, background and codes in the mean
    pattern of one electron; `place_known`, `level_known` (t, g), what place and level have of it, `back_known` (t,),
    the background; `order` (t, g) of the disks by what they tell, `leading`, `telling` (t,) how many of them tell most,
    and what there is; `which` (n,) of the t rotations. `share` and `spread` are the background's, of the electrons.
    Filled are `codes` (n, K + 1) and `background` (n,) of one electron, `covariance` (n, 6, 6), `misfit` (n,),
    `scatter` (n,): by how much single disks would rather lie elsewhere than on the lattice, squared, over what counting
    noise explains; `doses` (n,), the electrons on good pixels; and `brightest` (n,), the most in one pixel of all.
    """
    n_frames, ny, nx = frames.shape
    n_disks, n_functions, count = len(reflections), templates.shape[3], turned_fills.shape[1]
    size = templates.shape[4]
    half, pad, total = len(rows) // 2, len(rows), 7 + count
    fills = np.empty(count * n_disks * n_functions, np.float32)
    functions = templates.reshape(-1)
    lam = np.zeros((ny + 2 * pad, nx + 2 * pad), np.float32)
    weight, inverse = np.zeros_like(lam), np.zeros_like(lam)
    counts, usable, counting = np.zeros_like(lam), np.zeros_like(lam), np.zeros_like(lam)
    usable[pad : pad + ny, pad : pad + nx] = good
    value, coef = np.empty(size, np.float32), np.empty(n_disks * n_functions, np.float32)
    at, space = windows(n_disks, size), room(n_disks, size, n_functions, count)
    matrix, low, score = np.empty((total, total)), np.zeros((total, total)), np.empty(total)
    scale, step, left = np.empty(total), np.empty(total), np.empty(total)
    relative = np.empty(count, np.float32)
    move, earlier, weights = np.zeros(total), np.zeros(total), np.empty(_MEMORY)
    moves, changes = np.empty((_MEMORY, total)), np.empty((_MEMORY, total))
    for n in range(n_frames):
        t = which[n]
        dose, brightest[n] = padded(counts, frames[n], good, pad)
        doses[n] = dose
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
        away, freedom, turned = 0.0, 0, _FAR_OFF
        for turn in range(_MOST_STEPS):
            disks = order[t, : telling[t] if led else leading[t]]
            held = len(disks) * n_functions
            place(at, disks, masked, reflections, transform[n], centre[n], radius, half, pad, ny, nx)
            beyond = _beyond(transform[n], angle[t])
            if abs(beyond - turned) > _TURNED:
                _turn(
                    fills, turned_fills[t].reshape(-1), slopes[t].reshape(-1), np.float32(beyond), count,
                    n_disks * n_functions, held,
                )  # fmt: skip
                turned = beyond
            shift_x, shift_y = centre[n, 0] - beam[0], centre[n, 1] - beam[1]
            if led:
                if not masked:
                    _copy(counting, usable)
                    at.seen[order[t, telling[t] :]] = False
                    mask(
                        counting, at, order[t], turned_fills[t, 0, :, 0], reflections, transform[n], centre[n], radius,
                        half, pad, ny, nx,
                    )  # fmt: skip
                    masked = True
                lay_background(lam, table, shift_x, shift_y, background[n] * dose, margin, pad)
            else:
                lay_background_around(lam, at, disks, table, shift_x, shift_y, share * dose, rows, margin, pad)
            for k in range(count):
                relative[k] = codes[n, k] * dose
            add_disks(lam, at, disks, functions, rows, fills, relative, coef, value)
            least = np.float32(_FLOORS[min(turn, len(_FLOORS) - 1)] * dose / (ny * nx))
            matrix[:] = 0
            score[:] = 0
            if led:
                misfit[n], of_background = of_frame(
                    weight, inverse, counts, lam, counting, least, table, shift_x, shift_y, margin, pad
                )
                matrix[6, 6] = back_known[t] * dose
                score[6] = dose * of_background
            else:
                for g in disks:
                    if at.seen[g]:
                        weigh(weight, inverse, counts, lam, usable, least, at.row[g], at.column[g], rows)
            away, freedom = add_information(
                matrix, score, space, at, disks, weight, inverse, dose, functions,
                fills, known[t], place_known[t], level_known[t], reflections, rows,
            )  # fmt: skip
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
            solvable = factor(matrix, low, scale)
            if not solvable:
                break
            if comparable:
                remembered = remember(moves, changes, remembered, move, earlier, score)
            corrected_step(step, low, scale, score, moves, changes, remembered, weights, left)
            gain = 0.0
            for i in range(total):
                gain += 0.5 * step[i] * score[i]
            earlier[:] = score
            comparable = turn >= len(_FLOORS) - 1
            _limited(move, step, at, disks, reflections, background[n], codes[n])
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
                if turn >= len(_FLOORS) and gain * min(gain / before, 1.0) < _AT_REST:
                    break
                before = gain
            elif turn >= len(_FLOORS) - 1 and (gain < _LED or turn >= _MOST_LEADING - 1):
                led, turned, before, remembered, comparable = True, _FAR_OFF, gain / _FALL, 0, False
        if solvable:
            for i in range(6):
                left[:] = 0
                left[i] = 1
                solve(step, low, scale, left)
                covariance[n, i] = step[:6]
            scatter[n] = away / max(freedom - 6.0 - count, 1.0)
