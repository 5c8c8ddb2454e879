"""The table of a run: a row for each kind of question and one for all, with what became of the items, and the paper's
figures beside it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from vl3ref.errors import InputError
from vl3ref.evaluation.asking import MAX_NEW_TOKENS
from vl3ref.evaluation.benchmark import Benchmark, Outcome, Protocol
from vl3ref.evaluation.results import Results
from vl3ref.evaluation.statistics import Overall, Paired, interval, mean, paired

OUTCOMES: Sequence[str] = get_args(Outcome)
COUNT = ("right", "wrong", "unparsed")
"""Outcomes of items that a score is the mean of."""

COLUMNS = {"by_letter": "letter", "by_option": "option", "blank": "blank", "shuffled": "shuffled"}
"""Other scores and their headings: of the likeliest letter, the likeliest option, and the controls."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """Scores in percent; None where no item counts, or nothing was asked.

    Attributes:
        kind: of question; "all" for all of a subset.
        items: asked, or to be asked; their outcomes add up to it.
        low, high: 95 % interval of the score.
        others: scores by the names of `COLUMNS`.
        paper: the paper's, of the 2B and the 7B.
    """

    subset: str
    kind: str
    items: int
    score: float | None
    low: float | None
    high: float | None
    others: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    paper: tuple[float, float] | None = None


def rows(results: Results, benchmark: Benchmark, protocol: Protocol) -> list[Row]:
    """Of each subset: a row for each kind if there are several, and one for all."""
    found = []
    for subset, records in _grouped(results.records, "subset").items():
        kinds = _grouped(records, "kind")
        for kind, some in kinds.items() if len(kinds) > 1 else ():
            found.append(_row(subset, kind, some, "micro", protocol, None))
        found.append(_row(subset, "all", records, benchmark.overall, protocol, benchmark.paper.get(subset)))
    return found


def compare(first: Results, second: Results, benchmark: Benchmark, protocol: Protocol) -> dict[str, Paired]:
    """The second model less the first, by subset, on the items that count for both.

    Raises:
        InputError: they were not asked the same questions.
    """
    if any(first.heading[name] != second.heading[name] for name in ("benchmark", "questions")):
        raise InputError("two models are compared on the same questions: these were asked others")
    theirs = {record["id"]: record for record in second.records}
    found = {}
    for subset, records in _grouped(first.records, "subset").items():
        pairs = [(x, theirs[x["id"]]) for x in records if x["id"] in theirs]
        pairs = [pair for pair in pairs if all(record[protocol]["outcome"] in COUNT for record in pair)]
        if pairs:
            before, after = ([record[protocol]["score"] for record in side] for side in zip(*pairs, strict=True))
            media, kinds = ([record[name] for record, _ in pairs] for name in ("media", "kind"))
            found[subset] = paired(before, after, media, kinds, benchmark.overall)
    return found


def _row(
    subset: str,
    kind: str,
    records: Sequence[Record],
    overall: Overall,
    protocol: Protocol,
    paper: tuple[float, float] | None,
) -> Row:
    others = {name: _scores(records, overall, _other(name, protocol)) for name in COLUMNS}
    score, ends = _scores(records, overall, lambda record: record[protocol])
    low, high = ends() or (None, None)
    outcomes = Counter(record[protocol]["outcome"] for record in records)
    return Row(
        subset,
        kind,
        len(records),
        score,
        None if low is None else 100 * low,
        None if high is None else 100 * high,
        {name: value for name, (value, _) in others.items() if value is not None},
        {outcome: outcomes[outcome] for outcome in OUTCOMES},
        paper,
    )


def _other(name: str, protocol: Protocol) -> Callable[[Record], Any]:
    if name in ("by_letter", "by_option"):
        return lambda record: record.get(name) if protocol == "strict" else None
    return lambda record: record.get(name, {}).get(protocol)


def _scores(
    records: Sequence[Record], overall: Overall, verdict: Callable[[Record], Any]
) -> tuple[float | None, Callable[[], tuple[float, float] | None]]:
    """The mean in percent, and a function for its interval."""
    found = [(x, record) for record in records if (x := verdict(record)) and x["outcome"] in COUNT]
    scores = [x["score"] for x, _ in found]
    media, kinds = ([record[name] for _, record in found] for name in ("media", "kind"))
    if not scores:
        return None, lambda: None
    return 100 * mean(scores, kinds, overall), lambda: interval(scores, media, kinds, overall)


def _grouped(records: Sequence[Any], name: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(record[name], []).append(record)
    return groups


# ---------------------------------------------------------------------------------------------------------------- text


def cells(table: Sequence[Row]) -> list[list[str]]:
    """The heading and a line for each row. Columns in which nothing stands are left out."""
    others = [name for name in COLUMNS if any(name in row.others for row in table)]
    outcomes = [name for name in OUTCOMES if name in ("right", "wrong") or any(row.outcomes[name] for row in table)]
    subsets = any(row.subset for row in table)
    heading = [*["subset"] * subsets, "kind", "items", "score [95 %]", *(COLUMNS[name] for name in others)]
    lines = [[*heading, *outcomes, "paper 2B", "7B"]]
    for row in table:
        score = "" if row.score is None else f"{row.score:.1f}"
        ends = "" if row.low is None else f" [{row.low:.1f}, {row.high:.1f}]"
        more = [f"{row.others[name]:.1f}" if name in row.others else "" for name in others]
        counts = [str(row.outcomes[name]) for name in outcomes]
        paper = ["", ""] if row.paper is None else [f"{x:.1f}" for x in row.paper]
        lines.append([*[row.subset] * subsets, row.kind, str(row.items), score + ends, *more, *counts, *paper])
    return lines


def notes(results: Results, benchmark: Benchmark, protocol: Protocol) -> Iterator[str]:
    """What the table is of, in sentences."""
    heading, count = results.heading, len(results.records)
    setting = heading["setting"]
    model = ", ".join(filter(None, [f"weights {heading['weights']}", heading["dtype"], heading["changes"]]))
    yield (
        f"{benchmark.title}, {protocol} protocol. The model was {heading['model']} ({model}); the paper's figures are "
        "those of the released 2B and 7B."
    )
    if setting.get("max_new_tokens") != MAX_NEW_TOKENS:
        yield f"Answers had at most {setting.get('max_new_tokens')} tokens; the official setting is {MAX_NEW_TOKENS}."
    if count < heading["items"]:
        yield f"{count} of {heading['items']} items have been answered so far."
    outcomes = Counter(record[protocol]["outcome"] for record in results.records)
    if left_out := [f"{outcomes[name]} {name}" for name in OUTCOMES if name not in COUNT and outcomes[name]]:
        yield f"Not in the scores: {', '.join(left_out)}."


def comparison(names: tuple[str, str], found: Mapping[str, Paired]) -> Iterator[str]:
    """A sentence for each subset."""
    for subset, x in found.items():
        ends = "" if x.low is None or x.high is None else f" [{100 * x.low:+.1f}, {100 * x.high:+.1f}]"
        where = f" {subset}" if subset else ""
        yield (
            f"{names[1]} less {names[0]}{where}: {100 * x.difference:+.1f}{ends}, p = {x.p:.2g} "
            f"({x.items} items about {x.files} files)"
        )


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """`cells` as a table."""
    heading, *body = lines
    texts = heading.index("kind") + 1
    rule = ["---"] * texts + ["---:"] * (len(heading) - texts)
    return "".join(f"| {' | '.join(line)} |\n" for line in [heading, rule, *body])


def as_json(results: Results, table: Sequence[Row]) -> dict[str, Any]:
    return {**results.heading, "answered": len(results.records), "rows": [asdict(row) for row in table]}
