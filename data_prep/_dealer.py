"""Dealing letters: the right answers of every number of options take all places equally often, in a shuffled order."""

from data_prep._write import rng_of


class Dealer:
    """Deals in the order in which it is asked: the same questions in the same order get the same letters."""

    def __init__(self, seed: int, *names: str) -> None:
        self._seed, self._names = seed, names
        self._dealt: dict[tuple[str, int], int] = {}

    def deal(self, kind: str, options: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """(options in their new order, place of the right one); the right one comes first in `options`.

        Within a kind and number of options, every run of n questions uses each of the n places once.
        """
        count = len(options)
        number = self._dealt.get((kind, count), 0)
        self._dealt[kind, count] = number + 1
        block, within = divmod(number, count)
        place = int(rng_of(self._seed, *self._names, kind, str(count), str(block)).permutation(count)[within])
        wrong = rng_of(self._seed, *self._names, kind, str(count), "order", str(number)).permutation(options[1:])
        rest = [str(x) for x in wrong]
        return (*rest[:place], options[0], *rest[place:]), place
