"""Makes all tables and pictures of the study from the store.

    python benchmarks/study/report.py --store study.sqlite

It writes the atlas into README.md, with atlas.png and atlas.csv beside it, and
the comparison into comparison.md, with comparison.png and comparison.csv. Only
groups that are complete are in them.
"""

import argparse
import pathlib

import paths  # noqa: F401  # isort: skip
import matplotlib
import store

matplotlib.use("Agg")


def main() -> None:
  """Parses the command line."""
  import atlas
  import atlas_report
  import comparison
  import comparison_report

  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--store", type=pathlib.Path, default="study.sqlite")
  args = parser.parse_args()
  if not args.store.exists():
    parser.error(f"{args.store} does not exist: run.py makes it.")
  try:
    with store.opened(args.store) as connection:
      rows = list(store.rows(connection))
      troubles = store.troubles(connection)
  except store.StoreError as error:
    parser.error(str(error))
  for module, name in (
    (atlas_report, atlas.NAME),
    (comparison_report, comparison.NAME),
  ):
    module.report(
      [row for row in rows if row.unit.experiment == name],
      sum(unit.experiment == name for unit, *_ in troubles),
    )


if __name__ == "__main__":
  main()
