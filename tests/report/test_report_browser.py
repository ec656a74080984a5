"""The page of the golden run in a real browser: it opens from disk, draws, and answers a click with a formula."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evonas.report import write_report
from evonas.run.run import Run

GOLDEN = sorted(p.parent for p in (Path(__file__).parents[2] / "runs" / "golden").glob("*/run.json"))[0]
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)

pytestmark = pytest.mark.skipif(
    (BROWSER is None or shutil.which("chromedriver") is None) and "CI" not in os.environ,
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(Run(GOLDEN), tmp_path_factory.mktemp("report") / "golden.html")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(shutil.which(str(BROWSER)))
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1000",
    ):
        options.add_argument(flag)
    # nothing but the file itself: a page that asks the network for anything shows it as an error
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield made
    made.quit()


def marks(driver, candidate: int):
    from selenium.webdriver.common.by import By

    return driver.find_elements(By.CSS_SELECTOR, f'#scatter .mark[data-candidate="{candidate}"]')


def text(driver, selector: str) -> str:
    from selenium.webdriver.common.by import By

    return driver.find_element(By.CSS_SELECTOR, selector).text


def test_a_click_on_a_point_shows_its_formula(driver, page: Path) -> None:
    driver.get(page.as_uri())
    scored = Run(GOLDEN).scored(None)
    assert sum(len(marks(driver, row["candidate"])) for row in scored) == len(scored)
    for row in (scored[0], scored[-1]):
        (mark,) = marks(driver, row["candidate"])
        driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", mark)
        assert text(driver, "#formula") == row["formula"]
        assert driver.execute_script("return document.querySelectorAll('#layer math').length") == 1
        assert driver.execute_script("return document.querySelectorAll('#layer svg g.output').length") == 1
        assert f"{row['mean']:.3f}" in text(driver, "#layer")


def test_a_real_click_where_a_baseline_stands(driver, page: Path) -> None:
    driver.get(page.as_uri())
    row = next(r for r in Run(GOLDEN).scored("baseline") if "sigmoid" in r["formula"])
    (mark,) = marks(driver, row["candidate"])
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    mark.click()
    assert text(driver, "#formula") == row["formula"]


def test_names_of_known_layers_do_not_cover_one_another(driver, tmp_path: Path) -> None:
    """In the run of language models several baselines have nearly the same score."""
    runs = Path(__file__).parents[2] / "runs" / "language"
    page = write_report(Run(next(p.parent for p in runs.glob("*/run.json"))), tmp_path / "language.html")
    for width in (1200, 420):
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get(page.as_uri())
        for chart in ("scatter", "progress"):
            boxes = driver.execute_script(
                f"return [...document.querySelectorAll('#{chart} .name')].map((t) => {{ const b = t.getBBox();"
                " return [b.x, b.y, b.x + b.width, b.y + b.height - 2, t.textContent]; })"
            )
            assert len({name for *_, name in boxes}) >= 4
            for a, b in itertools.combinations(boxes, 2):
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (chart, a[4], b[4])


def test_a_mutation_of_what_is_not_in_use_is_named_so(driver, page: Path) -> None:
    from selenium.webdriver.common.by import By

    driver.get(page.as_uri())
    steps = [
        item.text
        for item in driver.find_elements(By.CSS_SELECTOR, "ol.line")[0].find_elements(By.TAG_NAME, "li")
    ]
    assert len(steps) == 7
    assert sum("changed nothing that is in use" in step for step in steps) == 5
    assert "+0.004" in steps[-1]


def test_any_two_objectives_can_be_set_against_each_other(driver, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    driver.get(page.as_uri())
    best = Run(GOLDEN).scored("search")[0]["candidate"]
    before = marks(driver, best)[0].get_attribute("cx")
    menu = Select(driver.find_element(By.ID, "across"))
    labels = [option.text for option in menu.options]
    assert [label.split(",")[0] for label in labels[:3]] == list(Run(GOLDEN).proxies)
    menu.select_by_visible_text("operations in the formula")
    assert marks(driver, best)[0].get_attribute("cx") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 420])
def test_the_page_fits_and_complains_of_nothing(driver, page: Path, scheme: str, width: int) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.get_log("browser")
    driver.get(page.as_uri())
    assert not driver.get_log("browser")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    colours = [
        driver.execute_script(f"return getComputedStyle(document.body).{what}")
        for what in ("backgroundColor", "color")
    ]
    paper, ink = (sum(int(v) for v in c[c.index("(") + 1 : -1].split(",")[:3]) for c in colours)
    assert (paper > ink) == (scheme == "light")
    assert driver.execute_script("return document.querySelectorAll('#progress .step').length") == 2
