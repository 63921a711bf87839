"""What runs of stage=router share: a pool of quick experts, and overrides that make a run small."""

from small import SMALL_MODEL

from vqa2.launch import composed

TOOLS = ("sharpness", "noise", "contrast")


def only(prefix: str) -> list[str]:
    """Overrides that leave TOOLS of the shipped pool, run in this process."""
    tools = composed("experts", [])["experts"]["tools"]
    return [f"~{prefix}.tools.{name}" for name in tools if name not in TOOLS] + [f"{prefix}.isolation=none"]


def overrides(data_root, out, backbone, experts, *more) -> list[str]:
    return [
        *SMALL_MODEL, f"data.root={data_root}", f"out={out}", f"stage.init_from={backbone}",
        f"stage.experts.calibration={experts}/calibration", f"stage.readings={experts}/readings.jsonl",
        "stage.limit=30", "stage.optim.epochs=3.0", "stage.fit.dense_epochs=1", "stage.optim.batch_size=8",
        "stage.optim.save_every=2", "stage.bootstrap=20", *only("stage.experts"), *more,
    ]  # fmt: skip
