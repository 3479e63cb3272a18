"""Weights on the host: checkpoints, the table, pictures, the report."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import integrate

from htga_optax import diagnostics, spectra
from htga_optax.diagnostics import __main__ as command
from htga_optax.diagnostics import plots, weights

RNG = np.random.default_rng(0)
PARAMS = {
  "blocks": {"kernel": np.float32(RNG.standard_normal((2, 60, 70)))},
  "heavy": {"kernel": np.float32(RNG.standard_t(1.5, (60, 120)))},
  "bias": np.zeros(60, np.float32),
}


def write_safetensors(path, tensors):
  """The format: the size of the header, the header in JSON, the data."""
  header, data = {"__metadata__": {"format": "np"}}, b""
  for name, (kind, x) in tensors.items():
    raw = np.asarray(x).tobytes()
    places = [len(data), len(data) + len(raw)]
    entry = {"dtype": kind, "shape": x.shape, "data_offsets": places}
    header[name], data = entry, data + raw
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_the_numbers_are_those_of_the_formulas():
  found = {m.name: m for m in weights.examine(PARAMS, per_layer="blocks")}
  assert list(found) == ["blocks/kernel/0", "blocks/kernel/1", "heavy/kernel"]
  for name, w in (
    ("blocks/kernel/1", PARAMS["blocks"]["kernel"][1]),
    ("heavy/kernel", PARAMS["heavy"]["kernel"]),
  ):
    m, x = found[name], np.linalg.svd(w.astype(float), compute_uv=False) ** 2
    assert m.shape == w.shape
    np.testing.assert_allclose(m.eigenvalues, x[::-1], rtol=1e-6)
    alpha = reference.pl_alpha_hill(x)
    assert m.pl_alpha_hill == pytest.approx(alpha, rel=1e-4)
    null = spectra.null_alpha(*w.shape)
    assert m.tail_ratio == pytest.approx((alpha - 1) / (null - 1), rel=1e-3)
    fit = reference.power_law_fit(x[x > weights.SMALLEST])
    np.testing.assert_allclose(m.fit.alpha, fit[0], rtol=1e-4)
    assert m.fit.size == fit[3]
  # A spectrum with a heavy tail: 100 standard errors from an untrained one.
  assert found["heavy/kernel"].tail_ratio < 0.6


@pytest.mark.parametrize("bad", [np.nan, 0.0, 1.0])
def test_a_matrix_without_an_estimate_has_a_line(bad):
  found = weights.examine({"w": np.full((60, 60), bad, np.float32)})
  assert weights.table(found).splitlines()[1].split()[-1] == "-"


def test_a_tree_without_matrices_is_an_error():
  with pytest.raises(
    ValueError, match=r"none of the 1 leaves .* \(b, \.\.\.\)"
  ):
    weights.examine({"b": np.zeros(60, np.float32)})


def test_the_command_reads_npz_and_safetensors(tmp_path, capsys):
  kernel = PARAMS["heavy"]["kernel"]
  np.savez(tmp_path / "model.npz", heavy=kernel, bias=PARAMS["bias"])
  write_safetensors(
    tmp_path / "model.safetensors",
    {
      "heavy": ("F32", kernel),
      "half": ("BF16", np.asarray(jnp.asarray(kernel, jnp.bfloat16))),
      "quantised": ("F8_E4M3", np.zeros(3, np.uint8)),
      "step": ("I64", np.asarray([3])),
    },
  )
  (m,) = weights.examine({"heavy": kernel})
  for name, layers in (("npz", ["heavy"]), ("safetensors", ["heavy", "half"])):
    command.main(["weights", str(tmp_path / f"model.{name}")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["layer", "shape", "alpha"]
    table = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert set(table) == set(layers)
    for layer in layers:
      assert table[layer][:3] == ["60", "x", "120"]
      assert float(table[layer][-1]) == pytest.approx(m.tail_ratio, abs=0.02)


@pytest.mark.filterwarnings("ignore::UserWarning")  # orbax: no shardings given
def test_a_folder_of_orbax_is_read(tmp_path):
  ocp = pytest.importorskip("orbax.checkpoint")
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "model", PARAMS)
  read = weights.read(tmp_path / "model")
  np.testing.assert_array_equal(
    read["heavy"]["kernel"], PARAMS["heavy"]["kernel"]
  )


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("model.npz", b"no zip", "is no file of arrays"),
    ("model.safetensors", b"\x05\0\0\0\0\0\0\0{}", "is no safetensors file"),
    ("model.safetensors", b"short", "is no safetensors file"),
    ("model.safetensors", b"", "is no safetensors file"),
    ("model.bin", b"", r"must be a \.npz or \.safetensors file"),
  ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(SystemExit, match=message) as error:
    command.main(["weights", str(tmp_path / name)])
  assert "\n" not in str(error.value)
  with pytest.raises(SystemExit, match="No such file"):
    command.main(["weights", str(tmp_path / "none.npz")])


def test_the_picture_has_the_bulk_and_the_tail():
  (m,) = weights.examine({"w": np.float32(RNG.standard_t(2, (80, 200)))})
  ax = plots.spectrum(m.eigenvalues, m.shape, m.fit)
  ax.figure.canvas.draw()
  (patch,) = ax.patches
  density, edges, _ = patch.get_data()
  x = m.eigenvalues / np.mean(m.eigenvalues)
  share = np.mean(x > 1e-4 * np.max(x))
  assert np.sum(density * np.diff(edges)) == pytest.approx(share)
  bulk, tail = ax.lines
  at, height = bulk.get_data()
  np.testing.assert_allclose(
    np.nan_to_num(height), spectra.marchenko_pastur_density(at, 80, 200)
  )
  at, height = tail.get_data()
  assert at[0] == pytest.approx(float(m.fit.xmin) / np.mean(m.eigenvalues))
  slope = np.diff(np.log(height)) / np.diff(np.log(at))
  np.testing.assert_allclose(slope, -m.fit.alpha, rtol=1e-5)
  # The tail holds the share of the eigenvalues that are fitted, 1/N each.
  mass = integrate.trapezoid(height, at) + height[-1] * at[-1] / (
    m.fit.alpha - 1
  )
  assert mass == pytest.approx(float(m.fit.size) / 80, rel=0.02)
  with pytest.raises(
    ValueError, match=r"must be positive, got 3 values from 0"
  ):
    plots.spectrum(np.zeros(3), (3, 3))


def test_the_map_of_layers_leaves_out_what_is_not_known():
  ax = plots.layers(
    [0, 10, 20], {"a": [0.0, 1.0, 2.0], "b": [1.0, np.nan, 1.0]}
  )
  ax.figure.canvas.draw()
  shown = ax.collections[0].get_array()
  assert np.ma.count(shown) == 4 and ax.yaxis_inverted()
  assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
  with pytest.raises(ValueError, match=r"3 values, got \{'a': 2\}"):
    plots.layers([0, 1, 2], {"a": [1.0, 2.0]})


@pytest.mark.slow
def test_the_report_has_a_line_for_each_layer():
  steps = np.arange(200)
  log = {
    "step": steps,
    "grad_norm": RNG.pareto(3.0, 200) + 1,
    "weight_tail_ratio/dense/kernel": np.linspace(1.0, 0.5, 200),
    "weight_tail_ratio/dense/bias": np.zeros(200),
    "weight_tail_ratio/out/kernel": np.where(steps < 9, 0.0, 0.75),
  }
  page = diagnostics.report(log)
  table = page.split("<h2>Weights</h2>")[1].split("</table>")[0]
  rows = [row.split("</td>") for row in table.split("<tr>")[2:]]
  cells = [[cell.split(">")[-1] for cell in row[:-1]] for row in rows]
  assert cells == [
    ["dense/kernel", "1.00", "0.50", "0.50", "1.00"],
    ["out/kernel", "0.75", "0.75", "0.75", "0.75"],
  ]
  assert "weight_tail_ratio by layer over the run" in page
  del log["weight_tail_ratio/dense/kernel"], log["weight_tail_ratio/out/kernel"]
  assert "<h2>Weights</h2>" not in diagnostics.report(log)
