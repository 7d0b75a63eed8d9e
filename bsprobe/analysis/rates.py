"""Scaling of the learning rate with the batch.

Sources: linear scaling from Goyal et al. 2017; the square root for adaptive optimizers from Malladi
et al. 2022.
"""

import math

from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import Target
from bsprobe.records.variants import OptimizerName

_RULES = {
    OptimizerName.SGD: LearningRateRule.LINEAR,
    OptimizerName.ADAMW: LearningRateRule.SQRT,
}


_ADAPTIVE = ("ada", "rmsprop", "lamb", "lion", "novograd", "sophia", "came")
"""Marks in the names of optimizers whose steps do not scale with the gradient: Adam and its
variants, Adagrad, Adafactor, RAdam, NAdam and so on."""


def rule_for(target: Target, optimizer: OptimizerName) -> LearningRateRule:
    """Return the rule of the target, else the optimizer's: linear for SGD, sqrt for AdamW."""
    return _RULES[optimizer] if target.lr_rule is None else LearningRateRule(target.lr_rule)


def rule_of(optimizer: str) -> LearningRateRule:
    """Return the rule for an optimizer by the name of its class: sqrt for adaptive ones.

    Malladi et al. 2022 derive the square root for Adam and RMSprop, whose steps do not scale with
    the gradient.
    """
    is_adaptive = any(mark in optimizer.lower() for mark in _ADAPTIVE)
    return LearningRateRule.SQRT if is_adaptive else LearningRateRule.LINEAR


def rate_factor(base_batch: int, effective_batch: int, rule: LearningRateRule) -> float:
    """Return the factor by which a learning rate changes from one effective batch to another.

    Args:
        base_batch: The effective batch of the known rate.
        effective_batch: The effective batch to scale to.
        rule: The scaling rule.
    """
    ratio = effective_batch / base_batch
    return ratio if rule is LearningRateRule.LINEAR else math.sqrt(ratio)


def scaled_rate(target: Target, effective_batch: int, rule: LearningRateRule) -> float | None:
    """Return the learning rate for an effective batch; None if no rate is known to scale from.

    Args:
        target: The recipe to scale from.
        effective_batch: The effective batch to scale to.
        rule: The scaling rule.
    """
    if target.base_learning_rate is None or target.base_batch is None:
        return None
    return target.base_learning_rate * rate_factor(target.base_batch, effective_batch, rule)
