"""Learn units from few labels, sort the rest, score it: ``python train.py probe=neuropixels labels=0.56``."""

from esort.command import train

if __name__ == "__main__":
    train()
