"""Pictures and report of the comparison with optax: complete, readable, and honest where runs differ or diverge."""

import base64
import html.parser
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from experiments import plotting
from experiments.comparison import html_page, wording
from experiments.comparison.twins import overview_pictures, pictures, report
from experiments.comparison.twins.results import Result
from experiments.comparison.twins.time_to_target import target_error, times_to_target
from experiments.comparison.twins.twin_run import SurfacePaths, TwinRun
from experiments.timing import Compared

OVERVIEW = ["error_against_steps", "error_against_seconds", "time_to_target"]
NAMES = [*OVERVIEW, "learning_curves", "learning_rates", "banana", "parity"]
CONFIG = {
    "model": "mlp",
    "data": "digits",
    "batch_size": 64,
    "max_ulp": 0.0,
    "out": None,
    "learning_rates": (0.01,),
}


def make_result(name="adam", *, rates=3, seeds=2, steps=40, evaluations=4, step_seconds=1e-4) -> Result:
    """Twins that are equal, on curves that fall; accuracy is highest at the second rate."""
    shape = (rates, seeds, steps)
    loss = np.broadcast_to(2 * np.exp(-np.arange(steps) / 10), shape).astype(np.float32)
    top = 0.9 - 0.1 * np.abs(np.arange(rates) - 1)
    accuracy = top[:, None, None] + 0.01 * np.arange(seeds)[:, None] - 0.1 / np.arange(1, evaluations + 1)
    side = {"train_loss": loss, "valid_loss": 1 - accuracy, "test_loss": 1 - accuracy}
    side |= {"valid_accuracy": accuracy.astype(np.float32), "test_accuracy": accuracy.astype(np.float32)}
    step = np.broadcast_to(
        np.arange(1, evaluations + 1) * (steps // evaluations), (rates, seeds, evaluations)
    )
    run = TwinRun(side, {k: v.copy() for k, v in side.items()}, step, np.zeros(shape), np.zeros(shape))
    x = np.linspace(-1.2, 1, min(steps, 500) + 1, dtype=np.float32)
    path = np.stack([x, x**2], axis=1)
    return Result(
        name=name,
        rates=10.0 ** np.arange(-rates, 0),
        seeds=tuple(range(seeds)),
        run=run,
        update=Compared(ours=1.1e-5, baseline=1e-5, ratio=1.125, low=1.0625, high=1.25),
        step_seconds=step_seconds,
        compile_ours=0.321,
        compile_baseline=0.456,
        paths=SurfacePaths(0.03, path, path.copy()),
    )


def differing(result: Result) -> Result:
    """The twins part at step 11 at the last rate, and one of them is NaN from step 31 at the first."""
    distance, ulp = np.zeros(result.run.distance.shape), np.zeros(result.run.distance.shape)
    distance[-1, 0, 10:], ulp[-1, 0, 10:] = 3e-7, 4.25
    distance[0, -1, 10:30], ulp[0, -1, 10:30] = 1e-7, 1
    distance[0, -1, 30:], ulp[0, -1, 30:] = np.nan, np.nan
    return result._replace(run=result.run._replace(distance=distance, ulp=ulp))


def diverged(result: Result) -> Result:
    """No rate gives a finite number."""
    lost = {k: np.full_like(v, np.nan) for k, v in result.run.ours.items()}
    lost["train_loss"][..., :2] = np.float32(3e38)
    lost["train_loss"][..., 2:4] = np.inf
    path = result.paths.ours.copy()
    path[1], path[2], path[3:] = 1e30, np.inf, np.nan
    return result._replace(
        run=result.run._replace(ours=lost, baseline=lost), paths=SurfacePaths(1.0, path, path)
    )


EQUAL = [make_result("sgd"), make_result("adam")]
DIFFERING = [make_result("sgd"), differing(make_result("adam"))]
ONE_OF_EACH = [make_result(rates=1, seeds=1, steps=1, evaluations=1)]
CASES = {
    "equal": EQUAL,
    "differing and diverged": [*DIFFERING, diverged(make_result("nadam"))],
    "nothing finite": [diverged(make_result("sgd"))],
    "one of each": ONE_OF_EACH,
    "one evaluation": [make_result("sgd", evaluations=1), make_result("adam", evaluations=1)],
    "long": [make_result(steps=3000, evaluations=20)],
}
QUICK = ("differing and diverged", "one of each")  # drawing takes a few seconds a case


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = CASES[request.param]
    report.write(folder, CONFIG, results)
    return folder, results


class Page(html.parser.HTMLParser):
    """Checks that every tag is closed in its turn, and keeps text and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def values(self, attribute):
        return [value for name, value in self.attributes if name == attribute]


def without_pictures(config, results) -> Page:
    target = target_error(results)
    return Page(report.write_page(config, results, times_to_target(results, target), target, None))


@pytest.mark.slow
def test_pictures_have_ink_on_white(case):
    folder, _ = case
    assert (
        {file.stem for file in folder.glob("*.png")}
        == {file.stem for file in folder.glob("*.svg")}
        == {*NAMES}
    )
    for name in NAMES:
        image = imread(folder / f"{name}.png")[..., :3]
        ink = np.mean(np.any(image < 0.9, axis=-1))
        assert 0.01 < ink < 0.6


@pytest.mark.slow
def test_page_is_complete_light_and_alone(case):
    folder, _ = case
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 1_000_000
    assert ("name", "viewport") in page.attributes
    assert "script" not in page.tags
    sources = page.values("src")
    shown = [*OVERVIEW, "race", *NAMES[3:]]
    assert len(sources) == len(shown)
    for source, name in zip(sources, shown, strict=True):
        kind, data = source.split(",")
        content = base64.b64decode(data)
        if name == "race":
            assert kind == "data:image/gif;base64"
            assert content == (folder / "race.gif").read_bytes()
        else:
            assert kind == "data:image/svg+xml;base64"
            svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
            assert content.decode() == svg
            assert re.findall(r'href="(?!#|data:)', svg) == []  # references within the picture only
            assert re.findall(r"url\((?!#)|@import", svg + text) == []
    assert all(page.values("alt"))
    assert page.tags.count("figcaption") == len(shown)


def test_contents_name_every_section(case):
    page = Page((case[0] / "report.html").read_text(encoding="utf-8"))
    links = page.values("href")
    assert len(links) == page.tags.count("h2") == 5
    assert [link[1:] for link in links] == page.values("id")


def test_film_moves(case):
    folder, results = case
    with Image.open(folder / "race.gif") as film:
        assert getattr(film, "n_frames", 1) >= min(len(results[0].paths.ours) - 1, 2)


def test_table_has_the_numbers():
    page = without_pictures(CONFIG, EQUAL)
    # The second rate of three, on no edge; at the end 0.9 - 0.1/4 and a hundredth more; median of two.
    for number in ("0.01", "88.0 (87.5–88.5)", "1.12 (1.06–1.25)", "0.32 / 0.46"):
        assert number in page.text
    assert "0.01*" not in page.text
    assert "24 networks" in page.text
    assert "jaxlib" in page.text


def test_parity_is_one_line_and_its_details_are_folded():
    page = without_pictures(CONFIG, EQUAL)
    assert "Parity: 2 of 2 optimizers equal their optax twins bit for bit" in page.text
    assert page.tags.count("details") == 1
    assert not page.values("open")
    assert "adam equals its optax twin bit for bit" in without_pictures(CONFIG, EQUAL[1:]).text


def test_a_rate_on_the_edge_is_marked():
    assert "0.1*" in without_pictures(CONFIG, [make_result(rates=2)]).text


def test_broken_parity_is_said():
    page = without_pictures(CONFIG, DIFFERING)
    assert "Parity is broken: adam differs from optax by more than 0 ulp" in page.text
    assert "nan !" in page.text
    assert ("open", None) in page.attributes

    run = DIFFERING[1].run
    finite = DIFFERING[1]._replace(run=run._replace(ulp=np.nan_to_num(run.ulp)))
    assert "4.25 !" in without_pictures(CONFIG, [DIFFERING[0], finite]).text
    page = without_pictures(CONFIG | {"max_ulp": 5.0}, [DIFFERING[0], finite])
    assert "1 of 2 equal bit for bit; no parameter differs by more than 4.25 ulp" in page.text
    assert "!" not in page.text


class TestTimeToTarget:
    def test_target_is_twice_the_lowest_error(self):
        # The lowest final error: the larger of two seeds' 0.125 and 0.115, doubled.
        assert target_error(EQUAL) == pytest.approx(0.25)
        assert target_error([diverged(EQUAL[0])]) == np.inf

    def test_target_is_at_least_one_percent(self):
        result = make_result()
        result.run.ours["valid_accuracy"][...] = 1
        assert target_error([result]) == 0.01

    def test_steps_and_seconds(self):
        """Errors of the first seed at the best rate, 0.1 + 0.1 / n after evaluation n: 0.2 after the first."""
        times = times_to_target([make_result(step_seconds=0.5)], 0.151)
        assert times[0].steps.tolist() == [20, 20]
        assert times[0].seconds.tolist() == [10, 10]
        assert times_to_target([make_result()], 0.01)[0].median_steps == np.inf

    def test_fewest_steps_first(self):
        slow = make_result("slow")
        slow.run.ours["valid_accuracy"][...] -= 0.2
        times = times_to_target([diverged(make_result("diverged")), slow, make_result("fast")], 0.151)
        assert [time.name for time in times] == ["fast", "slow", "diverged"]


def captions(results):
    target = target_error(results)
    times = times_to_target(results, target)
    return [
        overview_pictures.error_against_steps(results, times, target)[1],
        overview_pictures.error_against_seconds(results, times, target)[1],
        overview_pictures.steps_and_seconds_to_target(times, target)[1],
    ]


def test_captions_say_what_was_found():
    _, caption = pictures.parity(EQUAL)
    assert "2 of 2 optimizers have distance 0 at all 40 steps of all 6 runs" in caption
    _, caption = pictures.parity(DIFFERING)
    assert "1 of 2 optimizers have distance 0" in caption
    assert "adam at rate 0.001, not finite on one side" in caption
    changed = make_result()
    changed.run.baseline["train_loss"][1, 0, 0] += 1
    _, caption = pictures.learning_curves([make_result("sgd"), changed])
    assert "1 of 2 optimizers have exactly the same" in caption


def test_captions_name_ties():
    steps, seconds, to_target = captions(EQUAL)
    assert "Lowest at the end: a tie between sgd and adam (12.0 %)" in steps
    assert "Fastest step: a tie between sgd and adam" in seconds
    assert "Fewest steps: a tie between sgd and adam" in to_target
    fast = make_result("fast", step_seconds=1e-5)
    assert "Least time: fast (" in captions([*EQUAL, fast])[2]


def test_lowest():
    assert wording.lowest({"a": 1.0, "b": 2.0}) == "a (1)"
    assert wording.lowest({"a": 1.0, "b": 1.001, "c": 2.0}) == "a tie between a and b (1)"
    assert wording.lowest(dict.fromkeys("abcdef", 1.0)) == "a tie between 6 optimizers (1)"
    assert wording.lowest({"a": np.nan, "b": np.inf}) == "none (no value is finite)"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.5, 6, [2, 5]),
        (0.9, 90, [1, 2, 5, 10, 20, 50]),
        (0.9, 190, [1, 3, 10, 30, 100]),
        (1e-4, 10, [1e-4, 1e-3, 1e-2, 1e-1, 1, 10]),
        (1e-9, 1e2, [1e-8, 1e-6, 1e-4, 1e-2, 1, 1e2]),
    ],
)
def test_log_ticks(low, high, ticks):
    assert plotting.log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("values", [[3.0, 3.1], [0.0, 1e-5], [1e-9, 1e3], [np.nan], [0.0]])
def test_every_log_axis_has_ticks(values):
    ax = Figure().subplots()
    plotting.log_axis(ax, np.array(values))
    low, high = ax.get_ylim()
    assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2


def test_a_distance_that_underflows_is_not_called_equal():
    result = make_result()
    result.run.ulp[1, 1, 5] = 1
    figure, caption = pictures.parity([result])
    assert "0 of 1 optimizer has distance 0" in caption
    assert [len(bars.get_paths()) for bars in figure.axes[1].collections] == [2, 1, 0]


def test_parity_draws_zeros_as_bars_and_the_rest_as_lines():
    lines, bars = pictures.parity(DIFFERING)[0].axes
    curves = [line for line in lines.lines if len(line.get_xdata()) == 40]
    assert len(curves) == 1  # adam's; sgd has none
    y = np.asarray(curves[0].get_ydata())
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(y)), np.arange(10, 30))
    spans = [tuple(path.get_extents().x0 for path in c.get_paths()) for c in bars.collections]
    # For sgd, then adam, the start of each bar: equal, above 0, not finite on one side.
    assert spans == [(0.5,), (), (), (0.5,), (10.5,), (30.5,)]


def test_names_are_escaped():
    hostile = '<b title="&">'
    results = [make_result(hostile)]
    drawn = report.Pictures([plotting.Picture("x", hostile, hostile, "<svg/>")], None, [], None)
    times = times_to_target(results, 0.2)
    page = Page(report.write_page(CONFIG | {hostile: [hostile]}, results, times, 0.2, drawn))
    assert "b" not in page.tags
    # Two tables, title, caption, the parity line twice, and a setting with its value.
    assert page.text.count(hostile) == 8
    assert hostile in page.values("alt")


def test_sections_are_linked():
    page = Page(html_page.page("t", [], [html_page.Section("A & B", ["<p>x</p>"])]))
    assert page.values("href") == ["#a---b"]
    assert page.values("id") == ["a---b"]


@pytest.mark.slow
def test_equal_input_equal_output(tmp_path):
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        report.write(tmp_path / name, CONFIG, ONE_OF_EACH)
        texts.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert len(texts[0]) == 2 * len(NAMES) + 4
    assert texts[0] == texts[1]
