"""The card of a trained crystal network: what it was trained on, how well it does, and the command that made it."""

from __future__ import annotations

from typing import Any

from . import crystal_patterns as drawn
from .lattice_view import SPOTS

TEXT = """# Crystal network: card

Reads strain (exx, eyy, exy), rotation, material, thickness and beam centre, each with its uncertainty, from a
diffraction pattern of separate disks, given the reference lattices of the materials that may be there: {materials}.
{parameters} parameters.

**Trained on** {patterns} patterns, each about three times among them, of tables of Bragg disks (`disk_tables`:
multislice, thermal motion averaged exactly). Drawn at random: exx and eyy within ±{normal:.0f} %, exy within
±{shear:.0f} %, any rotation;
thickness {thin:.0f} to {thick:.0f} nm, of graphene one to three sheets, of the dichalcogenides one; 80, 200 and
300 keV; semiangles {narrow} to {wide} mrad with separate disks; 128 × 128 pixels, the frame's edge at 0.55 to
1.12 1/Å; mistilt to {tilt:.0f} mrad, beam within ±{shift:.0f} pixels of the centre, elliptical distortion to
{ellipse:.0f} %, which the network is told; point spread {sharp} to {blunt} pixels, Lorentzian background 0 to
{background:.0f} %, dose 10³ to 10⁶ electrons, half of the detectors with dead and hot pixels. It looks at up to {spots}
disks.

**Which network for what**: this one is for thick crystals. Of sheets it knows far less than patterns tell; monolayers
of MoS2 and WS2 are read by the descriptor network, near the Cramér–Rao bound. The weights that ship with the package
suppose Si or SrTiO3 unless `CrystalNetwork.restricted` names others.

**Not for** overlapping disks, other materials, thinner or thicker crystals: these are flagged where they show.
The table is of the network alone, "flagged" and AUROC of its log-odds. Where the disks of a material are known
(`disk_store`), the likelihood has the last word, and its misfit flags; strains beyond 4.5 % are flagged, too.

**Held-out conditions**: every eighth nanometre of thickness and every fifth hundredth of the disks' radius over their
distance was kept from training, for calibration and for this table apart. Errors are root mean squares over all
patterns, flagged or not, but for "where known"; intervals are of 95 %. At 10³ electrons, and of graphene under
background, many patterns hold no lattice that can be found.

| {columns} |
|{rules}
{rows}

Made by `{command}` on {date}, seed {seed}, {steps} steps of {batch} patterns, averaging: {averaging}, in {minutes}
minutes on {device}; {versions}.
"""

COLUMNS = (
    "material, electrons", "strain, 10⁻⁴", "where known", "median", "intervals cover", "rotation, mrad (median)",
    "thickness, nm", "intervals cover", "centre, px (median)", "material right", "flagged", "foreign flagged", "AUROC",
)  # fmt: skip


def told(score: dict[str, float] | float) -> str:
    """A score in one line."""
    if isinstance(score, dict):
        return ", ".join(f"{key} {value:.4g}" for key, value in score.items())
    return f"{score:.4f}"


def card_text(card: dict[str, Any]) -> str:
    """The card (see `crystal_training.train`) as a page to read."""
    rows = []
    for name, score in card["held_out"].items():
        if isinstance(score, float):
            continue
        cells = [
            name,
            f"{1e4 * score['strain_rms']:.1f}",
            f"{1e4 * score['strain_rms_known']:.1f}" if "strain_rms_known" in score else "none",
            f"{1e4 * score['strain_median']:.1f}",
            f"{100 * score['strain_coverage']:.0f} %",
            f"{1e3 * score['rotation_median']:.2f}",
            f"{score['thickness_rms']:.2f}",
            f"{100 * score['thickness_coverage']:.0f} %",
            f"{score['centre_median']:.3f}",
            *(f"{100 * score[key]:.0f} %" for key in ("material_right", "flagged", "foreign_flagged")),
            f"{score['auroc']:.3f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return TEXT.format(
        materials=", ".join(card["materials"]),
        patterns=card["steps"] * card["batch"],
        normal=100 * drawn.STRAIN[0],
        shear=100 * drawn.STRAIN[2],
        thin=drawn.THICKNESS[0],
        thick=drawn.THICKNESS[1],
        narrow=drawn.SEMIANGLE[0],
        wide=drawn.SEMIANGLE[1],
        tilt=drawn.MISTILT,
        shift=drawn.SHIFT,
        ellipse=100 * drawn.ELLIPTICITY,
        sharp=drawn.PSF[0],
        blunt=drawn.PSF[1],
        background=100 * drawn.BACKGROUND,
        spots=SPOTS,
        columns=" | ".join(COLUMNS),
        rules="---|" * len(COLUMNS),
        rows="\n".join(rows),
        **{
            key: card[key]
            for key in ("parameters", "command", "date", "seed", "steps", "batch", "averaging", "minutes", "device")
        },
        versions=", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    )
