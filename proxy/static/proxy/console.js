// The console: a client by hand. Its own stream is opened first, which leaves a ticket in a cookie; the connection that
// is made next brings the ticket to the proxy, which then reports what that connection causes.
import {$, Rows, Stream, bytes, fromBase64, say, shown} from "./reports.js";

const TICKET_WAIT = 10000; // ms for the stream
const REPORT_WAIT = 3000; // ms after which a connection of which nothing is reported is wondered at
const AFTERMATH = 15000; // ms that are waited for the last callbacks of a connection that has ended

const page = $("reports-page");
const frames = new Rows($("frames")), calls = new Rows($("reports"));
let socket = null, stream = null, timer = 0, refusal = "";

// Where the proxy is: this page's host, with the port of clients if that is known to be another one.
{
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const host = page.dataset.port ? `${location.hostname}:${page.dataset.port}` : location.host;
    $("address").value = `${scheme}//${host}${page.dataset.path}`;
}

function frame(label, kind, facts, content = null, bad = false) {
    frames.add(Date.now(), {kind, label, facts: [facts], bad}, content);
}

function show() {
    const state = socket ? socket.readyState : WebSocket.CLOSED;
    $("connect").disabled = Boolean(socket);
    $("disconnect").disabled = !socket || state > WebSocket.OPEN;
    $("send").disabled = state !== WebSocket.OPEN;
}

function endStream() {
    clearTimeout(timer);
    stream?.stop();
    stream = null;
}

function connect() {
    endStream();
    refusal = "";
    let began = false;
    say("Connecting …");
    const own = stream = new Stream(page.dataset.stream, {
        open() {},
        lost() {
            if (began) {
                own.stop(); // another stream would be of another ticket
                calls.add(Date.now(), {kind: "session", label: "stream lost", facts: ["no connection to the server; callbacks aren't shown any more"], bad: true});
            } else {
                failed("The server doesn't answer.");
            }
        },
        refused(why) {
            failed(`The console can't be used now: ${why}.`);
        },
        report(report) {
            if (report.what === "ready") {
                began = true;
                open();
            } else {
                onReport(report);
            }
        },
    });
    timer = setTimeout(() => began || failed("The server doesn't answer."), TICKET_WAIT);
    $("connect").disabled = true;
}

function failed(why) {
    endStream();
    say(why, true);
    show();
}

function open() {
    clearTimeout(timer);
    const query = $("query").value.replace(/^\?/, "").replaceAll("#", "%23");
    const offered = $("subprotocols").value.split(",").map((name) => name.trim()).filter(Boolean);
    const address = $("address").value + (query ? `?${query}` : "");
    let own;
    try {
        own = socket = new WebSocket(address, offered);
    } catch (error) {
        failed(error.message);
        return;
    }
    own.binaryType = "arraybuffer";
    timer = setTimeout(unheard, REPORT_WAIT);
    let opened = false;
    own.onopen = () => {
        opened = true;
        say(own.protocol ? `Connected, with the subprotocol ${own.protocol}` : "Connected");
        frame("open", "session", own.protocol ? `subprotocol ${own.protocol}` : "");
        show();
    };
    own.onmessage = ({data}) => {
        const binary = typeof data !== "string";
        const octets = binary ? new Uint8Array(data) : new TextEncoder().encode(data);
        frame("in", "sent", `${binary ? "binary" : "text"}, ${bytes(octets.length)}`, shown(binary ? octets : data, binary));
    };
    own.onclose = (event) => {
        socket = null;
        const words = `code ${event.code}${event.reason ? `, ${event.reason}` : ""}`;
        if (opened) {
            say(`Closed, ${words}`);
            frame("closed", "session", words);
        } else {
            say(refusal || "Not connected: refused, or nobody answers there. The browser doesn't say why.", true);
            frame("not connected", "session", refusal, null, true);
        }
        clearTimeout(timer);
        timer = setTimeout(endStream, AFTERMATH);
        show();
    };
    show();
}

function unheard() {
    if (socket) calls.add(Date.now(), {
        kind: "session", label: "nothing", bad: true,
        facts: [`The proxy at this address reports nothing to this page. It must be reached by this page's host name, ${location.hostname}, and have the same EKBO_SECRET_KEY.`],
    });
}

function onReport(report) {
    clearTimeout(timer);
    if (report.what === "sent" || report.what === "received") return; // the frames are shown as this page has them
    calls.addReport(report);
    if (report.what === "refused") {
        refusal = `Refused with status ${report.status}`;
        if (!socket) say(refusal, true);
    }
    if (!socket) timer = setTimeout(endStream, AFTERMATH);
}

function payload() {
    const text = $("message").value;
    const format = $("format").value;
    if (format === "text") return text;
    const plain = text.replace(/\s+/g, "");
    if (format === "base64") {
        try {
            return fromBase64(plain);
        } catch {
            throw new Error("Expected base64.");
        }
    }
    if (!/^([0-9a-f]{2})*$/i.test(plain)) throw new Error("Expected hexadecimal digits, two for each byte.");
    return Uint8Array.from(plain.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function complain(place, error) {
    $(place).textContent = error ? error.message : "";
    $(place).hidden = !error;
}

$("opening").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!socket) connect();
});

$("sending").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
        const data = payload();
        socket.send(data);
        const binary = typeof data !== "string";
        const size = binary ? data.length : new TextEncoder().encode(data).length;
        frame("out", "received", `${binary ? "binary" : "text"}, ${bytes(size)}`, shown(data, binary));
        complain("send-error", null);
        $("message").select();
    } catch (error) {
        complain("send-error", error);
    }
});

$("closing").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
        const code = Number($("code").value);
        if (code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error("Expected 1000 or 3000-4999.");
        socket.close(code, $("reason").value);
        complain("close-error", null);
        show();
    } catch (error) {
        complain("close-error", error);
    }
});

$("clear").addEventListener("click", () => {
    frames.clear();
    calls.clear();
});

// Ctrl+Enter sends.
$("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("sending").requestSubmit();
});
show();
