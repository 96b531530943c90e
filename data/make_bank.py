"""Make the template bank that ships inside the package.

Needs the extra ``bank`` (LFPy, NEURON 8) and a C compiler; nothing else in the project does::

    pip install ".[bank]"
    python data/make_bank.py --work-folder /some/scratch/folder --jobs 2

Every template is one simulated neuron: one of the cell models that MEArec ships (Markram et al. 2015),
one of its spikes, a random distance from the probe plane and a random rotation ('physrot' of MEArec:
pyramidal cells stand upright, the others turn freely). Its extracellular potential is computed by LFPy
on a dense rectilinear grid in the probe plane around the soma, not on the contacts of one probe; what a
probe sees is interpolated from the grid (see ``esort.simulation.bank``). That is what lets one small
file serve every geometry and a continuous drift.

The last lines printed compare interpolated templates with LFPy computed directly at contact positions.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import zlib
from pathlib import Path

import numpy as np

# One thread per process: the processes are the parallelism.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

CUT_OUT_MS = (2.0, 5.0)
SAMPLING_FREQUENCY = 32000.0
DISTANCE_UM = (8.0, 60.0)
MIN_AMPLITUDE_UV = 35.0
PYRAMIDAL = ("STPC", "TTPC1", "TTPC2", "UTPC")
INTRACELLULAR = {
    "sim_time": 1,
    "target_spikes": [3, 50],
    "cut_out": list(CUT_OUT_MS),
    "dt": 1000.0 / SAMPLING_FREQUENCY,
    "delay": 10,
    "weights": [0.25, 1.75],
    "seed": 0,
}


def symmetric_grid(half: list[float]) -> np.ndarray:
    """Return the grid -half[::-1], 0, half."""
    return np.concatenate([-np.array(half[::-1]), [0.0], half])


# Fine near the soma, where the field changes within the distance to the plane, coarse far out.
ACROSS_UM = symmetric_grid([8, 16, 24, 32, 41, 52, 65, 80, 97, 120])
ALONG_UM = symmetric_grid([8, 16, 24, 32, 40, 49, 60, 74, 91, 112, 138, 170, 210, 255, 305])


# Near the soma every grid point is the mean over four points, about what a contact of this side would see:
# where a thin neurite pierces the plane, the field of a point is a spike that no grid could follow.
CONTACT_SIDE_UM = 12.0
AVERAGED_ACROSS_UM, AVERAGED_ALONG_UM = 55.0, 115.0


def is_pyramidal(cell_model: str) -> bool:
    """Whether a cell model is excitatory, by MEArec's naming."""
    return cell_model.split("_")[1] in PYRAMIDAL


def check_contacts(rng: np.random.Generator) -> np.ndarray:
    """Contact positions relative to a soma (across, along): 24 of Neuropixels 1.0, then 4 of a tetrode."""
    rows = np.arange(12) * 20.0 - 110.0
    neuropixels = np.array([(x, y) for i, y in enumerate(rows) for x in ((-16, 16) if i % 2 else (-32, 0))])
    tetrode = np.array([(0, 12.5), (12.5, 0), (0, -12.5), (-12.5, 0)])
    shift_neuropixels = rng.uniform([-30, -10], [30, 10])
    shift_tetrode = rng.uniform([-20, -20], [20, 20])
    return np.concatenate([neuropixels + shift_neuropixels, tetrode + shift_tetrode])


def simulate_model(job: tuple[str, int, int, str]) -> str:
    """Simulate all placements of one cell model and save them in the work folder; returns the file."""
    cell_model, num_placements, num_checks, work_folder_name = job
    import LFPy
    from MEArec import simulate_cells

    work_folder = Path(work_folder_name)
    out_file = work_folder / f"dense_{cell_model}_{num_placements}.npz"
    if out_file.exists():
        return str(out_file)
    began = time.perf_counter()
    model_folder = work_folder / "models" / cell_model
    currents_folder = work_folder / "currents"
    # Once per cell model: the spikes and the currents through its membrane.
    simulate_cells.run_cell_model(str(model_folder), save=True, sim_folder=currents_folder, **INTRACELLULAR)
    currents = np.load(next(currents_folder.glob(f"imem_*_{cell_model}.npy")))
    cell = simulate_cells.return_bbp_cell(str(model_folder), end_T=1000.0, dt=INTRACELLULAR["dt"], start_T=0)
    cell.tvec = np.arange(currents.shape[-1]) * INTRACELLULAR["dt"]

    seed = zlib.crc32(cell_model.encode())
    rng = np.random.default_rng(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (MEArec draws its rotations from the global state)
    along, across = (grid.ravel() for grid in np.meshgrid(ALONG_UM, ACROSS_UM, indexing="ij"))
    num_grid = along.size
    averaged = np.flatnonzero((np.abs(across) <= AVERAGED_ACROSS_UM) & (np.abs(along) <= AVERAGED_ALONG_UM))
    corners = CONTACT_SIDE_UM / 4 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    extra = np.column_stack([across, along])[averaged][:, None] + corners  # (averaged, 4, 2)
    # A few points say whether a placement is strong enough to be worth the whole grid.
    near = np.flatnonzero((np.abs(across) <= 24) & (np.abs(along) <= 49))
    pre_samples = int(CUT_OUT_MS[0] * SAMPLING_FREQUENCY / 1000)

    potentials, distances, rotations, checks, check_positions, area_checks = [], [], [], [], [], []
    num_tried = num_failed = 0
    farthest = DISTANCE_UM[1]
    while len(potentials) < num_placements:
        num_tried += 1
        # Small cells are seen from near only: after a row of failures the range closes in on what is seen.
        if num_failed == 10:
            farthest, num_failed = max(0.8 * farthest, 12.0), 0
        distance = rng.uniform(DISTANCE_UM[0], farthest)
        spike = currents[rng.integers(len(currents))]
        is_check = len(checks) < num_checks
        contacts = check_contacts(rng) if is_check else np.zeros((0, 2))
        cell.imem = spike

        def potential_at(y: np.ndarray, z: np.ndarray, rotation: list[float]) -> np.ndarray:
            cell.set_pos(distance, 0.0, 0.0)  # noqa: B023 (called within this turn of the loop)
            cell.set_rotation(*rotation)
            electrodes = LFPy.RecExtElectrode(
                cell, x=np.zeros(len(y)), y=y, z=z, sigma=0.3, method="linesource"
            )
            made = 1000 * np.asarray(electrodes.get_transformation_matrix() @ cell.imem)
            cell.set_rotation(*(-np.array(rotation)), rotation_order="zyx")
            return made

        electrodes = LFPy.RecExtElectrode(
            cell, x=np.zeros(len(near)), y=across[near], z=along[near], sigma=0.3, method="linesource"
        )
        first_look, _, rotation, _ = simulate_cells.return_extracellular_spike(
            cell, cell_model, "bbp", electrodes, None, "physrot", [], pos=[distance, 0.0, 0.0]
        )
        if first_look.min() > -MIN_AMPLITUDE_UV or -first_look.min() < first_look.max():
            num_failed += 1
            continue
        num_failed = 0
        potential = potential_at(
            np.concatenate([across, extra[..., 0].ravel(), contacts[:, 0]]),
            np.concatenate([along, extra[..., 1].ravel(), contacts[:, 1]]),
            rotation,
        )
        at_corners = potential[num_grid : num_grid + 4 * len(averaged)].reshape(len(averaged), 4, -1)
        potential[averaged] = at_corners.mean(axis=1)
        potential = np.delete(potential, np.s_[num_grid : num_grid + 4 * len(averaged)], axis=0)
        grid_potential = potential[:num_grid]
        if is_check:
            offsets = rng.uniform(-CONTACT_SIDE_UM / 2, CONTACT_SIDE_UM / 2, (len(contacts), 25, 2))
            spread = (contacts[:, None] + offsets).reshape(-1, 2)
            area_potential = potential_at(spread[:, 0], spread[:, 1], rotation)
            area_potential = area_potential.reshape(len(contacts), 25, -1).mean(axis=1)
        # The trough at the strongest point is the template's time zero.
        peak = int(np.unravel_index(np.argmin(grid_potential), grid_potential.shape)[1])
        shift = pre_samples - peak
        potential = np.roll(potential, shift, axis=1)
        if shift > 0:
            potential[:, :shift] = potential[:, shift : shift + 1]
        elif shift < 0:
            potential[:, shift:] = potential[:, shift - 1 : shift]
        offset = potential[:, :1].copy()  # a template begins at zero
        potential -= offset
        if is_check:
            checks.append(potential[num_grid:])
            check_positions.append(contacts)
            area_checks.append(np.roll(area_potential - area_potential[:, :1], shift, axis=1))
        potentials.append(potential[:num_grid].astype(np.float32))
        distances.append(distance)
        rotations.append(rotation)
    beside = out_file.with_suffix(".part.npz")
    np.savez(
        beside, potentials=potentials, distances=distances, rotations=rotations,
        checks=checks, check_positions=check_positions, area_checks=area_checks,
    )  # fmt: skip
    os.replace(beside, out_file)
    seconds = time.perf_counter() - began
    print(f"{cell_model}: {num_placements} of {num_tried} placements kept, {seconds:.0f} s", flush=True)
    return str(out_file)


def compress(potential: np.ndarray, max_rms_uv: float, max_rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factor one template (points x time) into space (R, P), in uV, and unit time courses (R, T)."""
    space, scale, course = np.linalg.svd(potential.astype(np.float64), full_matrices=False)
    # rms over all points and times that is left when the first r terms are kept
    left = np.sqrt(np.concatenate([np.cumsum((scale**2)[::-1])[::-1], [0.0]]) / potential.size)
    rank = min(max_rank, int(np.argmax(left <= max_rms_uv)))
    return (space[:, :rank] * scale[:rank]).T, course[:rank]


def save_bank(dense_files: list[str], output: Path, *, max_rms_uv: float, max_rank: int) -> None:
    """Compress the dense potentials of all cell models into one file."""
    import MEArec

    cell_models = [Path(file).stem.removeprefix("dense_").rpartition("_")[0] for file in dense_files]
    # Step sizes of the stored integers: far below the noise of any amplifier, so that small terms pack well.
    space_step_uv, course_step = 0.1, 1.0 / 16384
    columns: dict[str, list] = {name: [] for name in ("rank", "model", "distance", "rotation", "amplitude")}
    spaces, courses = [], []
    for model_index, file in enumerate(dense_files):
        dense = np.load(file)
        for potential, distance, rotation in zip(
            dense["potentials"], dense["distances"], dense["rotations"], strict=True
        ):
            space, course = compress(potential, max_rms_uv, max_rank)
            spaces.append(np.round(space / space_step_uv).astype(np.int16))
            courses.append(np.round(course / course_step).astype(np.int16))
            columns["rank"].append(len(space))
            columns["model"].append(model_index)
            columns["distance"].append(distance)
            columns["rotation"].append(rotation)
            columns["amplitude"].append(-potential.min())

    def pack(integers: list[np.ndarray]) -> np.ndarray:
        """Lay the low bytes behind the high ones, which are mostly 0 or 255 and so compress away."""
        joined = np.ascontiguousarray(np.concatenate(integers))
        return joined.view(np.uint8).reshape(*joined.shape, 2).transpose(2, 0, 1).copy()

    header = {
        "format": 1,
        "sampling_frequency": SAMPLING_FREQUENCY,
        "peak_sample": int(CUT_OUT_MS[0] * SAMPLING_FREQUENCY / 1000),
        "space_step_uv": space_step_uv,
        "course_step": course_step,
        "cell_models": cell_models,
        "cell_types": ["E" if is_pyramidal(m) else "I" for m in cell_models],
        "made_with": {"MEArec": MEArec.__version__},
    }
    beside = output.with_suffix(".part.npz")
    np.savez_compressed(
        beside,
        header=np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8),
        across_um=ACROSS_UM,
        along_um=ALONG_UM,
        space_bytes=pack(spaces),
        course_bytes=pack(courses),
        rank=np.array(columns["rank"], np.uint8),
        model_index=np.array(columns["model"], np.uint8),
        distance_um=np.array(columns["distance"], np.float32),
        rotation_rad=np.array(columns["rotation"], np.float32),
        amplitude_uv=np.array(columns["amplitude"], np.float32),
    )
    os.replace(beside, output)
    size_mb = output.stat().st_size / 1e6
    ranks = columns["rank"]
    print(f"{output}: {len(ranks)} templates, mean rank {np.mean(ranks):.1f}, {size_mb:.2f} MB")


def main() -> None:
    """Simulate, compress, save, check."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default_output = Path(__file__).parents[1] / "src" / "esort" / "simulation" / "template_bank.npz"
    parser.add_argument("--work-folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=default_output)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--num-pyramidal", type=int, default=100, help="placements of each pyramidal model")
    parser.add_argument("--num-interneuron", type=int, default=30, help="placements of each other model")
    parser.add_argument("--num-checks", type=int, default=3, help="placements of each model to check")
    parser.add_argument(
        "--max-rms-uv", type=float, default=0.06, help="error allowed, rms over grid and time"
    )
    parser.add_argument("--max-rank", type=int, default=16)
    arguments = parser.parse_args()

    import MEArec
    from MEArec.simulate_cells import compile_all_mechanisms

    work_folder = arguments.work_folder.resolve()
    models_folder = work_folder / "models"
    if not (models_folder / "mods").is_dir():
        work_folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(MEArec.__file__).parent / "cell_models" / "bbp", models_folder)
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nrnivmodl
        compile_all_mechanisms(str(models_folder))
    cell_models = sorted(f.name for f in models_folder.iterdir() if f.is_dir() and f.name.startswith("L"))
    jobs = [
        (m, arguments.num_pyramidal if is_pyramidal(m) else arguments.num_interneuron, arguments.num_checks,
         str(work_folder))
        for m in cell_models
    ]  # fmt: skip
    # A fresh process for each model: NEURON keeps the sections of the cells it has built.
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        files = pool.map(simulate_model, jobs, chunksize=1)

    save_bank(files, arguments.output, max_rms_uv=arguments.max_rms_uv, max_rank=arguments.max_rank)
    check(arguments.output, files)


def check(bank_file: Path, files: list[str]) -> None:
    """Print how far interpolated templates are from LFPy computed at the contacts themselves."""
    from esort.simulation.bank import TemplateBank

    bank = TemplateBank.load(bank_file)
    rows = []
    first = 0
    for file in files:
        dense = np.load(file)
        for i, (direct, contacts, area) in enumerate(
            zip(dense["checks"], dense["check_positions"], dense["area_checks"], strict=True)
        ):
            interpolated = bank.sample([first + i], contacts[None])[0]
            error = interpolated - direct
            area_error = (interpolated - area)[:, 20:-20]  # without what was rolled in
            for name, part in (("neuropixels", slice(0, 24)), ("tetrode", slice(24, 28))):
                amplitude = -direct[part].min()
                rms = np.sqrt(np.mean(error[part] ** 2))
                worst, area_worst = np.abs(error[part]).max(), np.abs(area_error[part]).max()
                distance = float(dense["distances"][i])
                rows.append((name, amplitude, rms, worst / amplitude, area_worst / amplitude, distance))
        first += len(dense["potentials"])
    for name in ("neuropixels", "tetrode"):
        for near in (True, False):
            chosen = np.array([r[1:] for r in rows if r[0] == name and (r[5] < 20) == near])
            if len(chosen):
                print(
                    f"{name}, soma {'below' if near else 'above'} 20 um, {len(chosen)} placements: "
                    f"rms error {np.median(chosen[:, 1]):.2f} uV (worst {chosen[:, 1].max():.2f}); "
                    f"largest error / amplitude: median {100 * np.median(chosen[:, 2]):.1f} % "
                    f"(worst {100 * chosen[:, 2].max():.1f} %); "
                    f"against a {CONTACT_SIDE_UM:g} um square contact: "
                    f"median {100 * np.median(chosen[:, 3]):.1f} % (worst {100 * chosen[:, 3].max():.1f} %)"
                )


if __name__ == "__main__":
    main()
