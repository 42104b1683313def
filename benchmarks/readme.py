"""Write the README's table of figures from ``benchmarks/results.json``, so that the two cannot differ.

python benchmarks/readme.py           # rewrite the table
python benchmarks/readme.py --check   # only say whether it is up to date (status 1 if not)
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results.json"
START = "<!-- figures: written by benchmarks/readme.py from benchmarks/results.json -->"
END = "<!-- figures: end -->"


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` is a format string over the result of benchmark `name`."""

    what: str
    target: str
    name: str
    value: str


COMPONENTS = ("exx", "eyy", "exy", "rotation")
BOARD_DOSES = ("1e3", "1e4", "1e5", "1e6")
FOREIGN = ("Au", "NaCl", "GaAs", "Ge", "BaTiO3", "MgO")
SHEETS = ("MoSe2", "WSe2", "MoTe2", "graphene", "BN", "Si", "SrTiO3")


def by_specimen(pixels: int, figure: str, beside: str = "") -> str:
    """A figure of the specimens of `pixels` at each dose, and one in brackets."""
    each = [f"{m}-{pixels}[ours][{dose}]" for m in ("Si", "SrTiO3") for dose in ("1e4", "1e5")]
    return ", ".join(f"{{{of}{figure}}}" + (f" ({{{of}{beside}}})" if beside else "") for of in each)


ROWS = (
    Row(
        "Closed loop on three specimens, real DFT: share of the Nyquist raster's positions, most",
        "≤ 3 %",
        "loop",
        "{worst[share of the Nyquist raster]:.2f} % ({worst[probe positions]:.0f} positions)",
    ),
    Row(
        "the same: map RMSE over target sd, mean ± sd (worst)",
        "≤ 1.5",
        "loop",
        "{mean[map RMSE over target sd]:.2f} ± {sd[map RMSE over target sd]:.2f}"
        " ({worst[map RMSE over target sd]:.2f})",
    ),
    Row(
        "the same: truth inside 95 % intervals, least to most",
        "90–98 %",
        "loop",
        "{least[truth inside 95 % intervals]:.1f}–{worst[truth inside 95 % intervals]:.1f} %",
    ),
    Row(
        "the same: loop's overhead a batch, worst",
        "≤ 0.3 s",
        "loop",
        "{worst[loop overhead a batch, worst]:.2f} s",
    ),
    Row(
        "the same with the Gaussian process's fit and choice counted in, worst",
        "≤ 0.3 s",
        "loop",
        "{worst[the same with fit and choice of positions]:.2f} s",
    ),
    Row("the same: whole command, longest", "≤ 6 min", "loop", "{worst[whole command, s]:.0f} s"),
    Row(
        "RMSE at equal numbers of positions, six specimens, energies from the DFT table: adaptive",
        "below Sobol",
        "acquisition",
        "{rmse_meV[adaptive][mean]:.2f} ± {rmse_meV[adaptive][sd]:.2f} meV",
    ),
    Row(
        "the same positions by Sobol, by raster",
        "",
        "acquisition",
        "{rmse_meV[sobol][mean]:.2f} ± {rmse_meV[sobol][sd]:.2f}, "
        "{rmse_meV[raster][mean]:.2f} ± {rmse_meV[raster][sd]:.2f} meV",
    ),
    Row(
        "the same with a plain Gaussian process on the energy: its own choice, Sobol",
        "",
        "acquisition",
        "{rmse_meV[plain_adaptive][mean]:.2f} ± {rmse_meV[plain_adaptive][sd]:.2f}, "
        "{rmse_meV[plain_sobol][mean]:.2f} ± {rmse_meV[plain_sobol][sd]:.2f} meV",
    ),
    Row(
        "24 suggestions on 128 × 128 with 1,000 measured, longest (before it: new data taken in, map and its sd)",
        "≤ 2 s",
        "suggest",
        "{measured_1000[suggest_max_s]:.2f} s ({measured_1000[update_max_s]:.2f} s, "
        "{measured_1000[map_median_s]:.2f} s)",
    ),
    *(
        Row(
            f"Strain RMS over Cramér–Rao bound, {beam}, {dose} electrons, worst component",
            "≤ 2",
            "descriptors",
            f"{{{beam}[{dose}][ratio_worst]:.2f}}",
        )
        for beam in ("80 keV", "200 keV", "300 keV")
        for dose in ("1e4", "1e5")
    ),
    *(
        Row(
            f"Phase right, {beam}, 1e5 electrons (no reading can do better than)",
            "≥ 99 %",
            "descriptors",
            f"{{{beam}[1e5][phase_right]:.1%}} ({{{beam}[1e5][phase_limit]:.1%}})",
        )
        for beam in ("all beams", "80 keV", "200 keV", "300 keV")
    ),
    *(
        Row(
            f"95 % intervals cover, {beam}, 1e4 / 1e5 electrons",
            "90–98 %",
            "descriptors",
            f"{{{beam}[1e4][coverage]:.1%}} / {{{beam}[1e5][coverage]:.1%}}",
        )
        for beam in ("all beams", "80 keV", "200 keV", "300 keV")
    ),
    Row(
        "Beam's centre, which is the frame's: RMS [px] (Cramér–Rao bound), all beams, 1e4 / 1e5 electrons; 95 %"
        " intervals cover",
        "",
        "descriptors",
        "{all beams[1e4][centre_rms]:.3f} ({all beams[1e4][centre_bound]:.3f})"
        " / {all beams[1e5][centre_rms]:.4f} ({all beams[1e5][centre_bound]:.4f});"
        " {all beams[1e4][centre_coverage]:.1%} / {all beams[1e5][centre_coverage]:.1%}",
    ),
    Row(
        "Patterns flagged as not to be trusted, left out of the above, at 1e4 electrons: 80, 200, 300 keV",
        "",
        "descriptors",
        "{80 keV[1e4][flagged]:.1%}, {200 keV[1e4][flagged]:.1%}, {300 keV[1e4][flagged]:.1%}",
    ),
    Row(
        "DECTRIS stream v1, 192 × 192: received, reduced to sum and centre of mass, written; over libertem-live, which"
        " writes nothing",
        "≥ 2",
        "stream",
        "{v1 over peer:.2f} ({v1:,} and {peer:,} frames/s)",
    ),
    Row("the same, v2 over v1", "≥ 1", "stream", "{v2 over v1:.2f} ({v2:,} frames/s)"),
    Row(
        "the same with counts in every pixel, v1 over libertem-live",
        "",
        "stream",
        "{counts in every pixel[v1 over peer]:.2f} ({counts in every pixel[v1]:,} frames/s)",
    ),
    Row("Frames lost in any of these", "0", "stream", "{lost}"),
    *(
        Row(
            f"Stream v1, {n} × {n}: 1 and 2 workers",
            "",
            "stream",
            f"{{scaling[{n} pixels][1 worker]:,}} and {{scaling[{n} pixels][2 workers]:,}} frames/s",
        )
        for n in (96, 192, 256, 512)
    ),
    Row(
        "Peak memory of the receiver, 10,000 and 100,000 frames",
        "the same",
        "stream",
        "{peak memory, MB[10000 frames]:.0f} and {peak memory, MB[100000 frames]:.0f} MB",
    ),
    Row(
        "At 5,000 frames/s, from exposure to reduced: median, longest",
        "≤ 0.5 s",
        "stream",
        "{lag at 5000 frames a second[v1][reduced][median_s]:.3f} s,"
        " {lag at 5000 frames a second[v1][reduced][max_s]:.2f} s",
    ),
    Row(
        "the same, to readable in the file",
        "≤ 0.5 s",
        "stream",
        "{lag at 5000 frames a second[v1][readable][median_s]:.2f} s,"
        " {lag at 5000 frames a second[v1][readable][max_s]:.2f} s",
    ),
    Row(
        "the same, to the live maps",
        "≤ 0.5 s",
        "stream",
        "{lag at 5000 frames a second[v1][in the maps][median_s]:.2f} s,"
        " {lag at 5000 frames a second[v1][in the maps][max_s]:.2f} s",
    ),
    Row(
        "the same, to the live maps of a run",
        "≤ 0.5 s",
        "stream",
        "{lag at 5000 frames a second[v1][in the maps of a run][median_s]:.2f} s,"
        " {lag at 5000 frames a second[v1][in the maps of a run][max_s]:.2f} s",
    ),
    Row(
        "Centre of mass of frames in memory over the read bandwidth, worst of 96 to 512 pixels, 1 and 2 cores",
        "≥ 0.6",
        "com",
        "{worst_of_memory:.2f} ({uint16[192 px][1 cores][com_GB_s]:.1f} GB/s at 192 × 192 on 1 core)",
    ),
    Row("the same over LiberTEM's, worst", "≥ 1", "com", "{worst_of_libertem:.0f}"),
    Row(
        "Damaged messages of streams v1 and v2: all, crashes, hangs, beyond the declared frame",
        "2 · 10⁶, 0, 0, 0",
        "fuzz",
        "{messages:,}, {crashed}, {hung}, {larger than declared}",
    ),
    Row("the same: the compiled reader and the general one disagree", "0", "fuzz", "{ways of decoding that disagree}"),
    Row(
        "the same: memory over that before, longest message",
        "",
        "fuzz",
        "{peak memory over that before, MB:.1f} MB, {longest_ms:.0f} ms",
    ),
    *(
        Row(
            f"Strain of structured disks, {material}, {pixels} px, {dose} electrons, learned from the same scan at 1e5:"
            " exx RMS ± sd over specimens, over py4DSTEM's best less its mean error",
            "≤ half",
            "strain",
            f"{{{material}-{pixels}[ours][{dose}][rms][exx]:.3%}}"
            f" ± {{{material}-{pixels}[ours][{dose}][sd][rms][exx]:.3%}}"
            f" of {{{material}-{pixels}[py4DSTEM][{dose}][rms][exx]:.3%}}"
            f" (blobfinder {{{material}-{pixels}[blobfinder][{dose}][rms][exx]:.3%}})",
        )
        for material in ("Si", "SrTiO3")
        for pixels in (256, 128)
        for dose in ("1e4", "1e5")
    ),
    *(
        Row(
            f"the same, {pixels} px: learned in, 2 cores, three specimens each of Si and SrTiO3 (whether converged)",
            "≤ 20 min",
            "strain",
            "; ".join(
                ", ".join(f"{{{material}-{pixels}[training][{k}][s]:.0f}} s" for k in range(3))
                + " ("
                + ", ".join(f"{{{material}-{pixels}[training][{k}][converged]}}" for k in range(3))
                + ")"
                for material in ("Si", "SrTiO3")
            ),
        )
        for pixels in (256, 128)
    ),
    *(
        Row(
            f"the same over the Cramér–Rao bound, worst component (rotation), {pixels} px: Si, SrTiO3, at 1e4 and 1e5",
            "≤ 1.3",
            "strain",
            by_specimen(pixels, "[ratio_worst]:.2f", "[ratio][rotation]:.2f"),
        )
        for pixels in (256, 128)
    ),
    *(
        Row(
            f"the same, {material}, 128 px, by weights of another specimen at 1e5; learned and read at 1e4; learned at"
            " 1e4 and read at 1e5: exx RMS; worst component over the Cramér–Rao bound; 95 % intervals cover",
            "bound: ≤ 1.3; 92 to 98 %",
            "strain_transfer",
            "; ".join(
                f"{{{material}[{name}][rms][exx]:.3%}}, {{{material}[{name}][ratio_worst]:.2f}},"
                f" {{{material}[{name}][coverage]:.1%}}"
                for name in (
                    "another specimen, learned at 1e5, read at 1e5",
                    "own, learned at 1e4, read at 1e4",
                    "own, learned at 1e4, read at 1e5",
                )
            ),
        )
        for material in ("Si", "SrTiO3")
    ),
    *(
        Row(
            f"Mean absolute error at {share} % of Lorentzian background, 1e5 electrons: exx, eyy, exy, rotation"
            " [rad] (py4DSTEM)",
            asked,
            "strain_background",
            ", ".join(f"{{background-{share}[ours][1e5][mae][{c}]:.5f}}" for c in COMPONENTS)
            + " ("
            + ", ".join(f"{{background-{share}[py4DSTEM][1e5][mae][{c}]:.5f}}" for c in COMPONENTS)
            + ")",
        )
        for share, asked in ((70, "≤ 0.0022, 0.0026, 0.0021, 0.0164"), (0, "≤ 0.0008"))
    ),
    *(
        Row(
            f"the same, {material}, {pixels} px, exx, eyy, exy at 1e5 electrons: what draws of noise share (bias, 0"
            " where less than its own noise); what they do not (scatter); largest of all errors",
            "",
            "strain",
            "; ".join(
                ", ".join(f"{{{material}-{pixels}[ours][1e5][{part}][{c}]:.3%}}" for c in COMPONENTS[:3])
                for part in ("bias", "scatter", "worst")
            ),
        )
        for material in ("Si", "SrTiO3")
        for pixels in (256, 128)
    ),
    *(
        Row(
            f"Disk positions that the strain implies, {pixels} px: Si, SrTiO3, at 1e4 and 1e5",
            "≤ 0.1 px",
            "strain",
            by_specimen(pixels, "[place_px]:.3f") + " px",
        )
        for pixels in (256, 128)
    ),
    *(
        Row(
            f"Mean error of strain in a grain, worst of 8 at random rotations ± sd over specimens, {pixels} px, at 1e4"
            " and 1e5 (less that of the whole scan, as a reference region takes it off)",
            "≤ 0.02 %",
            "strain_grains",
            ", ".join(
                f"{{grains-{pixels}[ours][{dose}][grain_bias]:.3%}} ±"
                f" {{grains-{pixels}[ours][{dose}][sd][grain_bias]:.3%}}"
                f" ({{grains-{pixels}[ours, mean error taken off][{dose}][grain_bias]:.3%}} ±"
                f" {{grains-{pixels}[ours, mean error taken off][{dose}][sd][grain_bias]:.3%}})"
                for dose in ("1e4", "1e5")
            ),
        )
        for pixels in (256, 128)
    ),
    *(
        Row(
            f"95 % intervals of strain (of rotation) cover, {pixels} px: Si, SrTiO3, at 1e4 and 1e5",
            "92–98 %",
            "strain",
            by_specimen(pixels, "[coverage]:.1%", "[rotation_coverage]:.1%"),
        )
        for pixels in (256, 128)
    ),
    Row(
        "Patterns by multislice of all strained atoms, learned from all 36, and the same composed, 1e5 electrons: exx"
        " RMS; worst component over the Cramér–Rao bound",
        "the same; ≤ 1.3",
        "strain_checks",
        "{multislice[ours][1e5][rms][exx]:.3%}, {composed[ours][1e5][rms][exx]:.3%};"
        " {multislice[ours][1e5][ratio_worst]:.2f}, {composed[ours][1e5][ratio_worst]:.2f}",
    ),
    Row(
        "Flat disks that pyxem simulates, 1e5 electrons, mean errors taken off: exx RMS (py4DSTEM, blobfinder)",
        "",
        "strain_checks",
        "{pyxem[ours, mean error taken off][1e5][rms][exx]:.3%} ({pyxem[py4DSTEM][1e5][rms][exx]:.3%},"
        " {pyxem[blobfinder][1e5][rms][exx]:.3%})",
    ),
    Row(
        "the same, mean errors left on, which its rounding to whole pixels makes: exx RMS; 95 % intervals cover",
        "92 to 98 %",
        "strain_checks",
        "{pyxem[ours][1e5][rms][exx]:.3%}; {pyxem[ours][1e5][coverage]:.0%}",
    ),
    *(
        Row(
            f"Time a pattern of {pixels} px, 1,024 read at once, 2 cores (py4DSTEM, blobfinder)",
            f"≤ {asked} ms",
            "strain_time",
            f"{{time[Si-{pixels}][ours]:.3f}} ms ({{time[Si-{pixels}][py4DSTEM]:.1f}},"
            f" {{time[Si-{pixels}][blobfinder]:.2f}} ms)",
        )
        for pixels, asked in ((128, 0.15), (256, 0.4))
    ),
    *(
        Row(
            f"Crystal network, {material}, {dose} electrons, held-out conditions, cells computed as strained: strain"
            " RMS ± sd over seeds (worst); worst component: over the Cramér–Rao bound, its scatter alone over it",
            "",
            "networks",
            f"{{{material}[{dose}][strain][all]:.2%}} ± {{{material}[{dose}][strain][sd]:.2%}}"
            f" ({{{material}[{dose}][strain][worst]:.2%}}); {{{material}[{dose}][ratio_worst]:.1f}},"
            f" {{{material}[{dose}][scatter_ratio_worst]:.1f}}",
        )
        for material in ("Si", "SrTiO3")
        for dose in ("1e4", "1e5")
    ),
    *(
        Row(
            f"the same, {material}, exx, eyy, exy at 1e5: bias (0 where less than its own noise); scatter; bound",
            "",
            "networks",
            "; ".join(
                ", ".join(f"{{{material}[1e5][{part}][{c}]:.2%}}" for c in COMPONENTS[:3])
                for part in ("bias", "scatter", "bound")
            ),
        )
        for material in ("Si", "SrTiO3")
    ),
    *(
        Row(
            f"the same, {material}, 1e4 / 1e5: 95 % intervals of strain cover, of thickness; material right; flagged"
            " and left out",
            "",
            "networks",
            "; ".join(
                f"{{{material}[1e4][{share}]:.1%}} / {{{material}[1e5][{share}]:.1%}}"
                for share in ("coverage", "thickness_coverage", "material_right", "flagged")
            ),
        )
        for material in ("Si", "SrTiO3")
    ),
    *(
        Row(
            f"the same, {material}, 1e4 / 1e5: RMS of {what} [{unit}]; over the bound; 95 % intervals cover",
            "",
            "networks",
            "; ".join(
                f"{{{material}[1e4][{what}][{figure}]:{shape}}} / {{{material}[1e5][{what}][{figure}]:{shape}}}"
                for figure, shape in (("rms", digits), ("ratio", ".2f"), ("coverage", ".1%"))
            ),
        )
        for what, unit, digits in (("rotation", "rad", ".4f"), ("centre", "px", ".3f"))
        for material in ("Si", "SrTiO3")
    ),
    Row(
        "the same, thickness RMS ± sd over seeds at 1e5 electrons: Si, SrTiO3",
        "",
        "networks",
        "{Si[1e5][thickness][all]:.2f} ± {Si[1e5][thickness][sd]:.2f},"
        " {SrTiO3[1e5][thickness][all]:.2f} ± {SrTiO3[1e5][thickness][sd]:.2f} nm",
    ),
    Row(
        "the same at 80 and 300 keV, 1e5 electrons: strain RMS; worst component over the bound; flagged: Si, SrTiO3",
        "≤ 1.3",
        "networks",
        "; ".join(
            f"{energy} keV: "
            + ", ".join(
                f"{{{energy} keV[{material}][1e5][strain][all]:.2%}},"
                f" {{{energy} keV[{material}][1e5][ratio_worst]:.1f}},"
                f" {{{energy} keV[{material}][1e5][flagged]:.0%}}"
                for material in ("Si", "SrTiO3")
            )
            for energy in (80, 300)
        ),
    ),
    *(
        Row(
            f"Crystals that no training had, {dose} electrons, area under the ROC: all ± sd over seeds (worst); "
            + ", ".join(FOREIGN),
            "≥ 0.95",
            "networks",
            f"{{foreign[{dose}][auroc][all]:.3f}} ± {{foreign[{dose}][auroc, sd of seeds][all]:.3f}}"
            f" ({{foreign[{dose}][auroc, worst seed][all]:.3f}}); "
            + ", ".join(f"{{foreign[{dose}][auroc][{name}]:.2f}}" for name in FOREIGN),
        )
        for dose in ("1e3", "1e4", "1e5", "1e6")
    ),
    Row(
        "the same, flagged at 1e3, 1e4, 1e5, 1e6 electrons: foreign ones; the network's own",
        "",
        "networks",
        "; ".join(
            ", ".join(f"{{foreign[{dose}][flagged][{name}]:.0%}}" for dose in ("1e3", "1e4", "1e5", "1e6"))
            for name in ("all", "own")
        ),
    ),
    *(
        Row(
            f"Network of monolayers trained with stochastic averaging: {what} at 1e4 electrons, with none (± sd over"
            " seeds); what differs with that of weights over steps, of noise drawn twice (strain is read from patterns"
            " without noise, which it cannot change), of both",
            "",
            "averaging",
            f"{{by dose[1e4][{figure}][none][mean]:.4g}} ± {{by dose[1e4][{figure}][none][sd]:.2g}}; "
            + ", ".join(
                f"{{by dose[1e4][{figure}][{way}][difference]:+.2g}} ± {{by dose[1e4][{figure}][{way}][sd]:.1g}}"
                for way in ("weights", "noise", "both")
            ),
        )
        for what, figure in (("RMS of strain [1e-4]", "rms"), ("negative log-likelihood of strain", "likelihood"))
    ),
    Row(
        "Sheets and thin crystals that the network of monolayers does not know, 1e4 and 1e5 electrons, area under the"
        " ROC: all ± sd over seeds (worst); " + ", ".join(SHEETS),
        "≥ 0.95",
        "foreign",
        "; ".join(
            f"{{monolayers[{dose}][auroc][all][mean]:.3f}} ± {{monolayers[{dose}][auroc][all][sd]:.3f}}"
            f" ({{monolayers[{dose}][auroc][all][worst]:.3f}}); "
            + ", ".join(f"{{monolayers[{dose}][auroc][{name}][mean]:.2f}}" for name in SHEETS)
            for dose in ("1e4", "1e5")
        ),
    ),
    Row(
        "the same, flagged at 1e4 and 1e5: all; MoSe2, WSe2, whose lattice is within strains that it reads; its own",
        "",
        "foreign",
        "; ".join(
            f"{{monolayers[{dose}][flagged][all]:.0%}}; {{monolayers[{dose}][flagged][MoSe2]:.0%}},"
            f" {{monolayers[{dose}][flagged][WSe2]:.0%}}; {{monolayers[{dose}][own flagged]:.0%}}"
            for dose in ("1e4", "1e5")
        ),
    ),
    *(
        Row(
            f"Crystals of which a strain autoencoder of {material} has seen no scan, 1e4 and 1e5 electrons, area under"
            " the ROC: all ± sd over scans (worst); flagged: all; its own scan; another specimen's",
            "≥ 0.95",
            "foreign",
            "; ".join(
                f"{{autoencoder[{material}][{dose}][auroc][all][mean]:.3f}} ±"
                f" {{autoencoder[{material}][{dose}][auroc][all][sd]:.3f}}"
                f" ({{autoencoder[{material}][{dose}][auroc][all][worst]:.3f}});"
                f" {{autoencoder[{material}][{dose}][flagged][all]:.0%}},"
                f" {{autoencoder[{material}][{dose}][own flagged]:.1%}},"
                f" {{autoencoder[{material}][{dose}][another specimen flagged]:.1%}}"
                for dose in ("1e4", "1e5")
            ),
        )
        for material in ("Si", "SrTiO3")
    ),
    Row(
        "Crystal network: time a pattern of 128 px on the CPU, 1 and 2 threads; without the likelihood",
        "",
        "networks",
        "{ms_per_pattern[1 thread]:.0f} and {ms_per_pattern[2 threads]:.0f} ms;"
        " {ms_per_pattern, network alone[1 thread]:.0f} and {ms_per_pattern, network alone[2 threads]:.0f} ms",
    ),
    Row(
        "Crystal network in bfloat16 against float32: places, RMS (worst); strain, RMS; time a pattern and material",
        "",
        "networks",
        "{bfloat16[place_px][rms]:.4f} ({bfloat16[place_px][worst]:.4f}) px; {bfloat16[strain][rms]:.1e};"
        " {bfloat16[ms_per_pattern][bfloat16]:.1f} of {bfloat16[ms_per_pattern][float32]:.1f} ms"
        " on {bfloat16[device]}",
    ),
    Row(
        "Board, 48 × 48 pixels, 8 a clock: first pixel to strain (last pixel to strain), by simulation of the Verilog",
        "≤ 306 cycles",
        "board",
        "{detectors[48 px, 8 a clock][latency_cycles]} ({cycles[tail_latency]}) cycles",
    ),
    Row(
        "the same from the first byte at the board's port to the last of the result at the scan generator, at 100 MHz"
        " (port at its full rate, by its data sheet; cables, assumed; board in, inference, measured in cycles; result"
        " out, assumed)",
        "",
        "board",
        "{budget_us[all, link and board's input at once]:.2f} µs ({budget_us[board's port, first pixel to last]:.2f};"
        " {budget_us[cables]:.2f}; {budget_us[board: first pixel to last]:.2f},"
        " {budget_us[board: last pixel to result]:.2f}; {budget_us[result to the scan generator]:.2f} µs)",
    ),
    Row(
        "Board: clock that a proxy was routed at, the best of three placements (Lattice ECP5; no Xilinx device was"
        " placed)",
        "≥ 77 MHz: 306 cycles in 4 µs",
        "board_clock",
        "{routed_clock_MHz:.0f} MHz ({placements_MHz[0]:.0f}, {placements_MHz[1]:.0f}, {placements_MHz[2]:.0f})",
    ),
    Row(
        "Board, 96 × 96 pixels, 16 a clock: initiation interval (that of 48 alone was routed)",
        "≤ 830 cycles at 100 MHz",
        "board",
        "{detectors[96 px, 16 a clock][interval_cycles]} cycles",
    ),
    Row(
        "Board, 192 × 192 pixels, 8 and 16 a clock: first pixel to strain (that of 48 alone was routed)",
        "≤ 5,000 cycles at 100 MHz",
        "board",
        "{detectors[192 px, 8 a clock][latency_cycles]} and {detectors[192 px, 16 a clock][latency_cycles]} cycles",
    ),
    Row(
        "Board: words that differ between QKeras, hls4ml, alkaid and Verilog over 10,000 frames (of 192 px at 8 a clock"
        " 1,000)",
        "0",
        "board",
        "{mismatches}",
    ),
    Row(
        "Board: strain RMS over the teacher's, worst component (95 % interval), of frames that neither flags, at 1e3,"
        " 1e4, 1e5 and 1e6 electrons",
        "≤ 1.5",
        "board",
        ", ".join(
            f"{{accuracy[{dose}][ratio]:.2f}} ({{accuracy[{dose}][ratio_interval][0]:.2f}} to"
            f" {{accuracy[{dose}][ratio_interval][1]:.2f}})"
            for dose in BOARD_DOSES
        ),
    ),
    Row(
        "the same of all frames, where what is flagged counts as no strain; flagged by the student (its teacher)",
        "",
        "board",
        ", ".join(f"{{accuracy[{dose}][ratio_all]:.2f}}" for dose in BOARD_DOSES)
        + "; "
        + ", ".join(
            f"{{accuracy[{dose}][student][flagged]:.1%}} ({{accuracy[{dose}][teacher][flagged]:.1%}})"
            for dose in BOARD_DOSES
        ),
    ),
    Row(
        "the same at 1e5 electrons, exx: student, teacher",
        "",
        "board",
        "{accuracy[1e5][student][strain_rms][exx]:.2%}, {accuracy[1e5][teacher][strain_rms][exx]:.2%}",
    ),
    *(
        Row(
            f"Board: {what}, at 1e3, 1e4, 1e5 and 1e6 electrons",
            "",
            "board",
            ", ".join(cell.replace("DOSE", dose) for dose in BOARD_DOSES),
        )
        for what, cell in (
            ("95 % intervals of strain cover", "{accuracy[DOSE][student][coverage]:.1%}"),
            (
                "RMS of rotation [rad] (its teacher's), what 95 % intervals cover",
                "{accuracy[DOSE][student][rotation_rms]:.4f} ({accuracy[DOSE][teacher][rotation_rms]:.4f}),"
                " {accuracy[DOSE][student][rotation_coverage]:.1%}",
            ),
            (
                "RMS of the beam's centre [px] (its teacher's), what 95 % intervals cover",
                "{accuracy[DOSE][student][centre_rms]:.3f} ({accuracy[DOSE][teacher][centre_rms]:.3f}),"
                " {accuracy[DOSE][student][centre_coverage]:.1%}",
            ),
            (
                "phase right, by the student (its teacher)",
                "{accuracy[DOSE][student][phase_right]:.1%} ({accuracy[DOSE][teacher][phase_right]:.1%})",
            ),
        )
    ),
    Row(
        "Board: cells on UltraScale+, mapped by yosys: LUT, DSP (FF, BRAM36)",
        "≤ 30,000, 0",
        "board",
        "{area[LUT]:,}, {area[DSP]} ({area[FF]:,}, {area[BRAM36]})",
    ),
    Row(
        "One frame on this CPU, one thread: teacher; student in whole numbers, in single precision; the same on a GPU"
        " (an EfficientNet on a GPU, as published: 700 µs); many frames, by alkaid's interpreter",
        "",
        "board_cpu",
        "{teacher_us:,.0f}; {student_us:,.0f}, {student_by_torch_us:,.0f} µs; {gpu};"
        " {fixed_point_frames_per_s:,} frames/s",
    ),
    Row(
        "Frames/s through the board's soft-IOC to its client, fixed point, 48 px (96, 192 px) frames; results lost",
        "≥ 5,000 (48 px)",
        "board_ioc",
        "{48 px[frames_per_s]:,} ({96 px[frames_per_s]:,}, {192 px[frames_per_s]:,});"
        " {48 px[lost_to_client]}, {96 px[lost_to_client]}, {192 px[lost_to_client]}",
    ),
    Row("`import bluesky_edgestem`, median", "≤ 0.5 s", "import", "{import[median_s]:.2f} s"),
    Row("`edgestem --help`, median", "≤ 0.5 s", "import", "{help[median_s]:.2f} s"),
)


def table(entries: dict[str, Any], rows: tuple[Row, ...] = ROWS) -> str:
    """The table in Markdown: one line for each of `rows` whose benchmark is in `entries`.

    Raises
    ------
    KeyError
        If a result lacks a figure that a row asks for.
    """
    present = [row for row in rows if row.name in entries]
    lines = ["| figure | asked | measured | benchmark |", "|---|---|---|---|"]
    for row in present:
        value = row.value.format_map(entries[row.name]["result"])
        lines.append(f"| {row.what} | {row.target} | {value} | `{row.name}` |")
    machines = {f"{e['machine']['cpu']}, {e['machine']['cores']} cores" for e in entries.values()}
    dates = sorted({e["date"][:10] for e in entries.values()})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "never"
    lines += ["", f"Measured {days} on {'; '.join(sorted(machines)) or 'no machine'}."]
    return "\n".join(lines)


def updated(text: str, entries: dict[str, Any]) -> str:
    """`text` with the table between its two markers written anew.

    Raises
    ------
    ValueError
        If the markers are not there, in order.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md needs the two lines between which the table stands: {START} and {END}")
    return f"{head}{START}\n{table(entries)}\n{END}{tail}"


if __name__ == "__main__":
    before = README.read_text()
    after = updated(before, json.loads(RESULTS.read_text()) if RESULTS.exists() else {})
    if "--check" not in sys.argv[1:]:
        README.write_text(after)
    elif before != after:
        sys.exit("README.md's figures differ from benchmarks/results.json: run python benchmarks/readme.py")
