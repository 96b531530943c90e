"""The template bank: simulated neurons on a dense grid, sampled at any contact position and rate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from esort.one_line import one_line

__all__ = ["SPLITS", "TemplateBank"]

SPLITS = ("source", "target")
"""Halves of the bank: pretraining draws from the one, what is learned later from the other."""

# Where the grid ends, potentials fade to zero over these lengths, so that drift never makes a step.
_TAPER_ALONG_UM = 40.0
_TAPER_ACROSS_UM = 20.0
# What remains at the ends of the cut-out is faded over these times; an abrupt end would ring in every filter.
_FADE_IN_MS = 0.5
_FADE_OUT_MS = 1.5


@dataclass(frozen=True, eq=False)
class TemplateBank:
    """Templates of simulated neurons on a dense grid in the probe plane, in factors of low rank.

    The potential of template n at grid point (l, a) and time t is
    ``sum_r space[n, r, l, a] * course[n, r, t]``. Points between are interpolated by cubic splines; the soma
    is the origin; time zero is the trough at the grid's strongest point.

    Parameters
    ----------
    along_um, across_um : np.ndarray of shape (L,) and (A,)
        Grid coordinates relative to the soma, along the probe and across it.
    space : np.ndarray of shape (N, R, L, A)
        Spatial factors, in uV.
    course : np.ndarray of shape (N, R, T)
        Time courses of unit norm.
    cell_models : np.ndarray of str, shape (N,)
        Name of the cell model of every template.
    cell_types : np.ndarray of str, shape (N,)
        "E" (pyramidal) or "I" (interneuron).
    distance_um, amplitude_uv : np.ndarray of shape (N,)
        Distance of the soma from the probe plane; depth of the deepest trough on the grid.
    rotation_rad : np.ndarray of shape (N, 3)
        Rotation of the cell about x, y, z.
    sampling_frequency : float
        In Hz.
    peak_sample : int
        Sample of time zero.
    digest : str
        sha256 of the file.
    """

    along_um: np.ndarray
    across_um: np.ndarray
    space: np.ndarray
    course: np.ndarray
    cell_models: np.ndarray
    cell_types: np.ndarray
    distance_um: np.ndarray
    amplitude_uv: np.ndarray
    rotation_rad: np.ndarray
    sampling_frequency: float
    peak_sample: int
    digest: str

    @classmethod
    def load(cls, path: str | Path | None = None) -> TemplateBank:
        """Load a bank; each file is read once per process.

        Parameters
        ----------
        path : path-like, optional
            A file made by ``data/make_bank.py``; default the bank that ships with the package.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no template bank of this version.
        """
        if path is None:
            path = cls.shipped_path()
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a template bank, found no file at {path}")
        return _load(str(Path(path).resolve()))

    @staticmethod
    def shipped_path() -> Path:
        """Return where the bank lies that ships with the package."""
        return Path(str(files("esort.simulation") / "template_bank.npz"))

    def __len__(self) -> int:
        return len(self.cell_models)

    def split(self, name: str, *, disjoint_cell_models: bool = False) -> np.ndarray:
        """Return the indices of one half of the bank.

        The templates of each cell model alternate between the halves; with `disjoint_cell_models` whole cell
        models alternate, within the excitatory and within the inhibitory ones. The rule depends on nothing
        random, so that no run can mix the halves.

        Parameters
        ----------
        name : str
            "source" or "target".
        disjoint_cell_models : bool, default False
            Whether no cell model may appear in both halves.

        Returns
        -------
        np.ndarray of int64
            Sorted template indices.
        """
        if name not in SPLITS:
            raise ValueError(f"expected a split among {', '.join(SPLITS)}, got {name!r}")
        rank = np.zeros(len(self), dtype=np.int64)
        if disjoint_cell_models:
            for cell_type in ("E", "I"):
                of_type = self.cell_types == cell_type
                _, model_rank = np.unique(self.cell_models[of_type], return_inverse=True)
                rank[of_type] = model_rank
        else:
            for cell_model in np.unique(self.cell_models):
                of_model = self.cell_models == cell_model
                rank[of_model] = np.arange(of_model.sum())
        return np.flatnonzero(rank % 2 == SPLITS.index(name))

    def space_at(self, template_index: np.ndarray, positions_um: np.ndarray) -> np.ndarray:
        """Interpolate the spatial factors.

        Parameters
        ----------
        template_index : np.ndarray of shape (N,)
        positions_um : np.ndarray of shape (N, C, 2)
            Contact position minus soma position (across, along) for each template.

        Returns
        -------
        np.ndarray of float32, shape (N, C, R)
            In uV; zero beyond the grid.
        """
        across, along = np.asarray(positions_um, float).transpose(2, 0, 1)  # (N, C) each
        weights_a = _spline_weights(self._across_basis, self.across_um, across, _TAPER_ACROSS_UM)  # (N, C, A)
        weights_l = _spline_weights(self._along_basis, self.along_um, along, _TAPER_ALONG_UM)  # (N, C, L)
        result = np.empty((*across.shape, self.space.shape[1]), dtype=np.float32)  # (N, C, R)
        for n, template in enumerate(np.asarray(template_index)):
            by_contact = np.tensordot(weights_l[n], self.space[template], axes=(1, 1))  # (C, R, A)
            result[n] = np.einsum("cra,ca->cr", by_contact, weights_a[n])  # (C, R)
        return result

    def course_at(self, template_index: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
        """Interpolate the time courses.

        Parameters
        ----------
        template_index : np.ndarray of shape (N,)
        times_ms : np.ndarray of shape (N, T)
            Relative to the trough at the grid's strongest point; outside the cut-out the course is zero.

        Returns
        -------
        np.ndarray of float32, shape (N, R, T)
        """
        from scipy.interpolate import make_interp_spline

        start_ms, stop_ms = self.cut_out_ms
        inside = (times_ms >= start_ms) & (times_ms <= stop_ms)  # (N, T)
        samples = np.clip(times_ms, start_ms, stop_ms) * self.sampling_frequency / 1000 + self.peak_sample
        fade = np.clip((times_ms - start_ms) / _FADE_IN_MS, 0, 1)
        fade = fade * np.clip((stop_ms - times_ms) / _FADE_OUT_MS, 0, 1)
        fade = np.sin(0.5 * np.pi * fade) ** 2 * inside  # (N, T)
        num_templates, num_times = times_ms.shape
        result = np.empty((num_templates, self.course.shape[1], num_times), dtype=np.float32)  # (N, R, T)
        native = np.arange(self.course.shape[2])
        for n, template in enumerate(np.asarray(template_index)):
            result[n] = make_interp_spline(native, self.course[template], k=3, axis=1)(samples[n]) * fade[n]
        return result

    def sample(self, template_index: np.ndarray, positions_um: np.ndarray) -> np.ndarray:
        """Return templates at contact positions, at the bank's own rate and without fading in time.

        Parameters
        ----------
        template_index : np.ndarray of shape (N,)
        positions_um : np.ndarray of shape (N, C, 2)
            Contact position minus soma position (across, along).

        Returns
        -------
        np.ndarray of float32, shape (N, C, T)
            In uV.
        """
        return np.matmul(self.space_at(template_index, positions_um), self.course[np.asarray(template_index)])

    @property
    def cut_out_ms(self) -> tuple[float, float]:
        """First and last time of the templates relative to the trough, in ms."""
        last = self.course.shape[2] - 1 - self.peak_sample
        return -1000.0 * self.peak_sample / self.sampling_frequency, 1000.0 * last / self.sampling_frequency

    @cached_property
    def _across_basis(self):  # type: ignore[no-untyped-def]
        from scipy.interpolate import make_interp_spline

        return make_interp_spline(self.across_um, np.eye(len(self.across_um)), k=3)

    @cached_property
    def _along_basis(self):  # type: ignore[no-untyped-def]
        from scipy.interpolate import make_interp_spline

        return make_interp_spline(self.along_um, np.eye(len(self.along_um)), k=3)


def _spline_weights(basis, grid: np.ndarray, points: np.ndarray, taper_um: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return the weight (N, C, G) of every grid line at every point (N, C), tapered to zero at the border."""
    weights = basis(np.clip(points, grid[0], grid[-1]))  # (N, C, G)
    inside_um = np.minimum(points - grid[0], grid[-1] - points)
    taper = np.sin(0.5 * np.pi * np.clip(inside_um / taper_um, 0, 1)) ** 2  # (N, C)
    return weights * taper[..., None]


@lru_cache(maxsize=4)
def _load(path: str) -> TemplateBank:
    """Read and unpack a bank file."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            if header["format"] != 1:
                raise ValueError(
                    f"expected a template bank of format 1, got format {header['format']} at {path}"
                )
            arrays = {name: stored[name] for name in stored.files if name != "header"}
        return _unpacked(header, arrays, digest)
    except Exception as error:
        if str(error).startswith("expected a template bank"):
            raise
        reason = one_line(error, 200)
        raise ValueError(f"expected a template bank at {path}, could not read it: {reason}") from error


def _unpacked(header: dict, arrays: dict[str, np.ndarray], digest: str) -> TemplateBank:
    """Return the bank of a file's header and arrays."""

    def unpack(planes: np.ndarray) -> np.ndarray:
        # The file holds the low bytes of all numbers, then the high bytes (they compress better so).
        return np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i2")[..., 0]

    rank = arrays["rank"].astype(np.int64)
    owner = np.repeat(np.arange(len(rank)), rank)
    within = np.arange(rank.sum()) - np.repeat(np.cumsum(rank) - rank, rank)
    shape = (len(rank), int(rank.max()))
    space = np.zeros((*shape, arrays["space_bytes"].shape[2]), dtype=np.float32)  # (N, R, L * A)
    space[owner, within] = unpack(arrays["space_bytes"]) * np.float32(header["space_step_uv"])
    course = np.zeros((*shape, arrays["course_bytes"].shape[2]), dtype=np.float32)  # (N, R, T)
    course[owner, within] = unpack(arrays["course_bytes"]) * np.float32(header["course_step"])
    along_um, across_um = arrays["along_um"], arrays["across_um"]
    return TemplateBank(
        along_um=along_um,
        across_um=across_um,
        space=space.reshape(*shape, len(along_um), len(across_um)),
        course=course,
        cell_models=np.array(header["cell_models"])[arrays["model_index"]],
        cell_types=np.array(header["cell_types"])[arrays["model_index"]],
        distance_um=arrays["distance_um"].astype(float),
        amplitude_uv=arrays["amplitude_uv"].astype(float),
        rotation_rad=arrays["rotation_rad"].astype(float),
        sampling_frequency=float(header["sampling_frequency"]),
        peak_sample=int(header["peak_sample"]),
        digest=digest,
    )
