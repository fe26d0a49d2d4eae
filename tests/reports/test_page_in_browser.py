"""The report page in a real browser: it loads nothing, sorts, compares images, and fits narrow and dark screens."""

import re

import numpy as np
import pytest
from browser import boxes, chromium, edges, opened, picture
from sample_report import ATTACKS, IMAGES, MODELS, write_sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory):  # without a browser, no report is made
    return write_sample(tmp_path_factory.mktemp("report"))[0]


@pytest.fixture
def page(browser, report):
    found, problems, _ = opened(browser, report)
    yield found
    assert problems == []
    found.close()


def table(page, title):
    return page.locator(f'.scroll[aria-label="{title}"]')


def column(page, title, number):
    return table(page, title).locator(f"tbody tr > :nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("name", ["report.html", "leaderboard.html"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_asked_for_and_nothing_is_wrong(browser, report, name, width):
    path = report.parent / name
    page, problems, asked = opened(browser, path, width=width)
    page.wait_for_timeout(200)
    assert problems == []
    assert [url for url in asked if not url.startswith("data:")] == [path.absolute().as_uri()]
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_a_page_that_asks_for_more_or_fails_is_noticed(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="other.png"><script>console.log(1); missing()</script>')
    page, problems, asked = opened(browser, bad)
    assert len(asked) == 2
    assert len(problems) >= 2
    page.close()


def test_sections_have_anchors_and_links_lead_to_files(page, report):
    links = page.locator("nav a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.innerText])")
    assert [name for _, name in links] == page.locator("h2").evaluate_all(
        "all => all.map(h => h.firstChild.data.trim())"
    )
    assert {
        "Results",
        "Differences from baseline",
        "Checks for masked gradients",
        "Leaderboard",
        "Attacked images",
    } <= {name for _, name in links}
    for address, name in links:
        assert page.locator(f"section{address} h2").inner_text().startswith(name)
    files = page.locator(".files a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert {"table.csv", "tidy.csv", "differences.csv", "defenses.csv", "leaderboard.csv", "paper_1.csv"} <= set(files)
    assert all((report.parent / name).stat().st_size for name in files)
    facts = dict(page.locator("dl > div").evaluate_all("all => all.map(d => [...d.children].map(c => c.innerText))"))
    assert {"command", "commit", "versions", "seeds"} <= set(facts)
    page.locator("summary", has_text="Configuration").click()
    assert page.locator("pre").inner_text() == '{"name": "sample"}'


def test_figures_have_headings_and_say_what_they_show(page):
    found = page.locator("figure").evaluate_all(
        "all => all.map(f => [f.querySelector('h3').innerText, [...f.querySelectorAll('img')].map(i => i.alt)])"
    )
    assert len(found) == 7 + 2  # plots, attacked images
    assert len({heading for heading, _ in found}) == len(found)
    for heading, texts in found:
        for text in texts:
            assert len(text) > 10
            assert text != heading
    plots = {heading: texts[0] for heading, texts in found[:-2]}
    assert re.search(r"PGD-10 at 16/255: lowest adv.* 0\.\d{3}, highest baseline 0\.\d{3}", plots[
        "Gain over the strength of the attack"
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("title", "number"),
    [("Results", 2), ("Results", 4), ("Leaderboard", 3), ("Defenses, adaptive: attacks through the defense", 2)],
)
def test_numbers_sort_both_ways_and_missing_ones_stay_last(page, title, number):
    def values():
        texts = [text.split()[0] for text in column(page, title, number)]
        known = [float(text) for text in texts if text != "–"]
        assert texts[len(known) :] == ["–"] * (len(texts) - len(known))
        return known

    head = table(page, title).locator(f"thead th:nth-child({number})")
    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values())
    first = column(page, title, 1)
    head.locator("button").press("Enter")  # by keyboard
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    assert len(set(values())) > 1
    assert sorted(column(page, title, 1)) == sorted(first) != column(page, title, 1)
    table(page, title).locator("thead th:nth-child(1) button").click()
    assert table(page, title).locator("[aria-sort]").count() == 1


def test_strengths_sort_by_strength_and_folded_tables_sort_too(page):
    title = "Every attack at every strength"
    page.locator("summary", has_text=title).click()
    table(page, title).locator("thead th:nth-child(2) button").click()
    strengths = [
        strength
        for attack, strength in zip(column(page, title, 1), column(page, title, 2), strict=True)
        if attack == "PGD-10"
    ]
    assert strengths == [s for s in ("2/255", "4/255", "16/255") for _ in MODELS]
    table(page, title).locator("thead th:nth-child(1) button").click()
    assert list(dict.fromkeys(column(page, title, 1))) == sorted(ATTACKS, key=str.lower)


def test_the_first_column_and_the_head_stay_in_sight(browser, report):
    page, _, _ = opened(browser, report, width=400)
    page.locator("summary", has_text="Every attack at every strength").click()
    scroll = table(page, "Every attack at every strength")
    scroll.evaluate("s => s.scrollTo(300, 150)")
    assert scroll.evaluate("s => [s.scrollLeft, s.scrollTop]") == [300, 150]
    at = scroll.evaluate(
        """s => { const r = e => e.getBoundingClientRect(), box = r(s), row = s.querySelector("tbody tr:nth-child(8)");
        return [r(row.cells[0]).x - box.x, r(row.cells[2]).x - box.x, r(s.querySelector("thead th")).y - box.y]; }"""
    )
    assert 0 <= at[0] <= 2
    assert at[1] < 0
    assert 0 <= at[2] <= 2
    page.close()


def test_the_slider_uncovers_the_clean_image_and_zoom_enlarges(page):
    figure = page.locator(".compare").first
    frame, cut = ".compare .frame", figure.locator(".cut")
    assert figure.locator("h3").inner_text() == IMAGES[0]
    assert cut.evaluate("c => c.labels.length") == 1

    def shown(value):
        cut.fill(str(value))
        return picture(page, selector=frame)

    attacked, half, clean = shown(0), shown(50), shown(100)
    middle, edge = clean.shape[1] // 2, 4
    assert np.abs(attacked - clean).mean() > 0.01
    np.testing.assert_allclose(half[:, : middle - edge], clean[:, : middle - edge], atol=0.02)
    np.testing.assert_allclose(half[:, middle + edge :], attacked[:, middle + edge :], atol=0.02)
    cut.focus()
    page.keyboard.press("ArrowLeft")
    assert (cut.input_value(), cut.get_attribute("aria-valuetext")) == ("99", "99 % clean")
    before = figure.locator(".frame").bounding_box()["width"]
    figure.locator(".zoom").fill("4")
    assert figure.locator(".frame").bounding_box()["width"] == pytest.approx(4 * before, rel=0.01)
    stage = figure.locator(".stage").evaluate("s => [s.scrollLeft, s.scrollWidth, s.clientWidth]")
    assert stage[0] + stage[2] / 2 == pytest.approx(stage[1] / 2, abs=2)  # the centre stays


def test_another_attack_and_the_difference_are_shown(page):
    figure = page.locator(".compare").first
    figure.locator(".cut").fill("0")
    first = picture(page, selector=".compare .frame")
    assert "8/255" in figure.locator("figcaption").inner_text()
    figure.locator("select").select_option("1")
    second = picture(page, selector=".compare .frame")
    assert figure.locator(".attacked:visible").count() == 1
    assert "largest change 16.0/255" in figure.locator("figcaption").inner_text()
    assert np.abs(first - second).mean() > 0.01
    figure.locator("input[type=checkbox]").check()
    caption = figure.locator("figcaption").inner_text()
    factor = float(re.search(r"the difference × (\d+)", caption)[1])
    # each pixel moved by 16/255, except where the range ends
    difference = picture(page, selector=".compare .frame")[20:-20, 20:-20]
    assert np.median(difference) == pytest.approx(factor * 16 / 255, abs=0.03)


def test_no_column_of_single_letters_at_400_pixels(browser, report):
    page, _, _ = opened(browser, report, width=400)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = page.evaluate(
        """() => [...document.querySelectorAll("th, td, dt, dd, li, p, figcaption, label")].map(e => {
        const range = document.createRange(), walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), tops = [];
        while (walker.nextNode()) {
            range.selectNodeContents(walker.currentNode);
            tops.push(...[...range.getClientRects()].filter(r => r.width > 1).map(r => r.y));
        }
        tops.sort((a, b) => a - b);
        return [e.innerText.trim(), tops.filter((y, i) => !i || y > tops[i - 1] + 8).length, e.tagName]; })"""
    )
    assert len(found) > 300
    for text, lines, tag in found:
        if lines > 1:
            assert len(text) / lines > 3, (tag, text, lines)
    page.close()


def test_the_leaderboard_fits_1280_pixels(page):
    sizes = table(page, "Leaderboard").evaluate("s => [s.scrollWidth, s.clientWidth]")
    assert sizes[0] <= sizes[1]
    assert table(page, "Leaderboard").locator("thead th").count() > 12


@pytest.mark.parametrize("width", [400, 1280])
def test_a_dark_page_has_the_structure_of_a_light_one(browser, report, width):
    pages = {scheme: opened(browser, report, width=width, scheme=scheme)[0] for scheme in ("light", "dark")}
    np.testing.assert_allclose(boxes(pages["light"]), boxes(pages["dark"]), atol=0.5)
    light, dark = (picture(pages[scheme]) for scheme in ("light", "dark"))
    assert light.shape == dark.shape
    assert np.median(light) > 0.95
    assert np.median(dark) < 0.15
    lit, unlit = edges(light), edges(dark)
    assert lit.mean() > 0.01
    assert np.corrcoef(lit.ravel(), unlit.ravel())[0, 1] > 0.7
    contrasts = pages["dark"].evaluate(
        """() => { const level = text => { const c = text.match(/[\\d.]+/g).slice(0, 3)
            .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
        const back = level(getComputedStyle(document.body).backgroundColor);
        const all = "h1, h2, td, th, dt, li, a:not(.anchor), small, figcaption, .published";
        return [...document.querySelectorAll(all)].map(e => {
            const text = level(getComputedStyle(e).color), [high, low] = text > back ? [text, back] : [back, text];
            return (high + 0.05) / (low + 0.05); }); }"""
    )
    assert min(contrasts) >= 4.5
    for page in pages.values():
        page.close()


def test_without_script_and_in_print_everything_is_visible(browser, report):
    page, problems, _ = opened(browser, report, script=False)
    assert problems == []
    assert page.locator(".controls:visible, button").count() == 0
    assert page.locator("table:visible").count() >= 9
    assert page.locator(".compare img:visible").count() == 2 * 3
    assert page.locator(".compare p:visible").count() == 2 * 3
    page.close()
    page, _, _ = opened(browser, report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("nav:visible, .controls:visible").count() == 0
    assert page.locator(".compare img:visible").count() == 2 * 3
    hidden = page.locator(".scroll").evaluate_all("all => all.filter(s => s.scrollHeight > s.clientHeight + 1).length")
    assert hidden == 0
    page.close()
