"""Learn units from few labels, sort the rest, score it: ``python train.py probe=neuropixels labels=0.56``."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Run one training, or one job of a sweep."""
    from esort.experiment import train
    from esort.runs import one_line_errors

    return one_line_errors(train)(config)


if __name__ == "__main__":
    main()
