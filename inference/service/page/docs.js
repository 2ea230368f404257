// Draws openapi.json as a list of routes with the fields of their bodies.
"use strict";

const make = (tag, text, parent) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).filter((name) => name !== "null").join(" | ");
  if (schema.type === "array") return `[${kind(schema.items || {})}]`;
  return schema.type || "any";
}

// A pydantic model: every other $ref is looked up where it is used.
function fields(schema, known, parent) {
  const table = make("table", "", parent);
  const body = make("tbody", "", table);
  const required = (name) => (schema.required || []).includes(name);
  const listed = Object.entries(schema.properties || {});
  listed.sort(([a], [b]) => required(b) - required(a)); // stable: the rest keep their order
  for (const [name, field] of listed) {
    const row = make("tr", "", body);
    const must = required(name) ? " *" : "";
    make("code", name + must, make("td", "", row));
    make("td", [kind(field), field.description].filter(Boolean).join(" — "), row);
  }
}

function route(path, method, about, known, parent) {
  const head = make("h2", "", parent);
  make("span", method.toUpperCase(), head).className = "method";
  make("code", path, head);
  make("p", about.summary, parent);
  const content = about.requestBody && about.requestBody.content["application/json"].schema;
  if (content && content.$ref) fields(known[kind(content)], known, parent);
  else if (content) make("p", `Body: ${kind(content)}`, parent);
}

async function draw() {
  const parent = document.getElementById("routes");
  const base = new URL(".", location.href).href;
  document.getElementById("example").textContent =
    `curl ${base}v1/chat/completions -H 'Content-Type: application/json' \\\n` +
    `  -d '{"messages": [{"role": "user", "content": "Hello"}]}'`;
  try {
    const api = await (await fetch("openapi.json")).json();
    parent.replaceChildren();
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, about] of Object.entries(methods)) {
        route(path, method, about, api.components.schemas, parent);
      }
    }
  } catch (error) {
    parent.textContent = `openapi.json cannot be read: ${error.message}`;
  }
}

draw();
