"""ZeRO-3 leaves: modules whose weights are gathered and reduced as one.

ZeRO-3 gathers weights module by module, in the order that every process must share. A mixture of experts that holds
them as separate modules breaks that order: each process runs those that its own tokens are sent to, and waits for ever
for the others. As a leaf the whole mixture is gathered at once, whoever runs. The mixtures of transformers hold the
weights of all experts in one tensor and need no mark; neither does the learned router's gate, which is dense.
"""

from torch import nn

from vqa2.core.run import say
from vqa2.train.plan import EngineSpec


def mixtures(model: nn.Module) -> list[nn.Module]:
    """The modules with a list `experts`, of which a pass may run only some."""
    return [module for module in model.modules() if isinstance(getattr(module, "experts", None), nn.ModuleList)]


def mark_leaves(model: nn.Module, engine: EngineSpec) -> None:
    """Makes every mixture of the model a leaf, where the engine partitions weights. To be called before the engine gets
    the model."""
    found = mixtures(model)
    if found and engine.partitions_weights:
        from deepspeed.utils import set_z3_leaf_module

        for module in found:
            set_z3_leaf_module(module, True)
        say(f"ZeRO-3: {len(found)} mixtures of experts are gathered whole")
