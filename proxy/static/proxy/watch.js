// The watch page: reports of one key's sessions as they come, with totals; pause keeps what comes for later.
import {$, Rows, Stream, bytes, filters, milliseconds, number, say} from "./reports.js";

const MAX_WAITING = 500; // reports that a paused page keeps

const rows = new Rows($("reports"));
const totals = {received: [0, 0], sent: [0, 0], callbacks: 0, failed: 0, slowest: 0, missed: 0};
let waiting = [], left = 0, paused = false, counting = 0;

function count(report) {
    if (report.what === "sent" || report.what === "received") {
        totals[report.what][0]++;
        totals[report.what][1] += report.size;
    } else if (report.what === "callback") {
        totals.callbacks++;
        if (report.status !== 200) totals.failed++;
        totals.slowest = Math.max(totals.slowest, report.ms ?? 0);
    } else if (report.what === "missed") {
        totals.missed += report.count ?? 0;
    }
    counting ||= requestAnimationFrame(tell);
}

function tell() {
    counting = 0;
    for (const what of ["received", "sent"]) $(`total-${what}`).textContent = `${number(totals[what][0])} (${bytes(totals[what][1])})`;
    $("total-callbacks").textContent = number(totals.callbacks) + (totals.failed ? `, ${number(totals.failed)} failed` : "");
    $("total-slowest").textContent = milliseconds(totals.slowest) || "–";
    $("missed").hidden = !totals.missed;
    $("total-missed").textContent = number(totals.missed);
    const more = waiting.length + left;
    $("pause").textContent = paused ? `Go on${more ? ` (${number(more)} waiting)` : ""}` : "Pause";
}

// Connections are told apart by the starts of their ids, when there is more than one.
const connections = new Set();

function add(report) {
    if (report.connection) connections.add(report.connection);
    rows.addReport(report, connections.size > 1 && report.connection ? report.connection.slice(0, 8) : "");
}

function onReport(report) {
    count(report);
    if (!paused) {
        add(report);
        return;
    }
    waiting.push(report);
    if (waiting.length > MAX_WAITING) {
        waiting.shift();
        left++;
    }
}

let wasLost = false;
const note = (label, facts, bad) => rows.add(Date.now(), {kind: "session", label, facts: [facts], bad});

new Stream($("reports-page").dataset.stream, {
    open() {
        say("Watching");
        if (wasLost) note("stream back", "what happened meanwhile isn't shown", false);
        wasLost = false;
    },
    lost() {
        say("The connection to the server is lost; trying again. What happens now isn't shown.", true);
        if (!wasLost) note("stream lost", "no connection to the server", true);
        wasLost = true;
    },
    refused(why) {
        say(`Nothing can be watched: ${why}. Load this page again later.`, true);
    },
    report: onReport,
});

$("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    if (!paused) {
        if (left) note("not shown", `${number(left)} reports that came during the pause`, true);
        waiting.forEach(add);
        waiting = [];
        left = 0;
    }
    tell();
});
$("clear").addEventListener("click", () => rows.clear());
filters($("filters"), $("reports"));
tell();
