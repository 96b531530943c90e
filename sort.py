"""Sort a recording: ``python sort.py checkpoint=FILE recording=path recording.path=FOLDER output=DIR``."""

from esort.command import sort

if __name__ == "__main__":
    sort()
