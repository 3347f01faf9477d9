// The WebSocket: chunks and status in, commands out, and again after a while when it breaks.

export class Link {
  constructor({ onChunk, onStatus, onError, onState }) {
    Object.assign(this, { onChunk, onStatus, onError, onState });
    this.asked = new Map();
    this.number = 0;
    this.wait = 500;
    this.open();
  }

  open() {
    const url = new URL("live", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = location.search; // the token
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.wait = 500; this.onState("live"); };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.text(JSON.parse(data)) : this.chunk(data));
    socket.onclose = ({ code, reason }) => {
      this.asked.forEach(({ reject }) => reject(new Error("the connection is gone")));
      this.asked.clear();
      this.onState(reason || "connection lost, trying again");
      if (code === 1008) return; // refused: it would be again
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(8000, this.wait * 2);
    };
    this.socket = socket;
  }

  chunk(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    this.onChunk(header, new Uint8Array(data, 4 + length));
  }

  text(message) {
    if (message.type === "status") return this.onStatus(message);
    if (message.type === "error") return this.onError(message.text);
    const asked = this.asked.get(message.id);
    this.asked.delete(message.id);
    if (message.type === "refused") (asked?.reject ?? this.onError)(new Error(message.text));
    else asked?.resolve(message);
  }

  ask(type, fields = {}) {
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== WebSocket.OPEN) return reject(new Error("not connected"));
      this.number += 1;
      this.asked.set(this.number, { resolve, reject });
      this.socket.send(JSON.stringify({ type, id: this.number, ...fields }));
    });
  }
}
