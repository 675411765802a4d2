// A ■ in the head of each column that grows. A frame of the columns brings new heads: the same buttons move into them,
// before they are painted. None shows before the kernel has said that it hears this page while a cell runs.
//
// A frame brings all formulas anew, too: each that is closed is typeset once, and what that gave takes the place of its
// source in later frames, before they are painted.

const STYLE = `
.nbllm-stop { font: inherit; line-height: 1; padding: 0 0.35em; cursor: pointer; color: inherit; background: none;
  border: 0; border-radius: 3px; }
.nbllm-stop:hover, .nbllm-stop:focus-visible { background: rgba(128, 128, 128, 0.2); outline: none; }
`;

const LONGEST = 500; // formulas that are remembered

function formulas(model) {
  const known = new Map(); // by source, what it looks like; null while it is typeset
  const closed = document.getElementsByClassName("nbllm-closed"); // those of this moment, always
  async function first(node, source) {
    known.set(source, null);
    await typesetAll(model, node).catch(() => {});
    const done = node.querySelector(TYPESET) !== null;
    if (!node.isConnected || !done) known.delete(source); // a frame came in between, or nothing here typesets
    else known.set(source, [...node.childNodes].map((part) => part.cloneNode(true)));
    if (done) show();
  }
  function show() {
    for (const node of [...closed]) {
      const source = node.localName + node.textContent;
      const parts = known.get(source);
      if (parts === null) continue;
      node.classList.remove("nbllm-closed");
      if (parts) node.replaceChildren(...parts.map((part) => part.cloneNode(true)));
      else if (known.size < LONGEST) first(node, source);
    }
  }
  return show;
}

// Called once when the kernel makes the model, which has no view.
function initialize({ model }) {
  const style = element("style", "", document.head, STYLE);
  let focused = null; // the button that the keyboard is on: it loses that where it moves
  const buttons = model.get("places").map((place, i) => {
    const stop = () => model.send({ type: "stop", place });
    const node = button("■", model.get("words")[i], null, stop);
    node.className = "nbllm-stop";
    node.addEventListener("pointerdown", stop); // a click needs a button that stays where it is
    node.addEventListener("focus", () => (focused = node));
    node.addEventListener("blur", () => (focused = node.isConnected ? null : focused));
    return node;
  });
  const show = formulas(model);
  function mount() {
    show();
    if (!model.get("proved")) return;
    model.get("places").forEach((id, i) => {
      const place = document.getElementById(id);
      if (!place || place.firstChild) return;
      place.append(buttons[i]);
      if (focused === buttons[i]) focused.focus({ preventScroll: true });
    });
  }
  const watcher = new MutationObserver(mount);
  watcher.observe(document.body, { childList: true, subtree: true });
  model.on("change:proved", mount);
  model.send({ type: "hello" });
  return () => {
    watcher.disconnect();
    style.remove();
    buttons.forEach((node) => node.remove());
  };
}

export default { initialize };
