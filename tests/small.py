"""Overrides that make the embedded data and the tiny model small enough for tests."""

SMALL_DATA = [
    "source.recipe.stills=[2,1]",
    "source.recipe.spatial_videos=[2,1]",
    "source.recipe.temporal_videos=[2,1]",
    "source.recipe.clean_videos=[1,1]",
    "source.recipe.streaming=[4,3]",
    "sets.base.rows=[60,10]",
    "sets.benchmark.questions={yes-or-no: 6, what/how: 6, open_ended: 4}",
    "workers=1",
]
SMALL_MODEL = [
    "model.vision.hidden_size=32",
    "model.vision.intermediate_size=32",
    "model.vision.num_hidden_layers=1",
    "model.vision.num_attention_heads=2",
    "model.vision.image_size=32",
    "model.vision.patch_size=8",
    "model.text.hidden_size=32",
    "model.text.intermediate_size=32",
    "model.text.num_hidden_layers=2",
    "model.motion.image_size=32",
    "model.motion.stem_channels=4",
]
