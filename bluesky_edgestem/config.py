"""The experiment file: TOML in which every quantity names its unit, validated by pydantic.

`edgestem run experiment.toml` carries one out; `edgestem demo` carries out the one that ships with the package.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from datetime import date, time
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ExperimentFileError(ValueError):
    """An experiment file that cannot be carried out; the message says what to change."""


class _Table(BaseModel):
    # Strict: true is not 1 and "3" is not 3. Fields that TOML cannot write as they are say so.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class MicroscopeTable(_Table):
    """Where the microscope is."""

    prefix: str = Field("SIM:", min_length=1, description="prefix of its process variables")
    simulated: bool = Field(
        True, description="start the simulated microscope under this prefix; false for real hardware"
    )
    specimen_seed: int = Field(1, ge=0, description="which simulated specimen; of no effect on real hardware")
    board: Path | None = Field(
        None,
        strict=False,
        description="folder of a build by `edgestem fpga build`, or `shipped`: the inference board reads the patterns "
        "with it, and the network those that the board is silent about; only the network if left out",
    )


class BeamTable(_Table):
    """The electron beam. A real microscope states its own: what is written here is only compared with it."""

    energy_keV: float = Field(80.0, ge=20, le=400, description="beam energy [keV]")
    semiangle_mrad: float = Field(2.0, ge=0.2, le=50, description="convergence semiangle [mrad]")
    current_pA: float = Field(
        100.0, gt=0, le=10_000, description="beam current at the specimen [pA]; a real microscope states its own"
    )


class DetectorTable(_Table):
    """The pixelated detector and its calibration."""

    n_pixels: int = Field(128, ge=32, le=1024, description="pixels along each side of a frame")
    pixel_mrad: float = Field(0.5, gt=0.005, le=10, description="angle that a pixel spans [mrad]")
    psf_px: float = Field(0.6, ge=0, le=3, description="standard deviation of the point spread [pixels]")
    background_fraction: float = Field(
        0.05, ge=0, le=0.95, description="fraction of the electrons in the diffuse background"
    )
    dwell_time_s: float = Field(1.6e-3, gt=0, le=60, description="exposure of one pattern [s]")


class FieldTable(_Table):
    """The field of view, in the coordinates of the scan coils."""

    centre_x_nm: float = Field(0.0, description="centre [nm]")
    centre_y_nm: float = Field(0.0, description="centre [nm]")
    width_nm: float = Field(100.0, gt=0, description="width [nm]")
    height_nm: float = Field(100.0, gt=0, description="height [nm]")


class StopTable(_Table):
    """When the run is complete, and when it must end whatever it knows."""

    target_sd_eV: float = Field(
        0.003,
        gt=0,
        description="largest posterior standard deviation of the energy wanted anywhere [eV per formula unit]",
    )
    max_positions: int = Field(400, ge=1, description="budget of probe positions")
    max_time_s: float = Field(3600.0, gt=0, description="budget of time [s]; no batch begins that would end after it")
    max_dose_electrons: float | None = Field(
        None, gt=0, description="budget of dose for the whole run [electrons]; none if left out"
    )
    max_dose_per_position_electrons: float = Field(
        1.0e7, gt=0, description="largest dose that one position may receive [electrons]"
    )


class LoopTable(_Table):
    """How the loop proceeds."""

    initial: int = Field(24, ge=4, description="positions of the first, space-filling batch")
    batch: int = Field(16, ge=1, description="positions of each further batch")
    seed: int = Field(0, ge=0, description="draws the first batch")


class NetworkTable(_Table):
    """The network that reads patterns."""

    weights: Path | None = Field(
        None, strict=False, description="weights file; those that ship with the package if left out"
    )


class EnergeticsTable(_Table):
    """The density functional theory."""

    scheduler: str = Field("local", description='"local", or the address of a Dask scheduler such as "tcp://host:8786"')
    workers: int = Field(2, ge=1, description="worker processes if local, one thread each")
    method: Literal["standard", "draft"] = Field(
        "standard", description='"draft" is many times as fast and of no accuracy: to try all the rest'
    )
    cache: Path = Field(
        Path("~/.cache/bluesky_edgestem"), strict=False, description="folder of the energies known from earlier runs"
    )


class CatalogTable(_Table):
    """Where documents and frames are kept."""

    folder: Path = Field(
        Path("edgestem_data"),
        strict=False,
        description="folder of the embedded Tiled server: its catalog, frames, journals and reports",
    )


class Experiment(_Table):
    """A whole experiment."""

    plan: Literal["adaptive_map"] = Field("adaptive_map", description="the plan to run")
    sample: str = Field("", description="name of the sample, kept with the run")
    phases: tuple[str, ...] = Field(
        ("MoS2", "WS2"), min_length=1, strict=False, description="formulas of the phases that may occur"
    )
    microscope: MicroscopeTable = MicroscopeTable()  # pyright: ignore[reportCallIssue]
    beam: BeamTable = BeamTable()  # pyright: ignore[reportCallIssue]
    detector: DetectorTable = DetectorTable()  # pyright: ignore[reportCallIssue]
    field: FieldTable = FieldTable()  # pyright: ignore[reportCallIssue]
    stop: StopTable = StopTable()  # pyright: ignore[reportCallIssue]
    loop: LoopTable = LoopTable()  # pyright: ignore[reportCallIssue]
    network: NetworkTable = NetworkTable()  # pyright: ignore[reportCallIssue]
    energetics: EnergeticsTable = EnergeticsTable()  # pyright: ignore[reportCallIssue]
    catalog: CatalogTable = CatalogTable()  # pyright: ignore[reportCallIssue]
    metadata: dict[str, Any] = Field(default_factory=dict, description="kept with the run as it is, searchable")


def hint(key: str, known: Sequence[str]) -> str:
    """What to write in place of the unknown `key`: the known one that is near, or a list of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _keys_at(location: tuple) -> list[str]:
    """The keys that the table at `location` of an experiment file allows."""
    model: Any = Experiment
    for key in location:
        annotation = model.model_fields[key].annotation
        model = next((t for t in (annotation, *get_args(annotation)) if isinstance(t, type)), None)
    return list(model.model_fields)


def _explain(error: dict[str, Any]) -> str:
    *table, key = error["loc"]
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key {name!r}; {hint(str(key), _keys_at(tuple(table)))}"
    return f"{name} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def parse_experiment(text: str, source: str = "the experiment file") -> Experiment:
    """An experiment from TOML.

    Raises
    ------
    ExperimentFileError
        If it is not TOML, has an unknown key (the message suggests the right one) or a value out of range.
    """
    try:
        table = tomllib.loads(text)
        if isinstance(metadata := table.get("metadata"), dict):
            table["metadata"] = _plain(metadata)
        return Experiment.model_validate(table)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentFileError(f"{source} is not valid TOML: {error}") from None
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(dict(e))}" for e in error.errors())
        raise ExperimentFileError(f"{source} cannot be carried out:\n{problems}") from None


def _plain(value: Any) -> Any:
    """TOML's dates and times as ISO text, which documents can hold."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, date | time) else value


def load_experiment(path: str | Path) -> Experiment:
    """The experiment in the file at `path`; raises `ExperimentFileError`, also where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentFileError(f"cannot read the experiment file {path}: {error}") from None
    return parse_experiment(text, str(path))


def demo_experiment() -> Experiment:
    """The experiment that `edgestem demo` carries out."""
    return parse_experiment(files("bluesky_edgestem").joinpath("demo.toml").read_text(encoding="utf-8"), "demo.toml")
