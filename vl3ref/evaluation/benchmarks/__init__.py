"""The ten benchmarks of the paper's tables, one file each: its files, its prompt, its two scores."""

from collections.abc import Mapping

from vl3ref.evaluation.benchmark import Benchmark
from vl3ref.evaluation.benchmarks import (
    chartqa,
    docvqa,
    mathvista,
    mlvu,
    mmmu_pro,
    nextqa,
    perception_test,
    realworldqa,
    tempcompass,
    videomme,
)

BENCHMARKS: Mapping[str, Benchmark] = {
    file.BENCHMARK.name: file.BENCHMARK
    for file in (
        *(chartqa, docvqa, mathvista, mmmu_pro, realworldqa),
        *(videomme, perception_test, mlvu, tempcompass, nextqa),
    )
}
"""By the name on the command line; images first, as in the paper."""

SUBMISSIONS = {"docvqa": docvqa.submission, "perceptiontest": perception_test.submission}
"""(items, words by id) -> what the server that knows the answers takes, as JSON."""
