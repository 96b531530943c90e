"""What a person, or a program in their place, has said of the units of a sorting: good, mua, noise."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting

__all__ = ["check_groups", "curated", "curation_groups"]

logger = logging.getLogger(__name__)

NOISE = "noise"
# Not judged: an empty cell of a table is read as nan.
UNSORTED = ("unsorted", "unlabelled", "unlabeled", "nan", "none", "")
_WORDS = {"good", "sua", "mua", NOISE, *UNSORTED}
# Properties that hold a curation, the first that does counts: phy's groups (which SpikeInterface calls
# quality), SpikeInterface's own curation, the usual names of columns in NWB.
_PROPERTIES = ("quality", "curation_label", "quality_label", "label", "group", "decoder_label")


def check_groups(groups: Sequence[str]) -> None:
    """Refuse groups that nothing may be learned from.

    Raises
    ------
    ValueError
        If there is none, one is no text, or one is noise.
    """
    if isinstance(groups, str) or not groups or not all(isinstance(group, str) for group in groups):
        raise ValueError(f"groups must be a list of at least one name such as [good, mua], got {groups!r}")
    if NOISE in [group.lower() for group in groups]:
        raise ValueError(f"groups must not name noise, which is never learned, got {list(groups)!r}")


def curation_groups(sorting: BaseSorting) -> np.ndarray | None:
    """Find what was said of each unit.

    Returns
    -------
    str array, shape (U,), or None
        In lower case, "unsorted" where nothing was said; None where there is no curation.
    """
    for name in _PROPERTIES:
        values = sorting.get_property(name)
        if values is None or np.asarray(values).dtype.kind not in "UOS":
            continue
        groups = np.array([str(value).strip().lower() for value in values], dtype=object)
        # A column "group" may as well name shanks; phy allows groups of one's own beside these words.
        if name == "quality" or set(groups) & (_WORDS - {""}):
            groups[np.isin(groups, UNSORTED)] = UNSORTED[0]
            return groups.astype(str)
    return None


def curated(sorting: BaseSorting, path: Path, groups: Sequence[str] | None = None) -> BaseSorting:
    """Leave out the units that are noise, or all that are not of some groups.

    Parameters
    ----------
    sorting : BaseSorting
    path : Path
        Where it lies, for messages.
    groups : sequence of str, optional
        Of the curation, in any case; None: all but noise, units that nobody judged included.

    Returns
    -------
    BaseSorting
        The same units where nobody has curated anything.

    Raises
    ------
    ValueError
        If there is no curation, or no unit of these groups.
    """
    found = curation_groups(sorting)
    if groups is not None:
        check_groups(groups)
    if found is None:
        if groups is not None:
            raise ValueError(f"{path} has no curation, expected units of the groups {', '.join(groups)}")
        return sorting
    if groups is None:
        kept = found != NOISE
    else:
        kept = np.isin(found, [group.lower() for group in groups])
    counts = Counter(found.tolist())
    described = ", ".join(f"{count} {group}" for group, count in sorted(counts.items()))
    if not kept.any() and len(found):
        raise ValueError(
            f"{path} has no unit of {'any group but noise' if groups is None else ', '.join(groups)}, "
            f"got {described}"
        )
    if not kept.all():
        logger.info("%s: %d of %d units are left out (%s)", path, (~kept).sum(), kept.size, described)
    unsorted = int((found[kept] == UNSORTED[0]).sum())
    if 0 < unsorted < kept.sum():
        logger.warning(
            "%s: %d units that nobody has judged are taken too (%s); groups=[good] would leave them out",
            path,
            unsorted,
            described,
        )
    return sorting if kept.all() else sorting.select_units(np.asarray(sorting.unit_ids)[kept])
