"""Motion tower: the fast path of SlowFast-R50 and the learned positions of VQA² (ACM MM 2025, section 4).

Shapes: T motion frames, C fast-path channels (256 at full size), H x W pixels.

Departs from the released code: that code runs the whole two-path network and uses only the fast output; lateral links
run from fast to slow, so the fast path alone gives the same numbers (facts: difference 0.0) at a fraction of the cost.
Parameter names are those of the released checkpoints (`feature_extraction.{i}.multipathway_blocks.1`). BatchNorm runs
on stored statistics unless `train_batchnorm` is set: with one clip per forward, batch statistics would make a clip's
features depend on itself and drift in a frozen tower.
"""

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from vqa2.core.errors import ConfigError


class MotionConfig(PreTrainedConfig):
    """Sizes of the fast path. The defaults are SlowFast-R50 8x8 with alpha = 4, as VQA² uses it."""

    model_type = "vqa2_motion"

    image_size: int = 384
    stem_channels: int = 8
    depths: list | tuple = (3, 4, 6, 3)
    max_positions: int = 2000
    chunk_frames: int = 256
    positions: str = "error"

    @property
    def hidden_size(self) -> int:
        """C: channels of the last stage."""
        return self.stem_channels * 4 * 2 ** (len(self.depths) - 1)

    @property
    def halo_frames(self) -> int:
        """Half of the temporal receptive field: 2 from the stem's kernel of 5 and 1 from each block's kernel of 3."""
        return 2 + sum(self.depths)


class _Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, channels, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(self.conv(x)).relu())


class _Branch2(nn.Module):
    """Bottleneck: 3x1x1 in time, 1x3x3 in space, 1x1x1 out."""

    def __init__(self, c_in: int, c_inner: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(c_in, c_inner, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(c_inner)
        self.conv_b = nn.Conv3d(c_inner, c_inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.norm_b = nn.BatchNorm3d(c_inner)
        self.conv_c = nn.Conv3d(c_inner, c_out, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.conv_a(x)).relu()
        x = self.norm_b(self.conv_b(x)).relu()
        return self.norm_c(self.conv_c(x))


class _ResBlock(nn.Module):
    def __init__(self, c_in: int, c_inner: int, c_out: int, stride: int, first: bool) -> None:
        super().__init__()
        if first:
            self.branch1_conv = nn.Conv3d(c_in, c_out, 1, (1, stride, stride), bias=False)
            self.branch1_norm = nn.BatchNorm3d(c_out)
        self.first = first
        self.branch2 = _Branch2(c_in, c_inner, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_norm(self.branch1_conv(x)) if self.first else x
        return (shortcut + self.branch2(x)).relu()


class _Stage(nn.Module):
    def __init__(self, c_in: int, c_inner: int, depth: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * c_inner
        self.res_blocks = nn.ModuleList(
            _ResBlock(c_in if i == 0 else c_out, c_inner, c_out, stride if i == 0 else 1, i == 0) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


class _FastOnly(nn.Module):
    """Keeps the released key `multipathway_blocks.1` (0 would be the slow path)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleDict({"1": block})

    def forward(self, x: Tensor) -> Tensor:
        return self.multipathway_blocks["1"](x)


class MotionTower(nn.Module):
    """One C-wide feature per motion frame: fast path, spatial mean, plus a learned absolute position."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        blocks: list[nn.Module] = [_Stem(config.stem_channels)]
        c_in = config.stem_channels
        for i, depth in enumerate(config.depths):
            inner = config.stem_channels * 2**i
            blocks.append(_Stage(c_in, inner, depth, 1 if i == 0 else 2))
            c_in = 4 * inner
        self.feature_extraction = nn.ModuleList(_FastOnly(b) for b in blocks)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.train_batchnorm = False
        # Set on a model in eval mode that all processes run together, step by step (GRPO's reference).
        self.in_step = False
        # The library's switch: gradient_checkpointing_enable() sets it, and the function beside it.
        self.gradient_checkpointing = False

    def train(self, mode: bool = True) -> "MotionTower":
        super().train(mode)
        self._set_batchnorm(mode and self.train_batchnorm)
        return self

    def _set_batchnorm(self, train: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.train(train)

    def fast_features(self, frames: Tensor) -> Tensor:
        """`[B,3,T,H,W] -> [B,T,C]`, in chunks of `chunk_frames` with an exact halo, so memory does not grow with T."""
        config, length = self.config, frames.shape[2]
        if length <= config.chunk_frames or self.train_batchnorm:
            return self._features(frames)
        parts = []
        for start in range(0, length, config.chunk_frames):
            stop = min(start + config.chunk_frames, length)
            left, right = max(0, start - config.halo_frames), min(length, stop + config.halo_frames)
            parts.append(self._features(frames[:, :, left:right])[:, start - left : stop - left])
        return torch.cat(parts, dim=1)

    def _features(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            # Bytes become numbers here, chunk by chunk: a minute at 60 fps would be 6 GB of float32 at 384 px.
            x = x.to(self.position_embedding.weight.dtype).div_(127.5).sub_(1.0)
        if x.device.type == "cpu":
            # oneDNN otherwise reorders every convolution's input and output (benchmarks/motion.py).
            x = x.contiguous(memory_format=torch.channels_last_3d)
        for block in self.feature_extraction:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block, x)
            else:
                x = block(x)
        return x.mean((3, 4)).transpose(1, 2)

    def positions(self, length: int) -> Tensor:
        """`[T,C]` of a clip of T frames. Beyond the learned `max_positions`: a ConfigError, or with
        `positions: interpolate` all learned positions stretched linearly over the clip (no released model was trained
        so; order is kept, distance is not)."""
        learned = self.position_embedding.weight
        if length <= len(learned):
            return learned[:length]
        if self.config.positions == "error":
            raise ConfigError(
                f"{length} motion frames, but {len(learned)} learned positions: cut the clip, or set "
                "model.motion.positions=interpolate"
            )
        stretched = nn.functional.interpolate(learned.T[None], size=length, mode="linear", align_corners=True)
        return stretched[0].T

    def forward(self, frames: Tensor, lengths: list[int], learn: list[bool] | None = None) -> Tensor:
        """`frames [ΣT,3,H,W]` of clips with `lengths` frames each -> `[ΣT,C]`, clip after clip."""
        return self.place(self.fast(frames, lengths, learn), lengths)

    def place(self, features: Tensor, lengths: list[int]) -> Tensor:
        """Fast features `[ΣT,C]` with the learned position of each frame in its clip."""
        return features + torch.cat([self.positions(length) for length in lengths])

    def fast(self, frames: Tensor, lengths: list[int], learn: list[bool] | None = None) -> Tensor:
        """`frames [ΣT,3,H,W]` (uint8 pixels, or floats in [-1, 1]) -> fast features `[ΣT,C]` without positions.

        Clips are never padded in time (temporal convolutions would read the padding); clips of equal length share a
        forward pass. `learn`: clips that may update trained BatchNorm statistics (stills must not: they would drag
        them away from moving clips).
        """
        assert sum(lengths) == frames.shape[0], f"{frames.shape[0]} motion frames for lengths {lengths}"
        clips = frames.split(lengths)
        out: list[Tensor | None] = [None] * len(clips)
        flags = learn or [True] * len(clips)
        groups = sorted(set(zip(lengths, flags)))
        # Asked before the first pass: the processes talk in the same order.
        blank = self._blank_passes(sum(self._passes(length) for length, _ in groups), frames.device)
        for length, flag in groups:
            members = [i for i, key in enumerate(zip(lengths, flags)) if key == (length, flag)]
            self._set_batchnorm(self.training and self.train_batchnorm and flag)
            batch = torch.stack([clips[i] for i in members]).transpose(1, 2)
            features = self.fast_features(batch)
            for row, i in enumerate(members):
                out[i] = features[row]
        self._set_batchnorm(False)
        still = frames.new_zeros(1, 3, 4, *frames.shape[2:])
        for _ in range(blank):
            out.append(self._features(still)[0, :0])
        self._set_batchnorm(self.training and self.train_batchnorm)
        return torch.cat(out)

    def _passes(self, length: int) -> int:
        """How often the blocks run for clips of this length."""
        return 1 if self.train_batchnorm else -(-length // self.config.chunk_frames)

    def _blank_passes(self, done: int, device: torch.device) -> int:
        """Under ZeRO-3, processes gather a block's weights together each time it runs, so they must run it equally
        often: how many blank clips a process with fewer lengths or shorter clips has to see after its own `done`."""
        if not ((self.training or self.in_step) and is_deepspeed_zero3_enabled()):
            return 0
        most = torch.tensor(done, device=device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most) - done
