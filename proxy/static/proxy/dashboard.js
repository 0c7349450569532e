// The dashboard: asks for new moments every few seconds, while somebody can see them, and draws them with uPlot.
"use strict";

const POLL = 5000; // ms
const LATE = 3; // moments that are asked for again, since samples may arrive late
const MAX_LINES = 12; // as many colours as dashboard.css has

const root = document.getElementById("dashboard");
const span = Number(root.dataset.span), step = Number(root.dataset.step);
const names = [...root.querySelectorAll(".plot")].map((place) => place.dataset.name);
const statusLine = document.getElementById("status");

let at = []; // moments, in seconds since 1970
let total = empty();
let nodes = new Map(); // id -> {name, alive, lines}
let end = 0; // the server's time at the last answer
let plots = [], drawn = "", cursor = null, timer = 0;

function empty() {
    return Object.fromEntries(names.map((name) => [name, []]));
}

function merge(answer) {
    const from = answer.at.length ? answer.at[0] : Infinity;
    const oldest = answer.now - span;
    const first = at.findIndex((moment) => moment > oldest);
    const kept = at.findIndex((moment) => moment >= from);
    const begin = first < 0 ? at.length : first, stop = kept < 0 ? at.length : Math.max(kept, begin);
    const missing = Array(answer.at.length).fill(null), before = Array(stop - begin).fill(null);
    const join = (old, added) => Object.fromEntries(names.map((name) => [
        name, [...(old ? old[name].slice(begin, stop) : before), ...(added ? added[name] : missing)],
    ]));
    total = join(total, answer.total);
    const found = new Map(answer.nodes.map((node) => [node.id, node]));
    const merged = new Map();
    for (const [id, node] of nodes)
        if (!found.has(id)) merged.set(id, {...node, alive: false, lines: join(node.lines, null)});
    for (const [id, node] of found) merged.set(id, {...node, lines: join(nodes.get(id)?.lines, node.lines)});
    // A node of which nothing is left in the hour has gone.
    nodes = new Map([...merged].filter(([, node]) => node.lines.connections.some((value) => value !== null)));
    at = [...at.slice(begin, stop), ...answer.at];
    end = answer.now;
}

// Drawing

const compact = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});
const exact = new Intl.NumberFormat("en", {maximumFractionDigits: 2});
const clock = (seconds, long) => new Date(seconds * 1000).toLocaleTimeString("en-GB", long ? {} : {hour: "2-digit", minute: "2-digit"});
const show = (value) => (value === null || value === undefined ? "–" : exact.format(value));
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const color = (position) => css(`--line-${position % MAX_LINES}`);

// One node's line would hide the total's, which is the same.
const ownLines = () => (nodes.size > 1 ? [...nodes.values()].slice(0, MAX_LINES) : []);
const columns = (name) => [at, ...ownLines().map((node) => node.lines[name]), total[name]];

function build() {
    plots.forEach((plot) => plot.destroy());
    const axis = {stroke: css("--body-quiet-color"), grid: {stroke: css("--hairline-color"), width: 1}, ticks: {show: false}, font: "11px sans-serif"};
    plots = names.map((name) => {
        const place = root.querySelector(`.plot[data-name="${name}"]`);
        const lines = ownLines().map((node, position) => ({label: node.name, stroke: color(position), width: 1.25, points: {show: false}}));
        return new uPlot({
            width: place.clientWidth, height: place.clientHeight, legend: {show: false},
            cursor: {sync: {key: "dashboard"}, drag: {x: false, y: false}, y: false, points: {size: 6}},
            scales: {x: {time: true, range: () => [end - span, end]}, y: {range: (plot, low, high) => [0, high > 0 ? high * 1.1 : 1]}},
            axes: [
                {...axis, size: 28, values: (plot, splits) => splits.map((moment) => clock(moment))},
                {...axis, size: 46, values: (plot, splits) => splits.map((value) => compact.format(value))},
            ],
            series: [{}, ...lines, {label: "Total", stroke: css("--body-loud-color"), width: 2, points: {show: false}}],
            hooks: {setCursor: [(plot) => {
                const index = plot.cursor.idx ?? null;
                if (index !== cursor) { cursor = index; tabulate(); }
            }]},
        }, columns(name), place);
    });
}

function draw() {
    const shape = JSON.stringify([[...nodes.keys()], document.documentElement.dataset.theme, matchMedia("(prefers-color-scheme: dark)").matches]);
    if (shape !== drawn) {
        drawn = shape;
        build();
    } else {
        plots.forEach((plot, position) => plot.setData(columns(names[position])));
    }
    tabulate();
    for (const name of names) root.querySelector(`strong[data-name="${name}"]`).textContent = show(total[name].at(-1));
}

function tabulate() {
    const index = cursor === null || cursor >= at.length ? at.length - 1 : cursor;
    const table = document.getElementById("values");
    table.caption.textContent = index === at.length - 1 ? "Now" : `At ${clock(at[index], true)}`;
    const row = (label, lines, swatch, gone) => {
        const line = document.createElement("tr"), head = document.createElement("th");
        head.scope = "row";
        const mark = document.createElement("span"), text = document.createElement("span");
        mark.className = "swatch";
        mark.style.background = swatch;
        text.textContent = label;
        text.className = gone ? "gone" : "";
        head.append(mark, text);
        line.append(head, ...names.map((name) => Object.assign(document.createElement("td"), {textContent: show(lines[name][index])})));
        return line;
    };
    const own = [...nodes.values()].slice(0, MAX_LINES);
    const swatch = (position) => (nodes.size > 1 ? color(position) : css("--body-loud-color"));
    table.tBodies[0].replaceChildren(
        row("Total", total, css("--body-loud-color"), false),
        ...own.map((node, position) => row(node.name, node.lines, swatch(position), !node.alive)),
    );
}

// Asking

async function poll() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
        const whole = !at.length || nodes.size > MAX_LINES || end - at[0] < step;
        const since = whole ? "" : `?since=${at[Math.max(0, at.length - 1 - LATE)]}`;
        const answer = await fetch(root.dataset.url + since, {redirect: "manual", signal: AbortSignal.timeout(2 * POLL)});
        if (answer.type === "opaqueredirect" || answer.status === 403) return loggedOut();
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const found = await answer.json();
        if (whole) { at = []; total = empty(); nodes = new Map(); }
        merge(found);
        draw();
        const others = document.getElementById("others");
        others.hidden = !found.others;
        others.textContent = `${found.others} more nodes count in the total.`;
        say(`Updated ${clock(found.now, true)}`);
    } catch (error) {
        say(`No answer (${error.message}); trying again. What is shown is old.`, true);
    }
    clearTimeout(timer);
    timer = setTimeout(poll, POLL);
}

function say(text, trouble = false) {
    statusLine.textContent = text;
    statusLine.classList.toggle("trouble", trouble);
}

function loggedOut() {
    const link = document.createElement("a");
    link.href = `${root.dataset.login}?next=${encodeURIComponent(location.pathname)}`;
    link.textContent = "Log in again";
    say("You are logged out, or may not see this any more. ", true);
    statusLine.append(link);
}

document.addEventListener("visibilitychange", poll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => at.length && draw());
new MutationObserver(() => at.length && draw()).observe(document.documentElement, {attributeFilter: ["data-theme"]});
new ResizeObserver(() => plots.forEach((plot) => {
    const place = plot.root.parentElement;
    if (place.clientWidth !== plot.width) plot.setSize({width: place.clientWidth, height: place.clientHeight});
})).observe(root);
poll();
