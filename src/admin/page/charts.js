"use strict";
// ---- history: ten minutes in fine steps, and all of it in steps that grow

const SLOTS = 300;
const MAX_SERIES = 4000; // versions; 20 MB
const series = new Map();
const tiers = [{ step: 2000, last: -1 }, { step: 2000, last: -1, grows: true }];
const opened = performance.now();
const worse = (a, b) => (a >= b || Number.isNaN(b) ? a : b);
const empty = () => new Float32Array(SLOTS).fill(NaN);

function record() {
	tiers.forEach(advance);
	const live = new Set();
	for (const d of deployments) for (const v of d.versions) {
		v.series = `${d.key}\n\n${v.key}`;
		live.add(v.series);
		if (!series.has(v.series) && series.size < MAX_SERIES) series.set(v.series, tiers.map(() => ({ rate: empty(), p95: empty() })));
		series.get(v.series)?.forEach((data, n) => {
			const i = tiers[n].last % SLOTS;
			for (const what of ["rate", "p95"]) data[what][i] = worse(data[what][i], v[what] ?? NaN);
		});
	}
	for (const key of series.keys()) if (!live.has(key)) series.delete(key);
}

function advance(tier, n) {
	const t = performance.now() - opened;
	const each = (change) => series.forEach((data) => { change(data[n].rate); change(data[n].p95); });
	while (tier.grows && t / tier.step >= SLOTS) {
		each((a) => a.forEach((_, i) => { a[i] = 2 * i + 1 < SLOTS ? worse(a[2 * i], a[2 * i + 1]) : NaN; }));
		tier.step *= 2;
		tier.last = floor(tier.last / 2);
	}
	const slot = floor(t / tier.step);
	for (let i = max(tier.last + 1, slot - SLOTS + 1); !tier.grows && i <= slot; i++) each((a) => { a[i % SLOTS] = NaN; });
	tier.last = slot;
}

// ---- charts

const WIDTH = 300, HEIGHT = 80;

/** Draws one measure of all versions over time. The top of the scale is at least `least`. */
function chart(d, title, what, format, least) {
	const { last, step } = tiers[shownTier];
	const slots = min(SLOTS, max(15, last + 1)), first = last + 1 - slots, ms = slots * step;
	const lines = d.versions.map((v) => {
		const a = series.get(v.series)?.[shownTier][what], points = [];
		for (let i = max(0, -first); a && i < slots; i++) if (a[(first + i) % SLOTS] < 1e30) points.push([i, a[(first + i) % SLOTS]]);
		return { v, points, now: format(v[what]), most: points.reduce((m, p) => max(m, p[1]), -1) };
	});
	const most = max(least, ...lines.map((l) => l.most)), power = 10 ** floor(Math.log10(most));
	const top = [1, 2, 5, 10].find((n) => n * power >= most) * power;
	const line = ({ v, points }) => {
		let drawn = "", before = -Infinity;
		for (const [i, value] of points) {
			const x = ((i / (slots - 1)) * WIDTH).toFixed(1), y = (HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1);
			drawn += i - before > 5 ? `M${x} ${y}h.01` : `L${x} ${y}`; // a longer gap stays a gap
			before = i;
		}
		return h(`path.line.${v.colour}`, { d: drawn, key: v.key });
	};
	const marks = events.filter((e) => e.whose === d.name && e.kind === "transition" && now() - e.time < ms)
		.map((e) => `M${(WIDTH * (1 - (now() - e.time) / ms)).toFixed(1)} 0V${HEIGHT}`);
	const texts = lines.map((l) => `${isolate(l.v.name)} ${l.most < 0 ? "without data" : `now ${l.now}, at most ${format(l.most)}`}`);
	return h("figure",
		h("figcaption", h("b", title), lines.map((l) => h("span", { key: l.v.key }, h(`i.${l.v.colour}`), h("bdi", l.v.name), " ", h("b", l.now)))),
		h("div.plot",
			h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, last ${span(ms)}: ${texts.join("; ")}` },
				h("path.grid", { d: `M0 1H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 1}H${WIDTH}` }), h("path.mark", { d: marks.join("") }), lines.map(line)),
			h("span.top", format(top))),
		h("div.axis.muted", h("span", `${span(ms)} ago`), h("span", "now")));
}
