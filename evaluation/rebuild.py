"""Everything that is shown of an experiment, from its three files alone.

rebuild(Path("results/mini_study"), Path("again"))     # the same bytes, on another machine too
"""

from pathlib import Path

from evaluation.comparison import Comparison


def rebuild(folder: Path, out: Path) -> Comparison:
    """Write results.parquet, comparison.json, figures, tables and reports into `out`; returns the comparison.

    `folder` holds the files of `evaluation.experiment`. Raises ResultsError if they cannot be read.
    """
    import pyarrow.parquet as pq

    from evaluation.aggregate import compare
    from evaluation.experiment import Experiment
    from evaluation.long_form import long_form
    from evaluation.report.write import write_report

    experiment = Experiment.read(folder)
    comparison = compare(experiment)
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(long_form(experiment), out / "results.parquet")
    write_report(comparison, experiment.context, out)
    return comparison
