"""A paper's table beside what was measured here: `python table.py table=vqa2-2 [preset=tiny] [key=value ...]`."""

from vqa2.launch import guarded
from vqa2.tables import main

if __name__ == "__main__":
    guarded(main, "table")
