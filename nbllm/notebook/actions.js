// Buttons under an answer, in the page alone: copy, edit and ask again, ask again, earlier answers, keep. They stand in an
// empty place at the answer's end, so that a saved notebook has none of them. All words are put in as text.

const STYLE = `
.nbllm:has(> .nbllm-acts) { position: relative; }
.nbllm:has(> .nbllm-acts) > .nbllm-foot { padding-inline-end: var(--nbllm-bar, 0); }
.nbllm-acts > div { position: absolute; right: 0; bottom: 0; display: flex; gap: 2px;
  background: var(--jp-layout-color0, Canvas); }
.nbllm-acts button, .nbllm-copy { font: inherit; font-size: 12px; line-height: 18px; padding: 0 6px; cursor: pointer;
  color: var(--nbllm-muted); background: none; border: 1px solid transparent; border-radius: 3px; }
.nbllm-acts button:hover, .nbllm-copy { color: inherit; background: var(--jp-layout-color2, ButtonFace); }
.nbllm-acts button:hover, .nbllm-acts button:focus-visible, .nbllm-copy:focus-visible {
  border-color: var(--jp-brand-color1, Highlight); outline: none; }
.nbllm-acts button[aria-pressed="true"] { color: color-mix(in srgb, var(--jp-brand-color1, Highlight) 50%, currentColor); font-weight: 600; }
.nbllm-acts form { display: flex; flex-direction: column; gap: 4px; margin-top: 6px; }
.nbllm-acts textarea { font: inherit; width: 100%; box-sizing: border-box; resize: vertical;
  color: inherit; background: var(--jp-layout-color1, Field); border: 1px solid var(--jp-border-color1, GrayText); }
.nbllm-code { position: relative; margin: 0 0 0.75em; }
.nbllm-code > pre { margin: 0; }
.nbllm-copy { position: absolute; top: 4px; right: 4px; opacity: 0; }
.nbllm-code:hover > .nbllm-copy, .nbllm-copy:focus-visible { opacity: 1; }
`;

function editor(place, offer, model) {
  const form = element("form", "", place);
  const area = element("textarea", "", form);
  area.value = offer.prompt;
  area.rows = Math.min(12, offer.prompt.split("\n").length + 1);
  area.setAttribute("aria-label", "The question");
  form.dataset.lmSuppressShortcuts = "true"; // keys typed here are no commands of the notebook
  element("div", "", form, "Enter asks, Shift+Enter is a new line, Escape leaves it.").style.fontSize = "12px";
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") form.remove();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    model.send({ type: "ask", place: place.id, text: area.value });
    form.remove();
  });
  area.focus();
}

function fill(place, offer, model) {
  const bar = element("div", "", place);
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", "What to do with this answer");
  const send = (type, more) => model.send({ type, place: place.id, ...more });
  if (offer.count > 1) {
    button("‹", "The answer before", bar, () => send("show", { number: offer.number - 1 })).disabled = offer.number === 1;
    element("span", "", bar, `${offer.number}/${offer.count}`).style.fontSize = "12px";
    button("›", "The answer after", bar, () => send("show", { number: offer.number + 1 })).disabled =
      offer.number === offer.count;
  }
  button("Copy", "Copy the answer as Markdown", bar, (node) => copy(offer.source, node));
  if (offer.again) {
    button("Edit", "Edit the question and ask again", bar, () => {
      const open = place.querySelector("form");
      if (open) open.remove();
      else editor(place, offer, model);
    });
    button("Retry", "Ask again", bar, () => send("ask"));
  }
  button(offer.kept ? "Kept" : "Keep", "Keep this answer as a good one: %llm kept", bar, () =>
    send("keep", { keep: !offer.kept })
  ).setAttribute("aria-pressed", String(offer.kept));
  place.parentElement.style.setProperty("--nbllm-bar", `${bar.offsetWidth + 8}px`); // the figures wrap before it
}

function codes(place) {
  for (const block of place.closest(".nbllm")?.querySelectorAll("pre") ?? []) {
    if (block.parentElement.classList.contains("nbllm-code")) continue;
    const text = block.textContent;
    const box = element("div", "nbllm-code");
    block.replaceWith(box);
    box.append(block);
    const node = button("Copy", "Copy the code", box, () => copy(text.replace(/\n$/, ""), node));
    node.className = "nbllm-copy";
  }
}

// Called once when the kernel makes the model, which has no view.
function initialize({ model }) {
  const offers = new Map();
  const style = element("style", "", document.head, STYLE);
  let due = false;
  function mount() {
    due = false;
    for (const [id, offer] of offers) {
      const place = document.getElementById(id);
      if (!place || place.dataset.shown === offer.key) continue;
      place.replaceChildren();
      place.dataset.shown = offer.key;
      fill(place, offer, model);
      codes(place);
    }
  }
  function soon() {
    if (!due) {
      due = true;
      requestAnimationFrame(mount);
    }
  }
  const watcher = new MutationObserver(soon);
  watcher.observe(document.body, { childList: true, subtree: true });
  model.on("msg:custom", (message) => {
    for (const offer of message.offers) {
      offers.delete(offer.place);
      offers.set(offer.place, offer);
    }
    while (offers.size > message.most) offers.delete(offers.keys().next().value);
    soon();
  });
  model.send({ type: "hello" }); // a page that was loaded again knows none
  return () => {
    watcher.disconnect();
    style.remove();
    for (const id of offers.keys()) document.getElementById(id)?.replaceChildren();
  };
}

export default { initialize };
