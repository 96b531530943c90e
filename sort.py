"""Sort a recording: ``python sort.py checkpoint=FILE recording=path recording.path=FOLDER output=DIR``."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="sort")
def main(config: DictConfig) -> float | None:
    """Run one sorting, or one job of a sweep."""
    from esort.experiment import sort
    from esort.runs import one_line_errors

    return one_line_errors(sort)(config)


if __name__ == "__main__":
    main()
