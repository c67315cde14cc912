"""Pictures and report of compare_optimizers: whole, readable, and honest where runs differ or diverge."""

import base64
import html.parser
import re

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.comparison import pictures, report
from experiments.comparison.results import Result
from experiments.comparison.twins import Path, TwinRun
from experiments.timing import Compared

NAMES = ["learning_curves", "parity", "learning_rates", "banana"]
CONFIG = {
    "model": "mlp",
    "data": "digits",
    "batch_size": 64,
    "max_ulp": 0.0,
    "out": None,
    "learning_rates": (0.01,),
}


def make_result(name="adam", *, rates=3, seeds=2, steps=40, evaluations=4) -> Result:
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
    way = np.stack([x, x**2], axis=1)
    update = Compared(ours=1.1e-5, baseline=1e-5, ratio=1.125, low=1.0625, high=1.25)
    return Result(
        name,
        10.0 ** np.arange(-rates, 0),
        tuple(range(seeds)),
        run,
        update,
        0.321,
        0.456,
        Path(0.03, way, way.copy()),
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
    way = result.path.ours.copy()
    way[1], way[2], way[3:] = 1e30, np.inf, np.nan
    return result._replace(run=result.run._replace(ours=lost, baseline=lost), path=Path(1.0, way, way))


EQUAL = [make_result("sgd"), make_result("adam")]
DIFFERING = [make_result("sgd"), differing(make_result("adam"))]
CASES = {
    "equal": EQUAL,
    "differing and diverged": [*DIFFERING, diverged(make_result("nadam"))],
    "nothing finite": [diverged(make_result("sgd"))],
    "one of each": [make_result(rates=1, seeds=1, steps=1, evaluations=1)],
    "one evaluation": [make_result("sgd", evaluations=1), make_result("adam", evaluations=1)],
    "long": [make_result(steps=3000, evaluations=20)],
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = CASES[request.param]
    drawn = pictures.draw(folder, results)
    report.write(folder / "report.html", CONFIG, results, drawn)
    return folder, drawn


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


def read(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_pictures_have_ink_on_white(case):
    folder, drawn = case
    assert [picture.name for picture in drawn] == NAMES
    for picture in drawn:
        image = imread(folder / f"{picture.name}.png")[..., :3]
        ink = np.mean(np.any(image < 0.9, axis=-1))
        assert 0.01 < ink < 0.6
        assert (folder / f"{picture.name}.svg").read_text(encoding="utf-8") == picture.svg
        assert picture.title
        assert picture.caption


def test_page_is_whole_light_and_alone(case):
    folder, drawn = case
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 1_000_000
    assert ("name", "viewport") in page.attributes
    assert "script" not in page.tags
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == len(drawn)
    for source, picture in zip(sources, drawn, strict=True):
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(data).decode() == picture.svg
        assert re.findall(r'href="(?!#)', picture.svg) == []  # references within the picture only
        assert re.findall(r"url\((?!#)|@import", picture.svg + text) == []
        assert picture.caption in page.text


def test_table_has_the_numbers(tmp_path):
    report.write(tmp_path / "report.html", CONFIG, EQUAL, [])
    page = read(tmp_path)
    # The second rate of three, on no edge; at the end 0.9 - 0.1/4 and a hundredth more; median of two.
    for number in ("0.01", "88.0 (87.5–88.5)", "1.12 (1.06–1.25)", "0.32 / 0.46"):
        assert number in page.text
    assert "0.01*" not in page.text
    assert "24 networks" in page.text
    assert "equal bit for bit" in page.text
    assert "jaxlib" in page.text


def test_a_rate_on_the_edge_is_marked(tmp_path):
    report.write(tmp_path / "report.html", CONFIG, [make_result(rates=2)], [])
    assert "0.1*" in read(tmp_path).text


def test_broken_parity_is_said(tmp_path):
    results = DIFFERING
    report.write(tmp_path / "report.html", CONFIG, results, [])
    assert "Parity is broken: adam by" in read(tmp_path).text
    assert "nan !" in read(tmp_path).text

    run = results[1].run
    finite = results[1]._replace(run=run._replace(ulp=np.nan_to_num(run.ulp)))
    report.write(tmp_path / "report.html", CONFIG, [results[0], finite], [])
    assert "4.25 !" in read(tmp_path).text
    report.write(tmp_path / "report.html", CONFIG | {"max_ulp": 5.0}, [results[0], finite], [])
    assert "no parameter differs by more than 4.25 ulp" in read(tmp_path).text
    assert "!" not in read(tmp_path).text


def test_captions_say_what_was_found():
    _, caption = pictures.parity(EQUAL)
    assert "2 of 2 optimizers have distance 0 at all 40 steps of all 6 runs" in caption
    _, caption = pictures.parity(DIFFERING)
    assert "1 of 2 optimizers have distance 0" in caption
    assert "adam at rate 0.001, not finite on one side" in caption
    changed = make_result()
    changed.run.baseline["train_loss"][1, 0, 0] += 1
    _, caption = pictures.learning_curves([make_result("sgd"), changed])
    assert "1 of 2 optimizers have the same" in caption


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


def test_names_are_escaped(tmp_path):
    hostile = '<b title="&">'
    drawn = [pictures.Picture("x", hostile, hostile, "<svg/>")]
    report.write(tmp_path / "report.html", CONFIG | {hostile: [hostile]}, [make_result(hostile)], drawn)
    page = read(tmp_path)
    assert "b" not in page.tags
    assert page.text.count(hostile) == 5  # table, title, caption, and a setting with its value
    assert ("alt", hostile) in page.attributes


def test_equal_input_equal_output(tmp_path):
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        drawn = pictures.draw(tmp_path / name, EQUAL[:1])
        report.write(tmp_path / name / "report.html", CONFIG, EQUAL[:1], drawn)
        texts.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert len(texts[0]) == 9
    assert texts[0] == texts[1]
