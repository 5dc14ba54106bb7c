/**
 * Server-Sent Events, decoded as they arrive.
 *
 * Follows "Interpreting an event stream" of the HTML standard: lines end in LF, CR or CRLF and in
 * nothing else; comments and unknown fields are ignored; an unfinished event at the end is dropped.
 */

export interface ServerEvent {
  event: string;
  data: string;
  lastEventId: string;
}

/** Feed it decoded text in any pieces; it returns the events that each piece completes. */
export class SseDecoder {
  private rest = "";
  private first = true;
  private afterCr = false;
  private data: string[] = [];
  private event = "";
  private id = "";

  feed(chunk: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    if (chunk === "") return events;
    if (this.first) {
      this.first = false;
      if (chunk.startsWith("\uFEFF")) chunk = chunk.slice(1);
    }
    if (this.afterCr && chunk.startsWith("\n")) chunk = chunk.slice(1);
    this.afterCr = chunk.endsWith("\r");
    const lines = chunk.split(/\r\n|\r|\n/);
    lines[0] = this.rest + lines[0];
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") this.take(line);
      else this.dispatch(events);
    }
    return events;
  }

  private take(line: string): void {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
    else if (name === "id" && !value.includes("\0")) this.id = value;
  }

  private dispatch(events: ServerEvent[]): void {
    if (this.data.length > 0) {
      events.push({ event: this.event || "message", data: this.data.join("\n"), lastEventId: this.id });
      this.data = [];
    }
    this.event = "";
  }
}
