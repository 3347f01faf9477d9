// Plays chunks, each a whole little mp4, one behind the other, and says which of them is on screen.

const KEEP_SECONDS = 12; // behind the picture
const AHEAD_SECONDS = 0.9; // more than this waits: go nearer to the newest frame
const MAX_WAITING = 8;

export class Player {
  constructor(video, onFrame) {
    this.video = video;
    this.onFrame = onFrame;
    this.waiting = [];
    this.played = []; // {start, end, header, received}
    this.buffer = null;
    this.source = null;
    this.shown = null;
    this.watch();
  }

  get supported() {
    return Boolean(window.ManagedMediaSource ?? window.MediaSource);
  }

  add(header, data) {
    this.waiting.push({ header, data, received: performance.now() });
    if (this.waiting.length > MAX_WAITING) this.waiting.shift();
    if (this.source === null) this.open(header.mime);
    else if (this.buffer !== null && this.mime !== header.mime) {
      this.buffer.changeType?.(header.mime);
      this.mime = header.mime;
    }
    this.feed();
  }

  open(mime) {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    this.source = new Source();
    this.video.disableRemotePlayback = true;
    this.video.src = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => {
      URL.revokeObjectURL(this.video.src);
      this.buffer = this.source.addSourceBuffer(mime);
      this.buffer.mode = "sequence"; // whichever chunks were left out, there is no gap
      this.mime = mime;
      this.buffer.addEventListener("updateend", () => this.updated());
      this.buffer.addEventListener("error", () => this.reset());
      this.feed();
    }, { once: true });
  }

  // The browser gave up on what it has: begin with the next chunk.
  reset() {
    this.source = this.buffer = this.adding = null;
    this.played = [];
  }

  feed() {
    const { buffer } = this;
    if (buffer === null || buffer.updating || this.adding || this.source.readyState !== "open") return;
    if (this.video.error) return this.reset();
    const next = this.waiting.shift();
    if (!next) return;
    this.adding = { ...next, start: this.end() };
    try {
      buffer.appendBuffer(next.data);
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      this.adding = null;
      buffer.remove(0, Math.max(0.1, this.video.currentTime - 1));
    }
  }

  end() {
    const ranges = this.buffer.buffered;
    return ranges.length ? ranges.end(ranges.length - 1) : 0;
  }

  updated() {
    if (this.adding) {
      const { header, received, start } = this.adding;
      this.played.push({ header, received, start, end: this.end() });
      this.adding = null;
      if (this.played.length > 200) this.played.splice(0, 100);
      this.keepUp();
      const old = this.video.currentTime - KEEP_SECONDS;
      if (old > 1 && this.buffer.buffered.length && this.buffer.buffered.start(0) < old - 4) {
        this.buffer.remove(0, old);
        return;
      }
    }
    this.feed();
  }

  keepUp() {
    const { video } = this;
    const ahead = this.end() - video.currentTime;
    const newest = this.played.at(-1);
    const chunk = newest.end - newest.start;
    const ranges = this.buffer.buffered;
    const before = ranges.length && video.currentTime < ranges.start(0);
    if (before || ahead > Math.max(AHEAD_SECONDS, 4 * chunk)) video.currentTime = Math.max(newest.start - chunk, ranges.start(0));
    video.playbackRate = ahead > Math.max(0.5, 2.5 * chunk) ? 1.08 : 1;
    if (video.paused) video.play().catch(() => {});
  }

  // Tell of every frame on screen which chunk it is from.
  watch() {
    const tell = (_, frame) => {
      const time = frame ? frame.mediaTime : this.video.currentTime;
      const found = this.played.findLast((each) => time >= each.start - 0.001);
      if (found && this.video.readyState >= 2) {
        this.shown = found;
        this.onFrame(this.video, found);
      }
      again();
    };
    const again = () => {
      if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(tell);
      else requestAnimationFrame(() => tell(0, null));
    };
    again();
  }
}
