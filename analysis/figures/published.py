"""The key of published settings that searches tried."""

import textwrap
from collections.abc import Mapping

from analysis.figures.style import KEY_WIDTH
from analysis.records.study import StudyRecords


def published_key(records: StudyRecords) -> dict[str, int]:
    """Number the sources of published settings that were tried, from 1."""
    tried = [
        str(trial["published"])
        for search in records.searches
        for trial in search.trials
        if trial.get("published")
    ]
    return {source: number for number, source in enumerate(dict.fromkeys(tried), start=1)}


def key_lines(sources: Mapping[str, int]) -> list[str]:
    """Write the key of published settings in lines that fit below the figure."""
    return [
        line
        for source, number in sources.items()
        for line in textwrap.wrap(f"{number}  {source}", KEY_WIDTH, subsequent_indent="    ")
    ]
