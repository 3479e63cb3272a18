"""The methods of the comparison, each with the space of its settings.

A setting is a dict of numbers. The learning rate is in units of a sound rate of
the task, and norms are in units of the task's usual norm, so that one space
suits all tasks. The methods of a family share these numbers:

    SGD    rate, rest = 1 - momentum, decay (added to the gradient). Momentum is
           an average, so that the rate is the effective rate.
    Adam   rate, rest = 1 - beta_1, decay (decoupled)

A method has at most one number more. All rates rise over the first twentieth of
the run and then fall to 0 like a cosine.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import qmc
from tasks import Task

import htga_optax

SGD, ADAM = "sgd", "adam"
LARGE = 4  # the large batch of the truncated method, in batches


def value_fn(loss, params, state, parts) -> dict[str, Any]:
  """The extra arguments of most methods."""
  del state
  return {"value_fn": lambda params: loss(params, parts[0])}


def noise_updates(loss, params, state, parts) -> dict[str, Any]:
  """The noise of the second batch, against a large one."""
  factor = optax.tree.get(state, "noise_factor")
  large = jax.tree.map(lambda *x: jnp.concatenate(x), *parts[2:])
  return {
    "noise_updates": htga_optax.noise_gradient(
      loss, params, parts[1], large, factor
    )
  }


class Method(NamedTuple):
  """A way to train.

  Attributes:
    family: SGD or Adam: which learning rate of a task is the unit, and which
      baseline the method is compared with.
    make: (task, setting, rate, key) -> transformation. The rate is a schedule.
    space: the range of each number of a setting; all are log-uniform.
    batches: the number of batches of a step.
    extra_args: (loss, params, state, batches) -> the extra arguments of update.
    salt: methods with different numbers here are tuned with different seeds.
    label: the name in tables.
    placebo: whether it differs from the baseline only by luck.
  """

  family: str
  make: Callable[..., optax.GradientTransformation]
  space: Mapping[str, tuple[float, float]]
  batches: int = 1
  extra_args: Callable[..., dict[str, Any]] = value_fn
  salt: int = 0
  label: str = ""
  placebo: bool = False

  def settings(self, count: int) -> list[dict[str, float]]:
    """Quasi-random settings: the first `count` points of a Halton sequence."""
    names, ranges = zip(*self.space.items())
    points = qmc.Halton(len(names), scramble=True, rng=0).random(count)
    low, high = np.log(ranges).T
    values = np.exp(low + points * (high - low))
    return [
      {name: float(f"{v:.4g}") for name, v in zip(names, row)} for row in values
    ]


def schedule(rate, steps: int) -> Callable[[Any], jax.Array]:
  """The learning rate by step."""
  shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 20, steps)
  return lambda count: rate * shape(count)


def _sgd(task, setting, rate, key, front=None):
  """SGD with momentum, after a transformation of the gradient."""
  return optax.chain(
    optax.identity() if front is None else front(task, setting),
    optax.add_decayed_weights(setting["decay"]),
    optax.ema(1 - setting["rest"], debias=False),
    optax.scale_by_learning_rate(rate),
  )


def _normalised(task, setting, rate, key):
  """The momentum has the usual norm of a gradient of the task."""
  return optax.chain(
    optax.add_decayed_weights(setting["decay"]),
    optax.ema(1 - setting["rest"], debias=False),
    optax.normalize_by_update_norm(task.norm),
    optax.scale_by_learning_rate(rate),
  )


def _ahtsgd(task, setting, rate, key):
  return optax.chain(
    optax.add_decayed_weights(setting["decay"]),
    htga_optax.ahtsgd(
      lambda count: setting["rest"] * rate(count),
      setting["noise"],
      key=key,
      momentum=1 - setting["rest"],
      threshold=10 * task.rates["sgd"] * task.norm,
    ),
  )


def _truncated(task, setting, rate, key):
  """The first method of the source. It has no momentum."""
  return optax.chain(
    optax.add_decayed_weights(setting["decay"]),
    htga_optax.truncated_heavy_tailed_sgd(
      rate,
      setting["threshold"] * task.rates["sgd"] * task.norm,
      key=key,
      scale=setting["noise"],
    ),
  )


def _adamw(task, setting, rate, key, front=None):
  return optax.chain(
    optax.identity() if front is None else front(task, setting),
    optax.adamw(rate, b1=1 - setting["rest"], weight_decay=setting["decay"]),
  )


def _lion(task, setting, rate, key):
  """A tenth of the rate and ten times the decay, as its authors advise."""
  return optax.lion(
    lambda count: 0.1 * rate(count),
    b1=1 - setting["rest"],
    weight_decay=10 * setting["decay"],
  )


def _clip(task, setting):
  return optax.clip_by_global_norm(setting["max_norm"] * task.norm)


def _tail_clip(task, setting):
  return htga_optax.clip_by_tail_quantile(setting["share"], 256, 32)


def _formula(task, setting):
  return htga_optax.scale_by_htga(target=setting["target"])


def _ratio(task, setting):
  return htga_optax.scale_by_htga(target=setting["target"], response="ratio")


def _power(task, setting, exponent):
  """HTGA whose exponent is constant, so that it does not use its tail index."""
  return htga_optax.scale_by_htga(gamma_min=exponent, gamma_max=exponent)


def _of_sgd(label, front, placebo=False, **more) -> Method:
  make = functools.partial(_sgd, front=front)
  return Method(SGD, make, _SGD_SPACE | more, label=label, placebo=placebo)


def _of_adamw(label, front, **more) -> Method:
  make = functools.partial(_adamw, front=front)
  return Method(ADAM, make, _ADAM_SPACE | more, label=label)


_RATE = {"rate": (0.03, 3.0)}
_SGD_SPACE = _RATE | {"rest": (0.02, 1.0), "decay": (1e-6, 1e-2)}
_ADAM_SPACE = _RATE | {"rest": (0.03, 0.5), "decay": (1e-6, 1e-1)}
_NORM, _SHARE, _TARGET = (0.1, 10.0), (1e-3, 1e-1), (1.5, 8.0)

# The first method of a family is its baseline.
METHODS: dict[str, Method] = {
  "sgd": _of_sgd("SGD with momentum", None),
  "sgd_clip": _of_sgd("the same, `clip_by_global_norm`", _clip, max_norm=_NORM),
  "sgd_normalised": Method(
    SGD, _normalised, _SGD_SPACE, label="normalised momentum"
  ),
  "sgd_tail_clip": _of_sgd(
    "SGD, `clip_by_tail_quantile`", _tail_clip, share=_SHARE
  ),
  "htga_formula": _of_sgd("HTGA, formula", _formula, target=_TARGET),
  "htga_ratio": _of_sgd("HTGA, ratio", _ratio, target=_TARGET),
  "htga_gamma_1": _of_sgd(
    "placebo: HTGA, exponent 1",
    functools.partial(_power, exponent=1.0),
    placebo=True,
  ),
  "power_half": _of_sgd(
    "HTGA, constant exponent 0.5", functools.partial(_power, exponent=0.5)
  ),
  "power_zero": _of_sgd(
    "HTGA, constant exponent 0", functools.partial(_power, exponent=0.0)
  ),
  "ahtsgd_rising": Method(
    SGD, _ahtsgd, _SGD_SPACE | {"noise": (1e-5, 1e-2)}, label="AHTSGD, rising"
  ),
  "truncated_1": Method(
    SGD,
    _truncated,
    _RATE
    | {"decay": (1e-6, 1e-2), "noise": (0.02, 1.0), "threshold": (0.5, 50.0)},
    2 + LARGE,
    noise_updates,
    label="truncated heavy-tailed SGD 1",
  ),
  "adamw": _of_adamw("AdamW", None),
  "adamw_again": _of_adamw("placebo: AdamW, other tuning seeds", None)._replace(
    salt=1, placebo=True
  ),
  "adamw_clip": _of_adamw(
    "AdamW, `clip_by_global_norm`", _clip, max_norm=_NORM
  ),
  "adamw_tail_clip": _of_adamw(
    "AdamW, `clip_by_tail_quantile`", _tail_clip, share=_SHARE
  ),
  "adamw_htga_formula": _of_adamw(
    "AdamW, HTGA, formula", _formula, target=_TARGET
  ),
  "adamw_htga_ratio": _of_adamw("AdamW, HTGA, ratio", _ratio, target=_TARGET),
  "lion": Method(ADAM, _lion, _ADAM_SPACE, label="Lion"),
}


def optimizer(
  method: Method, task: Task, steps: int
) -> Callable[..., optax.GradientTransformationExtraArgs]:
  """Makes (setting, key) -> transformation, for `loop.runner`."""

  def make(setting, key):
    rate = setting["rate"] * task.rates[method.family]
    return method.make(task, setting, schedule(rate, steps), key)

  return make
