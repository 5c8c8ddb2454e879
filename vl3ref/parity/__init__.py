"""Where two implementations agree, where they first differ, and which of them is nearer to float64.

    from vl3ref.parity import compare

    report = compare(my_block, their_block, x)        # any two modules
    print(report.markdown())

`vl3ref parity` does this for the whole model and transformers' `VideoLlama3ForConditionalGeneration`.
"""

from vl3ref.parity.activations import (
    Activations,
    load_activations,
    record,
    record_by_name,
    record_modules,
    save_activations,
)
from vl3ref.parity.compare import compare, compare_activations
from vl3ref.parity.exact import exact
from vl3ref.parity.html import html_page
from vl3ref.parity.metrics import Difference, difference
from vl3ref.parity.report import Report

__all__ = [
    "Activations",
    "Difference",
    "Report",
    "compare",
    "compare_activations",
    "difference",
    "exact",
    "html_page",
    "load_activations",
    "record",
    "record_by_name",
    "record_modules",
    "save_activations",
]
