/** Messages as the server sends them. */

import type { WireMessage } from "../src/chat/wire";

/** A complete message, at the position that its id ends with. */
export function wire(fields: Partial<WireMessage> & Pick<WireMessage, "id" | "role">, text = ""): WireMessage {
  return {
    position: Number(fields.id.slice(1)),
    status: "complete",
    parts: text === "" ? [] : [{ type: "text", text }],
    modelId: null,
    replyTo: null,
    supersededBy: null,
    source: null,
    finishReason: null,
    errorCode: null,
    usage: null,
    createdAt: "2026-01-01T00:00:00Z",
    completedAt: null,
    ...fields,
  };
}
