"""netket: variational Monte Carlo in float64.

The driver keeps the optimizer's state as `_optimizer_state`. Its loss is a
sampled energy, so `value_fn` would need a separate sample.
"""

import importlib.util
import os
import subprocess
import sys

import client
import pytest

# Do not import it here: it switches JAX to 64 bits.
if importlib.util.find_spec("netket") is None:
  pytest.skip("no netket", allow_module_level=True)
pytestmark = [client.quiet, pytest.mark.slow]

_RUN = """
import htga_optax, netket as nk
chain = nk.graph.Chain(4)
hilbert = nk.hilbert.Spin(0.5, N=4)
energy = nk.operator.Ising(hilbert, chain, h=1.0)
state = nk.vqs.MCState(
  nk.sampler.MetropolisLocal(hilbert),
  nk.models.RBM(alpha=1, param_dtype=float), n_samples=256, seed=0)
driver = nk.driver.VMC(
  energy, htga_optax.htga(0.05, window_size=8, k=2), variational_state=state)
driver.run(50, show_progress=False)
print(driver.energy.mean.real)
print(htga_optax.readings(driver._optimizer_state)["tail_index"])
"""


def test_ground_state():
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", _RUN],
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stderr
  energy, tail_index = map(float, done.stdout.split())
  assert energy < -5  # the exact value is -5.23, Pfeuty (1970)
  assert tail_index > 0
