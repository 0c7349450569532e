// The list of messages: those the server confirmed, in its order, then our own that still wait for it.
// Whatever people typed goes through textContent only, so that nothing of it is ever markup.

const SHOWN = 300; // messages kept in the page
const SAME_BREATH = 300; // seconds in which messages of one author stand together
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A person's colour, the same on every page: one of the eight in the style sheet.
export function avatar(uid, name) {
  let sum = 0;
  for (const character of uid) sum = (sum * 31 + character.codePointAt(0)) % 997;
  const made = element("span", `avatar hue-${sum % 8}`, [...name][0].toUpperCase());
  made.setAttribute("aria-hidden", "true");
  return made;
}

export class Messages {
  #list;
  #uid;
  #confirmed = new Map(); // id -> message, ascending
  #waiting = new Map(); // nonce -> message
  #elements = new Map(); // id or nonce -> element

  constructor(list, uid) {
    this.#list = list;
    this.#uid = uid;
  }

  get waiting() {
    return [...this.#waiting.values()];
  }

  get size() {
    return this.#confirmed.size + this.#waiting.size;
  }

  // The first frame after a connect. What is older than it may have a gap behind it, so it goes.
  replace(history) {
    const oldest = history.length ? history[0].id : Infinity;
    for (const id of this.#confirmed.keys()) if (id < oldest) this.#remove(id);
    for (const message of history) this.add(message);
  }

  // A confirmed message; true if it was not shown before.
  add(message) {
    if (this.#confirmed.has(message.id)) return false;
    const ours = message.uid === this.#uid && this.#waiting.delete(message.nonce);
    if (ours) this.#drop(message.nonce);
    this.#confirmed.set(message.id, message);
    // Two workers may push at the same time: a message can arrive before an older one.
    const next = [...this.#list.children].find((item) => !item.dataset.id || Number(item.dataset.id) > message.id);
    const item = this.#draw(message);
    item.dataset.id = message.id;
    this.#list.insertBefore(item, next ?? null);
    this.#elements.set(message.id, item);
    this.#group(item);
    this.#group(item.nextElementSibling);
    const extra = this.#list.children.length - SHOWN;
    for (const old of [...this.#list.children].slice(0, Math.max(0, extra))) {
      if (old.dataset.id) this.#remove(Number(old.dataset.id));
    }
    return !ours;
  }

  // A message of our own that the server has not confirmed.
  addWaiting(message) {
    this.#waiting.set(message.nonce, message);
    const item = this.#draw(message);
    item.classList.add("waiting");
    item.querySelector(".bubble").append(element("p", "note"));
    this.#list.append(item);
    this.#elements.set(message.nonce, item);
    this.#group(item);
  }

  note(nonce, text) {
    const note = this.#elements.get(nonce)?.querySelector(".note");
    if (note && note.textContent !== text) note.textContent = text;
  }

  // The server will not take this message: it stays visible, with the reason, and is not sent again.
  refuse(nonce, reason) {
    if (!this.#waiting.delete(nonce)) return;
    this.note(nonce, `Not sent: ${reason}`);
    this.#elements.get(nonce).classList.replace("waiting", "refused");
  }

  #draw({ uid, name, text, sent_at }) {
    const own = uid === this.#uid;
    const item = element("li", own ? "message own" : "message");
    item.dataset.uid = uid;
    item.dataset.at = sent_at;
    const when = new Date(sent_at * 1000);
    const today = when.toDateString() === new Date().toDateString();
    const time = element("time", "", today ? clock.format(when) : `${calendar.format(when)}, ${clock.format(when)}`);
    time.dateTime = when.toISOString();
    time.title = exact.format(when);
    const head = element("p", "head");
    head.append(element("span", "author", own ? "You" : name), " ", time);
    const bubble = element("div", "bubble");
    bubble.append(element("p", "text", text));
    const body = element("div", "body");
    body.append(head, bubble);
    item.append(avatar(uid, name), body);
    return item;
  }

  #group(item) {
    const before = item?.previousElementSibling;
    item?.classList.toggle(
      "follows",
      Boolean(before) && before.dataset.uid === item.dataset.uid && item.dataset.at - before.dataset.at < SAME_BREATH,
    );
  }

  #remove(id) {
    this.#confirmed.delete(id);
    this.#drop(id);
  }

  #drop(key) {
    const item = this.#elements.get(key);
    const next = item.nextElementSibling;
    item.remove();
    this.#elements.delete(key);
    this.#group(next);
  }
}
