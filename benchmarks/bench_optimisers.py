"""Adam beside AdaHessian where the board's network is trained with quantised features and activations.

Both start from the same weights of a training in floating point, see the same frames, and have as many learning rates
tried, on as many seeds, from too low to too high; that with the lowest mean loss on lessons kept back is then run on
other seeds.
The time is that of one core, compilation left in. The network is that of the board, the lessons are fewer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import learning, teaching
from bluesky_edgestem.fpga.adahessian import AdaHessian
from bluesky_edgestem.fpga.bin_statistics import BinStatistics
from bluesky_edgestem.fpga.float_model import centred_filters, float_model, recentre
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.normaliser import normaliser
from bluesky_edgestem.fpga.quantised import quantised_model
from bluesky_edgestem.fpga.reproducible import keras, tf
from bluesky_edgestem.fpga.rounding import rounded
from bluesky_edgestem.fpga.widths import Widths

FRONTEND = Frontend(48, pixel_bits=16)
OPTICS = Optics(80.0, 2.0, 64 / 48, 48)
DOMAIN = teaching.Domain()
#: Learning rates that are tried. Those of AdaHessian are larger: its steps are in units of inverse curvature.
RATES = {"Adam": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "AdaHessian": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)}
#: Seeds that rates are chosen on, and those that the chosen one is judged on.
TUNING, JUDGING = range(3), range(3, 8)
KEPT = 1000


def second_order(model: keras.Model, rate) -> learning.Step:
    """Steps by AdaHessian, with gradients limited as Adam's are."""
    optimiser = AdaHessian(rate, limit=learning.LARGEST_GRADIENT)
    optimiser.build(model.trainable_variables)

    @tf.function(jit_compile=False)
    def step(bins, truth, dose):
        def value():
            return learning.loss(model(tf.cast(bins, tf.float32), training=True), truth, dose)

        return optimiser.step(value, model.trainable_variables)

    return step


STEPS = {"Adam": learning.first_order, "AdaHessian": second_order}


def judged(model: keras.Model, kept: teaching.Lessons) -> dict[str, float]:
    """Loss over lessons kept back, and RMS of their strain [%] at 10⁵ electrons, beside the teacher's reading."""
    frames = learning.Frames.drawn(kept, FRONTEND, DOMAIN, np.random.default_rng(1))
    out = model.predict(frames.bins.astype(np.float32), verbose=0, batch_size=500)
    counts = kept.counts(np.full(len(kept), 1e5), np.random.default_rng(2))
    bins = FRONTEND.attenuated(counts, FRONTEND.shift_for(1e5, kept.brightest(FRONTEND)))
    strain = model.predict(bins.astype(np.float32), verbose=0, batch_size=500)[:, :3] * learning.STRAIN_UNIT
    return {
        "loss": float(learning.loss(tf.constant(out), tf.constant(frames.targets), tf.constant(frames.dose))),
        "strain_rms_percent": 100 * float(np.sqrt(np.square(strain - kept.strain).mean())),
    }


def main(patterns: int, epochs: tuple[int, int]) -> dict:
    """All figures."""
    lessons = teaching.lessons(FRONTEND, OPTICS, patterns, seed=0)
    kept, taught = lessons[:KEPT], lessons[KEPT:]
    widths, rng = Widths(), np.random.default_rng(0)
    some = taught[:1000]
    dose = np.full(len(some), DOMAIN.dose[1] / 3)
    bins = FRONTEND.attenuated(some.counts(dose, rng), FRONTEND.shift_for(dose, taught.brightest(FRONTEND)))
    divisor = normaliser(taught, FRONTEND, widths.filter_bits)
    over = BinStatistics.of(taught, FRONTEND, divisor)
    plain = float_model(widths, divisor, over, bins, 0)
    learning.fit(
        plain, taught, FRONTEND, DOMAIN, epochs[0], learning.RATES[0], rng,
        progress=lambda epoch, value: recentre(plain, bins),
    )  # fmt: skip
    learned = centred_filters(plain)
    bends = learning.curvature(plain, learning.Frames.drawn(taught[: learning.SEEN], FRONTEND, DOMAIN, rng))
    filters = rounded(learned, over.covariance, widths.filter_bits, bends)

    def run(name: str, rate: float, seed: int) -> dict[str, float]:
        keras.utils.set_random_seed(seed)
        model = quantised_model(widths, plain, filters, bins)
        began = time.process_time()
        learning.fit(
            model, taught, FRONTEND, DOMAIN, epochs[1], rate, np.random.default_rng([7, seed]), steps_of=STEPS[name]
        )
        found = {"core_s": time.process_time() - began} | judged(model, kept)
        print(f"{name}, rate {rate:g}, seed {seed}: {found}", flush=True)
        return found

    out: dict = {
        "patterns": len(taught), "epochs": list(epochs), "floating_point": judged(plain, kept),
        "before": judged(quantised_model(widths, plain, filters, bins), kept), "optimisers": {},
    }  # fmt: skip
    for name, rates in RATES.items():
        tried = {rate: statistics.mean(run(name, rate, seed)["loss"] for seed in TUNING) for rate in rates}
        # A loss that is no number is the largest.
        best = min(tried, key=lambda rate: np.nan_to_num(tried[rate], nan=np.inf))
        runs = [run(name, best, seed) for seed in JUDGING]
        out["optimisers"][name] = {
            "rate": best,
            "loss_by_rate": {f"{rate:g}": float(f"{loss:.4g}") for rate, loss in tried.items()},
            **{
                key: {
                    "mean": float(f"{statistics.mean(run[key] for run in runs):.4g}"),
                    "sd": float(f"{statistics.stdev(run[key] for run in runs):.2g}"),
                    "median": float(f"{statistics.median(run[key] for run in runs):.4g}"),
                }
                for key in ("loss", "strain_rms_percent", "core_s")
            },
        }
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Adam beside AdaHessian in the quantised training, at equal tuning.")
    parser.add_argument("--small", action="store_true", help="few patterns and epochs, to try the benchmark")
    few = parser.parse_args().small
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(main(1500, (4, 2)) if few else main(9000, (60, 16))))
