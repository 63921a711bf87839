"""One name for each thing: distortions, severities and the aliases that papers, tools and training data use for them.

The closed vocabulary is AgenticIQA's seven categories; this framework adds four temporal ones for video. The paper's
severities are none, slight, moderate, severe, extreme; its training data say none, mild, moderate, heavy, severe. The
word `severe` is thus the fourth step of one scale and the fifth of the other: which is meant is read off the other
words of the same reply (`one_scale`).
"""

from collections.abc import Iterable, Sequence

SPATIAL = (
    "blurs", "color distortions", "compression", "noise", "brightness change", "sharpness", "contrast",
)  # fmt: skip
TEMPORAL = ("flicker", "stutter", "stall", "shake")
DISTORTIONS = (*SPATIAL, *TEMPORAL)
SEVERITIES = ("none", "slight", "moderate", "severe", "extreme")

_DISTORTION_ALIASES = {
    "blur": "blurs",
    "blurring": "blurs",
    "blurry": "blurs",
    "blurriness": "blurs",
    "gaussian blur": "blurs",
    "lens blur": "blurs",
    "motion blur": "blurs",
    "spatial blur": "blurs",
    "out of focus": "blurs",
    "colorfulness": "color distortions",
    "color": "color distortions",
    "color distortion": "color distortions",
    "saturation": "color distortions",
    "oversaturation": "color distortions",
    "desaturation": "color distortions",
    "compression artifact": "compression",
    "compression artifacts": "compression",
    "block effect": "compression",
    "blockiness": "compression",
    "blocking": "compression",
    "banding": "compression",
    "noisy": "noise",
    "grain": "noise",
    "brightness": "brightness change",
    "exposure": "brightness change",
    "overexposure": "brightness change",
    "underexposure": "brightness change",
    "sharp": "sharpness",
    "low contrast": "contrast",
    "high contrast": "contrast",
    "flickering": "flicker",
    "stuttering": "stutter",
    "frame drops": "stutter",
    "freeze": "stall",
    "stalling": "stall",
    "rebuffering": "stall",
    "camera shake": "shake",
    "shaking": "shake",
    "shaky": "shake",
    "jerkiness": "shake",
}
_PAPER_ONLY = {"slight", "extreme"}
_DATA_ONLY = {"mild", "heavy"}
_DATA_SCALE = {"mild": "slight", "heavy": "severe", "severe": "extreme"}
_OTHER_SEVERITIES = {"strong": "severe"}


def plain(word: str) -> str:
    """Lower case, one blank between words, underscores and hyphens as blanks."""
    return " ".join(word.replace("_", " ").replace("-", " ").split()).casefold()


def distortion(word: str) -> str | None:
    """The category of a distortion's name or alias; None for a word that names none."""
    said = plain(word)
    return said if said in DISTORTIONS else _DISTORTION_ALIASES.get(said)


def distortion_words() -> list[str]:
    """Every name and alias, longest first, for finding them in a sentence."""
    return sorted({*DISTORTIONS, *_DISTORTION_ALIASES}, key=lambda w: (-len(w), w))


def strengths(names: Iterable[str]) -> list[str]:
    """The categories among the strengths that a tool declares, in the vocabulary's order."""
    found = {distortion(name) for name in names}
    return [name for name in DISTORTIONS if name in found]


def one_scale(words: Sequence[str]) -> list[str]:
    """Severity words of one reply in the paper's scale. ValueError for an unknown word, or for words of both scales
    (`slight` beside `heavy`), which leave `severe` undecided."""
    said = [plain(word) for word in words]
    data = bool(_DATA_ONLY & set(said))
    if data and _PAPER_ONLY & set(said):
        raise ValueError(f"severities of two scales in one reply: {', '.join(sorted(set(said)))}")
    made = []
    for word in said:
        word = _DATA_SCALE.get(word, word) if data else _OTHER_SEVERITIES.get(word, word)
        if word not in SEVERITIES:
            raise ValueError(f"{word!r} is no severity; known: {', '.join(SEVERITIES)}")
        made.append(word)
    return made


def severity_of(score100: float) -> str:
    """The severity that a calibrated score on 0-100 stands for: 20-point bins, as the level words have."""
    return SEVERITIES[4 - min(4, int(max(0.0, score100) // 20))]
