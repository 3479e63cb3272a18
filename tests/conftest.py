"""Eight CPU devices for every test, and one cache of compiled programs.

Most of the time of the tests is compilation, and many laws of test_contract
compile the same program. So what one test has compiled the next ones load, in
the other processes too. The cache is made and removed by the process that
starts the tests; JAX_COMPILATION_CACHE_DIR names one that stays.

All of it is set before JAX is imported.
"""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  cache = tempfile.mkdtemp(prefix="htga_optax-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
