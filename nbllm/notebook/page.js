// What the page sides of our widgets share; it stands before each of them.

function element(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function button(text, title, parent, press) {
  const node = element("button", "", parent, text);
  node.type = "button";
  node.title = title;
  node.setAttribute("aria-label", title);
  node.addEventListener("click", () => press(node));
  return node;
}

async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", "", document.body);
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = node.textContent;
  node.textContent = "Copied";
  setTimeout(() => (node.textContent = before), 1500);
}

const TYPESET = "mjx-container, .MathJax";

// Typesets the formulas in `node`, by what the page has for that; its classes leave every other dollar alone. Gives a
// promise of the end.
async function typeset(model, node) {
  if (node.querySelector(`.mathjax_process:not(:has(${TYPESET}))`)) await typesetAll(model, node);
}

async function typesetAll(model, node) {
  const typesetter = model.widget_manager?.rendermime?.latexTypesetter;
  if (typesetter) await typesetter.typeset(node);
  else if (window.MathJax?.typesetPromise) await window.MathJax.typesetPromise([node]);
  else if (window.MathJax?.Hub) await new Promise((end) => window.MathJax.Hub.Queue(["Typeset", window.MathJax.Hub, node], end));
}
