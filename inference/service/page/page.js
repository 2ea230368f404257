// The chat page: no build step. Conversations stay in this browser (store.js), the key in
// sessionStorage; addresses are relative, so that it works below a proxy's path.
import { ask } from "./client.js";
import { copy, render } from "./render.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = [
  "max_tokens", "seed", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
];
const PROMPTS = "llama-hub-prompts";
const ENDS = {
  length: "cut at the longest length", content_filter: "cut by the content filter",
  stopped: "stopped", cut: "the connection broke off",
};
let about = { chat: true, key: false, trouble: null, context: null };
let conversations = store.load();
let current = store.fresh("");
let running = null; // AbortController of the answer under way
let chosen = null; // the model that is asked, where there are several

// --- the conversation on the page ---------------------------------------------------------------

function element(kind, text) {
  const turn = document.createElement("div");
  turn.className = `turn ${kind}`;
  const body = document.createElement("div");
  body.className = "text";
  if (kind.startsWith("assistant")) render(text, body);
  else body.textContent = text;
  turn.append(body);
  return turn;
}

function draw() {
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("empty").hidden = current.turns.length > 0;
  current.turns.forEach((turn, index) => {
    const shown = element(turn.role, turn.content);
    if (turn.note) shown.append(note(turn.note));
    shown.append(actions(turn, index));
    $("talk").append(shown);
  });
  scroll(true);
}

function note(text) {
  const count = document.createElement("span");
  count.className = "count";
  count.textContent = text;
  return count;
}

function actions(turn, index) {
  const row = document.createElement("div");
  row.className = "actions";
  const add = (label, about_, act) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", about_);
    button.addEventListener("click", () => act(button));
    row.append(button);
  };
  const last = index === current.turns.length - 1;
  add("Copy", "Copy this message", (button) => copy(turn.content, button));
  if (turn.role === "user") add("Edit", "Edit this message and ask again", () => edit(index));
  if (turn.role === "assistant" && last) {
    add("Again", "Ask again for another answer", () => again(index));
    if (about.chat && turn.finish && turn.finish !== "stop") {
      add("Continue", "Continue this answer", () => answer(turn));
    }
  }
  add("Delete", "Delete this message and what follows", () => cutAt(index));
  return row;
}

// Follows the answer, unless the reader has scrolled up.
function scroll(always) {
  const talk = $("talk");
  const near = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  if (always || near) talk.scrollTop = talk.scrollHeight;
}

function problem(text, label, act) {
  const shown = element("problem", text);
  shown.setAttribute("role", "alert");
  if (label) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", act);
    shown.append(button);
  }
  $("empty").hidden = true;
  $("talk").append(shown);
  scroll(true);
}

function keep() {
  current.changed = Date.now();
  current.model = chosen || about.model || "";
  const first = current.turns.find((turn) => turn.role === "user");
  if (first) current.title = first.content.slice(0, 80);
  conversations = conversations.filter((each) => each.id !== current.id);
  if (current.turns.length) conversations.unshift(current);
  conversations = store.save(conversations);
  list();
}

// --- asking -------------------------------------------------------------------------------------

function request(continued) {
  const body = {
    model: chosen || about.model,
    stream: true,
    stream_options: { include_usage: true },
    temperature: Number($("temperature").value),
    top_p: Number($("top_p").value),
  };
  for (const name of NUMBERS) if ($(name).value) body[name] = Number($(name).value);
  if ($("stop_text").value) body.stop = [$("stop_text").value];
  if (!about.chat) {
    const prompt = current.turns[current.turns.length - 1].content;
    return ["v1/completions", { ...body, prompt, max_tokens: body.max_tokens || 200 }];
  }
  const messages = current.turns.map(({ role, content }) => ({ role, content }));
  if (current.system) messages.unshift({ role: "system", content: current.system });
  const more = continued ? { continue_final_message: true, add_generation_prompt: false } : {};
  return ["v1/chat/completions", { ...body, ...more, messages }];
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

// Asks for an answer to the last message; `continued` is the answer that is to go on.
async function answer(continued) {
  if (running) return;
  const begun = performance.now();
  const before = continued ? continued.content : "";
  const [path, body] = request(continued);
  if (continued) $("talk").lastElementChild.remove();
  const shown = element("assistant busy", before);
  shown.setAttribute("aria-busy", "true");
  $("empty").hidden = true;
  $("talk").append(shown);
  scroll(true);
  running = new AbortController();
  busy(true);
  let drawn = 0;
  const show = (text) => {
    if (performance.now() - drawn < 40) return; // Markdown is parsed as often as an eye can tell
    drawn = performance.now();
    render(before + text, shown.firstChild);
    scroll(false);
  };
  const said = await ask(path, body, headers(), running.signal, show);
  running = null;
  busy(false);
  shown.remove();
  settle(said, continued, (performance.now() - begun) / 1000);
}

// Takes what was said into the conversation; nothing half-made stays on the page.
function settle(said, continued, seconds) {
  const text = (continued ? continued.content : "") + said.text;
  if (said.text) {
    const turn = continued || { role: "assistant" };
    Object.assign(turn, { content: text, finish: said.finish, note: summary(said, seconds) });
    if (!continued) current.turns.push(turn);
    keep();
  } else if (!continued) {
    const question = current.turns.pop(); // it can be sent again
    if (question && !$("question").value) $("question").value = question.content;
    if (!said.problem && said.finish !== "stopped") problemLater("The model had nothing to say.");
  }
  if (said.usage) context(said.usage.total_tokens);
  draw();
  if (said.problem) explain(said.problem);
  for (const text_ of later.splice(0)) problem(text_);
  grow();
  if (!touch()) $("question").focus(); // on a phone the keyboard would cover the answer
}

const later = [];
const problemLater = (text) => later.push(text);

function explain({ status, message, code }) {
  if (status === 401) {
    openPanel("settings", true);
    $("key").focus();
    problem("This server wants an API key; enter it in the settings and send again.");
  } else if (code === "context_length_exceeded" && current.turns.length > 1) {
    problem(message, "Leave out the oldest messages and ask again", trim);
  } else {
    problem(message);
  }
}

function trim() {
  const half = 2 * Math.ceil(current.turns.length / 4);
  current.turns.splice(0, Math.max(2, half));
  draw();
  send();
}

function summary(said, seconds) {
  const parts = [];
  if (said.usage) {
    const rate = (said.usage.completion_tokens / seconds).toFixed(1);
    parts.push(`${said.usage.completion_tokens} tokens in ${seconds.toFixed(1)} s (${rate}/s)`);
  }
  if (ENDS[said.finish]) parts.push(ENDS[said.finish]);
  return parts.join(" · ");
}

function context(used) {
  if (!about.context) return;
  $("context").hidden = false;
  Object.assign($("context-bar"), { max: about.context, high: about.context * 0.8, value: used });
  $("context-text").textContent = `${used} of ${about.context} tokens`;
}

function send() {
  const text = $("question").value.trim();
  if (!text || running) return;
  $("question").value = "";
  grow();
  current.system = $("system").value.trim();
  current.turns.push({ role: "user", content: text, finish: "" });
  draw();
  answer(null);
}

function again(index) {
  if (running) return;
  current.turns.splice(index, 1);
  draw();
  answer(null);
}

function edit(index) {
  if (running) return;
  $("question").value = current.turns[index].content;
  cutAt(index);
  grow();
  $("question").focus();
}

function cutAt(index) {
  if (running) return;
  current.turns.splice(index);
  keep();
  draw();
}

// --- conversations, prompts, settings -----------------------------------------------------------

function open(conversation) {
  if (running) running.abort();
  current = conversation;
  $("system").value = current.system;
  $("context").hidden = true;
  draw();
}

function list() {
  const words = $("search").value.trim();
  const shown = words ? conversations.filter((each) => store.matches(each, words)) : conversations;
  $("conversations").replaceChildren(...shown.map((each) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = each.title || "Without a title";
    if (each.id === current.id) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => { openPanel("history", false); open(each); list(); });
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Delete";
    remove.setAttribute("aria-label", `Delete the conversation ${each.title}`);
    remove.addEventListener("click", () => {
      conversations = store.save(conversations.filter((other) => other !== each));
      if (each.id === current.id) open(store.fresh(current.system));
      list();
    });
    item.append(button, remove);
    return item;
  }));
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([store.exported(conversations)], { type: "application/json" }));
  link.download = "llama-hub-conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function takeFile() {
  const [file] = $("import-file").files;
  $("import-file").value = "";
  if (!file) return;
  try {
    if (file.size > store.MAX_FILE) throw new Error("This file is too large.");
    const found = store.imported(await file.text());
    const known = new Set(found.map((each) => each.id));
    conversations = store.save([...found, ...conversations.filter((each) => !known.has(each.id))]);
    $("status").textContent = `${found.length} conversations were imported.`;
    list();
  } catch (error) {
    $("status").textContent = error.message;
  }
}

function prompts(change) {
  let saved = [];
  try {
    saved = JSON.parse(localStorage.getItem(PROMPTS) || "[]").filter((each) => typeof each === "string");
    if (change) localStorage.setItem(PROMPTS, JSON.stringify((saved = change(saved).slice(0, 100))));
  } catch { /* storage is switched off, or holds something else */ }
  const first = $("prompts").firstElementChild;
  $("prompts").replaceChildren(first, ...saved.map((text) => new Option(text.slice(0, 60), text)));
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
}

function touch() {
  return matchMedia("(pointer: coarse)").matches;
}

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function openPanel(name, wanted) {
  for (const each of ["history", "settings"]) {
    $(each).hidden = each !== name || !wanted;
    $(`${each}-button`).setAttribute("aria-expanded", String(!$(each).hidden));
  }
}

// What is served, and, while the model is being loaded, whether it is ready yet.
async function learn() {
  try {
    about = await (await fetch("page.json")).json();
  } catch {
    $("status").textContent = "The server cannot be reached.";
    setTimeout(learn, 3000);
    return;
  }
  $("model").textContent = about.model;
  document.title = `${about.model} · llama-hub`;
  $("notice").textContent = about.notice || about.license;
  $("key-field").hidden = !about.key;
  if (!about.chat) $("question").placeholder = "Text to continue (this model was not trained to chat)";
  $("status").textContent = about.trouble ? `Not ready: ${about.trouble}.` : "";
  if (about.trouble) setTimeout(learn, 2000);
  else choices();
}

// Where several models are served, which of them is asked.
async function choices() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const names = (await response.json()).data.map((each) => String(each.id));
    if (names.length < 2) return;
    $("models").replaceChildren(...names.map((name) => new Option(name, name)));
    chosen = names.includes(chosen) ? chosen : about.model;
    $("models").value = chosen;
    $("models").hidden = false;
    $("model").hidden = true;
  } catch { /* without the key there is one model: the one that the page names */ }
}

for (const id of ["temperature", "top_p"]) {
  const shown = document.querySelector(`output[for=${id}]`);
  const show = () => { shown.value = Number($(id).value).toFixed(2); };
  $(id).addEventListener("input", show);
  show();
}
$("key").value = sessionStorage.getItem("llama-hub-key") || "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("llama-hub-key", $("key").value);
  choices();
});
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("settings").addEventListener("submit", (event) => { event.preventDefault(); openPanel("settings", false); });
$("settings-button").addEventListener("click", () => openPanel("settings", $("settings").hidden));
$("history-button").addEventListener("click", () => { list(); openPanel("history", $("history").hidden); });
$("new").addEventListener("click", () => { open(store.fresh($("system").value.trim())); $("question").focus(); });
$("stop").addEventListener("click", () => running && running.abort());
$("search").addEventListener("input", list);
$("export").addEventListener("click", download);
$("import").addEventListener("click", () => $("import-file").click());
$("import-file").addEventListener("change", takeFile);
$("clear").addEventListener("click", () => {
  if (!confirm("Delete all conversations of this browser?")) return;
  conversations = store.save([]);
  open(store.fresh(""));
  list();
});
$("models").addEventListener("change", () => { chosen = $("models").value; });
$("prompts").addEventListener("change", () => { if ($("prompts").value) $("system").value = $("prompts").value; });
$("save-prompt").addEventListener("click", () => prompts((saved) => {
  const text = $("system").value.trim();
  return text ? [text, ...saved.filter((each) => each !== text)] : saved;
}));
$("forget-prompt").addEventListener("click", () => prompts((saved) => saved.filter((each) => each !== $("system").value.trim())));
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => {
  // On a phone Enter makes a new line; the button sends.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch()) {
    event.preventDefault();
    send();
  }
});
prompts(null);
learn();
