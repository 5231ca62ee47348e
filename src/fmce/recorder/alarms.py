"""Alarms: plain facts about a module that no healthy training shows, with what to check.

Each is decided from one epoch's facts without a learned score. How long it has held follows from the epochs before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Share of a module's units that may stay at 0 on the probe: some die in any net.
DEAD_SHARE = 0.5
# Weights of so few distinct values were rounded.
ROUNDED_VALUES = 16
# Healthy seeds were up to 7 standard deviations from four others, injured modules mostly beyond 12.
UNLIKE_PEERS = 10.0

Facts = Mapping[str, Any]
"""One module's facts of one epoch, as `facts.module_facts` measures them."""


@dataclass(frozen=True)
class Alarm:
    """Something about a module that is wrong, or was not meant.

    Args:
        module: Its name; "" for the complete training.
        kind: Which alarm.
        since: First epoch from which it has held without a break.
        finding: What was found.
        check: What to look at.
    """

    module: str
    kind: str
    since: int
    finding: str
    check: str

    def __str__(self) -> str:
        place = f"{self.module}: " if self.module else ""
        return f"{place}{self.finding} since epoch {self.since}; {self.check}"

    def to_dict(self) -> dict[str, Any]:
        """Return the alarm as JSON values."""
        return asdict(self)


def find_alarms(rows: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Return the alarms that hold at the last epoch.

    Args:
        rows: Metrics lines with `modules`, one per epoch from 1; lines without them raise no alarm.

    >>> find_alarms([{"epoch": 1, "modules": {"neck": {"parameters": 9, "frozen": True}}}])[0].kind
    'frozen'
    """
    if not rows:
        return []
    held = [dict(_found(row)) for row in _streak(rows)]
    alarms = []
    for (module, kind), (finding, check) in held[-1].items():
        streak = 1
        while streak < len(held) and (module, kind) in held[-1 - streak]:
            streak += 1
        since = int(rows[-1]["epoch"]) - streak + 1
        alarms.append(Alarm(module, kind, since, finding, check))
    return alarms


def _streak(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last rows of consecutive epochs."""
    start = len(rows) - 1
    while start and rows[start - 1]["epoch"] == rows[start]["epoch"] - 1:
        start -= 1
    return list(rows[start:])


def _found(row: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield (module, kind) and (finding, check) of each alarm of one epoch."""
    bad = row.get("bad_losses")
    if bad:
        yield (
            ("", "loss"),
            (
                f"the loss was NaN or infinite in {bad} of {row['steps']} steps",
                "check the data, lower the learning rate, or use float32",
            ),
        )
    for module, facts in (row.get("modules") or {}).items():
        for kind, decide in _KINDS.items():
            found = decide(facts)
            if found:
                yield (module, kind), found
                if kind in _EXPLAIN_REST:
                    break


def _frozen(facts: Facts) -> tuple[str, str] | None:
    if not facts.get("frozen") or facts.get("meant_frozen"):
        return None
    return (
        "frozen: none of its parameters requires a gradient",
        "call requires_grad_(True), or name it in `frozen`",
    )


def _left_out(facts: Facts) -> tuple[str, str] | None:
    left = facts.get("not_in_optimizer")
    if not left:
        return None
    return (
        f"{left} of its {facts['trainable']} trainable parameters are not in the optimizer",
        "build the optimizer after the module was added or replaced",
    )


def _no_rate(facts: Facts) -> tuple[str, str] | None:
    if facts.get("learning_rate") != 0:
        return None
    return "learning rate 0", "check its parameter group and the schedule"


def _no_gradient(facts: Facts) -> tuple[str, str] | None:
    if facts.get("gradient") != "none":
        return None
    return (
        "no gradient",
        "check that the loss depends on it: detach(), no_grad(), a branch that is not used",
    )


def _zero_gradient(facts: Facts) -> tuple[str, str] | None:
    if facts.get("gradient") != "zero":
        return None
    return (
        "its gradient is exactly 0",
        "look for dead units after it, a loss weight of 0, or targets that it never sees",
    )


def _bad_gradient(facts: Facts) -> tuple[str, str] | None:
    if facts.get("gradient") != "not finite":
        return None
    return "its gradient is NaN or infinite in every step", "lower the learning rate, or clip"


def _unmoved(facts: Facts) -> tuple[str, str] | None:
    if facts.get("moved") != 0 or facts.get("meant_frozen"):
        return None
    if facts.get("initial"):
        return (
            "its weights are still those that training started with",
            "check that steps are taken",
        )
    return "its weights did not change", "check that the optimizer's steps are taken (GradScaler)"


def _changed(facts: Facts) -> tuple[str, str] | None:
    changed = facts.get("changed")
    if changed is None:
        return None
    return (
        f"other weights than it had: {changed}",
        "load the checkpoint that belongs to the rest",
    )


def _not_loaded(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("not_loaded")
    if not count:
        return None
    return f"{count} of its tensors were not loaded", "check names, prefix and shapes"


def _statistics_move(facts: Facts) -> tuple[str, str] | None:
    if not (facts.get("frozen") and facts.get("statistics_moved")):
        return None
    return "frozen, but its norm statistics move", "put it in eval mode after model.train()"


def _statistics_initial(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("initial_statistics")
    if not count or facts.get("frozen"):
        return None
    return (
        f"{count} norm layers still have their initial statistics (mean 0, variance 1)",
        "train it in train mode, or load its buffers too",
    )


def _dead(facts: Facts) -> tuple[str, str] | None:
    share = facts.get("dead")
    if share is None or share < DEAD_SHARE:
        return None
    return (
        f"{share:.0%} of its units are 0 on the complete probe",
        "lower the learning rate, check biases and initialisation",
    )


def _repeated(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("repeated")
    if not count:
        return None
    return f"{count} channels repeat another one exactly", "check how its weights were initialised"


def _not_finite(facts: Facts) -> tuple[str, str] | None:
    if facts.get("finite") is not False:
        return None
    return "outputs are NaN or infinite on the probe", "return to an earlier checkpoint"


def _zero_filters(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("zero_filters")
    if not count:
        return None
    return f"{count} of its {facts['filters']} filters are exactly 0", "check for a mask or pruning"


def _rounded(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("distinct_weights")
    if count is None or count > ROUNDED_VALUES:
        return None
    return f"a weight has only {count} distinct values", "check for quantised weights"


def _unlike_peers(facts: Facts) -> tuple[str, str] | None:
    unlike = facts.get("unlike_peers")
    if unlike is None:
        return None
    distance = unlike["distance"]  # None is infinite
    if distance is not None and distance < UNLIKE_PEERS:
        return None
    norm = "NaN or infinite" if unlike["norm"] is None else f"{unlike['norm']:.3g}"
    others = f"{unlike['least']:.3g} to {unlike['most']:.3g}"
    return (
        f"{unlike['parameter']} has norm {norm}, in other trainings {others}",
        "check where its weights come from",
    )


def _left_gradient(facts: Facts) -> tuple[str, str] | None:
    count = facts.get("stale_gradients")
    if not count:
        return None
    return (
        f"{count} of its frozen parameters still hold a gradient",
        "set .grad to None, or the optimizer keeps using it",
    )


_KINDS: dict[str, Callable[[Facts], tuple[str, str] | None]] = {
    "not_loaded": _not_loaded,
    "changed": _changed,
    "not_finite": _not_finite,
    "statistics_move": _statistics_move,
    "statistics_initial": _statistics_initial,
    "dead": _dead,
    "repeated": _repeated,
    "zero_filters": _zero_filters,
    "rounded": _rounded,
    "unlike_peers": _unlike_peers,
    "gradient_left": _left_gradient,
    # Each of these is why those after it hold too.
    "frozen": _frozen,
    "not_in_optimizer": _left_out,
    "learning_rate_zero": _no_rate,
    "no_gradient": _no_gradient,
    "gradient_not_finite": _bad_gradient,
    "zero_gradient": _zero_gradient,
    "not_moved": _unmoved,
}
_EXPLAIN_REST = (
    "frozen",
    "not_in_optimizer",
    "learning_rate_zero",
    "no_gradient",
    "gradient_not_finite",
)
KINDS = ("loss", *_KINDS)
"""All kinds of alarms, in the order of their importance."""
