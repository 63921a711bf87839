"""MaxVQA (VQAssessment/ExplainableVQA at bde31c3): `demo_maxvqa.py` builds the model and a web page around `inference`.

Its page is replaced by nothing, and `inference` is called for one video. Prints what it returns: a line for each of
16 axes, z-scored with the demo's constants and squashed to 0-100. Needs CUDA, and DOVER's weights in ../DOVER, as
released.
"""

import sys
from unittest.mock import MagicMock


def main(video: str) -> None:
    sys.path.insert(0, ".")
    # The demo imports both at its top; it opens a page with the one and never calls the other.
    sys.modules["gradio"], sys.modules["wandb"] = MagicMock(), MagicMock()
    import demo_maxvqa

    sys.stdout.write(demo_maxvqa.inference(video))


if __name__ == "__main__":
    main(sys.argv[1])
