import itertools

import numpy as np
import pytest

from helpers.cohorts import participants

HEADER = "participant_id\tsex\tage"
GOOD = f"{HEADER}\nsub-01\tF\t31.5\nsub-02\tM\t64\nsub-03\tF\t47\n"


@pytest.fixture
def read(tmp_path):
    def read(content):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "participants.tsv").write_bytes(content)
        return participants.read(tmp_path, required=True)

    return read


@pytest.fixture
def classes(read):
    def classes(*values, **options):
        rows = "".join(f"sub-{i:02d}\t{value}\n" for i, value in enumerate(values))
        table = read(f"participant_id\tsex\n{rows}")
        options = {"classes": None, "bins": None, **options}
        found, names = participants.label_values(table, "sex", **options)
        return found.tolist(), names

    return classes


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\n\n"),
        "\ufeff" + GOOD,
        GOOD.replace("sub-02\tM", '"sub-02"\t"M"'),
        GOOD.replace("\tM\t", "\t M \t"),
    ],
    ids=["good", "no end", "windows", "blank lines", "BOM", "quoted", "spaces"],
)
def test_tables_that_say_the_same(read, content):
    table = read(content)
    assert table["participant_id"].tolist() == ["sub-01", "sub-02", "sub-03"]
    assert table["sex"].tolist() == ["F", "M", "F"]
    assert participants.typed(table)["age"].tolist() == [31.5, 64, 47]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.replace("F", "Fräulein").encode("latin-1"), r"not UTF-8 \(byte 0xe4 .* save it as"),
        (GOOD.encode("utf-16"), "not UTF-8 .* save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "zero bytes.* save it as UTF-8"),
        (b"", "is empty; expected a line with the columns"),
        ("\n \n", "is empty; expected"),
        (HEADER, "is empty; expected"),
        (GOOD.replace("\tM\t64", "\tM"), r"line 3 of .* has 2 cells, its header 3"),
        (GOOD.replace("64", "64\tmore"), r"line 3 of .* has 4 cells, its header 3"),
        (GOOD.replace("M", '"M'), 'line 3 of .* has a stray "'),
        (GOOD.replace("\tM\t", '\t"M\t"'), 'line 3 of .* has a stray "'),
        (GOOD.replace("age", "sex"), r"columns without a name or of the same name, \['sex'\]"),
        (GOOD.replace("age", ""), r"columns without a name or of the same name, \[''\]"),
        (GOOD.replace("sub-02", ""), "line 3 of .* has no name in it"),
        (GOOD.replace("sub-02", "sub-01"), r"more than one row for \['sub-01'\]"),
        (GOOD.replace("sub-02", "sub-02\u200b"), r"nobody sees in participant_id: 'sub-02\\u200b'"),
        (GOOD.replace("sex", "sex\xa0"), r"nobody sees in the header: 'sex\\xa0'"),
        (GOOD.replace("\n", "\r"), "is empty; expected"),
        (GOOD.replace("\t", ","), "expected participant_id, and tabs"),
    ],
)
def test_tables_that_cannot_be_read_without_guessing(read, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(content)
    assert "participants.tsv" in str(caught.value)


def test_hidden_characters_elsewhere_are_a_warning(read):
    with pytest.warns(UserWarning, match=r"nobody sees in 'sex': 'F\\xa0', 'M\\u200b'"):
        read(GOOD.replace("F", "F\xa0").replace("M", "M\u200b"))


@pytest.mark.filterwarnings("ignore:.*nobody sees")
@pytest.mark.parametrize("value", ["F\xa0", "\u200bF", "F\ufeff", "F\u2003", "F\x07"])
def test_hidden_characters_in_the_label_are_refused(classes, value):
    with pytest.raises(ValueError, match=r"nobody sees in 'sex': .*\\"):
        classes("F", "M", value)


@pytest.mark.parametrize(
    "word",
    ["n/a", "NA", "NaN", "null", "NULL", "?", "-", "-999", "-999.0", "unknown", "Unknown", ""],
)
def test_missing_is_no_class(classes, read, word):
    assert classes("F", word, "M") == (["F", "", "M"], ("F", "M"))
    if word:
        assert classes("F", word, "M", classes=["F", word])[0] == ["F", word, "M"]
    table = participants.typed(read(GOOD.replace("64", word)))
    np.testing.assert_array_equal(table["age"], [31.5, np.nan, 47])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("0", "1", "0.0"), "'0' and '0.0'"),
        (("1", "01"), "'01' and '1'"),
        (("F", "M", "m"), "'M' and 'm'"),
        (("F", "Male", "m"), "'Male' and 'm'"),
        (("female", "F", "M"), "'F' and 'female'"),
    ],
)
def test_one_class_in_two_spellings_is_named(classes, values, named):
    with pytest.raises(ValueError, match=rf"{named} look like one class written in two ways"):
        classes(*values)
    found, names = classes(*values, classes=values[:2])  # whoever names them means them
    assert names == values[:2]
    assert found == list(values)


def test_different_classes_are_no_spellings(classes):
    for values in (("AD", "ADHD"), ("0", "1", "10"), ("control", "patient"), ("A1", "A2", "A")):
        assert set(classes(*values)[1]) == set(values)


@pytest.mark.parametrize("bins", [[], [np.nan], [30, np.inf], [-np.inf, 30], [40, 40], [50, 40]])
def test_edges_are_finite_and_rising(classes, bins):
    with pytest.raises(ValueError, match="rising edges, all finite"):
        classes("31", "64", bins=bins)


@pytest.mark.parametrize("value", ["inf", "-inf", "Infinity", "1e999"])
def test_ages_are_finite(classes, read, value):
    with pytest.raises(ValueError, match=rf"holds \['{value}'\]; expected finite numbers"):
        classes("31", value, bins=[40])
    with pytest.raises(ValueError, match=r"column 'age' of participants\.tsv holds"):
        participants.typed(read(GOOD.replace("64", value)))


WORDS = ["F", "M", "m", "Male", "0", "0.0", "1", "n/a", "?", "-999", "inf", "1e400", "", " ", "é"]
WORDS += ["\xa0F", "F\u200b", "\ufeff", '"', '"F"', "sub-01", "_class", "\x00", "\t", "\n", "\r"]


@pytest.mark.filterwarnings("ignore:.*nobody sees")
@pytest.mark.parametrize("seed", range(120))
def test_any_table_is_read_or_refused_in_one_sentence(read, seed):
    """Cells, headers and bytes at random: a class for each, or a ValueError that names the file."""
    generator = np.random.default_rng(seed)
    columns = ["participant_id", *generator.choice(["sex", "age", *WORDS], 2)]
    rows = [[f"sub-{i:02d}", *generator.choice(WORDS, 2)] for i in range(6)]
    if seed % 3:  # mostly a table of the right form, with odd cells
        columns = ["participant_id", "sex", "age"]
        rows = [[f"sub-{i:02d}", *generator.choice(WORDS[:15], 2)] for i in range(6)]
    text = "\n".join("\t".join(cells) for cells in [columns, *rows])
    content = bytearray(text.encode(("utf-8", "latin-1", "utf-16")[seed % 10 % 3], "replace"))
    for position in generator.integers(0, len(content), seed % 4):
        content[position] = generator.integers(256)
    try:
        table = read(bytes(content))
        values, names = participants.label_values(table, table.columns[1], None, None)
        typed = participants.typed(table)
    except ValueError as refused:
        sentence = str(refused)
        if "participants.tsv" not in sentence or "\n" in sentence:
            raise
        return
    # What is read is what stands there: as many people, each with a class that stands in the file.
    assert len(table) == len(typed) == len(values)
    assert set(values) <= {*names, ""}
    for name, other in itertools.combinations(names, 2):
        assert name.casefold() != other.casefold()
