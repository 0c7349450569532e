// The way to the proxy and back: one WebSocket that opens itself again, with growing, jittered delays.

const FIRST_DELAY = 500; // ms
const LONGEST_DELAY = 30_000; // ms
const HANDSHAKE_LIMIT = 15_000; // ms, from asking for a ticket to the first frame

export class Connection {
  #attempt = 0;
  #failures = 0;
  #socket = null;
  #timer = 0;
  #state = "";
  #onState;
  #onFrame;

  // onState(state, detail): "connecting", "online", "offline" with {retryAt}, "refused" with {reason}
  constructor(onState, onFrame) {
    this.#onState = onState;
    this.#onFrame = onFrame;
  }

  get online() {
    return this.#state === "online";
  }

  send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  // Connects at once; does nothing while connected or refused.
  connect() {
    if (this.#state === "" || this.#state === "offline") this.#open();
  }

  disconnect() {
    this.#attempt += 1; // whatever is under way is no longer listened to
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#state = "";
  }

  async #open() {
    clearTimeout(this.#timer);
    const attempt = ++this.#attempt;
    const current = () => attempt === this.#attempt;
    this.#become("connecting");
    try {
      // A browser doesn't say why a WebSocket was refused, so ask the application first.
      const answer = await fetch("/ticket", { method: "POST", signal: AbortSignal.timeout(HANDSHAKE_LIMIT) });
      if (!current()) return;
      if (answer.status === 401 || answer.status === 403) {
        const { reason } = await answer.json();
        this.#become("refused", { reason });
        return;
      }
      if (!answer.ok) throw new Error(`expected a ticket but got status ${answer.status}`);
      const { url } = await answer.json();
      if (current()) this.#listen(new WebSocket(url), current);
    } catch {
      if (current()) this.#retry();
    }
  }

  #listen(socket, current) {
    this.#socket = socket;
    const limit = setTimeout(() => socket.close(), HANDSHAKE_LIMIT);
    socket.addEventListener("message", ({ data }) => {
      if (!current()) return;
      const frame = JSON.parse(data);
      if (frame.type === "history") {
        // The first frame: only now has the backend taken us in.
        clearTimeout(limit);
        this.#failures = 0;
        this.#become("online");
      }
      this.#onFrame(frame);
    });
    socket.addEventListener("close", () => {
      clearTimeout(limit);
      if (current()) this.#retry();
    });
  }

  #retry() {
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures);
    const delay = longest * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#become("offline", { retryAt: Date.now() + delay });
  }

  #become(state, detail = {}) {
    this.#state = state;
    this.#onState(state, detail);
  }
}
