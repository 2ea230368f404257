// The chat page: no build step, no dependency. Keeps the conversation in this tab's memory and
// the key in sessionStorage; addresses are relative, so that it works below a proxy's path.
"use strict";

const $ = (id) => document.getElementById(id);
const turns = []; // {role, content}, without the system prompt
let about = { chat: true, key: false, trouble: null };
let running = null; // AbortController of the answer under way

function add(kind, text) {
  $("empty").hidden = true;
  const turn = document.createElement("div");
  turn.className = `turn ${kind}`;
  turn.textContent = text;
  $("talk").append(turn);
  scroll(true);
  return turn;
}

// Follows the answer, unless the reader has scrolled up.
function scroll(always) {
  const talk = $("talk");
  const near = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  if (always || near) talk.scrollTop = talk.scrollHeight;
}

function touch() {
  return matchMedia("(pointer: coarse)").matches;
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
}

function request() {
  const body = {
    model: about.model,
    stream: true,
    stream_options: { include_usage: true },
    temperature: Number($("temperature").value),
    top_p: Number($("top_p").value),
  };
  if ($("max_tokens").value) body.max_tokens = Number($("max_tokens").value);
  if ($("seed").value) body.seed = Number($("seed").value);
  if (!about.chat) {
    const last = turns[turns.length - 1].content;
    return ["v1/completions", { ...body, prompt: last, max_tokens: body.max_tokens || 200 }];
  }
  const system = $("system").value.trim();
  const head = system ? [{ role: "system", content: system }] : [];
  return ["v1/chat/completions", { ...body, messages: [...head, ...turns] }];
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function problemOf(response) {
  if (response.status === 401) {
    openSettings(true);
    $("key").focus();
    return "This server wants an API key; enter it in the settings and send again.";
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

// Yields the documents of a stream of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function answer() {
  const shown = add("assistant busy", "");
  running = new AbortController();
  busy(true);
  const begun = performance.now();
  const said = { text: "", usage: null, finish: null };
  let problem = "";
  try {
    const [path, body] = request();
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (response.ok) await read(response, shown, said);
    else problem = await problemOf(response);
  } catch (error) {
    if (error.name === "AbortError") said.finish = "stopped";
    else problem = error.message === "Failed to fetch" ? "The server cannot be reached." : error.message;
  }
  finish(shown, said, problem, (performance.now() - begun) / 1000);
}

async function read(response, shown, said) {
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    if (event.usage) said.usage = event.usage;
    for (const choice of event.choices) {
      said.text += (choice.delta ? choice.delta.content : choice.text) || "";
      said.finish = choice.finish_reason || said.finish;
    }
    shown.textContent = said.text;
    scroll(false);
  }
}

function finish(shown, said, problem, seconds) {
  running = null;
  busy(false);
  shown.classList.remove("busy");
  if (said.text) {
    turns.push({ role: "assistant", content: said.text });
    const count = document.createElement("span");
    count.className = "count";
    count.textContent = summary(said, seconds);
    shown.append(count);
  } else {
    shown.remove();
    const question = turns.pop(); // so that roles keep alternating; it can be sent again
    if (question && !$("question").value) $("question").value = question.content;
    if (!problem && said.finish !== "stopped") problem = "The model had nothing to say.";
  }
  if (problem) add("problem", problem);
  grow();
  if (!touch()) $("question").focus(); // on a phone the keyboard would cover the answer
}

function summary(said, seconds) {
  const parts = [];
  if (said.usage) {
    const rate = (said.usage.completion_tokens / seconds).toFixed(1);
    parts.push(`${said.usage.completion_tokens} tokens in ${seconds.toFixed(1)} s (${rate}/s)`);
  }
  if (said.finish === "length") parts.push("cut at the longest length");
  if (said.finish === "content_filter") parts.push("cut by the content filter");
  if (said.finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

function send() {
  const text = $("question").value.trim();
  if (!text || running) return;
  $("question").value = "";
  grow();
  turns.push({ role: "user", content: text });
  add("user", text);
  answer();
}

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", String(open));
}

function reset() {
  if (running) running.abort();
  turns.length = 0;
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("empty").hidden = false;
  $("question").focus();
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
}

for (const id of ["temperature", "top_p"]) {
  const shown = document.querySelector(`output[for=${id}]`);
  const show = () => { shown.value = Number($(id).value).toFixed(2); };
  $(id).addEventListener("input", show);
  show();
}
$("key").value = sessionStorage.getItem("llama-hub-key") || "";
$("key").addEventListener("change", () => sessionStorage.setItem("llama-hub-key", $("key").value));
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("settings").addEventListener("submit", (event) => { event.preventDefault(); openSettings(false); });
$("settings-button").addEventListener("click", () => openSettings($("settings").hidden));
$("new").addEventListener("click", reset);
$("stop").addEventListener("click", () => running && running.abort());
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => {
  // On a phone Enter makes a new line; the button sends.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch()) {
    event.preventDefault();
    send();
  }
});
learn();
