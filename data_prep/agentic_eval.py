"""A benchmark in the form of AgenticIQA-Eval (section B.5): four tracks of multiple-choice questions about clean
pictures with one or two known distortions.

Departs from the paper, whose 1,000 questions experts wrote about 500 such and 500 real pictures, and which is not
released: nobody checked these by eye, all pictures are synthetic, and every answer follows from what was done. Tracks,
counts, the share with a reference and one or two distortions are the paper's. The form is the one that the benchmark
`agenticiqa-eval` reads.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, MinLen
from PIL import Image
from rich.console import Console
from rich.progress import track as tracked

from data_prep._dealer import Dealer
from data_prep._degrade import SPATIAL
from data_prep._eval_items import Bank, Item
from data_prep._eval_media import Recipe, Sample, contents, pixels_of, sample
from data_prep._files import write_whole
from data_prep._lexicon import Lexicon
from data_prep._plans import Library
from data_prep._trace_rules import Wording
from data_prep._write import rng_of
from vqa2.core.config import spec
from vqa2.core.errors import ConfigError, DataError
from vqa2.core.prompts import LETTERS
from vqa2.core.run import fingerprint, git_state, sha256_of

TRACKS = ("planner", "executor-distortion", "executor-tool", "summarizer")
Share = Annotated[float, Interval(gt=0, le=1)]


@spec
class AgenticEvalRun:
    """`pictures` -> `out`/questions.json, images and a manifest; see conf/agentic_eval.yaml."""

    pictures: str | None
    contents: Annotated[tuple[str, ...], MinLen(1)]
    out: str
    seed: Annotated[int, Ge(0)]
    lexicon: Lexicon
    tools: Library
    wording: Wording
    items: dict[str, Annotated[int, Ge(0)]]
    images: Annotated[int, Ge(1)]
    reference_share: Annotated[float, Interval(ge=0, le=1)]
    two_share: Annotated[float, Interval(ge=0, le=1)]
    share: tuple[Share, Share]
    longest_side: Annotated[int, Ge(64)]
    strengths: Annotated[dict[str, Share], MinLen(2)]
    jpeg_quality: tuple[Annotated[int, Interval(ge=1, le=95)], Annotated[int, Interval(ge=1, le=95)]]
    min_change: Annotated[float, Gt(0)]
    min_color: Annotated[float, Ge(0)]
    objects: Annotated[tuple[str, ...], MinLen(4)]
    ssim: tuple[float, float, float, float, float]
    effects: dict[str, str]
    questions: dict[str, dict[str, str]]

    def __post_init__(self) -> None:
        for key, expected in (("items", TRACKS), ("questions", TRACKS), ("effects", SPATIAL)):
            if set(getattr(self, key)) != set(expected):
                raise ConfigError(f"agentic_eval.{key}: needs exactly {', '.join(expected)}")
        missing = [name for name in SPATIAL if name not in self.lexicon.attributes or name not in self.tools.known_as]
        if missing:
            raise ConfigError(f"agentic_eval: {missing[0]!r} is missing in lexicon.attributes or tools.known_as")


def agentic_eval(run: AgenticEvalRun, console: Console) -> dict[str, Any]:
    """Writes pictures, questions and the manifest, which it returns. DataError where the pictures do not suffice."""
    out, dealer = Path(run.out), Dealer(run.seed, "agentic_eval")
    (out / "images").mkdir(parents=True, exist_ok=True)
    samples = _samples(run, console)
    # Every n-th sample comes with its reference; the references take part in every track alike.
    references = {i for i in range(len(samples)) if int((i + 1) * run.reference_share) > int(i * run.reference_share)}
    for number in tracked(range(len(samples)), "pictures", console=console):
        Image.fromarray(samples[number].shown).save(out / "images" / _shown(number))
        if number in references:
            Image.fromarray(samples[number].clean).save(out / "images" / _clean(number))
    bank = Bank(
        lexicon=run.lexicon, library=run.tools, wording=run.wording, objects=run.objects, effects=run.effects,
        questions=run.questions, severities=tuple(run.strengths), ssim=run.ssim,
    )  # fmt: skip
    records = [record for track in TRACKS for record in _track(run, track, bank, samples, references, dealer)]
    _write(out / "questions.json", records)
    files = sorted({f"images/{name}" for r in records for name in (r["image"], r["reference"]) if name})
    values = [run.strengths, run.share, run.longest_side, run.jpeg_quality, run.items, run.images, run.questions]
    manifest = {
        "benchmark": "agentic_eval", "items": dict(Counter(r["track"] for r in records)),
        "kinds": dict(Counter(f"{r['track']}: {r['question_type']}" for r in records)),
        "right answers at": dict(Counter(f"{len(r['answers'])} options, {r['correct_choice']}" for r in records)),
        "with reference": sum(r["reference"] is not None for r in records),
        "contents": len({s.content for s in samples}), "seed": run.seed, "config": fingerprint(values),
        "git": git_state(), "sha256": {name: sha256_of(out / name) for name in ("questions.json", *files)},
    }  # fmt: skip
    _write(out / "questions.manifest.json", manifest)
    return manifest


def _samples(run: AgenticEvalRun, console: Console) -> list[Sample]:
    """The distorted pictures; contents take turns, and those on which nothing can be seen are named and left out."""
    recipe = Recipe(
        share=run.share, longest_side=run.longest_side, strengths=run.strengths, jpeg_quality=run.jpeg_quality,
        min_change=run.min_change, min_color=run.min_color,
    )  # fmt: skip
    category = {name: run.lexicon.attributes[name].category for name in SPATIAL}
    apart = {a: [b for b in SPATIAL if category[a] != category[b]
                 and b not in run.lexicon.attributes[a].alike and a not in run.lexicon.attributes[b].alike]
             for a in SPATIAL}  # fmt: skip
    pool, made = contents(run.pictures, run.contents), []
    while len(made) < run.images and pool:
        content = pool[len(made) % len(pool)]
        rng = rng_of(run.seed, "agentic_eval", "picture", str(len(made)))
        count = 2 if rng.random() < run.two_share else 1
        found = sample(content, pixels_of(content, run.pictures), recipe, apart, count, rng)
        if found is None:
            console.print(f"left out: {content}: no distortion can be seen on it", markup=False)
            pool.remove(content)
            continue
        made.append(found)
    if not made:
        raise DataError(f"{run.pictures}: no distortion can be seen on any picture")
    return made


def _track(
    run: AgenticEvalRun, track: str, bank: Bank, samples: list[Sample], references: set[int], dealer: Dealer
) -> list[dict[str, Any]]:
    """The questions of a track: forms take turns, pictures too; yes and no are equally many in each form. A form about
    which the pictures give no more questions leaves its turn to the others."""
    forms, made = list(run.questions[track]), []
    asked: Counter[str] = Counter()
    rng = rng_of(run.seed, "agentic_eval", track)
    order, position = rng.permutation(len(samples)), 0
    seen: set[tuple[str, str, int]] = set()
    while len(made) < run.items[track]:
        form = forms[len(made) % len(forms)]
        answers = bank.answers(track, form)
        wanted = answers[asked[form] % 2] if answers else None
        for _ in range(2 * len(samples)):
            number = int(order[position % len(order)])
            position += 1
            item = bank.draw(track, form, samples[number], number in references, rng, wanted)
            key = (item.context, item.question, -1 if track == "planner" else number) if item else None
            if key is not None and key not in seen:
                seen.add(key)
                break
        else:
            forms.remove(form)
            if not forms:
                raise DataError(f"agentic_eval.items.{track}: {len(samples)} pictures give {len(made)} questions")
            continue
        asked[form] += 1
        options, place = dealer.deal(track, item.options)
        made.append(
            {
                "id": f"{track}-{len(made):04d}",
                "track": track,
                "answers": list(options),
                "correct_choice": LETTERS[place],
                **_record(item, number, samples[number], number in references),
            }
        )
    return made


def _record(item: Item, number: int, sample: Sample, reference: bool) -> dict[str, Any]:
    """What a question and its picture say."""
    return {
        "form": item.form,
        "question_type": item.kind,
        "image": _shown(number),
        "reference": _clean(number) if reference else None,
        "evidence": item.context,
        "question": item.question,
        "distortions": [{"name": name, "severity": severity} for name, severity in sample.severities.items()],
    }


def _shown(number: int) -> str:
    return f"{number:04d}.png"


def _clean(number: int) -> str:
    return f"{number:04d}.reference.png"


def _write(path: Path, values: Any) -> None:
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
