"""Rollouts: the shared prefix changes nothing, sampling follows the distribution, log-probabilities ignore padding."""

from dataclasses import replace

import pytest
import torch
from grpo_toy import ToyCollate, rows, tokenizer, toy

from vqa2.train._grpo_inputs import prompt_batch
from vqa2.train._packed import completion_logps
from vqa2.train._rollout import (
    Rollout,
    Sampling,
    pick,
    positions,
    sample,
    sample_all,
    uniforms,
    words,
)

G = 3
SAMPLING = Sampling(num=G, max_tokens=12, temperature=1.2, top_k=18, top_p=0.95, ends=(1, 0, 8), pad=0)


def batch_of(some) -> dict:
    made = prompt_batch(ToyCollate().collate(some))
    del made["rows"]
    return made


def completions(rollout: Rollout) -> dict:
    owner = torch.arange(len(rollout.ids) // G).repeat_interleave(G)
    return {"completion_ids": rollout.ids, "completion_mask": rollout.mask, "owner": owner}


def unshared(model, row, numbers, sampling) -> list[int]:
    """One completion, the whole sequence read again for every token, without cache, padding or neighbors."""
    alone, ids = batch_of([row]), []
    for number in numbers:
        prompt = model.embed(alone["input_ids"], **alone["media"])
        embeds = torch.cat((prompt, model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))), 1)
        scores = sampling.warper()(None, model(inputs_embeds=embeds).logits[:, -1])
        ids.append(pick(scores, number[None]).item())
        if ids[-1] in sampling.ends:
            break
    return ids


@torch.no_grad()
def test_shared_prefix_samples_the_same_tokens_as_no_sharing():
    model, some = toy().eval(), rows(4)
    numbers = uniforms((1, 2), [r.id for r in some], SAMPLING)
    got = sample(model, batch_of(some), SAMPLING, numbers).lists()
    expected = [unshared(model, some[k // G], numbers[k], SAMPLING) for k in range(len(some) * G)]
    assert got == expected
    assert len({tuple(g) for g in got}) > G
    assert len({len(g) for g in got}) > 1


def test_greedy_equals_the_librarys_generate():
    model, some = toy().eval(), rows(3)
    greedy = replace(SAMPLING, top_k=1, top_p=1.0)
    batch = batch_of(some)
    got = sample(model, batch, greedy, uniforms((0,), ["a"] * 3, greedy))
    embeds = model.embed(batch["input_ids"], **batch["media"])
    expected = model.generate(
        inputs_embeds=embeds,
        attention_mask=batch["attention_mask"],
        do_sample=False,
        max_new_tokens=greedy.max_tokens,
        eos_token_id=list(greedy.ends),
    )
    assert torch.equal(got.ids[::G, : expected.shape[1]], expected)


def test_completions_do_not_depend_on_neighbors():
    model, some = toy().eval(), rows(4)
    together = sample(model, batch_of(some), SAMPLING, uniforms((1, 2), [r.id for r in some], SAMPLING)).lists()
    for k, row in enumerate(some):
        alone = sample(model, batch_of([row]), SAMPLING, uniforms((1, 2), [row.id], SAMPLING)).lists()
        assert alone == together[k * G : (k + 1) * G]


def test_what_has_ended_costs_nothing_more(monkeypatch):
    """Each step reads one token of every completion that goes on: rows are the prompts that have such, and as wide as
    the prompt with most of them. The cache holds a prompt once."""
    model, some, steps = toy().eval(), rows(4), []
    forward = model.forward

    def counting(**given):
        out = forward(**given)
        steps.append((*given["inputs_embeds"].shape[:2], out.past_key_values.layers[0].keys.shape[0]))
        return out

    monkeypatch.setattr(model, "forward", counting)
    batch, long = batch_of(some), replace(SAMPLING, max_tokens=60)
    lengths = sample(model, batch, long, uniforms((1, 2), [r.id for r in some], long)).mask.sum(1).view(-1, G)
    expected = [(4, batch["input_ids"].shape[1], 4)]
    for step in range(1, int(lengths.max())):
        live = (lengths > step).sum(1)
        expected.append(((live > 0).sum().item(), live.max().item(), (live > 0).sum().item()))
    assert steps == expected
    assert len({rows for rows, _, _ in steps}) > 1
    assert len({width for _, width, _ in steps[1:]}) > 1


@pytest.mark.parametrize(("budget", "loops"), [(10_000, 1), (100, 3), (1, 5)])
def test_batches_are_decoded_together_up_to_the_budget(monkeypatch, budget, loops):
    """Of different sizes and prompt lengths. A row has 3 to 5 places of prompt and 3 x 12 of completions."""
    model, some = toy().eval(), rows(5)
    batches = [batch_of(some[:1]), batch_of(some[1:3]), batch_of(some[3:])]
    numbers = [uniforms((1, 2), [r.id for r in part], SAMPLING) for part in (some[:1], some[1:3], some[3:])]
    apart, calls = [sample(model, batch, SAMPLING, drawn) for batch, drawn in zip(batches, numbers)], []
    monkeypatch.setattr("vqa2.train._rollout.sample", lambda *given: calls.append(1) or sample(*given))
    together = sample_all(model, batches, numbers, SAMPLING, budget)
    assert len(calls) == loops
    assert [r.lists() for r in together] == [r.lists() for r in apart]
    assert all(torch.equal(one.clipped, other.clipped) for one, other in zip(together, apart))
    assert sample_all(model, [], [], SAMPLING, budget) == []


def test_clips_are_encoded_once_per_prompt():
    model, some = toy().eval(), rows(4)
    rollout = sample(model, batch_of(some), SAMPLING, uniforms((1,), [r.id for r in some], SAMPLING))
    assert model.seen == len(some)
    completion_logps(model, batch_of(some) | completions(rollout), 1.0, "sdpa")
    assert model.seen == 2 * len(some)


def test_logps_equal_those_of_each_sequence_alone():
    model, some = toy().eval(), rows(4)
    rollout = sample(model, batch_of(some), SAMPLING, uniforms((1,), [r.id for r in some], SAMPLING))
    logps, entropy = completion_logps(model, batch_of(some) | completions(rollout), 0.8, "sdpa")
    for k, ids in enumerate(rollout.lists()):
        alone = batch_of([some[k // G]])
        embeds = model.embed(alone["input_ids"], **alone["media"])
        embeds = torch.cat((embeds, model.get_input_embeddings()(torch.tensor([ids]))), 1)
        logits = model(inputs_embeds=embeds).logits[0, -len(ids) - 1 : -1] / 0.8
        spread = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(logps[k, : len(ids)], spread.log_prob(torch.tensor(ids)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy[k, : len(ids)], spread.entropy(), rtol=1e-5, atol=1e-5)


def test_numbers_depend_on_key_and_prompt_only():
    first = uniforms((1, 2), ["a", "b"], SAMPLING)
    assert torch.equal(first, torch.cat([uniforms((1, 2), [p], SAMPLING) for p in "ab"]))
    assert not torch.equal(first[:G], first[G:])
    assert not torch.equal(first, uniforms((1, 3), ["a", "b"], SAMPLING))
    twice = uniforms((1, 2), ["a", "a"], SAMPLING)
    assert torch.equal(twice[:G], first[:G])
    assert not torch.equal(twice[G:], first[:G])


def test_pick_inverts_the_distribution():
    scores = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25]).log().expand(1000, -1)
    chosen = pick(scores, torch.arange(1000, dtype=torch.float64) / 1000)
    assert chosen.bincount(minlength=5).tolist() == pytest.approx([0, 500, 0, 250, 250], abs=1)


def test_words_keep_tags_and_drop_special_tokens():
    made, texts = tokenizer(), ["<think>a</think><answer>3.5</answer>", ""]
    ids = torch.full((2, 12), 0)
    mask = torch.zeros(2, 12, dtype=torch.long)
    for k, text in enumerate(texts):
        one = [*made.encode(text), 1]
        ids[k, : len(one)], mask[k, : len(one)] = torch.tensor(one), 1
    assert words(Rollout(ids, mask, torch.zeros(2)), made) == texts


def test_padding_takes_no_position():
    assert positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
