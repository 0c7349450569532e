// What the watch page and the console share: reports of a session as rows of a table, and the stream that brings them.
// Everything in a report is somebody's text: it goes into the page as text only.

const MAX_ROWS = 500;
const MAX_SHOWN = 4096; // characters of one content
const RETRY = 2000; // ms

export const $ = (id) => document.getElementById(id);

export function element(name, text = "", className = "") {
    return Object.assign(document.createElement(name), {textContent: text, className});
}

export const number = (value) => new Intl.NumberFormat("en").format(value);
export const bytes = (size) => (size === 1 ? "1 byte" : `${number(size)} bytes`);
export const milliseconds = (ms) => (typeof ms === "number" ? `${ms < 10 ? ms.toFixed(1) : number(Math.round(ms))} ms` : "");

export function clock(at) {
    const moment = new Date(at), two = (value, digits = 2) => String(value).padStart(digits, "0");
    return `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}.${two(moment.getMilliseconds(), 3)}`;
}

export function say(text, trouble = false) {
    const line = $("status");
    line.textContent = text;
    line.classList.toggle("trouble", trouble);
}

export function hex(octets) {
    return [...octets].map((octet) => octet.toString(16).padStart(2, "0")).join(" ");
}

export function fromBase64(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// {text, note} of a content as reports and frames have it.
export function shown(content, binary, cut = false) {
    const all = binary ? hex(content.slice(0, MAX_SHOWN / 4)) : content.slice(0, MAX_SHOWN);
    const whole = !cut && (binary ? content.length <= MAX_SHOWN / 4 : content.length <= MAX_SHOWN);
    return {text: all, note: whole ? "" : "cut"};
}

function contentOf(report) {
    if (typeof report.content !== "string") return null;
    const binary = report.encoding === "base64";
    return shown(binary ? fromBase64(report.content) : report.content, binary, report.cut);
}

const END_WORDS = {
    client: "by the client", lost: "the connection was lost", idle: "idle", replaced: "a newer connection has the key", slow: "the client didn't read",
    error: "an error", shutdown: "the process ends", handshake: "before it was open", operator: "by an operator", node_lost: "its process was lost", backend: "by the backend",
};

// What a report says: its kind for the filter, a label, facts in words, and whether it is bad news.
export function described(report) {
    const facts = [];
    switch (report.what) {
        case "session":
            if (report.key) facts.push(report.key);
            if (report.remote) facts.push(`from ${report.remote}`);
            if (report.node) facts.push(`on ${report.node}`);
            if (report.since) facts.push(`since ${new Date(report.since).toLocaleString("en-GB")}`);
            if (report.connection) facts.push(`connection ${report.connection}`);
            return {kind: "session", label: "session", facts};
        case "sent":
        case "received":
            return {kind: report.what, label: report.what, facts: [`${report.type}, ${bytes(report.size)}`]};
        case "callback": {
            const bad = report.status !== 200;
            if (report.status) facts.push(`status ${report.status}`);
            if (report.error) facts.push(report.error);
            facts.push(milliseconds(report.ms));
            if (report.asked) facts.push(`${bytes(report.asked)} sent`);
            if (report.answered) facts.push(`${bytes(report.answered)} answered`);
            return {kind: "callback", label: report.kind, beneath: "callback", facts, bad};
        }
        case "refused":
            return {kind: "session", label: "refused", facts: [`status ${report.status}`, report.reason ?? ""], bad: true};
        case "closed":
            facts.push(`code ${report.code}`, END_WORDS[report.reason] ?? report.reason);
            if (report.ms) facts.push(`after ${milliseconds(report.ms)}`);
            return {kind: "session", label: "closed", facts};
        case "absent":
            return {kind: "session", label: "absent", facts: ["nobody is connected under this key; waiting"]};
        case "missed":
            return {kind: "session", label: "missed", facts: [`${report.count === null ? "some" : number(report.count)} reports, because there were too many at once`], bad: true};
        default: // busy, lost, regained, and what a newer process may say
            return {kind: "session", label: String(report.what), facts: [report.reason ?? ""], bad: report.what !== "regained"};
    }
}

// A table that grows at its top, and forgets at its bottom.
export class Rows {
    constructor(table) {
        this.body = table.tBodies[0];
    }

    add(at, {kind, label, beneath = "", facts, bad}, content = null, aside = "") {
        const row = element("tr");
        row.dataset.kind = kind;
        row.classList.toggle("bad", Boolean(bad));
        const time = element("td", clock(at), "time"), what = element("td", "", "what"), rest = element("td", "", "facts");
        what.append(element("span", label, `label ${kind}`));
        for (const text of [beneath, aside]) if (text) what.append(" ", element("small", text));
        rest.append(element("span", facts.filter(Boolean).join(", ")));
        if (content && (content.text || content.note)) {
            const text = element("pre", content.text);
            if (content.note) text.append(element("em", ` … ${content.note}`));
            rest.append(text);
        }
        row.append(time, what, rest);
        this.body.prepend(row);
        while (this.body.rows.length > MAX_ROWS) this.body.lastElementChild.remove();
        return row;
    }

    addReport(report, aside = "") {
        return this.add(report.at ?? Date.now(), described(report), contentOf(report), aside);
    }

    clear() {
        this.body.replaceChildren();
    }
}

// A stream of reports. `on.report(report)`, `on.open()`, `on.lost()`; it comes back by itself until `stop`.
export class Stream {
    constructor(url, on) {
        this.url = url;
        this.on = on;
        this.begin();
    }

    begin() {
        this.source = new EventSource(this.url);
        this.source.onopen = () => this.on.open();
        this.source.onmessage = (event) => {
            const report = JSON.parse(event.data);
            if (report.what === "refused stream") {
                this.stop();
                this.on.refused(report.reason);
            } else {
                this.on.report(report);
            }
        };
        this.source.onerror = () => {
            this.on.lost();
            // Any other answer than a stream is final for an EventSource: a login, or a proxy in front without a backend.
            if (this.source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.again(), RETRY);
        };
    }

    async again() {
        try {
            const answer = await fetch(location.href, {method: "HEAD", redirect: "manual", signal: AbortSignal.timeout(2 * RETRY)});
            if (answer.type === "opaqueredirect" || answer.status === 403) return loggedOut();
        } catch {
            // No answer: it is tried again like any other trouble.
        }
        if (!this.stopped) this.begin();
    }

    stop() {
        this.stopped = true;
        clearTimeout(this.timer);
        this.source.close();
    }
}

function loggedOut() {
    const link = element("a", "Log in again");
    link.href = `${$("reports-page").dataset.login}?next=${encodeURIComponent(location.pathname + location.search)}`;
    say("You are logged out, or may not see this any more. ", true);
    $("status").append(link);
}

// Check boxes that hide kinds of rows, by classes of the table's wrapper.
export function filters(place, target) {
    for (const box of place.querySelectorAll("input[type=checkbox]")) {
        const apply = () => target.classList.toggle(`without-${box.value}`, !box.checked);
        box.addEventListener("change", apply);
        apply();
    }
}
