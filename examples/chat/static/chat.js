// The page: ties the connection (connection.js) to the list of messages (messages.js) and the controls.

import { Connection } from "./connection.js";
import { Messages, avatar, element } from "./messages.js";

const SEND_AGAIN = 10_000; // ms without an echo; the server knows a repeated message by its nonce
const MAX_WAITING = 20;
const NEAR_END = 80; // px from the end of the list that count as reading the newest message

const get = (id) => document.getElementById(id);
const { uid } = document.body.dataset;
const log = get("log");
const field = get("text");
const messages = new Messages(get("messages"), uid);
const connection = new Connection(showState, takeFrame);
let me = { uid, name: document.querySelector(".me").textContent };
let revision = -1; // of the list of people
let ticking = 0;
let unread = 0;
let atEnd = true; // the reader sees the newest message

const STATES = { connecting: "Connecting…", online: "Online", offline: "Offline", refused: "Refused" };

// Only real changes: screen readers read out again whatever is set again.
function setText(id, text) {
  if (get(id).textContent !== text) get(id).textContent = text;
}

function showState(state, { retryAt, reason }) {
  document.body.dataset.state = state;
  setText("status", STATES[state]);
  clearInterval(ticking);
  const refused = state === "refused";
  // While connecting after a loss the notice stays, so that the page doesn't jump with every try.
  if (state === "online") get("notice").hidden = true;
  if (state === "offline" || refused) get("notice").hidden = false;
  get("retry").hidden = refused;
  get("retry").disabled = state === "connecting";
  get("again").hidden = !refused;
  setText("notice-title", refused ? "You are not connected." : "The connection is lost.");
  setText("notice-text", refused ? reason : "");
  setText("countdown", state === "connecting" ? "Connecting…" : "");
  if (state === "offline") {
    const tick = () => {
      const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
      setText("countdown", `Next try in ${seconds} s.`);
    };
    tick();
    ticking = setInterval(tick, 250);
  }
  if (state === "connecting") revision = -1;
  setText("people-title", state === "online" ? "Here now" : "Were here");
  noteWaiting();
}

function takeFrame(frame) {
  if (frame.type === "history") {
    me = frame.you;
    log.setAttribute("aria-busy", "true"); // a screen reader need not read all of it out
    messages.replace(frame.messages);
    log.setAttribute("aria-busy", "false");
    scrollToEnd();
    flush();
  } else if (frame.type === "message") {
    if (messages.add(frame.message)) announceNew(frame.message);
    if (atEnd) scrollToEnd();
  } else if (frame.type === "people") {
    showPeople(frame);
  } else if (frame.type === "refused") {
    messages.refuse(frame.nonce, frame.reason);
  }
  get("empty").hidden = messages.size > 0;
}

function announceNew(message) {
  if (message.uid === uid) return;
  if (!atEnd) get("newest").hidden = false;
  if (document.hidden) {
    unread += 1;
    document.title = `(${unread}) Chat`;
  }
}

function showPeople({ revision: newer, people }) {
  if (newer < revision) return; // two workers pushed at the same time, and this is the older list
  revision = newer;
  get("people-count").textContent = people.length;
  get("people").replaceChildren(
    ...people.map((person) => {
      const item = element("li", person.uid === uid ? "own" : "");
      item.append(avatar(person.uid, person.name), element("span", "name", person.name));
      if (person.uid === uid) item.append(element("span", "you", "you"));
      return item;
    }),
  );
}

function scrollToEnd() {
  atEnd = true;
  log.scrollTop = log.scrollHeight;
  get("newest").hidden = true;
}

function transmit(message) {
  message.transmittedAt = Date.now();
  connection.send({ nonce: message.nonce, text: message.text });
}

function flush() {
  if (!connection.online) return;
  for (const message of messages.waiting) transmit(message);
  noteWaiting();
}

function noteWaiting() {
  for (const { nonce } of messages.waiting) {
    messages.note(nonce, connection.online ? "Sending…" : "Waiting for the connection");
  }
}

function submit() {
  const text = field.value.trim();
  const full = messages.waiting.length >= MAX_WAITING;
  field.setCustomValidity(full ? "Too many messages are waiting to be sent." : "");
  if (full) field.reportValidity();
  if (!text || full) return;
  const nonce = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const message = { ...me, nonce, text, sent_at: Date.now() / 1000 };
  messages.addWaiting(message);
  get("empty").hidden = true;
  if (connection.online) transmit(message);
  noteWaiting();
  field.value = "";
  fit();
  scrollToEnd();
}

// Let the field grow with its text, up to the height that the style sheet allows.
function fit() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

get("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
  field.focus();
});
field.addEventListener("keydown", (event) => {
  // Enter also ends a word in input methods for, say, Japanese: that is not for us.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
field.addEventListener("input", () => {
  field.setCustomValidity("");
  fit();
});
get("retry").addEventListener("click", () => connection.connect());
get("newest").addEventListener("click", scrollToEnd);
log.addEventListener("scroll", () => {
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
  if (atEnd) get("newest").hidden = true;
});
// The notice above or a phone's keyboard takes room: that must not hide the newest message.
new ResizeObserver(() => atEnd && scrollToEnd()).observe(log);
get("people-toggle").addEventListener("click", () => {
  const open = document.body.classList.toggle("people-open");
  get("people-toggle").setAttribute("aria-expanded", open);
});
setInterval(() => {
  if (!connection.online) return;
  for (const message of messages.waiting) {
    if (Date.now() - message.transmittedAt > SEND_AGAIN) transmit(message);
  }
}, 1000);

window.addEventListener("online", () => connection.connect());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = "Chat";
  connection.connect();
});
// A page in the back-forward cache holds no connection.
window.addEventListener("pagehide", () => connection.disconnect());
window.addEventListener("pageshow", ({ persisted }) => persisted && connection.connect());
connection.connect();
