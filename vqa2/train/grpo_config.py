"""trl.GRPOConfig as this project's GRPO trainer reads it: what it takes over, what it refuses.

The names and defaults are TRL's; an option without effect here stops the run instead of being ignored.
"""

from typing import Annotated, Any, get_args

from annotated_types import Ge, Gt
from trl import GRPOConfig

from vqa2.core.config import spec, suggest
from vqa2.core.errors import ConfigError
from vqa2.rewards.function import Function
from vqa2.train._grpo_alarms import Alarms
from vqa2.train._grpo_loss import Aggregation, Level, LossSettings, LossType, Scale
from vqa2.train._grpo_show import Show
from vqa2.train._rollout import Sampling
from vqa2.train.grpo_rewards import Reward, TrlReward

REFUSED: dict[str, Any] = {
    "use_vllm": False,
    "use_transformers_continuous_batching": False,
    "generation_kwargs": None,
    "min_p": None,
    "repetition_penalty": 1.0,
    "cache_implementation": None,
    "pad_to_multiple_of": None,
    "ds3_gather_for_generation": True,
    "shuffle_dataset": True,
    "reward_weights": None,
    "delta": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "off_policy_mask_threshold": None,
    "sync_ref_model": False,
    "cast_lm_head_to_fp32": False,
    "disable_dropout": False,
    "model_init_kwargs": None,
    "chat_template_kwargs": None,
    "router_aux_loss_coef": None,
    "log_completions": False,
}
"""Options of trl.GRPOConfig that have no effect here -> the only value accepted. Reward weights live with the rewards;
completions are always written (`completions.jsonl`)."""

CHOICES = {
    "loss_type": get_args(LossType),
    "importance_sampling_level": get_args(Level),
    "scale_rewards": get_args(Scale),
    "multi_objective_aggregation": get_args(Aggregation),
}
SHORTEST = ("<think>", "</think>", "<answer>", "3", "</answer>")


@spec
class Control:
    """Options that TRL has no name for.

    `resample_rounds`: how often the groups of a step without signal are replaced by other prompts (DAPO's dynamic
    sampling; 0: never). `reward_timeout_s`: a reward that takes longer applies to nothing in that step.
    `shuffle_rewards`: hand out each group's rewards at random, the control that must not learn.
    """

    resample_rounds: Annotated[int, Ge(0)]
    reward_timeout_s: Annotated[float, Gt(0)]
    shuffle_rewards: bool
    alarms: Alarms
    show: Show


def check(args: GRPOConfig, rewards: dict[str, Reward], tokenizer) -> None:
    """ConfigError for arguments that do not fit this trainer; see `REFUSED`."""
    given = vars(args)
    for name, only in REFUSED.items():
        if given[name] != only:
            raise ConfigError(f"{name}: this trainer supports {only!r} only, got {given[name]!r}")
    if args.per_device_train_batch_size % args.num_generations:
        raise ConfigError(
            f"per_device_train_batch_size: counts completions and must be a multiple of num_generations "
            f"({args.num_generations}), got {args.per_device_train_batch_size}"
        )
    if args.steps_per_generation != args.gradient_accumulation_steps:
        raise ConfigError(
            f"steps_per_generation: must equal gradient_accumulation_steps ({args.gradient_accumulation_steps}), "
            f"got {args.steps_per_generation}: a rollout serves one optimizer step"
        )
    for name, known in CHOICES.items():
        if given[name] not in known:
            raise ConfigError(f"{name}: not {given[name]!r}{suggest(given[name], list(known))}")
    if not args.temperature > 0:
        raise ConfigError(f"temperature: must be above 0, got {args.temperature}")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ConfigError("tokenizer: needs an end token and a padding token")
    if args.num_iterations < 1:
        raise ConfigError(f"num_iterations: must be at least 1, got {args.num_iterations}")
    check_rewards(rewards, "rewards")
    check_length(rewards, args.max_completion_length, tokenizer, "")


def check_rewards(rewards: dict[str, Reward], where: str) -> None:
    """ConfigError for no reward, a negative weight, or weights that are all 0. A reward of weight 0 is computed and
    logged, and teaches nothing."""
    if not rewards:
        raise ConfigError(f"{where}: at least one reward is needed")
    for name, reward in rewards.items():
        if not reward.weight >= 0:
            raise ConfigError(f"{where}.{name}.weight: must be at least 0, got {reward.weight}")
    if not any(reward.weight for reward in rewards.values()):
        raise ConfigError(f"{where}: the weights of {', '.join(rewards)} are all 0; one must be above 0")


def check_length(rewards: dict[str, Reward], max_completion_length: int, tokenizer, where: str) -> None:
    """ConfigError for a limit that no readable answer fits into; the project's own rewards read answers. `tokenizer`
    None, before there is a model: what would be too short even if every tag were one token."""
    answer = "".join(SHORTEST)
    needed = 1 + len(SHORTEST if tokenizer is None else tokenizer.encode(answer, add_special_tokens=False))
    if max_completion_length < needed and not all(isinstance(r, TrlReward | Function) for r in rewards.values()):
        raise ConfigError(
            f"{where}max_completion_length: {max_completion_length} tokens cannot hold an answer; {answer} and the end "
            f"token take {'at least ' if tokenizer is None else ''}{needed}"
        )


def sampling_of(args: GRPOConfig, tokenizer) -> Sampling:
    """The sampling that the arguments ask for; the padding token also ends a completion."""
    return Sampling(
        num=args.num_generations,
        max_tokens=args.max_completion_length,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        ends=(tokenizer.eos_token_id, tokenizer.pad_token_id),
        pad=tokenizer.pad_token_id,
    )


def loss_settings(args: GRPOConfig) -> LossSettings:
    """The loss that the arguments ask for; `epsilon_high` defaults to `epsilon`, as in TRL."""
    return LossSettings(
        loss_type=args.loss_type,
        importance_sampling_level=args.importance_sampling_level,
        epsilon=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        beta=args.beta,
        use_bias_correction_kl=args.use_bias_correction_kl,
        max_completion_length=args.max_completion_length,
    )
