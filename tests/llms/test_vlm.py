"""`llm=vlm` on a tiny random LLaVA: the picture is seen, options are the model's own log-probabilities."""

import base64
import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, open_llm

PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %};{% endfor %}assistant:"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vlm")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "<end>", "<image>"])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="full", chat_template=PARTS,
                   num_additional_image_tokens=1).save_pretrained(path)  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=16, **small),
        text_config=Qwen2Config(vocab_size=258, num_key_value_heads=2, eos_token_id=256, **small),
        image_token_id=257, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    # Random projections of size 0.02 would leave the picture without a visible part in the answer.
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight)
    model.save_pretrained(path)
    return path


def values(folder):
    return {"name": "vlm", "model": str(folder), "device": "cpu", "dtype": "float32", "temperature": 0.0,
            "max_tokens": 4, "repairs": 0}  # fmt: skip


def ask(color, text="good?"):
    out = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]}
    ]


def test_it_sees_the_picture_and_tells_its_options(folder, tmp_path):
    llm = open_llm(values(folder), tmp_path / "c", "llm")
    red, blue = (llm.choose(ask(c), ["A", "B"]).logprobs for c in ("red", "blue"))
    assert red != blue
    backend = llm.backend
    inputs = backend.inputs(ask("red"))
    with torch.no_grad():
        logits = backend.model(**inputs).logits[0, -1].log_softmax(-1)
    want = [logits[backend.tokenizer.encode(c)[0]].item() for c in "AB"]
    assert red == pytest.approx(want, abs=1e-5)
    backend.model.generation_config.eos_token_id = list(range(258))
    assert llm.chat(ask("red")).usage.completion_tokens == 1
    assert llm.chat([{"role": "user", "content": "no picture"}]).usage.prompt_tokens == len(
        "user:no picture;assistant:"
    )


def test_a_picture_by_address_and_a_model_that_is_not_there_are_one_line(folder, tmp_path):
    llm = open_llm(values(folder), tmp_path / "c", "llm")
    part = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    with pytest.raises(LlmError, match="not by address"):
        llm.chat([{"role": "user", "content": [part]}])
    with pytest.raises(ConfigError, match=r"llm.model: .*nowhere"):
        open_llm(values(tmp_path / "nowhere"), tmp_path / "d", "llm")


def test_token_types_of_the_prompt_grow_with_the_option(folder, tmp_path):
    backend = open_llm(values(folder), tmp_path / "c", "llm").backend
    seen = {}

    class Model:
        def __call__(self, **inputs):
            seen.update(inputs)
            return backend.model(**{k: v for k, v in inputs.items() if k != "mm_token_type_ids"})

    def inputs(messages):
        made = backend.inputs(messages)
        return made | {"mm_token_type_ids": torch.ones_like(made["input_ids"])}

    replace(backend, model=Model(), inputs=inputs).options(ask("red"), ["AB"])
    assert seen["mm_token_type_ids"].shape == seen["input_ids"].shape
    assert seen["mm_token_type_ids"][0, -3:].tolist() == [1, 0, 0]
