"""The live page against canned answers of all kinds: its contents and its use."""

import json
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PATIENCE_MS, Open
from fixture import PAGE, WHY, Admin, deployment, event, key, moment, page as document, rolled_back, script, version
from playwright.sync_api import Page, expect

WELL = "All is well"


def title(page: Page, text: str) -> None:
    """Waits until the verdict says this."""
    expect(page.locator("#verdict-title")).to_have_text(text)


def says(text: str) -> re.Pattern[str]:
    """This text, with or without the marks that isolate names."""
    return re.compile("[\u2068\u2069]*".join(re.escape(letter) for letter in text))


def until(page: Page, condition: str) -> None:
    """Waits until an expression holds on the page."""
    limit = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < limit, f"never: {condition}"
        page.wait_for_timeout(50)


def next_tick(page: Page, admin: Admin) -> None:
    """Lets the page draw an answer that was asked for from now on, without waiting for the second to end."""
    asked = admin.asked.count("/status")
    page.evaluate("async () => { await asking; await poll(); }")
    assert admin.asked.count("/status") > asked


def card(page: Page, name: str):
    return page.locator("article", has=page.get_by_role("button", name=name, exact=True))


# ---- the files


def test_the_page_is_one_small_document() -> None:
    html, css = ((PAGE / f"page.{kind}").read_text() for kind in ("html", "css"))
    js = script().decode()
    assert len(document()) < 40_000, "the filter carries it"
    assert html.count("/*css*/") == html.count("/*js*/") == html.count("<script") == 1
    # Texts that would end an element early, or be taken for a marker.
    assert not re.search(r"</script|<!--|/\*css\*/|/\*js\*/", js, re.I) and "</" not in css
    outside = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xhtml|\$\{space\})", "", html + css + js)
    assert not re.search(r"https?:|url\(|@import", outside), "nothing is loaded from anywhere"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", js)


# ---- contents


def test_a_healthy_deployment_is_shown_with_its_figures_and_without_alarm(admin: Admin, open_page: Open) -> None:
    stages = [{"weight": 5}, {"weight": 10}, {"weight": 100}]
    ramp = {"paused": False, "next_stage_at": moment(1900), "stages": stages}
    admin.deployments = [deployment(stage=1, ramp=ramp, evidence=8)]
    page = open_page(admin.url)
    title(page, WELL)
    row = card(page, "gpt4-upgrade").get_by_role("row").filter(has_text="v2")
    expect(row.locator("td")).to_have_text(["10 %", "10 %", "180", "0 %", "180 ms", "420 ms", "1.26 s"])
    expect(card(page, "gpt4-upgrade")).to_contain_text("Ramp: stage 2 of 3: 5 % → [10 %] → 100 %, next in 31 min")
    meter = page.get_by_role("meter")
    expect(meter).to_have_attribute("aria-valuenow", "8")
    expect(page.locator("#pools li").first).to_contain_text("prod-001 …9x2F")
    assert page.title() == "Bellwether"


def test_a_rollback_shows_without_a_reload_and_not_by_colour_alone(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    title(page, WELL)
    page.evaluate("window.before = true")
    size = "parseFloat(getComputedStyle(document.querySelector('#verdict-title')).fontSize)"
    calm = page.evaluate(size)
    admin.deployments, admin.events = [rolled_back()], [event()]
    title(page, "Rolled back")
    assert page.evaluate(size) > 3 * calm, "it is read from across the room"
    assert page.locator("#verdict use").first.get_attribute("href") == "#i-back"
    border = "getComputedStyle(document.body, '::before').borderTopWidth"
    assert page.evaluate(border) == "12px", "stripes round the window"
    for text in [WHY, "v1 serves 100 %", "stays out until"]:
        expect(page.locator("#verdict")).to_contain_text(says(text))
    expect(card(page, "gpt4-upgrade")).to_contain_text(says("v2 0 % of 10 %"))
    expect(page.locator("#events li").first).to_contain_text(f"gpt4-upgrade rolled back v2: {WHY}")
    expect(page).to_have_title("Rolled back · Bellwether")
    assert page.evaluate("window.before"), "the page was not loaded anew"
    # On the wall for the whole night: it can be made small, and the next one is large again.
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#deployments-title")).to_be_focused()
    assert page.evaluate(size) == calm and page.evaluate(border) == "0px"
    title(page, "Rolled back")
    admin.deployments = [rolled_back(since=moment(1))]
    until(page, f"{size} > 3 * {calm}")


def test_a_warning_is_shown_and_changes_the_title_unless_the_guard_still_decides(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    title(page, WELL)
    mild = {"what": "limits_cannot_fire", "deployment": "gpt4-upgrade", "version": "v2", "since": moment(-9), "text": "too few"}
    loud = {"what": "keys_role_missing", "deployment": None, "version": None, "since": moment(-9), "text": "no <b>keys</b> role"}
    admin.warnings = [mild]
    expect(page.locator("#verdict li")).to_have_text("gpt4-upgrade too few")
    title(page, WELL)
    admin.warnings = [mild, loud]
    title(page, "Warning")
    expect(page.locator("#verdict li").last).to_have_text(" no <b>keys</b> role")
    expect(page).to_have_title("Warning · Bellwether")
    admin.deployments = [rolled_back()]
    title(page, "Rolled back")
    expect(page.locator("#verdict")).to_contain_text("no <b>keys</b> role")
    admin.warnings, admin.deployments = [], [deployment()]
    title(page, WELL)
    expect(page.locator("#verdict li")).to_have_count(0)


def test_only_a_change_of_phase_is_announced(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    title(page, WELL)
    page.evaluate("""() => {
        window.announced = [];
        for (const node of document.querySelectorAll('[aria-live], [role=status], [role=alert]'))
            new MutationObserver(() => window.announced.push(node.textContent)).observe(node, {childList: true, subtree: true});
    }""")
    for evidence in (10, 20, 80):
        admin.deployments = [deployment(evidence=evidence)]
        next_tick(page, admin)
    assert page.evaluate("window.announced") == []
    admin.deployments = [rolled_back()]
    title(page, "Rolled back")
    next_tick(page, admin)
    assert page.evaluate("window.announced") == [f"\u2068gpt4-upgrade\u2069 is rolled back: {WHY}."]


def test_evidence_half_way_to_a_rollback_is_a_warning(admin: Admin, open_page: Open) -> None:
    admin.deployments = [deployment(evidence=63.4, mode="observe")]
    page = open_page(admin.url)
    title(page, "Watch")
    expect(page.locator("#verdict")).to_contain_text("63 % of the way to a rollback")
    expect(card(page, "gpt4-upgrade")).to_contain_text("observe only")


@pytest.mark.parametrize("phase, says", [("holding", "Holding"), ("probing", "Probing"), ("constructor", "Watch")])
def test_every_phase_has_a_verdict(admin: Admin, open_page: Open, phase: str, says: str) -> None:
    admin.deployments = [deployment(phase=phase, since=moment(-90), reason="9 of 20 failed", recovery="ends by itself")]
    page = open_page(admin.url)
    title(page, says)
    expect(page.locator("#verdict")).to_contain_text("9 of 20 failed")
    expect(page.locator("#verdict")).to_contain_text("ends by itself")


def test_the_countdown_of_a_key_uses_the_servers_clock(admin: Admin, open_page: Open) -> None:
    resting = key("prod-002", "rate_limited", until=moment(100), errors=17)
    admin.pools = [{"name": "openai", "keys": [key("prod-001"), resting]}]
    # This machine's clock is an hour behind the server's.
    page = open_page(admin.url, before="const real = Date.now; Date.now = () => real() - 3600000;")
    row = page.locator("#pools li").first
    expect(row).to_contain_text("rate limited, back in 1 min")
    before = row.inner_text()
    page.wait_for_timeout(1100)
    next_tick(page, admin)
    assert row.inner_text() != before, "it counts down"
    expect(row).to_contain_text("17 failed")


def test_a_pool_without_a_usable_key_is_shown_at_the_top(admin: Admin, open_page: Open) -> None:
    absent = key("absent", "disabled", mask="", has_value=False)
    admin.pools = [{"name": "good", "keys": [key("one")]}, {"name": "dry", "keys": [absent]}]
    page = open_page(admin.url)
    title(page, "No usable key")
    expect(page.locator("#verdict")).to_contain_text("dry")
    expect(page.locator(".pool").first).to_contain_text("its secret is missing")


def test_charts_keep_their_history_and_describe_it_in_words(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    title(page, WELL)
    admin.deployments = [rolled_back()]
    title(page, "Rolled back")
    admin.deployments = [deployment()]
    title(page, WELL)
    chart = page.get_by_role("img", name=re.compile("^Error rate, last"))
    expect(chart).to_have_attribute("aria-label", says("v2 now 0 %, at most 77.78 %"))
    assert chart.locator("path.line").count() == 2
    page.get_by_label("Charts").select_option("since this page was opened")
    expect(chart).to_have_attribute("aria-label", re.compile("at most 77.78 %"))


def test_an_event_shows_its_evidence_and_stays_unfolded(admin: Admin, open_page: Open) -> None:
    stage = event("active", seconds_ago=90, bellwether="stage", stage=1, text="the ramp goes on with v2, stage 2")
    admin.events = [event(), stage, {"bellwether": "pool_exhausted", "time": moment(-99), "pool": "relay"}]
    problems = ["deployments[0].name: must be a string, got 7", "deployments[0].stable: is missing"]
    text = f"configuration rejected, nothing was changed: {problems[0]}; and one more"
    rejected = {"bellwether": "configuration_rejected", "time": moment(-200), "filter": "bellwether-router"}
    admin.events.append({**rejected, "problems": problems, "text": text})
    page = open_page(admin.url)
    last = page.locator("#events > li").last
    expect(last).to_contain_text(f"bellwether-router {text}")
    last.locator("summary").click()
    expect(last.locator("details li").last).to_have_text(says(problems[1]))
    first = page.locator("#events li").first
    first.locator("summary").click()
    expect(first).to_contain_text(says("v2: 7 of 9 failed, 77.78 % (true rate: 28.35 % to 96.87 %)"))
    expect(first).to_contain_text("comparison with stable: evidence 16.88, rollback at 16.12")
    admin.events = [event(seconds_ago=0, name="another"), *admin.events]
    expect(page.locator("#events > li")).to_have_count(5)
    assert page.locator("#events > li").nth(1).locator("details").get_attribute("open") is not None
    expect(page.locator("#events > li").nth(2)).to_contain_text("stage 2")


# ---- whatever the answers are

HOSTILE = [
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=1</script>",
    "\"'`${window.pwned=1}&lt;b&gt;",
    "a" * 63,
    "\u202etxen ton si siht",
    "שלום-עולם",
    "🐑🔔" * 10,
    "__proto__",
    "javascript:window.pwned=1",
]


def test_hostile_names_are_shown_as_text(admin: Admin, open_page: Open) -> None:
    admin.deployments, admin.pools, admin.events = [], [], []
    since = moment(-5)
    for name in HOSTILE:
        both = [version(name, 50, stable=True, share=100), version(name + "2", 50, share=0)]
        admin.deployments.append(rolled_back(name, since, versions=both, release=name, reason=name, recovery=name, mode=name))
        admin.deployments.append(deployment(name, phase=name, versions=both, since=name))
        admin.pools.append({"name": name, "keys": [key(name, name, mask=name, until=name), key(name)]})
        admin.events.append(event(name, name=name, text=name, version=name, requests=[name], id=name))
        admin.events.append({"bellwether": name, "time": name, "why": name, "to": name, "from": name, "evidence": name})
    page = open_page(admin.url, width=360, height=740)
    title(page, f"Rolled back ×{len(HOSTILE)}")
    while page.get_by_role("button", name="Show all").count():
        page.get_by_role("button", name="Show all").first.click()
    next_tick(page, admin)
    shown = page.locator("body").inner_text()
    for name in HOSTILE:
        assert shown.count(name) >= 8, name
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.images.length + document.querySelectorAll('main script, main a[href^=javascript]').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing sticks out"
    # In the dialog as well, and in the path of the POST.
    page.get_by_role("button", name="Resume…").first.click()
    expect(page.locator("#ask-title")).to_contain_text(HOSTILE[0])
    page.get_by_role("button", name="Resume now").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert admin.posts[0]["path"] == "/deployments/%3Cimg%20src%3Dx%20onerror%3Dwindow.pwned%3D1%3E/resume"


ODD = [
    {},
    {"deployments": None, "key_pools": None},
    {"deployments": {}, "key_pools": "x", "now": 7},
    {"deployments": [None, 1, "x", [], {}], "key_pools": [None, {}, {"keys": None}, {"keys": [None, {}, 3]}]},
    {"now": "never", "deployments": [{"name": 7, "versions": [{}, None, {"id": None, "latency_ms": 4}], "stage": "x"}]},
    {"deployments": [{"name": "a", "phase": None, "evidence": "high", "since": "?", "ramp": {"stages": [None, 1]}}] * 2},
    {"deployments": [{"name": "a", "stage": 3, "phase": "rolled_back", "versions": [], "evidence": -1e9, "ramp": []}]},
    {"deployments": [{"name": "a", "evidence": 1e9, "versions": [{"weight": -1, "error_rate": 1e300, "effective_weight": "x"}]}]},
]  # fmt: skip


def test_missing_and_broken_fields_harm_nothing(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    for odd in ODD:
        admin.deployments = [deployment()]
        admin.instead = None
        title(page, WELL)
        odd_events = [None, {}, {"time": 3, "evidence": {"canary": 1, "stable": None}, "requests": 4}]
        admin.instead = (200, json.dumps({**odd, "events": odd_events}))
        next_tick(page, admin)
        expect(page.locator("#link")).to_contain_text("live")
    admin.instead = None
    title(page, WELL)


@pytest.mark.parametrize(
    "answer, says",
    [
        ((503, '{"error":"no router role in this VM (yet)"}'), "no router role in this VM (yet)"),
        ((503, '{"error":{"message":"<b>no</b>"}}'), "<b>no</b>"),
        ((200, "<html>hello"), "the answer is not JSON"),
        ((200, '{"deployments": ['), "the answer is not JSON"),
        ((500, ""), "status 500"),
    ],
)
def test_an_answer_that_is_no_status_is_reported(admin: Admin, open_page: Open, answer: tuple[int, str], says: str) -> None:
    admin.instead = answer
    page = open_page(admin.url, lossy=True)
    title(page, "No status")
    expect(page.locator("#verdict")).to_contain_text(f"Envoy answers with an error: {says}")
    admin.instead = None
    title(page, WELL)


# ---- the connection


def test_a_lost_connection_is_shown_retried_with_backoff_and_restored(admin: Admin, open_page: Open) -> None:
    admin.deployments = [rolled_back()]
    page = open_page(admin.url, lossy=True)
    title(page, "Rolled back")
    admin.down = True
    title(page, "Connection lost")
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"Last status: \d\d:\d\d:\d\d, .* ago.*still shows it: rolled back"))
    expect(page.locator("article")).to_have_count(1), "the last known state is still there"
    asked = admin.asked.count("/status")
    page.wait_for_timeout(5000)
    # Every second would be five; with pauses of two and four seconds it is one or two.
    assert admin.asked.count("/status") - asked <= 3
    admin.down = False
    title(page, "Rolled back")
    assert page.locator("#live").inner_text() == "Connected again."


def test_a_hidden_tab_asks_nothing_and_a_shown_one_at_once(admin: Admin, open_page: Open) -> None:
    hide = "window.away = false; Object.defineProperty(document, 'hidden', {get: () => window.away});"
    page = open_page(admin.url, before=hide)
    title(page, WELL)
    turn = "(away) => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(turn, True)
    page.wait_for_timeout(300)
    asked = len(admin.asked)
    admin.deployments = [rolled_back()]
    page.wait_for_timeout(3000)
    assert len(admin.asked) == asked
    page.evaluate(turn, False)
    title(page, "Rolled back")


# ---- how it is used


def test_it_can_be_operated_with_the_keyboard_alone(admin: Admin, open_page: Open) -> None:
    page = open_page(admin.url)
    title(page, WELL)

    def tab_to(text: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent").startswith(text):
                style = "getComputedStyle(document.activeElement)"
                assert page.evaluate(f"{style}.outlineStyle") == "solid", "the focus is visible"
                return
        raise AssertionError(f"{text} cannot be reached by Tab")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the deployments"
    page.keyboard.press("Enter")
    expect(page.locator("#deployments-title")).to_be_focused()
    tab_to("Roll back…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Roll back")).to_be_visible()
    expect(page.get_by_label("Reason")).to_be_focused()
    # The focus cannot leave the dialog for the page behind it.
    for _ in range(5):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert admin.posts == []
    assert page.evaluate("document.activeElement.textContent") == "Roll back…", "the focus is back where it was"
    page.keyboard.press("Enter")
    page.keyboard.type("it answers in \"French\" <b>")
    page.keyboard.press("Enter")
    title(page, "Rolled back")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="gpt4-upgrade")).to_be_focused()
    assert admin.posts == [
        {
            "path": "/deployments/gpt4-upgrade/rollback",
            "body": json.dumps({"reason": 'it answers in "French" <b>'}, separators=(",", ":")),
            "header": "bellwether",
        }
    ]
    expect(page.locator("#events li").first).to_contain_text('it answers in "French" <b>')
    tab_to("Resume…")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-text")).to_contain_text("It is rolled back because")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    title(page, WELL)
    assert admin.posts[1]["path"] == "/deployments/gpt4-upgrade/resume"


def test_a_refused_order_is_reported_and_changes_nothing(admin: Admin, open_page: Open) -> None:
    admin.refuse_posts = (503, '{"error":"nothing was changed: try again"}')
    page = open_page(admin.url, lossy=True)
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("button", name="Roll back now").click()
    expect(page.get_by_role("alert")).to_have_text("Not done: nothing was changed: try again.")
    admin.refuse_posts, admin.down = None, True
    page.get_by_role("button", name="Roll back now").click()
    expect(page.get_by_role("alert")).to_contain_text("The order may have been carried out")
    admin.down = False
    page.get_by_role("button", name="Roll back now").click()
    title(page, "Rolled back")
    # A browser may repeat a request after its connection was closed.
    assert {post["body"] for post in admin.posts} == {"{}"}, "no reason is none"


def test_the_focus_stays_when_a_deployment_in_trouble_moves_to_the_top(admin: Admin, open_page: Open) -> None:
    names = ["one", "two", "three"]
    admin.deployments = [deployment(name) for name in names]
    page = open_page(admin.url)
    button = card(page, "two").get_by_role("button", name="Roll back…")
    button.focus()
    page.evaluate("window.lost = 0; document.addEventListener('focusout', () => window.lost++)")
    for order in (["three"], ["three", "one"], ["two"], ["one", "two", "three"], []):
        admin.deployments = [deployment(n, evidence=70 - order.index(n) if n in order else 5) for n in names]
        next_tick(page, admin)
        expect(button).to_be_focused()
        first = page.locator("article .name").first
        expect(first).to_have_text(min(order, key=names.index) if order else "one")
    assert page.evaluate("window.lost") == 0


def test_a_thousand_deployments_are_as_usable_as_one(admin: Admin, open_page: Open) -> None:
    admin.deployments = [deployment(f"service-{n:03}") for n in range(999)] + [rolled_back("broken")]
    admin.pools = [{"name": f"pool-{n:03}", "keys": [key(f"key-{m}") for m in range(5)]} for n in range(300)]
    page = open_page(admin.url)
    title(page, "Rolled back")
    expect(page.locator("article").first).to_contain_text("broken")
    expect(page.locator("#verdict")).to_contain_text("999 other deployments without a problem.")
    few = page.locator("article").count()
    assert few < 100, "not all are drawn at once"
    page.locator("#more").scroll_into_view_if_needed()
    until(page, f"document.querySelectorAll('article').length > {few}")
    # Reading something further down: neither the position nor an unfolded part changes by itself.
    page.get_by_role("button", name="service-030", exact=True).click()
    place = page.evaluate("scrollY")
    assert place > 0
    next_tick(page, admin)
    assert page.evaluate("scrollY") == place
    expect(page.get_by_role("button", name="service-030", exact=True)).to_be_focused()
    expect(card(page, "service-030").get_by_role("table")).to_be_visible()
    page.get_by_label("Filter").fill("service-77")
    expect(page.locator("article")).to_have_count(10)
    expect(page.locator("#matching")).to_have_text("10 of 1000 match")
    page.get_by_label("Filter").fill("rolled back")
    expect(page.locator("article")).to_have_count(1)
    page.locator("#verdict").get_by_role("link", name="broken").click()
    expect(page.get_by_role("button", name="broken", exact=True)).to_be_focused()


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_axe_finds_no_violation_in_any_state(admin: Admin, open_page: Open, width: int, scheme: str) -> None:
    resting = key("prod-002", "rate_limited", until=moment(100))
    admin.pools = [{"name": "openai", "keys": [key("prod-001"), resting]}]
    admin.events = [event(), event("active", seconds_ago=50)]
    page = open_page(admin.url, width=width, lossy=True, color_scheme=scheme, reduced_motion="reduce")
    page.get_by_text("evidence").first.wait_for()

    def check(state: str) -> None:
        found = Axe().run(page).response["violations"]
        violations = [(v["id"], [node["html"][:150] for node in v["nodes"]]) for v in found]
        assert violations == [], f"{state} {width} {scheme}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert page.evaluate("document.getAnimations().length") == 0, "motion was not wanted"

    title(page, WELL)
    check("well")
    admin.deployments = [rolled_back(), deployment("holding", phase="holding", since=moment(-9)), deployment("near", evidence=80)]
    title(page, "Rolled back")
    check("rolled back")
    page.get_by_role("button", name="Roll back…").first.click()
    check("dialog")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Acknowledge").click()
    check("seen")
    admin.down = True
    title(page, "Connection lost")
    check("lost")


def test_a_page_that_is_open_for_a_week_does_not_grow(admin: Admin, open_page: Open) -> None:
    names = iter(range(10**9))
    page = open_page(admin.url, clock=True)
    title(page, WELL)
    session = page.context.new_cdp_session(page)

    def live(hours: int) -> tuple[int, int]:
        """Lets so many hours go by, with a poll every two hours in which everything changes."""
        for _ in range(hours // 2):
            new = deployment(f"new-{next(names)}")
            admin.deployments = [rolled_back() if next(names) % 2 else deployment(), new]
            admin.events = [event(seconds_ago=n, id=str(next(names))) for n in range(64)]
            asked = admin.asked.count("/events")
            page.clock.fast_forward(7_200_000)
            until(page, "asking === null")
            assert admin.asked.count("/events") == asked + 1
        session.send("HeapProfiler.collectGarbage")
        counters = session.send("Memory.getDOMCounters")
        return counters["nodes"], session.send("Runtime.getHeapUsage")["usedSize"]

    nodes, heap = live(24)
    more_nodes, more_heap = live(144)
    # Some are still to be collected. Kept ones would be several hundred for each of 72 polls.
    assert more_nodes < nodes + 3000, (nodes, more_nodes)
    assert page.evaluate("series.size") == 4, "versions that are gone are forgotten"
    assert more_heap < heap * 1.3 + 1_000_000, (heap, more_heap)
    page.get_by_label("Charts").select_option("since this page was opened")
    chart = page.get_by_role("img", name=re.compile("^Error rate, last")).first
    expect(chart).to_have_attribute("aria-label", re.compile("last [78] days"))
    assert len(chart.locator("path.line").first.get_attribute("d")) < 6000
