"""ModularBVQA (winwinwenwen77/ModularBVQA at 23391f7): `test_demo.py` computes the score of one video and drops it.

Run beside the checkout, where its weights' path starts. Prints the four heads: `score` is the one with both rectifiers.
Its demo reshapes to eight key frames, so that it takes clips of eight seconds, as those of LSVQ; others are an error.
"""

import sys
from argparse import Namespace
from pathlib import Path

HEADS = ("base", "spatial", "temporal", "score")


def main(video: str) -> None:
    sys.path.insert(0, str(Path("ModularBVQA").resolve()))
    import test_demo
    import torch
    from model import modular

    made, heard = modular.ViTbCLIP_SpatialTemporal_modular_dropout, []

    def listened(*args, **kwargs):
        network = made(*args, **kwargs)
        network.register_forward_hook(lambda _module, _inputs, output: heard.append(output))
        return network

    modular.ViTbCLIP_SpatialTemporal_modular_dropout = listened
    test_demo.main(Namespace(method_name="single-scale", dist=video, output="", is_gpu=torch.cuda.is_available()))
    for name, value in zip(HEADS, heard[-1], strict=True):
        sys.stdout.write(f"{name} {float(value.item())}\n")


if __name__ == "__main__":
    main(sys.argv[1])
