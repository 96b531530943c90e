"""Probe geometries: named ones, a probeinterface file, or contact positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from probeinterface import Probe, generate_tetrode, read_probeinterface
from probeinterface.neuropixels_tools import build_neuropixels_probe

__all__ = ["PROBES", "ProbeSpec"]


def _neuropixels(num_channels: int) -> Probe:
    """Return the first `num_channels` sites (from the tip) of a Neuropixels 1.0 probe."""
    full = build_neuropixels_probe("NP1000").get_slice(np.arange(num_channels))
    # The full probe carries tables of all 960 sites; a plain probe with the sites in use is enough.
    return _from_positions(full.contact_positions, shape="square", size_um=12.0, name="Neuropixels 1.0")


def _neuronexus32() -> Probe:
    """Return a shank like the NeuroNexus A1x32-Poly3: columns of 10, 12 and 10 sites, 18 um apart."""
    columns: list[tuple[float, float]] = []
    for x_um, first_um, count in ((-18.0, 12.5, 10), (0.0, 0.0, 12), (18.0, 12.5, 10)):
        columns.extend((x_um, first_um + 25.0 * row) for row in range(count))
    positions = np.array(sorted(columns, key=lambda position: (position[1], position[0])))
    return _from_positions(positions, shape="circle", size_um=15.0, name="A1x32-Poly3")


def _tetrode() -> Probe:
    """Return four contacts on a circle of radius 12.5 um."""
    positions = np.round(generate_tetrode(r=12.5).contact_positions, 6) + 0.0  # + 0.0: no negative zero
    return _from_positions(positions, shape="circle", size_um=12.5, name="tetrode")


_BUILDERS: dict[str, Callable[[], Probe]] = {
    "neuropixels": lambda: _neuropixels(384),
    "neuropixels128": lambda: _neuropixels(128),
    "neuronexus32": _neuronexus32,
    "tetrode": _tetrode,
}

PROBES: tuple[str, ...] = tuple(_BUILDERS)
"""Names that `ProbeSpec` knows."""


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """A probe, said in exactly one of three ways.

    Parameters
    ----------
    name : str, optional
        One of `PROBES`: ``neuropixels`` (the first 384 sites of a Neuropixels 1.0), ``neuropixels128`` (the
        first 128), ``neuronexus32`` (32 sites in three columns) or ``tetrode``.
    path : str, optional
        A JSON file of probeinterface with one probe.
    contact_positions_um : sequence of (x, y), optional
        One pair per contact, in um: x across the shank, y along it.

    Raises
    ------
    ValueError
        If not exactly one is given, the name is unknown, or the positions are not finite and distinct pairs.
    FileNotFoundError
        If `path` is no file.
    """

    name: str | None = None
    path: str | None = None
    contact_positions_um: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.name, self.path, self.contact_positions_um)]
        if sum(given) != 1:
            raise ValueError(
                f"expected exactly one of name, path and contact_positions_um for a probe, got {sum(given)}"
            )
        if self.name is not None and self.name not in _BUILDERS:
            raise ValueError(f"expected a probe name among {', '.join(PROBES)}, got {self.name!r}")
        if self.path is not None and not Path(self.path).is_file():
            raise FileNotFoundError(f"expected a probeinterface JSON file, found no file at {self.path}")
        if self.contact_positions_um is not None:
            positions = _check_positions(self.contact_positions_um)
            # Tuples, so that equal specs are equal and hashable.
            pairs = tuple((float(x), float(y)) for x, y in positions)
            object.__setattr__(self, "contact_positions_um", pairs)

    @property
    def label(self) -> str:
        """A short name for folders, logs and tables."""
        if self.name is not None:
            return self.name
        return Path(self.path).stem if self.path is not None else "custom"

    def build(self) -> Probe:
        """Build the probe.

        Returns
        -------
        probeinterface.Probe
            Two-dimensional, in um, contacts in channel order, `device_channel_indices` 0 to C - 1.

        Raises
        ------
        ValueError
            If the file does not hold exactly one probe in the plane.
        """
        if self.name is not None:
            return _BUILDERS[self.name]()
        if self.contact_positions_um is not None:
            positions = np.array(self.contact_positions_um)
            return _from_positions(positions, shape="circle", size_um=12.0, name="custom")
        assert self.path is not None
        try:
            probes = read_probeinterface(self.path).probes
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"expected a probeinterface JSON file, got {self.path}: {error}") from error
        if len(probes) != 1 or probes[0].ndim != 2:
            raise ValueError(
                f"expected one probe in two dimensions in {self.path}, got {len(probes)} probes"
                f" in {probes[0].ndim if probes else 0} dimensions"
            )
        probe = probes[0]
        _check_positions(probe.contact_positions)
        wiring = probe.device_channel_indices
        # Recordings number their channels by the wiring; a file without one is taken in contact order.
        if wiring is not None:
            connected = np.flatnonzero(wiring >= 0)
            probe = probe.get_slice(connected[np.argsort(wiring[connected], kind="stable")])
        probe.set_device_channel_indices(np.arange(probe.get_contact_count()))
        return probe


def _check_positions(positions: Sequence[Sequence[float]]) -> np.ndarray:
    """Return positions as a float array (C, 2), or raise ValueError."""
    try:
        array = np.asarray(positions, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected contact positions as (x, y) in um, got {positions!r:.80}") from error
    if array.ndim != 2 or array.shape[1:] != (2,) or len(array) < 1 or not np.isfinite(array).all():
        raise ValueError(f"expected finite contact positions (x, y) in um, got shape {array.shape}")
    if len(np.unique(array, axis=0)) != len(array):
        raise ValueError(f"expected {len(array)} distinct contact positions, got some twice")
    return array


def _from_positions(positions: np.ndarray, *, shape: str, size_um: float, name: str) -> Probe:
    """Return a probe with equal contacts, wired in order."""
    probe = Probe(ndim=2, si_units="um")
    params = {"radius": size_um / 2} if shape == "circle" else {"width": size_um}
    probe.set_contacts(positions=np.asarray(positions, float), shapes=shape, shape_params=params)
    probe.set_contact_ids([str(i) for i in range(len(positions))])
    probe.set_device_channel_indices(np.arange(len(positions)))
    probe.annotate(name=name)
    probe.create_auto_shape(probe_type="tip")
    return probe
