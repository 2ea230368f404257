// An answer's Markdown as elements of the page. What a model says is a stranger's text: it is parsed
// by marked, and DOMPurify lets through a list of elements that cannot act, load or style anything.
import { marked } from "./marked.js";

const TAGS = [
  "p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li",
  "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a",
];
const OPTIONS = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const MAX_MARKDOWN = 200_000; // characters; a longer answer is shown as it is

marked.use({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text), // tags in an answer are text
    image: ({ text, href }) => escape(text || href), // nothing is loaded from anywhere
  },
});

function escape(text) {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

export function render(text, target) {
  if (text.length > MAX_MARKDOWN) {
    target.textContent = text;
    target.classList.add("plain");
    return;
  }
  const clean = window.DOMPurify.sanitize(marked.parse(text), OPTIONS);
  for (const link of clean.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of clean.querySelectorAll("table")) {
    const box = document.createElement("div");
    box.className = "table";
    box.tabIndex = 0;
    table.replaceWith(box);
    box.append(table);
  }
  for (const block of clean.querySelectorAll("pre")) addCopy(block);
  target.replaceChildren(clean);
}

function addCopy(block) {
  const code = block.textContent;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy-code";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy this code");
  button.addEventListener("click", () => copy(code, button));
  block.tabIndex = 0; // it scrolls, so a keyboard has to reach it
  block.append(button);
}

// Copies, and says so on the button for a moment.
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Cannot copy"; // no permission, or a page without TLS
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}
