"""Published checkpoints by folder or hub id: the only place that downloads model files."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from vqa2.core.errors import ConfigError

_DESCRIPTION = ["*.json", "*.txt", "*.jinja"]


class NotAtHand(ConfigError):
    """A checkpoint is neither a folder here nor to be had from the hub."""


def checkpoint_folder(source: str, key: str, *, weights: bool) -> Path:
    """The folder of `source`, a folder or a hub id, fetched where it must be; without `weights`, configuration and
    tokenizer alone. `key`: the setting that names it, for the error."""
    if Path(source).is_dir():
        return Path(source)
    reason = "its weights were not fetched"
    try:
        folder = Path(snapshot_download(source, allow_patterns=None if weights else _DESCRIPTION))
        if not weights or any(folder.glob("*.safetensors")):
            return folder
    except (OSError, ValueError, HfHubHTTPError) as problem:
        reason = str(problem).strip().splitlines()[0]
    raise NotAtHand(
        f"{key}: {source}: no such folder, and not to be had from the hub ({reason}); fetch it where there is a "
        f"network (`hf download {source}`, then HF_HUB_OFFLINE=1 here with the same HF_HOME), or name its folder"
    )
