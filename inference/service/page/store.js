// The conversations of this browser. They are kept in localStorage and go nowhere else; what is
// read back, from there or from a file, is checked as a stranger's.
const KEY = "llama-hub-conversations";
const MAX_CONVERSATIONS = 500;
const MAX_TURNS = 4096;
const MAX_TEXT = 1 << 20; // characters of one message
export const MAX_FILE = 8 << 20; // bytes of a file to import
const ROLES = ["user", "assistant"];

const isText = (value) => typeof value === "string" && value.length <= MAX_TEXT;

// The conversation in `value`, or null if it is none.
function checked(value) {
  if (typeof value !== "object" || value === null || !Array.isArray(value.turns)) return null;
  if (value.turns.length > MAX_TURNS || !isText(value.id) || !isText(value.system ?? "")) return null;
  const turns = [];
  for (const turn of value.turns) {
    if (typeof turn !== "object" || turn === null) return null;
    if (!ROLES.includes(turn.role) || !isText(turn.content)) return null;
    turns.push({ role: turn.role, content: turn.content, finish: isText(turn.finish) ? turn.finish : "" });
  }
  return {
    id: value.id.slice(0, 64),
    title: isText(value.title) ? value.title.slice(0, 200) : "",
    model: isText(value.model) ? value.model.slice(0, 200) : "",
    system: value.system ?? "",
    changed: Number.isFinite(value.changed) ? value.changed : 0,
    turns,
  };
}

export function load() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) || "[]");
    return Array.isArray(found) ? found.map(checked).filter(Boolean) : [];
  } catch {
    return [];
  }
}

// Keeps `conversations`, the newest first; the oldest go where there is no more room.
export function save(conversations) {
  const kept = [...conversations].sort((a, b) => b.changed - a.changed).slice(0, MAX_CONVERSATIONS);
  while (kept.length) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return kept;
    } catch {
      kept.pop();
    }
  }
  try {
    localStorage.removeItem(KEY);
  } catch { /* storage is switched off: the conversations live in this tab */ }
  return kept;
}

export function fresh(system) {
  return { id: crypto.randomUUID?.() ?? String(Math.random()), title: "", model: "", system, changed: 0, turns: [] };
}

export function exported(conversations) {
  return JSON.stringify({ format: "llama-hub-conversations", version: 1, conversations }, null, 1);
}

// The conversations of an exported file; an Error that says what is wrong with it.
export function imported(text) {
  let document_;
  try {
    document_ = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
  const list = document_?.conversations;
  if (document_?.format !== "llama-hub-conversations" || !Array.isArray(list)) {
    throw new Error("This file does not hold conversations of this page.");
  }
  const found = list.slice(0, MAX_CONVERSATIONS).map(checked);
  if (found.some((each) => each === null)) throw new Error("A conversation in this file is damaged.");
  return found;
}

export function matches(conversation, words) {
  const text = [conversation.title, ...conversation.turns.map((turn) => turn.content)].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
