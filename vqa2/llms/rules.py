"""`llm=rules`: no language model. Whoever would ask one uses its own deterministic rules, and says so in its output."""

from vqa2.core.config import register


@register("llm", "rules")
class Rules:
    """Has no settings: the rules belong to the caller."""

    def open(self) -> None:
        """Nothing to ask."""
        return None
