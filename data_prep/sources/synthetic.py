"""Source `synthetic`: the embedded data, made on the spot from photographs in wheels and procedural textures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from data_prep._build import Job, Recipe, make_jobs, run_jobs
from data_prep._contents import Content, catalog, picture
from data_prep._degrade import COLOR, TEMPORAL_VARIANTS
from data_prep._scene import Scene, detail, draw_scene, render
from vqa2.core.config import register, suggest
from vqa2.core.errors import ConfigError
from vqa2.core.records import Clip


@dataclass(frozen=True)
class SceneShot:
    """A window moving over a content; `other` is the content of the foreground object, from the same split."""

    content: str
    other: str
    tags: dict[str, str]
    scene: Scene
    centers: tuple[tuple[float, float], ...]

    def frames(self, recipe: Recipe, count: int, jitter: float) -> np.ndarray:
        size = (recipe.width, recipe.height)
        pixels = picture(self.content)
        # Flat sky and black space show no distortion: of a few places, the one with the most structure.
        places = [replace(self.scene, center=center) for center in self.centers]
        scene = max(places, key=lambda place: detail(pixels, place, (recipe.width // 2, recipe.height // 2)))
        return render(pixels, picture(self.other), scene, count, size, jitter)


@register("source", "synthetic")
class Synthetic:
    """`test_contents`: pictures held out for the test split, all others train. `speed_px`: camera motion per frame;
    `hand_px`: natural shake; `foreground`: probability of a moving object; `procedural`: share
    of clips that show a procedural texture; `places`: windows per clip of which the most structured one is shown."""

    recipe: Recipe
    test_contents: tuple[str, ...]
    speed_px: tuple[float, float]
    hand_px: Annotated[float, Ge(0)]
    foreground: Annotated[float, Interval(ge=0, le=1)]
    procedural: Annotated[float, Interval(ge=0, le=1)]
    places: Annotated[int, Ge(1)]

    def clips(
        self, root: Path, seed: int, workers: int, advance: Callable[[int, int], None]
    ) -> tuple[list[Clip], list[tuple[str, str]]]:
        """Writes `root/media` and returns (clips, exclusions with reasons)."""
        jobs, left_out = self.jobs(seed)
        return run_jobs(root, self.recipe, jobs, workers, advance), left_out

    def jobs(self, seed: int) -> tuple[list[Job], list[tuple[str, str]]]:
        """What `clips` makes, and what cannot be made with the reason."""
        known = catalog()
        for name in self.test_contents:
            if name not in known:
                raise ConfigError(f"source.test_contents: no content {name!r}{suggest(name, sorted(known))}")
        pools = {"test": [known[n] for n in self.test_contents]}
        pools["train"] = [c for n, c in known.items() if n not in self.test_contents]
        self._check_pools(pools)

        def shots(split: str, rng: np.random.Generator, variant: str | None) -> SceneShot:
            drawn = bool(rng.random() < self.procedural)
            pool = [c for c in pools[split] if (c.color or variant not in COLOR) and (c.origin == "CG") == drawn]
            content = pool[int(rng.integers(len(pool)))]
            # Every procedural clip gets a texture of its own; its family decides the split.
            varied = content.origin == "CG" or split == "train"
            number = f"#{rng.integers(1_000_000 if content.origin == 'CG' else 24)}" if varied else ""
            other = pools[split][int(rng.integers(len(pools[split])))]
            # Held frames of a picture that does not move look like any others, and shake is told from a steady camera:
            # an undistorted clip moves as well, or a still one would be the likeness of a stutter.
            moving = variant is None or variant in TEMPORAL_VARIANTS
            scene = draw_scene(rng, self.speed_px, self.hand_px, self.foreground, moving=moving)
            tags = {"camera": scene.camera, "origin": content.origin, "color": "yes" if content.color else "no"}
            if scene.foreground:
                tags["foreground_content"] = other.name
            centers = tuple((float(x), float(y)) for x, y in rng.uniform(0.3, 0.7, (self.places, 2)))
            return SceneShot(content.name + number, other.name, tags, scene, centers)

        return make_jobs(self.recipe, shots, seed, "synthetic")

    def _check_pools(self, pools: dict[str, list[Content]]) -> None:
        """Every draw finds a content: colored photographs and textures in both splits, as far as they are asked for."""
        if self.speed_px[0] > self.speed_px[1]:
            raise ConfigError(f"source.speed_px: {list(self.speed_px)} is no range; the smaller value comes first")
        for split, pool in pools.items():
            for origin, share, what in (
                ("natural", 1 - self.procedural, "colored photograph"),
                ("CG", self.procedural, "procedural texture"),
            ):
                if share and not any(c.color and c.origin == origin for c in pool):
                    raise ConfigError(f"source.test_contents: the {split} split has no {what}; name other contents")
