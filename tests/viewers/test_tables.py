"""A sortable table is a plain table first; what a click does is tested on the built site."""

from xml.etree import ElementTree

import pandas as pd
import pytest

from helpers import viewers


def test_the_rows_are_those_of_the_frame_and_nothing_is_markup():
    frame = pd.DataFrame({"method": ["<b>lrp</b>", "gradient"], "score": [0.25, None]})
    table = viewers.sortable(frame, "Scores & <more>")
    start, end = table.data.index("<table"), table.data.index("</table>")
    parsed = ElementTree.fromstring(table.data[start:end] + "</table>")
    assert [cell.text for cell in parsed.iter("td")] == ["<b>lrp</b>", "0.25", "gradient", None]
    assert "<caption>Scores &amp; &lt;more&gt;</caption>" in table.data
    assert "<b>" not in table.data


def test_columns_of_two_levels_are_refused():
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_product([["a"], ["b", "c"]]))
    with pytest.raises(ValueError, match="one level of columns, got 2"):
        viewers.sortable(frame, "Scores")
