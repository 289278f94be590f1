"""The page of `keystead report` in a real browser: how it looks is measured, and what it says is compared with what other
commands of the tool say of the same store."""

import datetime
import re
import stat
from collections import Counter

import pytest

from browser import HOSTILE, QUOTA, Shown

PAGES = ["sample", "empty", "without history", "hostile", "project"]
DAY = 24 * 60 * 60 * 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_it_loads_nothing_and_complains_of_nothing(browser, pages, name, scheme):
    with Shown(browser, pages[name], scheme) as shown:
        shown.open_all()
        shown.page.wait_for_load_state("networkidle")
        assert shown.requested == [pages[name].as_uri()]
        assert shown.complaints == []
        assert shown.page.evaluate("document.scripts.length") == 0
        assert shown.page.evaluate("document.querySelectorAll('link, img, iframe, object, [style]').length") == 0


def test_it_is_for_its_owner_only(pages):
    assert all(stat.S_IMODE(page.stat().st_mode) == 0o600 for page in pages.values())


# Each text with the contrast to what is behind it, by the formula of WCAG 2; and what is drawn, beside its card.
CONTRASTS = """() => {
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = numbers(colour).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      const [, , , alpha] = numbers(colour);
      if (alpha === undefined) return colour;
      if (alpha !== 0) throw new Error('half transparent');
    }
    throw new Error('nothing is behind');
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const text = walk.currentNode.textContent.trim();
    if (!text || element.closest('desc') || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    found.push(['text', text.slice(0, 40), contrast(element.closest('svg') ? style.fill : style.color, behind(element))]);
  }
  for (const bar of document.querySelectorAll('.bar')) {
    found.push(['bar', '', contrast(getComputedStyle(bar).fill, behind(bar))]);
  }
  for (const line of document.querySelectorAll('.line')) {
    found.push(['line', '', contrast(getComputedStyle(line).stroke, behind(line))]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_everything_can_be_read(browser, pages, name, scheme):
    with Shown(browser, pages[name], scheme) as shown:
        shown.open_all()
        body = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert body == {"light": "rgb(246, 246, 243)", "dark": "rgb(18, 21, 23)"}[scheme]
        found = shown.page.evaluate(CONTRASTS)
        assert len(found) > 40
        least = {"text": 4.5, "bar": 3, "line": 3}
        assert [entry for entry in found if entry[2] < least[entry[0]]] == []


# Texts of one chart that lie upon each other.
COLLISIONS = """() => [...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const texts = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], index) => texts.slice(index + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(([other]) => `${one} | ${other}`));
})"""


@pytest.mark.parametrize("width", [360, 768, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_every_screen(browser, pages, name, width):
    with Shown(browser, pages[name], width=width) as shown:
        for _ in ("closed", "open"):
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
            too_wide = shown.page.eval_on_selector_all(
                "main *:not(.wide *)",
                "(all, width) => all.filter(one => one.getBoundingClientRect().right > width + 0.5).map(one => one.outerHTML)",
                width,
            )
            assert too_wide == []
            shown.open_all()
        assert shown.page.evaluate(COLLISIONS) == []


def test_words_are_whole_on_a_narrow_screen(browser, pages):
    with Shown(browser, pages["sample"], width=360) as shown:
        lines = """all => all.map(one => {
          const range = document.createRange();
          range.selectNodeContents(one);
          return [one.textContent, range.getClientRects().length];
        })"""
        texts = shown.page.eval_on_selector_all(".keys time, .keys .mark, .keys .number, .tiles dd", lines)
        assert len(texts) > 100
        assert [text for text, number in texts if number > 1] == []
        # The heads of the columns are not to be seen here, so each number says what it is.
        before = shown.page.eval_on_selector_all(
            "#deletions .keys td.number", "all => all.map(one => getComputedStyle(one, '::before').content)"
        )
        assert all(content.startswith('"Aliases') or content.startswith('attr') for content in before), before


def test_it_is_printed_on_white_with_its_tables(browser, pages):
    with Shown(browser, pages["sample"], "dark") as shown:
        assert shown.page.evaluate("document.querySelector('#states table').checkVisibility()") is False
        shown.page.emulate_media(media="print", color_scheme="dark")
        assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert shown.page.evaluate("document.querySelector('#states table').checkVisibility()") is True
        assert shown.page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert [entry for entry in shown.page.evaluate(CONTRASTS) if entry[2] < 3] == []
        assert shown.page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("name", PAGES)
def test_it_can_be_heard(browser, pages, name):
    with Shown(browser, pages[name]) as shown:
        charts = shown.page.eval_on_selector_all(
            "svg.chart",
            """all => all.map(chart => [chart.getAttribute('role'), chart.getAttribute('aria-label'),
                document.getElementById(chart.getAttribute('aria-describedby')).textContent,
                chart.parentElement.querySelectorAll('details table th[scope=row]').length])""",
        )
        assert len(charts) >= 4
        assert all(role == "img" and label and text and rows for role, label, text, rows in charts), charts
        ids = shown.page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
        assert len(ids) == len(set(ids))
        links = shown.page.eval_on_selector_all("nav a", "all => all.map(one => one.hash.slice(1))")
        assert set(links) <= set(ids)
        levels = shown.page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
        assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:]))
        assert shown.page.evaluate("document.documentElement.lang") == "en"
        heads = shown.page.eval_on_selector_all("th", "all => all.every(one => one.hasAttribute('scope'))")
        assert heads


def named(rows):
    return {name: number for name, number in rows}


def test_the_charts_say_what_the_store_holds(browser, pages, keys):
    with Shown(browser, pages["sample"]) as shown:
        states = named(shown.table("states"))
        assert Counter(states) == Counter(key["state"].replace("_", " ") for key in keys)
        assert all(states.values()), "the sample has every state"
        assert named(shown.table("specs")) == Counter(key["spec"] for key in keys)
        ranges = {"none": (0, 0), "1": (1, 1), "2": (2, 2), "3 to 4": (3, 4), "5 to 9": (5, 9), "10 to 19": (10, 19)}
        ranges["20 and more"] = (20, 10**9)
        of_a_key = [len(key["aliases"]) for key in keys]
        expected = {name: sum(low <= number <= high for number in of_a_key) for name, (low, high) in ranges.items()}
        assert named(shown.table("aliases-of-a-key")) == expected
        tiles = shown.page.eval_on_selector_all(
            ".tiles div", "all => all.map(one => [...one.children].map(child => child.textContent))"
        )
        tiles = {name: figure.replace(",", "") for name, figure in tiles}
        assert (tiles["keys"], tiles["aliases"]) == (str(len(keys)), str(sum(of_a_key)))


@pytest.mark.parametrize("figure", ["states", "specs", "aliases-of-a-key", "days-left", "days-old", "operations"])
def test_bars_are_as_long_as_their_numbers(browser, pages, figure):
    with Shown(browser, pages["sample"]) as shown:
        rows = shown.table(figure)
        everything = sum(number for _, number in rows)
        drawn = shown.page.eval_on_selector_all(
            f"#{figure} svg > g",
            """(all) => all.map(one => [one.querySelector('title').textContent,
                one.querySelector('.bar')?.getBoundingClientRect().width ?? 0,
                one.querySelector('.track').getBoundingClientRect().width])""",
        )
        assert len(drawn) == len(rows)
        for (title, bar, track), (name, number) in zip(drawn, rows):
            assert title.startswith(f"{name}: {number:,} ")
            expected = 0 if number == 0 else max(number / everything, 0.012)
            assert abs(bar / track - expected) < 0.001, name


def milliseconds(text):
    form = "%Y-%m-%d %H:%M" if ":" in text else "%Y-%m-%d"
    return datetime.datetime.strptime(text, form).replace(tzinfo=datetime.UTC).timestamp() * 1000


def test_the_charts_over_time_say_what_the_history_holds(browser, pages, keys, commits):
    with Shown(browser, pages["sample"]) as shown:
        operations = Counter(change["operation"] for commit in commits for change in commit["changes"])
        assert {name.replace(" ", "_"): number for name, number in shown.table("operations")} == operations

        growth = shown.table("growth")
        begins = [milliseconds(name) for name, *_ in growth]
        assert 20 < len(growth) <= 60 and begins[1] - begins[0] == 28 * DAY
        for index, (name, of_keys, of_aliases) in enumerate(growth):
            end = begins[index] + 28 * DAY
            there = Counter()
            for commit in commits:
                if commit["info"]["time"] < end:
                    for change in commit["changes"]:
                        (kind, image), = change["images"].items()
                        there[kind] += (image["before"] is None) - (image["after"] is None)
            assert (there["key"], there["alias"]) == (of_keys, of_aliases), name
        assert growth[-1][1:] == (len(keys), sum(len(key["aliases"]) for key in keys))
        made = sum(sum(row[1:]) for row in shown.table("changes"))
        assert made == sum(operations.values())

        lines = shown.page.eval_on_selector_all("#growth svg svg .line", "all => all.map(one => one.getAttribute('d'))")
        top = int(shown.page.text_content("#growth .axis").replace(",", ""))
        for path, column in zip(lines, (2, 1), strict=True):
            heights = [float(height) for height in re.findall(r"[ML][0-9]+ ([0-9.]+)", path)]
            assert [round((1 - height) * top) for height in heights] == [row[column] for row in growth]


def table_of(shown, section):
    return shown.page.eval_on_selector_all(
        f"#{section} table.keys tbody tr",
        """rows => rows.map(row => [row.querySelector('code').textContent,
            row.querySelector('time')?.dateTime, row.cells[2]?.textContent])""",
    )


def test_what_is_due_comes_first(browser, pages, keys):
    with Shown(browser, pages["sample"]) as shown:
        due = sorted((key["scheduled_deletion_at"], key["key_id"]) for key in keys if key["state"] == "pending_deletion")
        rows = table_of(shown, "deletions")
        assert len(due) > 5 and [key_id for key_id, *_ in rows] == [key_id for _, key_id in due[:20]]
        first = datetime.datetime.fromtimestamp(due[0][0] / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M")
        assert rows[0][1].startswith(first)
        assert sum(number for _, number in shown.table("days-left")) == len(due)
        assert shown.page.text_content("#deletions .mark") == "due now"


def test_the_longest_unrotated_come_first(browser, pages, keys):
    def since(key):
        return key["rotation"]["last_rotated_at"] or key["created_at"]

    rotated = [
        key for key in keys
        if key["spec"] in ("AES_256", "SM4") and key["origin"] == "kms" and key["state"] != "pending_deletion"
    ]
    oldest = sorted(rotated, key=lambda key: (since(key), key["domain_id"], key["project_id"], key["key_id"]))
    assert any(key["rotation"]["count"] for key in rotated)
    with Shown(browser, pages["sample"]) as shown:
        rows = table_of(shown, "rotation")
        assert [key_id for key_id, *_ in rows] == [key["key_id"] for key in oldest[:20]]
        assert sum(number for _, number in shown.table("days-old")) == len(rotated)
        left_out = shown.page.text_content("#rotation .left-out")
        assert left_out == f"{len(rotated) - 20} more are left out here."


def test_quotas_are_compared(browser, pages, keys):
    with Shown(browser, pages["sample"]) as shown:
        of_project = Counter((key["domain_id"], key["project_id"]) for key in keys if not key["default"])
        rows = shown.page.eval_on_selector_all(
            "#projects tbody tr",
            "rows => rows.map(row => [...row.querySelectorAll('code'), row.cells[1]].map(one => one.textContent))",
        )
        assert {(domain, project): int(used.split()[0]) for domain, project, used in rows} == of_project
        assert [int(used.split()[0]) for *_, used in rows] == sorted(of_project.values(), reverse=True)
        assert all(f" of {QUOTA} " in used for *_, used in rows)


def test_one_project_alone(browser, pages, keys, commits):
    with Shown(browser, pages["project"]) as shown:
        here = [key for key in keys if key["project_id"] == "production"]
        assert sum(number for _, number in shown.table("states")) == len(here)
        assert shown.table("growth")[-1][1:] == (len(here), sum(len(key["aliases"]) for key in here))
        assert "Only of project production of domain 3bab8e245e854f68af5967c00dd43127." in shown.page.text_content("header")
        assert len(table_of(shown, "rotation")) == 3
        assert shown.page.text_content("#quotas .mark") == "over", "the quota is that of the library"


def test_what_is_not_there_is_said(browser, pages):
    with Shown(browser, pages["empty"]) as shown:
        assert sum(number for _, number in shown.table("states")) == 0
        text = shown.page.text_content("main")
        for said in ("Nothing is in the history.", "There are no keys.", "There are no projects.", "Not verified."):
            assert said in text
    with Shown(browser, pages["without history"]) as shown:
        assert "made without history" in shown.page.text_content("#times")
        assert shown.page.query_selector("#growth") is None
        assert "Sound." in shown.page.text_content(".verdict")


def test_texts_of_strangers_stay_texts(browser, pages):
    with Shown(browser, pages["hostile"]) as shown:
        shown.page.wait_for_timeout(300)
        assert shown.page.title() == f"{HOSTILE} - keystead report"
        assert shown.page.url == pages["hostile"].as_uri()
        assert shown.page.text_content("h1") == HOSTILE
        text = shown.page.text_content("#deletions")
        assert "</script><img src=x onerror=\"document.title='owned'\">" in text
        assert "<!-- {} ' onmouseover='document.title=1' & &lt;b&gt; <base href=https://example.invalid/>" in text
        assert r"\u{202e}turned\u{2066} \u{7}\u{0}\n<meta http-equiv=refresh" in text
        strange = "script, img, iframe, base, link, object, form, input, meta[http-equiv=refresh], svg svg[onload]"
        assert shown.page.evaluate(f"document.querySelectorAll('{strange}').length") == 0
        acting = "all => all.flatMap(one => one.getAttributeNames()).filter(name => name.startsWith('on'))"
        assert shown.page.eval_on_selector_all("*", acting) == []
        targets = shown.page.eval_on_selector_all("[href], [src]", "all => all.map(one => one.getAttribute('href'))")
        assert all(target.startswith("#") for target in targets)


def test_were_markup_let_through_it_would_do_nothing(browser, pages):
    """The policy of the page is the second wall: it is tested by breaking the first."""
    with Shown(browser, pages["hostile"]) as shown:
        before = shown.page.title()
        shown.page.evaluate(
            """() => {
              const broken = document.createElement('div');
              broken.innerHTML = `<img src="https://example.invalid/x" onerror="document.title='owned'">
                <svg onload="document.title='owned'"></svg><b style="color: red">b</b>`;
              document.body.append(broken);
              const script = document.createElement('script');
              script.textContent = "document.title = 'owned'";
              document.body.append(script);
            }"""
        )
        shown.page.wait_for_timeout(300)
        assert shown.page.title() == before
        assert len(shown.complaints) >= 3 and all("Content Security Policy" in told for told in shown.complaints)
