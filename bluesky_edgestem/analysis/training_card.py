"""The card of a trained descriptor network: what it was trained on, how well it does, and the command that made it."""

from __future__ import annotations

from . import crystals, training_data

TEXT = """# Descriptor network: card

Reads strain (exx, eyy, exy), rotation modulo 60° and phase ({phases}) of a monolayer, and where the beam arrives, from
a diffraction pattern of separate disks, each with its uncertainty. {parameters} parameters.

**Trained on** {patterns} multislice patterns; {held_out_patterns} of other conditions were held out. Drawn uniformly:
exx and eyy within ±{normal:.1f} %, exy within ±{shear:.1f} %, any rotation, beam anywhere in the unit cell and within
±{shift:.0f} pixels of the detector's centre; beam energies {energies} keV and some between, semiangles {semiangles}
mrad, first-order reflections {first_order} pixels from the beam on 128 × 128 pixels; one pattern in eight with an
interface of the phases nearby. Drawn anew at each reading: point spread 0.4 to 0.8 pixels, background 0 to 10 % (for
a quarter of the readings stated wrongly, by about 30 % of it), dose 10³ to 10⁶ electrons.

**Not for** overlapping disks, thickness beyond a monolayer, or other crystals: these are flagged where they show.

**Held-out conditions**, all together; errors of strain in 10⁻⁴, for exx / eyy / exy. The bound is Cramér and Rao's,
of the same patterns and dose, with rotation, beam centre and total intensity free. Where it is beyond what is known
beforehand (strain within ±4.5 %, a standard deviation of 260), errors can be below it.
`benchmarks/bench_descriptors.py` prints the same for specimens, by beam energy.

| electrons | RMS error | bound | ratio | bias | 95 % intervals cover | phase right | flagged |
|---|---|---|---|---|---|---|---|
{rows}

Made by `{command}` on {date}, seed {seed}, in {minutes} minutes; {versions}.
"""


def card_text(card: dict) -> str:
    """The card (see `training.train`) as a page to read."""
    rows = []
    for dose, score in card["held_out"].items():
        cells = [" / ".join(f"{1e4 * v:.1f}" for v in score[name].values()) for name in ("rms", "bound", "bias")]
        ratio = " / ".join(f"{v:.2f}" for v in score["ratio"].values())
        percent = [f"{100 * score[name]:.1f} %" for name in ("coverage", "phase_right", "flagged")]
        rows.append("| " + " | ".join([dose, *cells[:2], ratio, cells[2], *percent]) + " |")
    return TEXT.format(
        phases=", ".join(training_data.PHASES),
        normal=100 * crystals.STRAIN_RANGE[0],
        shear=100 * crystals.STRAIN_RANGE[2],
        shift=training_data.SHIFT_RANGE,
        energies=", ".join(f"{e:.0f}" for e in training_data.ENERGIES),
        semiangles="{:.0f} to {:.0f}".format(*training_data.SEMIANGLES),
        first_order="{:.0f} to {:.0f}".format(*training_data.FIRST_ORDER),
        rows="\n".join(rows),
        **{k: card[k] for k in ("parameters", "patterns", "held_out_patterns", "command", "date", "seed", "minutes")},
        versions=", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    )
