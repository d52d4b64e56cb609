// The live page. Data is shown as text, never parsed as HTML; every field may be missing; all that is kept is bounded.

const POLL_MS = 1000;
const EVENTS_MS = 5000; // and at once after a change
const TIMEOUT_MS = 10000;
const MAX_BACKOFF_MS = 15000;
const LOST_AFTER = 2; // failures in a row
const NEAR = 50; // percent of the way to a rollback; here a ramp stops
const UNFOLD = 6; // unfolded deployments; of more, those with a problem
const PAGE = 40; // deployments added at the end of the list when it comes into view
const FEW = 8; // pools, keys and events before "Show all"

const { max, min, floor, round } = Math;
const $ = (id) => document.getElementById(id);

// ---- elements

/** Describes an element. `false`, `null` and `""` are empty places. */
function h(name, ...inside) {
	const [tag, ...classes] = name.split(".");
	const node = { tag, props: classes.length ? { class: classes.join(" ") } : {}, kids: [] };
	for (const x of inside.flat()) {
		if (x && typeof x === "object" && !x.tag) Object.assign(node.props, x);
		else node.kids.push(typeof x === "number" ? String(x) : x);
	}
	return node;
}

/** Makes the children of `parent` match `kids`. */
function patch(parent, kids) {
	const old = new Map([...parent.childNodes].map((node) => [node.bwKey, node]));
	const nodes = [];
	kids.forEach((kid, i) => {
		if (!kid) return;
		const text = typeof kid === "string";
		const key = text ? i : kid.props.key === undefined ? kid.tag + i : `=${kid.props.key}`;
		let node = old.get(key);
		if (!node) {
			const space = ["svg", "use", "path"].includes(kid.tag) ? "2000/svg" : "1999/xhtml";
			node = text ? new Text() : document.createElementNS(`http://www.w3.org/${space}`, kid.tag);
			node.bwKey = key;
		}
		if (!text) {
			setProps(node, kid.props);
			patch(node, kid.kids);
		} else if (node.data !== kid) node.data = kid;
		nodes.push(node);
	});
	for (const node of nodes) old.delete(node.bwKey);
	for (const node of old.values()) node.remove();
	// A moved element loses the focus: the others move around it.
	const fixed = nodes.findIndex((node) => node.parentNode && node.contains(document.activeElement));
	const put = (i) => {
		const next = nodes[i + 1] ?? null;
		if (nodes[i].parentNode !== parent || nodes[i].nextSibling !== next) parent.insertBefore(nodes[i], next);
	};
	for (let i = nodes.length - 1; i > fixed; i--) put(i);
	for (let i = fixed - 1; i >= 0; i--) put(i);
}

function setProps(node, props, old = node.bwProps ?? {}) {
	for (const name in { ...old, ...props }) {
		const value = props[name];
		if (value === old[name] || name === "key") continue;
		if (name.startsWith("on")) node[name] = value;
		else if (name.startsWith("--")) node.style.setProperty(name, value);
		else if (value === undefined) node.removeAttribute(name);
		else node.setAttribute(name, value);
	}
	node.bwProps = props;
}

const icon = (name) => h("svg.icon", { "aria-hidden": "true" }, h("use", { href: `#i-${name}` }));
const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);

// ---- values

const objects = (v) => (Array.isArray(v) ? v.filter((x) => x && typeof x === "object") : []);
const str = (v, otherwise = "") => (typeof v === "string" ? v : typeof v === "number" ? String(v) : otherwise);
const num = (v) => (typeof v === "number" && Number.isFinite(v) ? v : null);
const moment = (v) => (typeof v === "string" && Date.parse(v)) || null;
const isolate = (name) => `\u2068${name}\u2069`; // a right-to-left name does not turn the sentence

const names = (list) => list.map((x) => isolate(x.name)).join(", ");

const digits = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" }), date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });
const show = (v, unit = "") => (v === null ? "–" : digits.format(v) + unit);
const percent = (v) => show(num(v), " %");
const millis = (v) => (num(v) >= 1000 ? show(round(v / 10) / 100, " s") : show(num(v) === null ? null : round(v), " ms"));
const many = (n, what) => `${digits.format(n)} ${what}${n === 1 ? "" : "s"}`;

function span(ms) {
	const s = max(0, round(ms / 1000)), m = floor(s / 60);
	if (s < 600) return [m && `${m} min`, (s % 60 || !m) && `${s % 60} s`].filter(Boolean).join(" ");
	return m < 60 ? `${m} min` : m < 2880 ? `${floor(m / 60)} h ${m % 60} min` : `${floor(m / 1440)} days`;
}

const now = () => Date.now() + offset; // by the server's clock
const at = (ms) => (Math.abs(now() - ms) > 43200000 ? `${date.format(ms)}, ` : "") + clock.format(ms);
const ago = (ms) => `${span(now() - ms)} ago`;

// ---- state

let deployments = [], pools = [], warnings = [], events = [];
let offset = 0, lastSeen = null, failures = 0, problem = "", nextTry = 0, eventsAt = -Infinity, eventsWanted = 0;
let words = [], limit = PAGE, shownTier = 0, acknowledged = "";
const all = new Set(); // lists that are shown whole
const folded = new Map(); // deployments that the user folded or unfolded

const PHASES = {
	rolled_back: { icon: "back", text: "rolled back", rank: 0, level: "bad", title: "Rolled back" },
	holding: { icon: "hold", text: "holding", rank: 1, level: "warn", title: "Holding" },
	probing: { icon: "probe", text: "probing", rank: 2, level: "note", title: "Probing" },
	near: { icon: "watch", text: "active", rank: 3, level: "warn", title: "Watch" },
	active: { icon: "ok", text: "active", rank: 4, level: "good", title: "All is well" },
};
const pick = (name, options) => (Object.hasOwn(options, name) ? options[name] : undefined);
const plain = (word) => word.replaceAll("_", " ");

/** Gives each item its own key, even if names repeat. */
function withKeys(items) {
	const seen = new Set();
	for (const item of items) {
		for (item.key = item.name; seen.has(item.key);) item.key += "\n";
		seen.add(item.key);
	}
	return items;
}

function readDeployment(raw) {
	let canaries = 0;
	const versions = withKeys(objects(raw.versions).map((v) => ({
		name: str(v.id, "?"), stable: v.stable === true, weight: num(v.weight), share: num(v.effective_weight) ?? num(v.weight),
		requests: num(v.requests), errors: num(v.errors), latency: v.latency_ms ?? {}, phase: str(v.phase),
		rate: v.requests === 0 ? null : num(v.error_rate), p95: num(v.latency_ms?.p95),
		colour: v.stable === true ? "stable" : `c${canaries++ % 3}`,
	})));
	const phase = str(raw.phase, "unknown");
	const evidence = num(raw.evidence) === null ? null : min(100, max(0, raw.evidence));
	const look = pick(phase === "active" && evidence >= NEAR ? "near" : phase, PHASES) ??
		{ ...PHASES.near, text: plain(phase) };
	return {
		name: str(raw.name, "(no name)"), release: str(raw.release), phase, look, rank: look.rank, versions, evidence,
		stage: num(raw.stage), reason: str(raw.reason), since: moment(raw.since), observe: raw.mode === "observe",
		ramp: { stages: objects(raw.ramp?.stages).map((s) => num(s.weight)), next: moment(raw.ramp?.next_stage_at), paused: raw.ramp?.paused === true },
		recovery: str(raw.recovery), stable: versions.find((v) => v.stable), canaries: versions.filter((v) => !v.stable),
	};
}

function readPool(raw) {
	const keys = withKeys(objects(raw.keys).map((k) => ({
		name: str(k.id, "?"), mask: str(k.mask), status: str(k.status, "unknown"), active: k.status === "active", weight: num(k.weight),
		requests: num(k.requests), errors: num(k.errors), used: moment(k.last_used), until: moment(k.until), missing: k.has_value === false,
	}))).sort((a, b) => a.active - b.active);
	const active = keys.filter((k) => k.active).length;
	return { name: str(raw.name, "(no name)"), keys, active, rank: active ? (active < keys.length ? 1 : 2) : 0 };
}

/** Takes over a status. */
function takeStatus(raw) {
	const before = new Map(deployments.map((d) => [d.key, d]));
	offset = (moment(raw.now) ?? Date.now()) - Date.now();
	deployments = withKeys(objects(raw.deployments).map(readDeployment));
	pools = withKeys(objects(raw.key_pools).map(readPool)).sort((a, b) => a.rank - b.rank);
	warnings = withKeys(objects(raw.warnings).slice(0, 40).map((w) => ({ name: str(w.deployment), text: str(w.text), mild: w.what === "limits_cannot_fire" })));
	const differs = (what) => deployments.filter((d) => before.has(d.key) && before.get(d.key)[what] !== d[what]);
	const changed = differs("phase");
	if (changed.length || differs("since").length || differs("stage").length) eventsWanted = 3;
	if (changed.length) {
		const texts = changed.slice(0, 3).map((d) => `${isolate(d.name)} is ${d.look.text}${d.reason && `: ${d.reason}`}.`);
		$("live").textContent = texts.join(" ") + (changed.length > 3 ? ` ${changed.length - 3} more deployments changed.` : "");
	}
	for (const d of changed) folded.delete(d.key);
	if (folded.size > deployments.length) folded.clear();
	record();
}

function takeEvents(raw) {
	events = withKeys(objects(raw.events).slice(0, 500).map((e) => ({
		raw: e, name: str(e.id, `${e.time} ${e.to}`), kind: str(e.bellwether), to: str(e.to), time: moment(e.time),
		whose: str(e.deployment) || str(e.pool) || str(e.filter), text: str(e.text) || [str(e.version) || str(e.key), plain(str(e.to)), str(e.why)].join(" "),
	})));
}

// ---- deployments

/** Explains a phase. */
function story(d) {
	const canary = names(d.canaries.filter((v) => !v.phase || v.phase === d.phase)) || "the canary", stable = names([d.stable ?? { name: "stable" }]);
	const since = d.since === null ? "" : ` since ${at(d.since)} (${ago(d.since)})`;
	const [why, done, next] = pick(d.phase, {
		rolled_back: ["", `${stable} serves ${percent(d.stable?.share)}${since}`, `${canary} ${d.recovery || "stays out until somebody resumes it or its release changes"}`],
		holding: ["", `the traffic stays${since}: ${stable} has the same problem`, `check the provider, the network and the keys that both use. ${d.recovery && `The hold ${d.recovery}`}`],
		probing: ["", `single requests test ${canary}${since}`, d.recovery || "no action needed: the probes continue"],
		active: d.rank === 3 ? [`${canary} is ${round(d.evidence)} % of the way to a rollback`, d.observe ? "nothing: the guard only observes" : "nothing yet", "check its errors and latency"] : [],
	}) ?? ["", "", d.recovery];
	const rows = [["Why", d.reason || why], ["Done", done], ["Next", next]].filter(([, text]) => text);
	return rows.length > 0 && h("dl", rows.map(([name, text]) => h("div", { key: name }, h("dt", name), h("dd", text))));
}

function ramp(d) {
	const { stages, next, paused } = d.ramp;
	const steps = stages.map((w, i) => (i === d.stage ? `[${percent(w)}]` : percent(w))).join(" → ");
	return h("p", `Ramp: stage ${d.stage + 1}${steps && ` of ${stages.length}: ${steps}`}${paused ? ", paused" : next === null ? "" : next > now() ? `, next in ${span(next - now())}` : "; the next one waits for its conditions"}`);
}

function details(d) {
	const heads = ["Version", "Share", "Configured", "Requests", "Errors", "p50", "p95", "p99"];
	const row = (v) => h("tr", { key: v.key }, h("th", { scope: "row" }, h(`i.${v.colour}`), h("bdi", v.name), v.stable && h("span.muted", " stable")),
		[percent(v.share), percent(v.weight), show(v.requests), percent(v.rate) + (v.errors ? ` (${show(v.errors)})` : ""),
			...["p50", "p95", "p99"].map((p) => millis(v.latency[p]))].map((text) => h("td", text)));
	return [
		(d.rank < 4 || d.reason) && story(d),
		d.stage !== null && ramp(d),
		h("div.shares", { "aria-hidden": "true" }, d.versions.filter((v) => v.share > 0).map((v) =>
			h(`span.${v.colour}`, { key: v.key, "--grow": String(v.share) }, h("bdi", v.name), ` ${percent(v.share)}`))),
		h("div.charts", chart(d, "Error rate", "rate", percent, 1), chart(d, "Latency p95", "p95", millis, 10)),
		h("table", h("caption.quiet", `Versions of ${isolate(d.name)} in the guard's window`),
			h("thead", h("tr", heads.map((text) => h("th", { scope: "col" }, text)))), h("tbody", d.versions.map(row))),
		h("div.bar.actions",
			d.phase !== "active" && button("Resume…", () => ask("resume", d), { key: "resume" }),
			d.phase !== "rolled_back" && d.canaries.length > 0 && button("Roll back…", () => ask("rollback", d), { key: "back", class: "danger" })),
	];
}

function meter(d) {
	const percents = round(d.evidence);
	return h("div", {
		class: d.evidence >= NEAR ? "evidence high" : "evidence", role: "meter", "aria-label": `Evidence against the canary of ${d.name}`,
		"aria-valuenow": percents, "aria-valuetext": `${percents} percent of the way to a rollback`,
	}, h("span.scale", h("i", { "--width": `${d.evidence}%` })), `evidence ${percents} %`);
}

function card(d, open) {
	const share = (v) => `${isolate(v.name)} ${percent(v.share)}${v.weight === v.share ? "" : ` of ${percent(v.weight)}`}`;
	return h("article", { key: d.key, class: `${d.look.level}-card${open ? " open" : ""}`, "aria-label": d.name },
		h("div.head", icon(d.look.icon),
			h("h3", button(h("bdi", d.name), () => { folded.set(d.key, !open); render(); }, { class: "name", "aria-expanded": String(open), "data-key": d.key })),
			h("span.facts", h("span.phase", d.look.text), d.since !== null && h("span.muted", `for ${span(now() - d.since)}`),
				d.release && h("span.tag", "release ", h("bdi", d.release)), d.observe && h("span.tag", "observe only")),
			h("span", d.canaries.slice(0, 3).map(share).join(", ")), d.evidence !== null && meter(d)),
		open && h("div", details(d)));
}

const focusOn = (key) => [...document.querySelectorAll(".name")].find((node) => node.dataset.key === key)?.focus();

// ---- the verdict: the worst problem

function verdict(sorted) {
	const troubled = sorted.filter((d) => d.rank < 4), dry = pools.filter((p) => p.keys.length && !p.active);
	const lost = failures >= LOST_AFTER;
	let { level, icon: sign, title } = sorted.length ? sorted[0].look
		: { level: "note", icon: "wait", title: lastSeen === null ? "Connecting" : "No deployments" };
	const alike = troubled.filter((d) => d.rank === sorted[0].rank).length;
	if (alike > 1) title += ` ×${alike}`;
	const rest = sorted.length - troubled.length;
	const lines = [];
	if (dry.length) {
		lines.push(`No usable key in ${names(dry.slice(0, 3))}${dry.length > 3 ? " …" : ""}: see Keys.`);
		if (sorted.length && sorted[0].rank > 1) [level, sign, title] = ["warn", "off", "No usable key"];
	}
	if (title === PHASES.active.title && warnings.some((w) => !w.mild)) [level, sign, title] = ["warn", "watch", "Warning"];
	if (rest && !dry.length) lines.push(`${many(rest, troubled.length ? "other deployment" : "deployment")} without a problem.`);
	if (lost) {
		lines.splice(0, 9, problem && `Envoy answers with an error: ${problem}.`,
			lastSeen === null ? "No status was received yet." : `Last status: ${at(lastSeen)}, ${ago(lastSeen)}. This page still shows it: ${title.toLowerCase()}.`,
			`Next try in ${span(nextTry - Date.now())}.`);
		[level, sign, title] = ["lost", "off", problem ? "No status" : "Connection lost"];
	}
	const mark = troubled.map((d) => `${d.key} ${d.phase} ${d.since}`).join("\n");
	const seen = !lost && acknowledged === mark;
	document.body.className = level === "bad" && !seen ? "bad loud" : level;
	patch($("verdict"), [icon(sign), h("div", h("h2", { id: "verdict-title" }, title), h("p", lines.join(" ")),
		!lost && h("ul", troubled.slice(0, 3).map((d) => h("li", { key: d.key },
			h("a", { href: "#deployments", onclick: (event) => { event.preventDefault(); goTo(d); } }, h("bdi", d.name)), story(d))),
		troubled.length > 3 && h("li", `and ${troubled.length - 3} more below`),
		warnings.slice(0, 4).map((w) => h("li", { key: `\0${w.key}` }, h("b", h("bdi", w.name)), " ", h("bdi", w.text)))),
		level === "bad" && !seen && button("Acknowledge", () => { acknowledged = mark; render(); $("deployments-title").focus({ preventScroll: true }); }))]);
	$("link").lastElementChild.textContent = lost ? title.toLowerCase() : lastSeen === null ? "connecting…" : `live, ${clock.format(lastSeen)}`;
	const heading = `${level === "good" ? "" : `${title} · `}Bellwether`;
	if (document.title !== heading) document.title = heading;
}

function goTo(d) {
	folded.set(d.key, true);
	if (!matches(d)) { $("filter").value = ""; words = []; }
	render();
	focusOn(d.key);
}

// ---- keys and events

/** Shows the first few of a list, and a button for the rest. */
function few(name, what, items, view) {
	const whole = items.length <= FEW || all.has(name);
	return [items.slice(0, whole ? Infinity : FEW).map(view), !whole && button(`Show all ${items.length} ${what}`, () => { all.add(name); render(); }, { key: "\0" })];
}

function pool(p) {
	const [list, rest] = few(`pool ${p.key}`, "keys", p.keys, key);
	return h("div.pool", { key: p.key }, h(`h3.rank${p.rank}`, icon(["off", "wait", "ok"][p.rank]), h("bdi", p.name), h("span.muted", `${p.active} of ${many(p.keys.length, "key")} active`)),
		h("ul", list), rest);
}

function key(k) {
	const until = k.missing ? ", its secret is missing" : k.until === null || k.active ? "" : k.until > now() ? `, back in ${span(k.until - now())}` : ", a trial is due";
	const facts = [k.requests !== null && many(k.requests, "request"), k.errors && `${show(k.errors)} failed`, k.weight !== null && `weight ${show(k.weight)}`, k.used !== null && `used ${ago(k.used)}`];
	return h("li", { key: k.key }, icon(k.active ? "ok" : k.status === "disabled" ? "off" : "wait"), h("span", h("bdi", k.name), " ", h("code", k.mask)),
		h(k.active ? "span" : "span.resting", plain(k.status) + until), h("span.muted", facts.filter(Boolean).join(", ")));
}

/** Returns the evidence of an event, in words. */
function evidence(e) {
	const lines = [];
	for (const [side, name] of [["canary", str(e.version, "canary")], ["stable", "stable"]]) {
		const s = e.evidence?.[side] ?? {}, between = s.rate_between;
		if (num(s.requests) === null) continue;
		lines.push(`${isolate(name)}: ${show(num(s.errors))} of ${show(s.requests)} failed, ${percent(s.rate)}${Array.isArray(between) ? ` (true rate: ${percent(between[0])} to ${percent(between[1])})` : ""}`);
	}
	if (num(e.evidence?.score) !== null) lines.push(`comparison with stable: evidence ${show(e.evidence.score)}, rollback at ${show(num(e.evidence.limit))}`);
	const list = (x) => (Array.isArray(x) ? x : []).slice(0, 8).map((s) => isolate(str(s))), requests = list(e.requests);
	lines.push(...list(e.problems));
	if (requests.length) lines.push(`failed requests: ${requests.join(", ")}`);
	return lines;
}

function eventItem(e) {
	const sign = pick(e.kind, { pool_exhausted: "off", configuration_rejected: "off", warning: "watch", would_roll_back: "watch", stage: "wait" }) ?? pick(e.to, PHASES)?.icon ?? "wait";
	const lines = evidence(e.raw), time = e.time === null ? "" : `${at(e.time)}, ${ago(e.time)}`;
	return h("li", { key: e.key, class: sign === "back" ? "event bad-card" : "event" }, icon(sign), h("div",
		h("p", h("b", h("bdi", e.whose)), " ", h("bdi", e.text)), h("p.muted", time),
		lines.length > 0 && h("details", h("summary", "evidence"), h("ul", lines.map((line) => h("li", line))))));
}

// ---- the dialog before an order

let asked = null;

function ask(action, d) {
	asked = { action, d };
	const back = action === "rollback", canary = names(d.canaries);
	$("ask-title").textContent = `${back ? "Roll back" : "Resume"} ${isolate(d.name)}?`;
	$("ask-text").textContent = back
		? `All traffic goes to ${isolate(d.stable?.name ?? "stable")} at once, until somebody resumes ${canary} or its release changes.`
		: `${canary} gets traffic again. Its past failures no longer count.${d.reason && ` It is ${d.look.text} because: ${d.reason}`}`;
	$("ask-label").hidden = !back;
	$("ask-reason").value = $("ask-error").textContent = "";
	$("ask-yes").textContent = back ? "Roll back now" : "Resume now";
	$("ask-yes").className = back ? "danger" : "";
	$("ask-yes").disabled = false;
	$("ask").showModal();
	$(back ? "ask-reason" : "ask-no").focus();
}

$("ask-no").onclick = () => $("ask").close();
$("ask-form").onsubmit = async (event) => {
	event.preventDefault();
	const { action, d } = asked, reason = $("ask-reason").value.trim();
	$("ask-yes").disabled = true;
	$("ask-error").textContent = "";
	try {
		const body = JSON.stringify(action === "rollback" && reason ? { reason } : {});
		await fetchJson(`deployments/${encodeURIComponent(d.name)}/${action}`, { method: "POST", headers: { "x-requested-with": "bellwether", "content-type": "application/json" }, body });
		$("ask").close();
		eventsWanted = 3;
		await asking; // a running request may be older than the order
		await poll();
		focusOn(d.key);
	} catch (error) {
		$("ask-error").textContent = error.said ? `Not done: ${error.said}.` : "No answer. The order may have been carried out: check before you try again.";
		$("ask-yes").disabled = false;
	}
};

// ---- drawing

function matches(d) {
	const text = `${d.name} ${d.release} ${d.look.text} ${d.versions.map((v) => v.name).join(" ")}`.toLowerCase();
	return words.every((word) => text.includes(word));
}

function render() {
	// Problems first, the latest at the top; the others as configured.
	const sorted = [...deployments].sort((a, b) => a.rank - b.rank || (a.rank < 4 ? (b.since ?? 0) - (a.since ?? 0) : 0));
	verdict(sorted);
	const found = sorted.filter(matches);
	const open = new Set(found.slice(0, UNFOLD).filter((d) => d.rank < 4 || found.length <= UNFOLD));
	patch($("deployments"), found.slice(0, limit).map((d) => card(d, folded.get(d.key) ?? open.has(d))));
	$("filter").parentNode.hidden = sorted.length <= UNFOLD;
	$("matching").textContent = found.length < sorted.length ? `${found.length} of ${sorted.length} match` : sorted.length;
	$("more").hidden = found.length <= limit;
	patch($("pools"), few("pools", "pools", pools, pool).flat());
	patch($("events"), few("events", "events", events, eventItem).flat().map((x) => (x.tag === "button" ? h("li", { key: "\0" }, x) : x)));
	$("no-events").hidden = events.length > 0;
}

const more = () => { limit += PAGE; render(); };
$("more").onclick = more;
new IntersectionObserver((seen) => { if (seen.some((s) => s.isIntersecting)) more(); }, { rootMargin: "400px" }).observe($("more"));
$("filter").oninput = () => { words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean); limit = PAGE; render(); };
$("tier").onchange = () => { shownTier = Number($("tier").value); render(); };

// ---- requests

async function fetchJson(path, options) {
	const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
	const text = await answer.text();
	let body = null;
	try { body = JSON.parse(text); } catch { /* reported below */ }
	if (answer.ok && body && typeof body === "object") return body;
	const said = str(body?.error?.message) || str(body?.error) || (answer.ok ? "the answer is not JSON" : `status ${answer.status}`);
	throw Object.assign(new Error(said), { said });
}

let timer = 0, asking = null;

/** Polls, unless a poll is running, and schedules the next one. */
function poll() {
	clearTimeout(timer);
	asking ??= once().finally(() => {
		asking = null;
		if (!document.hidden) timer = setTimeout(poll, max(0, nextTry - Date.now()));
	});
	return asking;
}

async function once() {
	const began = performance.now();
	try {
		takeStatus(await fetchJson("status"));
		if (eventsWanted > 0 || began - eventsAt >= EVENTS_MS) {
			takeEvents(await fetchJson("events"));
			eventsAt = began;
			eventsWanted -= eventsWanted > 0;
		}
		if (failures >= LOST_AFTER) $("live").textContent = "Connected again.";
		failures = 0;
		lastSeen = now();
		$("link").firstElementChild.classList.toggle("odd");
	} catch (error) {
		failures += 1;
		problem = error.said ?? "";
		if (failures === LOST_AFTER) $("live").textContent = problem || "Connection lost.";
	}
	// A slow answer is a large one: longer pauses spare the proxy.
	const pause = failures ? POLL_MS * 2 ** (failures - 1) : max(POLL_MS, 3 * (performance.now() - began));
	nextTry = Date.now() + min(MAX_BACKOFF_MS, pause);
	render();
}

document.onvisibilitychange = () => (document.hidden ? clearTimeout(timer) : poll());
addEventListener("online", poll);
// Countdowns continue while there is no answer.
setInterval(() => { if (!document.hidden && failures >= LOST_AFTER) render(); }, 1000);
poll();
