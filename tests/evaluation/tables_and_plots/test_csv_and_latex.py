"""A comparison's table as CSV and as LaTeX."""

import csv
import io
import re

from caad_ds.evaluation.tables_and_plots.csv_and_latex import csv_table, latex, latex_table

KNOWN = {"value": 2 / 3, "low": 0.5, "high": 0.75, "deviation": None}
UNDEFINED = dict.fromkeys(KNOWN)
TESTED = {"value": -0.1, "low": None, "high": None, "p": 0.01, "p_holm": 0.02, "significant": True}


def test_a_line_of_the_csv_is_a_figure_of_a_system():
    figures = {'a, "b"': {"neutral": KNOWN, "shift": UNDEFINED}, "c": {"neutral": KNOWN}}
    text = csv_table({'a, "b"': 1, "c": 3}, figures, {"c": {"neutral": TESTED}})
    first, second, third = csv.DictReader(io.StringIO(text))
    assert (first["system"], first["runs"], first["figure"]) == ('a, "b"', "1", "neutral")
    assert (first["value"], first["low"], first["high"], first["deviation"]) == ("66.666667", "50.0", "75.0", "")
    assert first["p"] == first["difference_value"] == second["value"] == ""
    assert (third["difference_value"], third["difference_low"], third["p_holm"]) == ("-10.0", "", "0.02")
    assert third["significant"] == "True"


def test_latex_prints_what_stands_there():
    assert latex(r"a_b & 50% #1 {x} $y$ \z ~ ^") == (
        r"a\_b \& 50\% \#1 \{x\} \$y\$ \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert latex("67.5 ± 1.2*") == r"67.5 $\pm$ 1.2{*}" and latex("a--b\nc") == "a-{}-b c"


def test_a_name_is_no_argument_of_the_line_break_before_it():
    lines = latex_table(["system", "shift"], [["*a", "1"], ["[2em] b", "2"]]).splitlines()
    assert lines[1:4] == [r"\begin{tabular}{lr}", r"\toprule", r"system & shift \\"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert not [line for line in lines if re.match(r"[*\[]", line)] and "{*}a & 1 \\\\" in lines
