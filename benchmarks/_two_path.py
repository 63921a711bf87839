"""SlowFast-R50 with both paths, as the official VQA² code runs it: the slow path sees the first quarter of the frames,
and only the fast path's output is used. For comparisons; its fast path is ours."""

import torch
from torch import Tensor, nn

from vqa2.model.motion import MotionConfig, MotionTower

SLOW_TIME = (1, 1, 3, 3)


class _Lateral(nn.Module):
    """Fast -> slow: 7 frames long, 4 frames apart, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (7, 1, 1), (4, 1, 1), (3, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class _SlowBlock(nn.Module):
    def __init__(self, c_in: int, inner: int, frames: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.short = nn.Sequential(nn.Conv3d(c_in, out, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(out))
        if c_in == out:
            self.short = nn.Identity()
        self.body = nn.Sequential(
            nn.Conv3d(c_in, inner, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(),
            nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(),
            nn.Conv3d(inner, out, 1, bias=False),
            nn.BatchNorm3d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.short(x) + self.body(x)).relu()


class TwoPath(nn.Module):
    """Both paths around the fast path of `tower`: `[B,3,T,H,W] -> [B,T,C]`, T a multiple of 4."""

    def __init__(self, tower: MotionTower) -> None:
        super().__init__()
        config: MotionConfig = tower.config
        fast, slow = config.stem_channels, 8 * config.stem_channels
        self.fast = nn.ModuleList(block.multipathway_blocks["1"] for block in tower.feature_extraction)
        self.laterals = nn.ModuleList()
        self.slow = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv3d(3, slow, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                    nn.BatchNorm3d(slow),
                    nn.ReLU(),
                    nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
                )
            ]
        )
        for stage, depth in enumerate(config.depths):
            self.laterals.append(_Lateral(fast))
            inner, c_in = 8 * config.stem_channels * 2**stage, slow + 2 * fast
            blocks = [_SlowBlock(c_in, inner, SLOW_TIME[stage], 1 if stage == 0 else 2)]
            blocks += [_SlowBlock(4 * inner, inner, SLOW_TIME[stage], 1) for _ in range(depth - 1)]
            self.slow.append(nn.Sequential(*blocks))
            slow, fast = 4 * inner, inner // 2

    def forward(self, frames: Tensor) -> Tensor:
        slow, fast = frames[:, :, : frames.shape[2] // 4], frames
        for stage, (slow_block, fast_block) in enumerate(zip(self.slow, self.fast)):
            slow, fast = slow_block(slow), fast_block(fast)
            if stage < len(self.laterals):
                slow = torch.cat((slow, self.laterals[stage](fast)), 1)
        return fast.mean((3, 4)).transpose(1, 2)
