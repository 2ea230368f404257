// The service's side of a chat: one request, its answer as it comes.

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

async function problemOf(response) {
  try {
    const { error } = await response.json();
    return { status: response.status, message: String(error.message), code: error.code };
  } catch {
    return { status: response.status, message: `The server answered ${response.status}.`, code: null };
  }
}

// Asks, and calls `show(text)` as it grows. Returns {text, usage, finish, problem}: `finish` is
// "stopped" if `signal` ended it and "cut" if the connection did; `problem` is null or
// {status, message, code}.
export async function ask(path, body, headers, signal, show) {
  const said = { text: "", usage: null, finish: null, problem: null };
  try {
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    if (!response.ok) return { ...said, problem: await problemOf(response) };
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) said.usage = event.usage;
      for (const choice of event.choices) {
        said.text += (choice.delta ? choice.delta.content : choice.text) || "";
        said.finish = choice.finish_reason || said.finish;
      }
      show(said.text);
    }
    if (!said.finish) said.finish = "cut";
  } catch (error) {
    if (error.name === "AbortError") return { ...said, finish: "stopped" };
    const unreachable = ["Failed to fetch", "network error"].includes(error.message);
    const message = unreachable ? "The server cannot be reached." : error.message;
    return { ...said, finish: "cut", problem: { status: 0, message, code: null } };
  }
  return said;
}
