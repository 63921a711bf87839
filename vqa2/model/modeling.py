"""VQA² on Hugging Face's LLaVA-OneVision: SigLIP key-frame tokens and SlowFast motion tokens spliced into Qwen2.

Shapes: B clips, K key frames, N visual tokens per key frame, T motion frames, C fast-path channels, D LM width,
L tokens, V vocabulary.

Departs from the released code: placeholders are single tokens counted one by one against the features (the released
splice repeats or drops features silently); `interleaved` layouts are possible because the order lives in the token
sequence alone (vqa2/data/layout.py). The motion tower is the fast path only (vqa2/model/motion.py).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaOnevisionConfig
from transformers import initialization as init
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionCausalLMOutputWithPast,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
)

from vqa2.model._head import Head
from vqa2.model.motion import MotionConfig, MotionTower


class VQA2Config(LlavaOnevisionConfig):
    """LLaVA-OneVision's configuration with the motion tower, the motion placeholder and the token layout.

    `video_token_index` marks the visual tokens (K·N per clip and one newline), `motion_token_index` the T motion
    tokens. `layout` is saved with the model: a checkpoint trained in one order is not read in another.
    """

    model_type = "vqa2"
    sub_configs_defaults = LlavaOnevisionConfig.sub_configs_defaults

    motion: dict | None = None
    motion_token_index: int = 151648
    layout: str = "interleaved"

    @property
    def motion_config(self) -> MotionConfig:
        return MotionConfig(**(self.motion or {}))

    @property
    def tokens_per_frame(self) -> int:
        """N: the patch grid halved by bilinear pooling."""
        side = self.vision_config.image_size // self.vision_config.patch_size
        return (-(-side // 2)) ** 2


class _MotionInit:
    """Initial weights of the motion tower: fan-out Kaiming for its convolutions (the library's 0.02 would silence a
    network without pre-trained weights), the library's own for all else."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            super()._init_weights(module)


class VQA2Model(_MotionInit, LlavaOnevisionModel):
    """LLaVA-OneVision without head, plus motion tower and motion projector."""

    config_class = VQA2Config

    def __init__(self, config: VQA2Config) -> None:
        super().__init__(config)
        self.motion_tower = MotionTower(config.motion_config)
        width, hidden = config.motion_config.hidden_size, config.text_config.hidden_size
        self.motion_projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.post_init()

    def visual_tokens(self, key_frames: Tensor) -> Tensor:
        """`[ΣK,3,H,W] -> [ΣK,N,D]`: last hidden state before the post-norm, projected, pooled 2x2."""
        return self.project(self.see(key_frames))

    def see(self, key_frames: Tensor) -> Tensor:
        """The vision tower alone: `[ΣK,3,H,W]` -> its last hidden state."""
        pixels = key_frames.to(self.image_newline.dtype)
        return self.vision_tower(pixels, output_hidden_states=True, return_dict=True).hidden_states[-1]

    def project(self, hidden: Tensor) -> Tensor:
        """What `see` gives -> `[ΣK,N,D]`."""
        return self.apply_pooling(self.multi_modal_projector(hidden))

    def motion_tokens(self, motion_frames: Tensor, lengths: list[int], learn: list[bool] | None = None) -> Tensor:
        """`[ΣT,3,h,w] -> [ΣT,D]`; `learn` as in MotionTower."""
        return self.motion_projector(self.motion_tower(motion_frames, lengths, learn))

    def embed(
        self,
        input_ids: Tensor,
        key_frames: Tensor | None = None,
        motion_frames: Tensor | None = None,
        clip_sizes: Tensor | None = None,
        vision_grad: Tensor | None = None,
        motion_grad: Tensor | None = None,
        key_features: Tensor | None = None,
        motion_features: Tensor | None = None,
    ) -> Tensor:
        """Token ids with their placeholders replaced by features, in order: `[B,L] -> [B,L,D]`.

        `clip_sizes [clips,2]` holds (K, T) of each row that has a clip. `vision_grad` and `motion_grad` (bool
        `[clips]`) route gradients: where False, that clip's visual or motion features are constants (VQA² stage 1
        trains the tower on images and the motion path on videos). `key_features` and `motion_features` stand for the
        frames where the towers have run already (`encode`). A count that does not match is a ValueError naming kind,
        clip, placeholders and features.
        """
        embeds = self.get_input_embeddings()(input_ids)
        video_slots = input_ids == self.config.video_token_index
        motion_slots = input_ids == self.config.motion_token_index
        if clip_sizes is None:
            if video_slots.any() or motion_slots.any():
                raise ValueError("placeholders without frames: pass key_frames, motion_frames and clip_sizes")
            return embeds + 0 * self._touch(embeds)
        keys, lengths = clip_sizes[:, 0].tolist(), clip_sizes[:, 1].tolist()
        seen = self.see(key_frames) if key_features is None else key_features
        visual = self._visual(seen, keys)
        if motion_features is None:
            learn = None if motion_grad is None else motion_grad.tolist()
            motion_features = self.motion_tower.fast(motion_frames, lengths, learn)
        motion = list(self.motion_projector(self.motion_tower.place(motion_features, lengths)).split(lengths))
        self._check(video_slots, visual, motion_slots, motion)
        if vision_grad is not None:
            visual = _route(visual, vision_grad)
        if motion_grad is not None:
            motion = _route(motion, motion_grad)
        embeds = embeds.masked_scatter(video_slots.unsqueeze(-1), torch.cat(visual).to(embeds.dtype))
        return embeds.masked_scatter(motion_slots.unsqueeze(-1), torch.cat(motion).to(embeds.dtype))

    def _visual(self, seen: Tensor, keys: list[int]) -> list[Tensor]:
        """Per clip of `keys` key frames: visual tokens with the closing newline `[K·N+1,D]`."""
        frames = self.project(seen)
        newline = self.image_newline[None].to(frames.dtype)
        return [torch.cat((f.flatten(0, 1), newline)) for f in frames.split(keys)]

    @torch.no_grad()
    def encode(self, media: Mapping[str, Tensor], clean: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Media with frames replaced by what the towers make of them; `embed` takes either.

        Where `media` has `key_source [ΣK]`, its key frames are those of `clean` (encoded) in another order: the vision
        tower sees only the frames that `media` adds, which count on from the clean ones.
        """
        if not media:
            return {}
        made = {k: v for k, v in media.items() if k not in ("key_frames", "motion_frames", "key_source")}
        frames = media["key_frames"]
        seen = [self.see(frames)] if len(frames) else []
        if "key_source" in media:
            assert clean is not None
            made["key_features"] = torch.cat([clean["key_features"], *seen])[media["key_source"]]
        else:
            made["key_features"] = seen[0]
        lengths = media["clip_sizes"][:, 1].tolist()
        return made | {"motion_features": self.motion_tower.fast(media["motion_frames"], lengths)}

    def constants(self, media: Mapping[str, Tensor], encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a gradient step may take over from `encode`: outputs of frozen towers. A tower with a weight that trains
        (LoRA included) or statistics that move gets its frames again, and runs with gradients."""
        made = dict(encoded)
        if not media:
            return made
        motion = self.motion_tower
        trains = {"key": _trains(self.vision_tower), "motion": _trains(motion.feature_extraction)}
        trains["motion"] |= motion.train_batchnorm
        for kind in (k for k, yes in trains.items() if yes):
            del made[f"{kind}_features"]
            made[f"{kind}_frames"] = media[f"{kind}_frames"]
        return made

    def _check(self, video_slots: Tensor, visual: list, motion_slots: Tensor, motion: list) -> None:
        for kind, slots, features in (("visual", video_slots, visual), ("motion", motion_slots, motion)):
            rows = [n for n in slots.sum(1).tolist() if n]
            got = [len(f) for f in features]
            if kind == "motion" and not rows:
                # Without motion placeholders (ablation `motion: false`) motion features are not spliced at all.
                continue
            if rows != got:
                bad = next((i for i, (a, b) in enumerate(zip(rows, got)) if a != b), min(len(rows), len(got)))
                raise ValueError(
                    f"{kind} placeholders and features differ at clip {bad}: placeholders {rows}, features {got}"
                )

    def _touch(self, embeds: Tensor) -> Tensor:
        """Runs both towers on a blank clip. With several processes every rank must use the same parameters at every
        step, and in the same order (ZeRO-3 gathers them one by one), also a rank whose rows are text only; the result
        enters the loss with weight zero."""
        if not (self.training and torch.distributed.is_initialized()):
            return embeds.new_zeros(())
        side, small = self.config.vision_config.image_size, self.config.motion_config.image_size
        visual = self._visual(self.see(embeds.new_zeros(1, 3, side, side)), [1])
        return visual[0].sum() + self.motion_tokens(embeds.new_zeros(4, 3, small, small), [4]).sum()


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _route(features: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Detaches the features of clips whose flag is False; the graph stays whole (their gradient is zero)."""
    return [torch.where(flag, f, f.detach()) for f, flag in zip(features, grad)]


class VQA2ForConditionalGeneration(_MotionInit, LlavaOnevisionForConditionalGeneration):
    """The trainable model. Takes what `VQA2Processor` and the collator give; answers through `generate`."""

    config_class = VQA2Config
    accepts_loss_kwargs = True

    def __init__(self, config: VQA2Config) -> None:
        # The parent's constructor would build a VQA2Model's parent; the two modules are made here instead.
        super(LlavaOnevisionForConditionalGeneration, self).__init__(config)
        self.model = VQA2Model(config)
        self.lm_head = Head(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def embed(self, input_ids: Tensor, **media: Tensor) -> Tensor:
        """See `VQA2Model.embed`."""
        return self.model.embed(input_ids, **media)

    def seen(self, input_ids: Tensor, attention_mask: Tensor, **media: Tensor) -> Tensor:
        """What the model sees of each clip: the mean `[B,D]` of its last hidden states over the row's visual and motion
        tokens, in float32."""
        states = self.model.language_model(
            inputs_embeds=self.embed(input_ids, **media), attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        slots = (input_ids == self.config.video_token_index) | (input_ids == self.config.motion_token_index)
        return torch.stack([row[chosen].float().mean(0) for row, chosen in zip(states, slots)])

    def encode(self, media: Mapping[str, Tensor], clean: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """See `VQA2Model.encode`."""
        return self.model.encode(media, clean)

    def constants(self, media: Mapping[str, Tensor], encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `VQA2Model.constants`."""
        return self.model.constants(media, encoded)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        key_frames: Tensor | None = None,
        motion_frames: Tensor | None = None,
        clip_sizes: Tensor | None = None,
        vision_grad: Tensor | None = None,
        motion_grad: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs,
    ) -> LlavaOnevisionCausalLMOutputWithPast:
        """Logits `[B,L,V]`, or the loss where `labels [B,L]` are given.

        The loss is the sum of the cross-entropy over labels (not -100) divided by `num_items_in_batch`, the label count
        of the whole optimizer step; only label positions are projected to the vocabulary, so the logits of a long video
        prompt are never materialized. `key_frames [ΣK,3,H,W]`, `motion_frames [ΣT,3,h,w]`, `clip_sizes [clips,2]`.
        """
        if inputs_embeds is None:
            inputs_embeds = self.model.embed(input_ids, key_frames, motion_frames, clip_sizes, vision_grad, motion_grad)
        outputs = self.model.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden, loss, logits = outputs.last_hidden_state, None, None
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, keep])
        else:
            loss = self._loss(hidden, labels, num_items_in_batch)
        return LlavaOnevisionCausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def _loss(self, hidden: Tensor, labels: Tensor, num_items: int | Tensor | None) -> Tensor:
        targets = labels[:, 1:]
        chosen = targets != -100
        total = self.lm_head(hidden[:, :-1][chosen], targets[chosen])
        return total / (num_items if num_items is not None else chosen.sum().clamp(min=1))

    def generate(self, input_ids: Tensor | None = None, **kwargs) -> Tensor:
        """Hugging Face's generate on the spliced embeddings: clips are encoded once; returns the new tokens only, also
        for text alone."""
        media = {k: kwargs.pop(k, None) for k in ("key_frames", "motion_frames", "clip_sizes")}
        return super().generate(inputs_embeds=self.embed(input_ids, **media), **kwargs)


AutoConfig.register(VQA2Config.model_type, VQA2Config)
AutoModelForImageTextToText.register(VQA2Config, VQA2ForConditionalGeneration)
