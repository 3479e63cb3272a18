"""Runs the tests on eight CPU devices, or on the platform in PLATFORM.

With QUICK_COMPILE=1, which `make test` sets, XLA compiles for a CPU in less
than half the time: with emitters that it has since replaced, and without most
optimizations, except in tests that are marked `long_run`. The other targets,
and pytest without it, compile as a user's program does.

Tests share compiled programs through a cache that lasts for one run. Programs
for several devices are not cached: JAX 0.10 crashes when it runs a `jax.pmap`
program from a cache. The ten tests that compile longest are listed at the end.
An unmarked test that compiles for more than `LIMIT` seconds fails.
"""

import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

PLATFORM = os.environ.get("PLATFORM", "cpu")
QUICK = PLATFORM == "cpu" and os.environ.get("QUICK_COMPILE") == "1"


def _add_xla_flag(flag):
  """Adds a flag of XLA for this process and those that it starts."""
  flags = os.environ.get("XLA_FLAGS", "")
  if flag.split("=")[0] not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {flag}"


def _is_known(flag):
  """Whether this XLA has the flag; otherwise it ends the process."""
  return not subprocess.run(
    [sys.executable, "-c", "import jax; jax.devices()"],
    env=os.environ | {"XLA_FLAGS": flag},
    capture_output=True,
  ).returncode


os.environ["JAX_PLATFORMS"] = PLATFORM
if PLATFORM != "cpu":  # the workers share the memory of the device
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
else:
  _add_xla_flag("--xla_force_host_platform_device_count=8")
if QUICK and "PYTEST_XDIST_WORKER" not in os.environ:
  for _flag in (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",  # the workers use all cores
  ):
    if _is_known(_flag):
      _add_xla_flag(_flag)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

# The name is not JAX's own, so that programs started by tests do not use it.
_CACHE = "HTGA_OPTAX_TEST_CACHE"
_OWN_CACHE = None  # set in the process that starts the workers
if _CACHE not in os.environ:
  os.environ[_CACHE] = _OWN_CACHE = tempfile.mkdtemp(prefix="htga_optax_tests")
jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Seconds of compiling on an idle core. A test fails only if both wall time and
# processor time exceed it, times how slow this machine is.
LIMIT = 6.0 if QUICK else 10.0
# Seconds of compiling of the program of `_slowness` on an idle core.
REFERENCE = 0.065 if QUICK else 0.22
# Above this size of a worker in bytes, compiled programs are dropped between
# modules.
LARGE = 2e9


def _optimize(yes):
  """Sets what XLA does here and in programs that a test starts."""
  jax.config.update("jax_disable_most_optimizations", not yes)
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(not yes)


_optimize(not QUICK)
_compiling = 0.0
_module = None
_slow = 1.0  # how slow this machine was at most


def _slowness():
  """How much longer compiling takes than on an idle core; 1 or more.

  Two cores may be threads of one, and others may share the machine.
  """
  global _slow
  seconds = 0.0
  for _ in range(2):  # the first program of a process also loads the compiler
    salt = time.time_ns() % 10**6  # no cache has this program

    def program(x, salt=salt):
      for i in range(3):
        x = jnp.sin(x * (salt + i)) + jnp.cumsum(x) / jnp.sum(jnp.exp(x))
      return x

    lowered = jax.jit(program).lower(jax.ShapeDtypeStruct([64], jnp.float32))
    start = time.perf_counter()
    lowered.compile()
    seconds = time.perf_counter() - start
  _slow = max(_slow, seconds / REFERENCE)
  return _slow


def _count(event, seconds, **_):
  global _compiling
  if event.startswith("/jax/core/compile/"):
    _compiling += seconds


jax.monitoring.register_event_duration_secs_listener(_count)


def pytest_configure(config):
  for line in (
    "devices(n): needs so many devices",
    "cpu: claims something of the CPU alone",
    "long_run: runs so long that XLA is to optimize its programs",
  ):
    config.addinivalue_line("markers", line)


def pytest_sessionstart():
  _slowness()  # all workers start at once, so they slow one another down


def pytest_collection_modifyitems(items):
  there = jax.device_count()
  for item in items:
    needed = max([m.args[0] for m in item.iter_markers("devices")], default=1)
    if needed > there:
      reason = f"needs {needed} devices, {PLATFORM} has {there}"
      item.add_marker(pytest.mark.skip(reason=reason))
    elif PLATFORM != "cpu" and item.get_closest_marker("cpu"):
      item.add_marker(pytest.mark.skip(reason="claims something of the CPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  _optimize(not QUICK or item.get_closest_marker("long_run") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  global _module
  if item.path != _module:
    _module = item.path
    if _resident() > LARGE:
      jax.clear_caches()
      gc.collect()
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs",
    float("inf") if item.get_closest_marker("devices") else 0.0,
  )
  before, busy = _compiling, time.process_time()
  yield
  seconds, busy = _compiling - before, time.process_time() - busy
  item.user_properties.append(("compiling", seconds))
  slow = item.get_closest_marker("slow")
  if min(seconds, busy) > LIMIT and not slow:
    limit = LIMIT * _slowness()
    if min(seconds, busy) > limit:
      pytest.fail(
        f"compiled for {seconds:.1f} s, more than {limit:.1f}: make it smaller,"
        " or mark it slow"
      )


def _resident():
  """The memory of this process in bytes, or 0 if it is unknown."""
  try:
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  except OSError:
    return 0
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


def pytest_terminal_summary(terminalreporter, config):
  ran = [
    (dict(report.user_properties).get("compiling", 0.0), report.nodeid)
    for reports in terminalreporter.stats.values()
    for report in reports
    if getattr(report, "when", None) == "call"
  ]
  terminalreporter.section("compiling")
  terminalreporter.write_line(
    f"{sum(seconds for seconds, _ in ran):.0f} s in all, of {len(ran)} tests;"
    " most of it in"
  )
  for seconds, name in sorted(ran, reverse=True)[:10]:
    terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
  if "not slow" in config.option.markexpr:
    terminalreporter.write_line("Not run: the slow tests, by `make test-slow`.")


def pytest_unconfigure():
  if _OWN_CACHE is not None:
    shutil.rmtree(_OWN_CACHE, ignore_errors=True)
