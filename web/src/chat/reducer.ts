/** How a chat changes: a pure function of the state and what happened. */

import type { Connection } from "./follow";
import type { Received } from "./connection";
import { type Asked, type AskedAgain, asked, askedAgain, attached, notStarted, started } from "./asking";
import { connected, received } from "./replying";
import { type ChatState, emptyChat, type Failure, fromWire, type Message, type Problem, without, withReply } from "./state";
import type { HistoryPage, Started } from "./wire";

export type Happening =
  | { type: "loading" }
  | { type: "loaded"; page: HistoryPage }
  /** The page has what changed since the last one. */
  | { type: "changed"; page: HistoryPage }
  | { type: "load failed"; failure: Failure; missing: boolean }
  | { type: "loading older" }
  | { type: "older loaded"; page: HistoryPage }
  | ({ type: "asked" } & Asked)
  | ({ type: "asked again" } & AskedAgain)
  | { type: "started"; started: Started }
  /** The server did not take the question. `handBack` removes it from the chat. */
  | { type: "not started"; failure: Failure; handBack: string | null }
  | { type: "attached"; sessionId: string; replyKey: string; at: string }
  /** `at` is the time by `performance.now()`. */
  | { type: "received"; received: readonly Received[]; at: number }
  | { type: "connection"; connection: Connection }
  | { type: "stopping" }
  | { type: "stop failed"; failure: Failure }
  | { type: "reply gone"; failure: Failure | null }
  | { type: "problem dismissed" }
  | { type: "hand back taken" };

export function reduce(state: ChatState, happening: Happening): ChatState {
  switch (happening.type) {
    case "loading":
      return { ...state, history: state.messages.length > 0 ? state.history : "loading", problem: without(state, "load") };
    case "loaded":
      return loaded(state, happening.page);
    case "changed":
      return changed(state, happening.page);
    case "load failed":
      return happening.missing
        ? { ...emptyChat(state.chatId), history: "missing" }
        : {
            ...state,
            history: state.messages.length > 0 ? state.history : "failed",
            loadingOlder: false,
            problem: { about: "load", failure: happening.failure },
          };
    case "loading older":
      return { ...state, loadingOlder: true };
    case "older loaded":
      return older(state, happening.page);
    case "asked":
      return asked(state, happening);
    case "asked again":
      return askedAgain(state, happening);
    case "started":
      return started(state, happening.started);
    case "not started":
      return notStarted(state, happening.failure, happening.handBack);
    case "attached":
      return attached(state, happening);
    case "received":
      return received(state, happening.received, happening.at);
    case "connection":
      return connected(state, happening.connection);
    case "stopping":
      return withReply(state, { stopping: true });
    case "stop failed":
      return { ...withReply(state, { stopping: false }), problem: { about: "stop", failure: happening.failure } };
    case "reply gone":
      return {
        ...state,
        reply: null,
        problem: happening.failure ? { about: "reply", failure: happening.failure } : state.problem,
      };
    case "problem dismissed":
      return dismissed(state);
    case "hand back taken":
      return { ...state, handedBack: null };
  }
}

/** Without the offer to send it again, a question that was not taken goes back to where it can be edited. */
function dismissed(state: ChatState): ChatState {
  const last = state.messages.at(-1);
  if (state.problem?.about !== "send" || last?.role !== "user" || last.id !== null) return { ...state, problem: null };
  return { ...state, problem: null, messages: state.messages.slice(0, -1), handedBack: last.text };
}

/** The page's messages, each with the key under which it is shown already. */
function fromPage(state: ChatState, page: HistoryPage): Message[] {
  const known = new Map(state.messages.map((message) => [message.id, message]));
  return page.messages.map((wire) => {
    const message = fromWire(wire);
    const before = known.get(message.id);
    if (!before) return message;
    // What a live stream has shown is newer than the row, which has no text until the end.
    const live = message.status === "pending" && before.key === state.reply?.key;
    return live ? { ...before, position: message.position } : { ...message, key: before.key };
  });
}

/** The state's problem after the chat was loaded, whose newest messages these are. */
function problemAfter(state: ChatState, messages: readonly Message[]): Problem | null {
  // A session that expired has lost nothing where its reply is here, however it ended but in failure.
  const last = messages.at(-1);
  const ended = last?.role === "assistant" && last.status !== "pending" && last.status !== "failed";
  return ended && state.problem?.about === "reply" ? null : without(state, "load");
}

function changed(state: ChatState, page: HistoryPage): ChatState {
  const changes = fromPage(state, page);
  const ids = new Set(changes.map(({ id }) => id));
  const others = state.messages.filter((message) => !ids.has(message.id));
  const first = state.messages.find(({ position }) => position !== null)?.position ?? 0;
  // What changed above the first page that is shown comes when that is loaded.
  const placed = [...others.filter(({ position }) => position !== null), ...changes].filter(({ position }) => (position ?? 0) >= first);
  placed.sort((one, other) => (one.position ?? 0) - (other.position ?? 0));
  // Not placed by the server yet: a question on its way. A reply that nobody knows by its id is in the changes.
  const unplaced = others.filter(({ id, key, position, role }) => position === null && (id !== null || role === "user" || key === state.reply?.key));
  return {
    ...state,
    title: page.title,
    messages: [...placed, ...unplaced],
    revision: page.revision,
    problem: problemAfter(state, placed),
  };
}

function loaded(state: ChatState, page: HistoryPage): ChatState {
  const newest = fromPage(state, page);
  const first = newest[0]?.position ?? null;
  const above = state.messages.filter((m) => first !== null && m.position !== null && m.position < first);
  // A page is short where its messages are long. If messages lie between, they are loaded as earlier ones are.
  const earlier = first !== null && above.at(-1)?.position === first - 1 ? above : [];
  return {
    ...state,
    chatId: page.chatId,
    title: page.title,
    history: "loaded",
    messages: [...earlier, ...newest],
    nextBefore: earlier.length > 0 ? state.nextBefore : page.nextBefore,
    revision: page.revision,
    problem: problemAfter(state, newest),
  };
}

function older(state: ChatState, page: HistoryPage): ChatState {
  const known = new Set(state.messages.map((message) => message.id));
  const fresh = page.messages.filter((wire) => !known.has(wire.id)).map(fromWire);
  return { ...state, loadingOlder: false, nextBefore: page.nextBefore, messages: [...fresh, ...state.messages] };
}
