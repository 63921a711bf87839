"""`llm=local` on a tiny random transformers model with a chat template."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from vqa2.core.errors import ConfigError
from vqa2.core.llm import LlmError, open_llm

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llm")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "<end>"])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", chat_template=TEMPLATE)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, eos_token_id=256)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def values(folder, **changes):
    return {"name": "local", "model": str(folder), "device": "cpu", "dtype": "float32", "temperature": 0.0,
            "max_tokens": 6, "repairs": 0, **changes}  # fmt: skip


def test_it_answers_counts_and_says_when_it_is_cut_off(folder, tmp_path):
    llm = open_llm(values(folder), tmp_path / "c", "llm")
    ask = [{"role": "user", "content": "hi"}]
    with pytest.raises(LlmError, match="cut off at 6 tokens"):
        llm.chat(ask)
    # Every token ends the answer now: it is one token long and whole.
    llm.backend.model.generation_config.eos_token_id = list(range(257))
    before = torch.get_rng_state()
    reply = llm.chat(ask, seed=3)
    assert reply.usage.completion_tokens == 1
    assert reply.usage.prompt_tokens == len("user:hi;assistant:")
    assert torch.equal(before, torch.get_rng_state())
    assert llm.chat(ask, seed=3).cached
    with pytest.raises(LlmError, match="reads text alone"):
        llm.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])


def test_options_are_the_models_own_log_probabilities(folder, tmp_path):
    llm = open_llm(values(folder), tmp_path / "c", "llm")
    ask, options = [{"role": "user", "content": "hi"}], ["no", "y"]
    made = llm.choose(ask, options).logprobs
    tokenizer, model = llm.backend.tokenizer, llm.backend.model
    for option, got in zip(options, made):
        ids, want = tokenizer("user:hi;assistant:", return_tensors="pt")["input_ids"], 0.0
        for token in tokenizer(option)["input_ids"]:
            with torch.no_grad():
                want += model(ids).logits[0, -1].log_softmax(-1)[token].item()
            ids = torch.cat((ids, torch.tensor([[token]])), 1)
        assert got == pytest.approx(want, abs=1e-5)


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"llm.model: .*nowhere"):
        open_llm(values(tmp_path / "nowhere"), tmp_path / "c", "llm")
