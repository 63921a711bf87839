"""`python -m data_prep [source=synthetic] [set=all] [key=value ...]`: source media -> instruction sets."""

from vqa2.core.config import decode
from vqa2.launch import composed, guarded


def main(overrides: list[str]) -> None:
    from data_prep.run import DataPrepRun, prepare

    prepare(decode(DataPrepRun, composed("data_prep", overrides), "data_prep"), progress=True)


if __name__ == "__main__":
    guarded(main)
