"""T2VQA (QMME/T2VQA at 374b01e; model/ of 59f5f01): its `test.py` prints correlations over an annotation file alone.

Runs its dataset and its model for one video and the text it was generated from, with the question of `test.py`, from
the folder of `t2vqa.yml`, whose paths must be yours. Prints `score` on 1-5, unscaled: the logits are divided by 100
before their softmax, so that scores lie close together and mean nothing without a calibration.
"""

import sys


def main(video: str, caption: str) -> None:
    sys.path.insert(0, ".")
    import torch
    import yaml
    from dataset.dataset import T2VDataset
    from model.model import T2VQA

    with open("t2vqa.yml", encoding="utf-8") as file:
        options = yaml.safe_load(file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = T2VQA(options["model"]["args"]).to(device)
    weights = torch.load(options["test_load_path"], map_location="cpu", weights_only=True)
    model.load_state_dict(weights["state_dict"], strict=False)
    model.eval()
    one = [{"filename": video, "prompt": caption, "label": 0.0}]
    item = T2VDataset({**options["data"]["t2v"]["args"], "anno_file": one, "phase": "test"})[0]
    seen = {"video": item["video"].unsqueeze(0).to(device)}
    with torch.no_grad():
        score = model(seen, caption=[caption], prompt="Please rate the quality of this video")
    sys.stdout.write(f"score {float(score.item())}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
