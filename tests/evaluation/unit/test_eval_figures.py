"""Which panels there are, what they say without data, and SVG that a strict page can hold."""

import re

import pytest
from matplotlib import pyplot as plt

from evaluation.pages import folders, heat_map, panels, training_log
from evaluation.pages.figures import PALETTE, Panel, figure_of, inline, line_of
from evaluation.pages.panels import length_panel
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

TINY = {name: Made(3, 0.5) for name in ("mine", "amc23", "aime25", "aime24")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("figures")
    fabricated.write_series(place / "a", "A", (1, 2, 3), benchmarks=TINY, n=2)
    fabricated.write_series(place / "b", "B", (2, 4), benchmarks={"aime24": Made(3, 0.5)}, n=2, log=False)
    return folders.find([place])


def panels_of(found):
    logs = [tuple(training_log.read(s.training_log)) if s.training_log else () for s in found.series]
    lengths = {run.label: {} for run in found.all_runs}
    return [panel for panel in panels.of_report(found, logs, lengths) if panel.group == "panels"]


def test_the_papers_panels_come_in_the_papers_order(found):
    titles = [panel.title for panel in panels_of(found)]
    assert titles == ["AIME24", "AIME25", "AMC23", "mine", "Reward", "Entropy", "Response length"]


def test_every_run_has_a_line_and_a_run_without_a_log_says_so(found):
    made = {panel.title: panel for panel in panels_of(found)}
    for title, count in (("AIME24", 2), ("AMC23", 1), ("Reward", 1)):
        figure = figure_of(made[title])
        assert len(figure.axes[0].lines) == count
        plt.close(figure)
    assert "B has no data" in made["Reward"].alt
    assert made["AIME24"].alt.startswith("AIME24 against the step: A 0.")


def test_a_panel_without_data_says_so():
    figure = figure_of(Panel("g", "t", "alt", lambda axes: None))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no data in these runs"]
    plt.close(figure)


def test_a_final_model_stands_at_the_end_of_the_log(found):
    series = found.series[0]
    runs = (*series.runs[:2], folders.Run(series.folder, "final", None, series.runs[2].results))
    final = folders.Series(series.folder, "A", runs, (), None)
    assert final.positions(logged=50) == [1, 2, 50]
    assert final.positions() == [1, 2, 3]


def test_svg_has_no_styles_and_no_colours_of_its_own():
    panel = length_panel("</text><script>$\\frac", [1, 2, 3], [400, 500], 500)
    text = inline(figure_of(panel), "name", '"><script>')
    assert "style=" not in text
    assert "<style" not in text
    assert "<script" not in text
    assert "<metadata" not in text
    assert not [color for color in PALETTE if color in text]
    assert "var(--c0)" in text
    assert 'font-size="10.5px"' in text
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)


def test_pictures_of_one_page_share_no_ids():
    texts = [inline(figure_of(length_panel("t", [1, 2], [3], 4)), name, "") for name in ("a", "b")]
    first, second = (set(re.findall(r' id="([^"]+)"', text)) for text in texts)
    assert not first & second


def test_thirty_runs_look_different():
    assert len({line_of(number) for number in range(32)}) == 32


def test_never_and_always_solved_have_colours_of_their_own(tmp_path):
    fabricated.write_run(tmp_path, "r", {"mine": Made(4, 0.5)}, n=200)
    run = folders.find([tmp_path]).runs[0]
    of = run.benchmarks["mine"]["per_problem"]
    for name, correct in zip(of, (0, 1, 199, 200), strict=True):
        of[name]["correct"] = correct
    cells = heat_map.heat_maps(folders.Found((run,), ()))[0].rows[0][1]
    assert [cell.level for cell in cells] == [0, 1, 9, 10]
    assert cells[1].words == "mine-I-02, r: 1 of 200 correct (0%)"


def test_many_checkpoints_are_thinned_out_and_the_ends_stay(found, monkeypatch):
    monkeypatch.setattr(heat_map, "CELLS", 7)
    maps = {made.benchmark: made for made in heat_map.heat_maps(found)}
    assert [label for label, _ in maps["aime24"].rows] == ["A step 1", "B step 4"]
    assert maps["aime24"].note == "2 of 5 runs are shown."
